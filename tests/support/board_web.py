"""A session's board behind its web page, requests to it, and a headless browser that looks at it."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request

from sim.live.board_page import WebView
from sim.live.line_server import LiveBoard
from tests.conftest import absent

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = "--disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"


def serve(session):
    live = LiveBoard(session.board)
    web = WebView(live, session.page())
    live.start()
    yield web
    web.close()
    live.stop()


def get(view, path):
    server = view.server
    request = urllib.request.Request(f"{server.origin}/{path}", headers={"X-Key": server.key})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read()


def post(view, path, **values):
    server = view.server
    body = json.dumps(values).encode()
    request = urllib.request.Request(f"{server.origin}/{path}", body, headers={"X-Key": server.key})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read()


def state(view, start=0):
    return json.loads(get(view, f"state?from={start}"))


def wait_for(condition, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return result


def chromium(*args):
    """Run it headless, with a profile of its own, until it ends by itself."""
    if CHROMIUM is None:
        absent("browser", "Chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        return subprocess.run(command(profile, *args), capture_output=True, timeout=90, check=True)


@contextlib.contextmanager
def open_browser(url):
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


def command(profile, *args):
    fixed = "--headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1200,800"
    return [CHROMIUM, *fixed.split(), *QUIET.split(), f"--user-data-dir={profile}", *args]
