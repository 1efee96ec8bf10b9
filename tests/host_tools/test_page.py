"""The one page: its server by HTTP, and the page itself in a real browser with a camera of our own."""

from __future__ import annotations

import http.client
import io
import json
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flash
from common import pictures, spiffs
from common.decoder_options import DecoderOptions
from common.errors import UserError
from host_tools.classroom import flash_all
from host_tools.known_boards import Port
from host_tools.page import settings_form, try_view
from host_tools.page.boards import Boards, Payloads, station_at, stations_at
from host_tools.page.server import Page
from host_tools.page.try_view import Networks, TryView, Wish
from host_tools.payload import Payload, load_build
from model_build.build import build
from model_build.build_folder import BuildFolder
from model_build.decoding import make_decoder
from model_build.engines import open_engine
from model_build.scene import Scene
from sim.boards.faults import Faults
from sim.boards.simulated_session import SimulatedSession
from sim.live.line_server import LiveBoard, Rfc2217Line
from sim.parts.camera_source import open_camera
from tests.support.board_web import wait_for

# One process builds the network, opens it and starts the browser for all of these tests.
pytestmark = pytest.mark.xdist_group("browser")

SIZE = (192, 144)
WISH = {"network": "demo", "size": "192x144"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> BuildFolder:
    """The network of rendered people, so small that it is built in two seconds."""
    return build("demo", *SIZE, out_dir=tmp_path_factory.mktemp("build") / "demo")


@pytest.fixture(scope="module")
def networks(demo) -> Networks:
    """Opens `demo` once, whichever network is asked for."""
    return Networks(lambda name, size, mount, ui: demo.path)


class DemoPayloads(Payloads):
    """Puts `demo` on the board, whatever is ordered."""

    def __init__(self, folder: BuildFolder):
        super().__init__()
        self._folder = folder

    def get(self, order, ui):
        part, files, manifest = load_build(self._folder.path)
        return Payload("demo", [part], files, None, manifest.kmodel.bytes + manifest.kmodel.main_mem_bytes)

    def build(self, order, ui):
        return self._folder.path


@pytest.fixture
def page(demo, networks, tmp_path):
    """The page with `demo` as its only network, on a computer without a connected board."""
    page = Page(0, "--page", TryView(networks), Boards(tmp_path, list, DemoPayloads(demo)))
    yield page
    page.close()


def ask(page, method, path, body=b"", **headers):
    """Status and body of the answer to one request with the page's key."""
    connection = http.client.HTTPConnection("127.0.0.1", page.server.port, timeout=120)
    connection.request(method, path, body, {"X-Key": page.server.key, **headers})
    answer = connection.getresponse()
    return answer.status, answer.read()


def look(page, picture, **wish):
    """The poses that the page's server finds, once its network is open."""
    height, width = picture.shape[:2]
    query = urlencode({**WISH, "w": width, "h": height, **wish})
    for _ in range(2400):
        status, body = ask(page, "POST", f"/try/frame?{query}", picture.tobytes())
        assert status == 200, body
        answer = json.loads(body)
        if "wait" not in answer:
            return answer
        time.sleep(0.05)
    raise AssertionError(answer)


def expected(demo, picture):
    """The poses that `python -m sim run` finds."""
    manifest = demo.load_manifest()
    fitted, box = pictures.letterbox(picture, manifest.width, manifest.height)
    poses = make_decoder(manifest, DecoderOptions())(open_engine("kpu", demo).run(pictures.to_planes(fitted)))
    return [pose.in_source(box) for pose in poses]


def test_a_frame_gives_the_poses_of_sim_run(page, demo):
    """The page uses the same engine, decoder and letterbox, so it must give the same numbers."""
    picture = Scene(7).frame(1.0, 320, 240)
    answer = look(page, picture)
    wanted = expected(demo, picture)
    assert len(answer["poses"]) == len(wanted) == 2
    for pose, other in zip(answer["poses"], wanted, strict=True):
        points = np.array(pose["keypoints"])
        assert np.abs(points[:, :2] - other.keypoints).max() <= 0.051 and abs(pose["score"] - other.score) < 0.001
    assert answer["kpu_ms"] > 0 and answer["ms"]["network"] <= answer["ms"]["all"]


def test_the_number_of_people_reaches_the_decoder(page):
    """What somebody sets with the page's controls must decide how many people the decoder gives."""
    picture = Scene(7).frame(1.0, 320, 240)
    assert len(look(page, picture, people=1)["poses"]) == len(look(page, picture, single=1)["poses"]) == 1
    assert look(page, np.full((24, 32, 3), 128, np.uint8))["poses"] == []


def test_heatmap_cells_lie_on_the_people(page):
    """The hottest cell of the nose, and the place to which its offset points, must be where the nose is."""
    picture = Scene(7).frame(1.0, 320, 240)
    answer = look(page, picture, heat=0)
    x, y, score, to_x, to_y = max(answer["heat"]["cells"], key=lambda cell: cell[2])
    noses = np.array([pose["keypoints"][0][:2] for pose in answer["poses"]])
    distances = np.abs(noses - (to_x, to_y)).max(axis=1)
    assert score > 0.5 and distances.min() < 8 and max(abs(to_x - x), abs(to_y - y)) < 2 * answer["heat"]["size"]
    assert answer["heat"]["size"] == pytest.approx(16 * 320 / 192, abs=0.01)
    assert all(len(cell) == 3 for cell in look(page, picture, heat=-1)["heat"]["cells"])


def test_people_keep_their_numbers_and_framing_follows(page, monkeypatch):
    """In a moving scene the two people stay 1 and 2, and the view closes in on them inside the picture."""
    scene, seen, views = Scene(7), [], []
    for number in range(14):
        wide = np.full((360, 480, 3), 128, np.uint8)
        wide[100:340, 140:460] = scene.frame(0.05 * number, 320, 240)
        monkeypatch.setattr(try_view, "monotonic", lambda number=number: 0.05 * number)
        answer = look(page, wide, track=1, framing=1, panel="a")
        seen.append(sorted(pose["id"] for pose in answer["poses"]))
        views.append(answer["view"])
    assert all(ids == [1, 2] for ids in seen[1:6])
    assert all(-1 <= x <= 481 and -1 <= y <= 361 for view in views for x, y in view)
    first, last = (view[2][0] - view[0][0] for view in (views[0], views[-1]))
    assert first == pytest.approx(480, abs=1) and last < 400


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"w": 0}, "w is 0; it must be 1 to 4096"),
        ({"w": 9}, "pixels of RGB have 216"),
        ({"network": "../../etc"}, "no network is called '../../etc'"),
        ({"size": "huge"}, "'huge' is not a size"),
        ({"size": "4000x4000"}, "at most 640 pixels"),
        ({"mount": 45}, "mount is 45"),
        ({"people": 1000}, "people is 1000; it must be 1 to 20"),
        ({"threshold": "x"}, "threshold is 'x'"),
        ({"heat": 17}, "heat is 17"),
    ],
)
def test_a_wrong_request_is_refused_with_its_value(page, change, said):
    """The message names the wrong value, and nothing is opened or built."""
    status, body = ask(page, "POST", f"/try/frame?{urlencode({**WISH, 'w': 8, 'h': 8, **change})}", bytes(192))
    assert status == 400 and said in body.decode()


