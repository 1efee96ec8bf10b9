"""A board behind its web page, requests to that page, and a headless browser that looks at it."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from common.page_server import PageServer
from sim.live.board_page import WebView
from sim.live.line_server import LiveBoard
from sim.parts.session import Session

Result = TypeVar("Result")


class Served(Protocol):
    """Anything that has a page server."""

    @property
    def server(self) -> PageServer | None: ...


def serve(session: Session) -> Iterator[WebView]:
    """Run the session's board in real time and give its web page; continue the iteration to stop both."""
    live = LiveBoard(session.board)
    web = WebView(live, session.page())
    live.start()
    yield web
    web.close()
    live.stop()


def get(view: Served, path: str, body: bytes | None = None) -> bytes:
    """What the page gets when it asks for `path`, with its key."""
    server = view.server
    assert server is not None
    request = urllib.request.Request(f"{server.origin}/{path}", body, headers={"X-Key": server.key})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return bytes(answer.read())


def post(view: Served, path: str, **values: object) -> bytes:
    """What the page gets when it sends a command, with its key."""
    return get(view, path, json.dumps(values).encode())


def state(view: Served, start: int = 0) -> Any:
    """What the page shows of the board, with its console from byte `start` on."""
    return json.loads(get(view, f"state?from={start}"))


def wait_for(condition: Callable[[], Result], timeout_s: float = 120) -> Result:
    """Ask until the answer is true, and return that answer."""
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return result
