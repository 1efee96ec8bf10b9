"""A session's board behind its web page, requests to it, and a headless browser that looks at it."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from common.page_server import PageServer
from sim.live.board_page import WebView
from sim.live.line_server import LiveBoard
from sim.parts.session import Session
from tests.conftest import absent

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = "--disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"


Result = TypeVar("Result")


class Served(Protocol):
    """Whatever a page server stands before."""

    @property
    def server(self) -> PageServer | None: ...


def serve(session: Session) -> Iterator[WebView]:
    """A view of the session's board, in real time, until it is asked for the next."""
    live = LiveBoard(session.board)
    web = WebView(live, session.page())
    live.start()
    yield web
    web.close()
    live.stop()


def get(view: Served, path: str) -> bytes:
    """The page's own question."""
    server = view.server
    assert server is not None
    request = urllib.request.Request(f"{server.origin}/{path}", headers={"X-Key": server.key})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return bytes(answer.read())


def post(view: Served, path: str, **values: object) -> bytes:
    """The page's own command."""
    server = view.server
    assert server is not None
    body = json.dumps(values).encode()
    request = urllib.request.Request(f"{server.origin}/{path}", body, headers={"X-Key": server.key})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return bytes(answer.read())


def state(view: Served, start: int = 0) -> Any:
    """What the page shows of the board, its console from byte `start` on."""
    return json.loads(get(view, f"state?from={start}"))


def wait_for(condition: Callable[[], Result], timeout_s: float = 120) -> Result:
    """The first true answer."""
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return result


def chromium(*args: str) -> subprocess.CompletedProcess[bytes]:
    """Run it headless, with a profile of its own, until it ends by itself."""
    if CHROMIUM is None:
        absent("browser", "Chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        return subprocess.run(command(profile, *args), capture_output=True, timeout=90, check=True)


@contextlib.contextmanager
def open_browser(url: str) -> Iterator[None]:
    """A headless browser that visits `url` for as long as the block lasts, in real time."""
    if CHROMIUM is None:
        absent("browser", "Chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        asked = command(profile, "--remote-debugging-port=0", url)
        browser = subprocess.Popen(asked, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield
        finally:
            browser.terminate()
            browser.wait(20)


def command(profile: str, *args: str) -> list[str]:
    """How Chromium is started, without a window."""
    fixed = "--headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1200,800"
    return [CHROMIUM or "chromium", *fixed.split(), *QUIET.split(), f"--user-data-dir={profile}", *args]
