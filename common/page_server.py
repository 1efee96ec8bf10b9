"""The server of all local web pages: the one page, simulated and emulated boards, the monitor.

waitress parses HTTP; a request reaches a page's own code only after these checks, and every refusal closes the
connection:

- The server listens on 127.0.0.1 only.
- The header Host must name this server, so a foreign name that was made to point here is refused.
- The headers Origin and Sec-Fetch-Site, if a browser sends them, must be this server's own.
- Everything except the page's fixed files needs this run's key in the header X-Key. The key follows the `#` of
  the address that the terminal shows: a browser sends that part to no server, and neither another web page nor another
  user of this computer can guess it.
"""

from __future__ import annotations

import hmac
import json
import logging
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from waitress.channel import HTTPChannel
from waitress.server import create_server
from waitress.task import WSGITask
from waitress.wasyncore import close_all

from common.errors import UserError

PAGES = Path(__file__).resolve().parent / "pages"
LARGEST_BODY_BYTES = 1 << 20
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
SAFETY_HEADERS = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    (
        "Content-Security-Policy",
        "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'self'; style-src 'self' 'unsafe-inline'",  # the diff's page contains its own style
    ),
)


@dataclass(frozen=True)
class Request:
    """A request as a page's code gets it: its whole body has arrived, and its sender has been checked."""

    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def text(self) -> str:
        """The body as UTF-8 text; UserError if it is not UTF-8."""
        try:
            return self.body.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"the request's body is not UTF-8 text: {error}") from None

    def json(self) -> dict[str, Any]:
        """The body's JSON object; UserError if it is not one."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise UserError(f"the request's body is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise UserError("the request's body is not a JSON object")
        return value

    def number(self, name: str) -> int:
        """The whole number that the query gives under this name; 0 if it gives none."""
        text = self.query.get(name, "0")
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else 0


@dataclass(frozen=True)
class Answer:
    """An answer: bytes with their media type, or an iterator of pieces that are sent as they come."""

    data: bytes | Iterable[bytes] = b""
    kind: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK

    @staticmethod
    def json(value: Any) -> Answer:
        """Make an answer of a value, as JSON."""
        return Answer(json.dumps(value).encode(), "application/json")


Handler = Callable[[Request], Answer]


def page_files() -> dict[str, Path]:
    """Path → file of the page that all views are in."""
    return {"/": PAGES / "page.html"} | {
        f"/{file.name}": file for file in PAGES.iterdir() if file.suffix in (".css", ".js")
    }


def views(*names: str) -> dict[str, Handler]:
    """The handler that tells the page which of its views are served here."""
    return {"GET /views": lambda request: Answer.json({"views": names})}


class _RefusalError(Exception):
    def __init__(self, status: HTTPStatus, text: str):
        super().__init__(text)
        self.status = status


class _Task(WSGITask):
    """Closes the connection after every answer that refuses or fails."""

    def build_response_header(self) -> bytes:
        if not self.status.startswith("2"):
            self.set_close_on_finish()
        return super().build_response_header()


class _Channel(HTTPChannel):
    task_class = _Task


class PageServer:
    """Serves files and handlers on 127.0.0.1, in threads of its own, until close(); port 0 means any free port.

    files: path → file of the page; they hold no secrets, so everybody on this machine may read them.
    handlers: "GET /state" → the function that answers it. A UserError becomes status 400 with its text.
    option: the command's option that names the port, for the UserError if the port is in use.
    """

    def __init__(
        self, files: Mapping[str, Path], handlers: Mapping[str, Handler], port: int = 0, option: str = "--web"
    ):
        self._files = {
            path: (file.read_bytes(), KINDS[file.suffix] + "; charset=utf-8") for path, file in files.items()
        }
        self._handlers = handlers
        self.key = secrets.token_urlsafe(16)
        self._sockets: dict[int, Any] = {}
        # waitress would write to the terminal whenever a client leaves before its answer is complete.
        logging.getLogger("waitress").addHandler(logging.NullHandler())
        logging.getLogger("waitress").propagate = False
        try:
            server: Any = create_server(
                self._serve, host="127.0.0.1", port=port, map=self._sockets, ident="", threads=8,
                max_request_body_size=LARGEST_BODY_BYTES, max_request_header_size=16384,
            )  # fmt: skip
        except OSError as error:
            raise UserError(f"port {port} cannot be opened ({error.strerror}); choose another: {option} N") from None
        server.channel_class = _Channel
        self._server = server
        self.port = int(server.effective_port)
        self.origin = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The address that a person opens in a browser, with this run's key."""
        return f"{self.origin}/#{self.key}"

    def close(self) -> None:
        """Stop serving; ends all connections."""
        if not self._thread.is_alive():
            return
        trigger = self._server.trigger
        # pull_trigger() lets the lock go too early: if an answer that has just ended wakes the server's thread in
        # between, that thread closes the trigger before it is pulled here.
        with trigger.lock:
            # This runs in the server's own thread, whose loop ends when no socket is left.
            trigger.thunks.append(lambda: close_all(self._sockets, ignore_all=True))
            trigger._physical_pull()
        self._thread.join(5)
        self._server.task_dispatcher.shutdown(timeout=1)

    def _serve(self, environ: Mapping[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """The WSGI application."""
        try:
            answer = self._answer(environ)
        except _RefusalError as refusal:
            answer = Answer(f"{refusal}\n".encode(), status=refusal.status)
        except UserError as error:
            answer = Answer(str(error).encode("utf-8", "replace"), status=HTTPStatus.BAD_REQUEST)
        except Exception as error:  # This is a bug in a handler: the page shows it, and the terminal stays as it is.
            text = f"this is a fault of the program: {type(error).__name__}: {error}"
            answer = Answer(text.encode("utf-8", "replace"), status=HTTPStatus.INTERNAL_SERVER_ERROR)
        headers = [("Content-Type", answer.kind), *SAFETY_HEADERS]
        data = answer.data
        if isinstance(data, bytes):
            headers.append(("Content-Length", str(len(data))))
            data = [data]
        start_response(f"{answer.status.value} {answer.status.phrase}", headers)
        return data

    def _answer(self, environ: Mapping[str, Any]) -> Answer:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        own = (f"127.0.0.1:{self.port}", f"localhost:{self.port}")
        host = environ.get("HTTP_HOST", "")
        if host not in own:
            raise _RefusalError(HTTPStatus.FORBIDDEN, "refused: the request names another address than this page's")
        if environ.get("HTTP_ORIGIN", f"http://{host}") != f"http://{host}" or environ.get(
            "HTTP_SEC_FETCH_SITE", "none"
        ) not in ("same-origin", "none"):
            raise _RefusalError(HTTPStatus.FORBIDDEN, "refused: the request comes from another page")
        if method == "GET" and path in self._files:
            return Answer(*self._files[path])
        key = environ.get("HTTP_X_KEY", "")
        if not hmac.compare_digest(key.encode("latin-1", "replace"), self.key.encode()):
            raise _RefusalError(
                HTTPStatus.FORBIDDEN, "refused: open the whole address that the terminal shows, with its key"
            )
        handler = self._handlers.get(f"{method} {path}")
        if handler is None:
            raise _RefusalError(HTTPStatus.NOT_FOUND, "no such page")
        body = environ["wsgi.input"].read(LARGEST_BODY_BYTES + 1)
        return handler(Request(dict(parse_qsl(environ["QUERY_STRING"])), body))