@given(st.dictionaries(st.sampled_from(["size", "mount", "people", "threshold", "heat", "network"]), st.text()))
def test_any_query_is_a_wish_or_one_line(query):
    """What comes from a page is not trusted until it has been checked."""
    try:
        wish = Wish.of(query)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert max(wish.size) <= 640 and 1 <= wish.options.max_poses <= 20


def test_a_network_that_cannot_be_obtained_says_why_and_may_be_tried_again():
    """The first answer says that it is being opened, the next one gives the reason, and then it begins anew."""
    calls = []

    def fails(name, size, mount, ui):
        calls.append(name)
        raise UserError("no weights here")

    networks = Networks(fails)
    for number in (1, 2):
        assert networks.get("x", (16, 16), 0) == "opening the network"
        with pytest.raises(UserError, match="no weights here"):
            for _ in range(12_000):
                networks.get("x", (16, 16), 0)
                time.sleep(0.01)
        assert len(calls) == number


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"X-Key": "x"}]
)
def test_another_origin_gets_nothing(page, headers):
    """Another origin is refused even with the key, and so is everybody without the key, whatever they ask for."""
    asked = [name.split() for name in page.server._handlers]
    assert len(asked) > 20
    for method, path in asked:
        status, said = ask(page, method, path, b'{"kind": "sim"}', **headers)
        assert status == 403 and b"refused" in said
    assert page.boards.to_dict()["boards"] == []


# -- boards --------------------------------------------------------------------------------------------------

ORDER = {"network": "demo", "size": "192x144", "mount": 0, "firmware": "none"}


def tell(page, path, **values):
    """The answer to a command of the page."""
    status, body = ask(page, "POST", path, json.dumps(values).encode())
    assert status == 200, body
    return json.loads(body)


def boards(page):
    return {board["key"]: board for board in json.loads(ask(page, "GET", "/boards")[1])["boards"]}


def idle(page):
    """All boards, once none of them is busy."""
    found = boards(page)
    return found if all(board["state"] != "working" for board in found.values()) else None


@pytest.mark.slow
def test_a_board_from_nothing_to_poses_and_back(page):
    """Flash a board, look at it, change its settings and undo everything: each step leaves a board that runs."""
    key = tell(page, "/boards/add", kind="sim")["key"]
    tell(page, "/boards/flash", keys=[key], **ORDER)
    board = wait_for(lambda: idle(page))[key]
    assert board["state"] == "live" and board["error"] == "", board["log"]
    wait_for(lambda: len(seen(page, key)["poses"]) == 2)
    state = seen(page, key)
    assert state["lcd"] > 2 and "posenet: demo 192x144" in state["console"]
    assert ask(page, "GET", f"/lcd.png?board={key}")[1][:4] == b"\x89PNG"
    tell(page, "/boards/look", key=key)
    board = wait_for(lambda: idle(page))[key]
    assert board["facts"]["network"] == "demo 192x144" and json.loads(board["settings"]) == {"repl": True}
    status, said = ask(page, "POST", "/boards/settings", json.dumps({"key": key, "settings": {"colour": 1}}).encode())
    assert status == 400 and b"settings.json: unknown key colour" in said
    tell(page, "/boards/settings", key=key, settings={"repl": True, "max_poses": 1})
    board = wait_for(lambda: idle(page))[key]
    assert json.loads(board["settings"]) == {"repl": True, "max_poses": 1}
    wait_for(lambda: len(seen(page, key)["poses"]) == 1)
    tell(page, "/boards/restore", key=key)
    assert wait_for(lambda: idle(page))[key]["state"] == "live"
    assert not (page.boards.station(key).session.flash_dir / "main.py").exists()
    tell(page, "/boards/remove", key=key)
    assert boards(page) == {}


def seen(page, key):
    return json.loads(ask(page, "GET", f"/state?board={key}&from=0")[1])


@pytest.mark.slow
def test_one_faulty_board_of_four_stops_no_other(page):
    """A class flashes all boards at once. The one without room fails with its own words, the others show poses."""
    for number in range(4):
        page.boards.add_simulated(("full-flash",) if number == 2 else ())
    tell(page, "/boards/flash", keys=[f"sim-{number}" for number in range(1, 5)], **ORDER)
    status, said = ask(page, "POST", "/boards/flash", json.dumps({"keys": ["sim-1"], **ORDER}).encode())
    assert status == 400 and b"Simulated board 1 is still busy: flashing" in said
    found = wait_for(lambda: idle(page))
    assert [board["state"] for board in found.values()] == ["live", "live", "failed", "live"]
    assert "room" in found["sim-3"]["error"] or "free" in found["sim-3"]["error"]


def test_an_order_can_be_saved_as_one_package(page):
    """Somebody with another flasher needs one file. The chosen kind of board is in the package's settings."""
    status, data = ask(page, "POST", "/boards/package", json.dumps({**ORDER, "board": "dock"}).encode())
    assert status == 200
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        held = spiffs.files(archive.read("maixpy-files.bin"))
    assert json.loads(held["settings.json"]) == {"repl": True, "board": "dock"} and "main.py" in held
    status, said = ask(page, "POST", "/boards/flash", json.dumps({"keys": ["x"], **ORDER, "board": "dokc"}).encode())
    assert status == 400 and b"did you mean dock" in said


def test_a_simulated_board_belongs_to_one_page(page, tmp_path):
    """A page in another process gets the next board and not the memory of the first."""
    other = Boards(tmp_path, list)
    assert page.boards.add_simulated().key == "sim-1"
    assert other.add_simulated().key == "sim-2"
    page.boards.close()
    assert other.add_simulated().key == "sim-1"
    other.close()


class AtAPort:
    """A simulated board behind a serial port in real time, whose cable can be pulled."""

    def __init__(self, folder, *faults):
        self.session = SimulatedSession(folder, open_camera("scene:7"), Faults.parse(faults))
        self.live = LiveBoard(self.session.board)
        self.line = Rfc2217Line(self.live)
        self.pulled = False
        self.live.start()

    def pull(self):
        if not self.pulled:
            self.line.close()
            self.pulled = True

    def plug_in(self, port):
        self.line = Rfc2217Line(self.live, port)

    def close(self):
        self.pull()
        self.live.stop()


@pytest.fixture
def at_port(tmp_path):
    board = AtAPort(tmp_path / "at-port")
    yield board
    board.close()


def test_a_pulled_cable_says_so(page, at_port):
    """The cable is pulled while the kmodel is written. One line says what to do, and the page continues to work."""
    key = tell(page, "/boards/add", port=at_port.line.url)["key"]
    tell(page, "/boards/flash", keys=[key], **ORDER)
    wait_for(lambda: (boards(page)[key]["bar"] or [0, 0, 1])[1] > 20_000)
    at_port.pull()
    board = wait_for(lambda: idle(page))[key]
    assert board["state"] == "failed" and board["error"].startswith(f"the cable of {key} was pulled")
    assert "continues where it stopped" in board["error"] and "Traceback" not in board["error"]
    status, said = ask(page, "GET", f"/state?board={key}&from=0")
    assert status == 400 and b"the cable of" in said


@pytest.mark.slow
def test_flashing_again_after_a_pulled_cable_ends_with_poses(page, at_port):
    """The same button is pressed once more, and the board that was left in the middle of its kmodel is completed."""
    port = at_port.line.port
    key = tell(page, "/boards/add", port=at_port.line.url)["key"]
    tell(page, "/boards/flash", keys=[key], **ORDER)
    wait_for(lambda: (boards(page)[key]["bar"] or [0, 0, 1])[1] > 20_000)
    at_port.pull()
    assert wait_for(lambda: idle(page))[key]["state"] == "failed"
    at_port.plug_in(port)
    tell(page, "/boards/flash", keys=[key], **ORDER)
    board = wait_for(lambda: idle(page))[key]
    assert board["state"] == "live" and board["error"] == "", board["log"]
    wait_for(lambda: len(seen(page, key)["poses"]) == 2)


@pytest.mark.slow
def test_all_by_command_shows_poses_on_three_boards_of_four(demo, tmp_path):
    """`flash.py --all PORT…` as a teacher types it; the file system of one board is full.

    The exit code is 1, three boards show poses, and the fourth says why it does not.
    """
    four = [AtAPort(tmp_path / f"{number}", *(["full-flash"] if number == 2 else [])) for number in range(4)]
    try:
        command = [sys.executable, "flash.py", "--model", str(demo.path), "--all", *(board.line.url for board in four)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=600,
            stdin=subprocess.DEVNULL,
            cwd=Path(flash.__file__).parent,
        )
        faulty = four[2].line.url
    finally:
        for board in four:
            board.close()
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-1000:]
    assert "flashing 4 board(s)" in done.stdout and "3 of 4 boards show poses" in done.stdout
    assert done.stdout.count(": it shows poses") == 3
    assert re.search(rf"^{re.escape(faulty)}: .* bytes free, but \d+ are needed", done.stdout, re.MULTILINE)


@pytest.mark.slow
def test_a_port_that_leads_nowhere_stops_no_other_board(demo, tmp_path, capsys):
    """Two boards show poses, and both their number and the reason for the third are said."""
    good = [AtAPort(tmp_path / f"{number}") for number in range(2)]
    try:
        stations = [station_at(board.line.url) for board in good] + [station_at("socket://127.0.0.1:9")]
        payload = DemoPayloads(demo).get(None, None)
        assert flash_all(stations, payload, sys.stdout) == 1
    finally:
        for board in good:
            board.close()
    said = capsys.readouterr().out
    assert "2 of 3 boards show poses" in said and "socket://127.0.0.1:9 cannot be reached" in said
    assert said.count("it shows poses") == 2


def test_one_board_for_each_adapter():
    """A double bridge is one board with two ports to try, and a port without a K210's bridge is no board."""
    double = [Port(f"/dev/ttyUSB{n}", "", 0x0403, 0x6010, "AB", f"1-2:1.{n}") for n in range(2)]
    other = Port("/dev/ttyS0", "", None, None, "", "")
    bit = Port("/dev/ttyUSB2", "", 0x1A86, 0x7523, "", "1-3:1.0")
    found = stations_at([*double, bit, other])
    assert [[port.device for port in one.ports] for one in found] == [
        ["/dev/ttyUSB0", "/dev/ttyUSB1"],
        ["/dev/ttyUSB2"],
    ]
    assert "Sipeed Maix Bit" in found[1].detail


def test_every_setting_has_words_and_the_docs_name_it():
    """The form, the board's defaults and the table in the docs must contain the same keys."""
    fields = settings_form.fields()
    assert all(field["words"] for field in fields)
    table = (Path(__file__).parents[2] / "docs" / "firmware.md").read_text(encoding="utf-8")
    table = table[table.index("## settings.json") : table.index("## What the camera shows")]
    named = {
        key for row in table.splitlines() if row.startswith("| `") for key in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    assert named == {field["key"] for field in fields}


# -- in a browser --------------------------------------------------------------------------------------------


CATCH_SAVED = """(() => { window.saved = {}; const make = URL.createObjectURL;
  URL.createObjectURL = blob => { window.last = blob; return make(blob); };
  HTMLAnchorElement.prototype.click = function () { const blob = window.last, name = this.download;
    window.saved[name] = blob.type.startsWith("video") ? Promise.resolve(blob.size) : blob.text(); }; })()"""


@pytest.mark.browser
def test_a_browser_shows_and_records_the_cameras_people(page, chromium, tmp_path):
    """The people appear as skeletons, and the record holds them as JSON lines, COCO, CSV and video."""
    chromium.open(page.url)
    chromium.run(CATCH_SAVED)
    chromium.click("#use-camera")
    chromium.wait("document.querySelector('.panel').dataset.people === '2'")
    chromium.click("#record")
    started = chromium.run("Number(document.querySelector('.panel').dataset.frames)")
    chromium.wait(f"Number(document.querySelector('.panel').dataset.frames) >= {started + 8}")
    chromium.click("#record")
    chromium.wait("document.querySelectorAll('#kept-links button').length === 4")
    chromium.run("document.querySelectorAll('#kept-links button').forEach(button => button.click())")
    saved = {name: chromium.run(f"saved[{name!r}]") for name in chromium.run("Object.keys(saved)")}
    lines = [json.loads(line) for line in saved["poses.jsonl"].splitlines()]
    assert len(lines) >= 8 and all(entry["size"] == [320, 240] for entry in lines)
    assert sum(len(entry["poses"]) == 2 for entry in lines) >= 6
    assert [entry["frame"] for entry in lines] == sorted({entry["frame"] for entry in lines})
    assert saved["poses.webm"] > 1000
    assert len(saved["poses.csv"].splitlines()) == 1 + 17 * sum(len(entry["poses"]) for entry in lines)
    from pycocotools.coco import COCO  # COCO's own reader

    (tmp_path / "coco.json").write_text(saved["poses-coco.json"], encoding="utf-8")
    coco = COCO(tmp_path / "coco.json")
    assert len(coco.imgs) == len(lines) and coco.cats[1]["keypoints"][5] == "left_shoulder"
    assert all(len(one["keypoints"]) == 51 and one["num_keypoints"] > 5 for one in coco.anns.values())
    assert chromium.complaints() == []


@pytest.mark.browser
def test_a_dropped_photo_gives_the_poses_of_sim_run_in_two_panels(page, demo, chromium, tmp_path):
    """The poses are in the photo's own pixels, and a second panel shows the same picture."""
    picture = Scene(7).frame(1.0, 640, 480)
    pictures.save_png(picture, tmp_path / "people.png")
    chromium.open(page.url)
    chromium.run(CATCH_SAVED)
    chromium.drop(400, 400, tmp_path / "people.png")
    chromium.wait("document.querySelectorAll('#kept-links button').length === 3")
    chromium.click("#kept-links button")
    chromium.wait("window.saved['poses.jsonl']")
    entry = json.loads(chromium.run("saved['poses.jsonl']"))
    wanted = expected(demo, picture)
    assert entry["image"] == "people.png" and entry["size"] == [640, 480] and len(entry["poses"]) == len(wanted) == 2
    for pose, other in zip(entry["poses"], wanted, strict=True):
        points = np.array([(point["x"], point["y"]) for point in pose["keypoints"]])
        sure = other.scores > 0.5
        assert np.median(np.abs(points - other.keypoints)[sure]) < 2.0  # The browser shrinks it a little first.
    chromium.click("#compare")
    chromium.wait("[...document.querySelectorAll('.panel')].filter(one => one.dataset.people === '2').length === 2")
    assert chromium.run("document.querySelector('canvas').getAttribute('aria-label')") == "2 people"
    assert chromium.complaints() == []


NAMELESS = """[...document.querySelectorAll("button, input, select, canvas, img, iframe, progress, summary")].filter(
  one => one.offsetParent && !(one.labels?.length || one.textContent.trim() || one.getAttribute("aria-label")
  || one.alt || one.title)).map(one => one.outerHTML)"""
REACHABLE = """[...document.querySelectorAll(
  "main:not([hidden]) :is(button, input, select, summary, [tabindex='0'])")].filter(
  one => one.offsetParent && !one.disabled)"""
REACHED = """(() => { const now = document.activeElement;
  const tip = now.querySelector("[role=tooltip]")?.getBoundingClientRect();
  left.delete(now);
  if (document.documentElement.scrollWidth > innerWidth || tip && (tip.left < 0 || tip.right > innerWidth))
    window.cut = now.outerHTML; })()"""


@pytest.mark.browser
def test_all_views_can_be_used_on_a_phone_and_by_keyboard(page, chromium):
    """Each view, with a board whose log and settings are open, fits into 360 px, and every control has a name.

    Tab reaches every control, the arrow keys change the view, and Enter presses a button.
    """
    chromium.size(360, 740)
    chromium.open(page.url)
    assert chromium.run("document.querySelectorAll('[role=tabpanel]:not([hidden])').length") == 1
    walk(chromium)
    chromium.run("document.getElementById('tab-try').focus()")
    chromium.key("ArrowRight")
    chromium.wait("document.getElementById('flash').dataset.ready && document.activeElement.id === 'tab-flash'")
    chromium.run("document.getElementById('add-sim').focus()")
    chromium.key("Enter")
    chromium.wait("document.querySelectorAll('.board').length === 1")
    page.boards.station("sim-1").fail(
        "rfc2217://127.0.0.1:2217/" + 20 * "a-long-name-of-a-port-" + " cannot be reached"
    )
    chromium.wait("document.querySelector('.board .failed').textContent")
    chromium.run("document.querySelectorAll('main:not([hidden]) details').forEach(one => one.open = true)")
    walk(chromium)
    page.boards.station("sim-1").go_live(None)
    chromium.run("document.getElementById('tab-flash').focus()")
    chromium.key("ArrowRight")
    chromium.wait(
        "document.activeElement.id === 'tab-watch' && document.getElementById('console').textContent.length > 100"
    )
    walk(chromium)
    assert chromium.complaints() == []


def walk(chromium):
    """Check that everything has a name, that Tab reaches all controls, and that nothing scrolls sideways."""
    assert chromium.run(NAMELESS) == []
    count = chromium.run(f"window.cut = ''; (window.left = new Set({REACHABLE})).size")
    assert count >= 8
    chromium.run("[...left][0].focus()")
    for _ in range(count + 10):  # A browser stops at what scrolls as well.
        chromium.run(REACHED)
        chromium.key("Tab")
    assert chromium.run("[...left].map(one => one.outerHTML)") == []
    assert chromium.run("cut") == ""


@pytest.mark.browser
def test_without_the_key_the_page_says_what_to_open(page, chromium):
    """Somebody opens the address without the part behind the #."""
    chromium.open(page.server.origin + "/")
    said = chromium.run("document.getElementById('alert').textContent")
    assert re.search("open the whole address that the terminal shows", said)


@pytest.mark.browser
def test_flashing_in_a_browser_ends_with_the_lcd_live(page, chromium):
    """With the mouse alone somebody adds a simulated board, flashes it and sees its LCD move."""
    chromium.open(page.url)
    chromium.click("#tab-flash")
    chromium.wait("document.getElementById('flash').dataset.ready")
    assert chromium.run("document.querySelectorAll('#settings-form [name]').length") == len(settings_form.fields())
    chromium.click("#add-sim")
    chromium.wait("document.querySelectorAll('.board').length === 1")
    chromium.wait("!document.getElementById('flash-package').disabled")
    chromium.run(CATCH_SAVED)
    chromium.click("#flash-package")
    assert chromium.wait("window.saved['poses.kfpkg']").startswith("PK")
    chromium.click("#flash-go")
    chromium.wait("!document.getElementById('watch').hidden && Number(document.body.dataset.frames) > 3")
    chromium.wait("document.getElementById('poses').innerText.includes('person 2')")
    assert chromium.run("document.getElementById('lcd').naturalWidth") == 320
    assert chromium.complaints() == []


@pytest.mark.slow
def test_diff_can_be_started_from_the_page(page):
    """Every stage of a flashed board is equal, the report is a page, and the board continues to run."""
    key = tell(page, "/boards/add", kind="sim")["key"]
    tell(page, "/boards/flash", keys=[key], **ORDER)
    wait_for(lambda: idle(page))
    tell(page, "/boards/diff", key=key, **ORDER)
    board = wait_for(lambda: idle(page), 300)[key]
    assert board["state"] == "live" and board["step"] == "every stage of every picture is equal", board["log"]
    status, report = ask(page, "GET", f"/boards/report?board={key}")
    assert status == 200 and report.lower().startswith(b"<!doctype html>") and b"camera frame" in report
    wait_for(lambda: seen(page, key)["lcd"] > 0)


@pytest.mark.slow
def test_certify_can_be_started_from_the_page(page):
    """The board's answers become a page to attach to an issue, and the board continues to run."""
    key = tell(page, "/boards/add", kind="sim")["key"]
    tell(page, "/boards/flash", keys=[key], **ORDER)
    wait_for(lambda: idle(page))
    tell(page, "/boards/certify", key=key)
    board = wait_for(lambda: idle(page), 300)[key]
    assert board["state"] == "live" and board["step"] == "the board is certified: see the report", board["log"]
    status, report = ask(page, "GET", f"/boards/report?board={key}")
    assert status == 200 and report.lower().startswith(b"<!doctype html>") and b"certif" in report.lower()
    wait_for(lambda: seen(page, key)["lcd"] > 0)
