"""Controls a headless Chromium: for tests of the page, its pictures in the docs, and measurements of its cost.

It speaks the browser's DevTools protocol over a pair of pipes (--remote-debugging-pipe), with a zero byte after
each message, so no port is opened and no driver is needed.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import UserError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --hide-scrollbars --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --disable-dev-shm-usage --remote-debugging-pipe"
)
DEADLINE_S = 120.0
KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), "ArrowLeft": (37, ""), "ArrowRight": (39, "")}
"""Key → (the number that the protocol wants, what it types)."""


class Browser:
    """A browser with one page at a time. `camera` is a .y4m or .mjpeg file that the browser uses as its camera."""

    def __init__(self, profile: Path, camera: Path | None = None, size: tuple[int, int] = (1200, 800)):
        if CHROMIUM is None:
            raise UserError("no Chromium is installed here; `apt install chromium`")
        more = [f"--user-data-dir={profile}", "--window-size={},{}".format(*size)]
        if camera is not None:
            more += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
            more += [f"--use-file-for-fake-video-capture={camera}"]
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()

        def as_three_and_four() -> None:  # the descriptors at which Chromium looks
            high = os.dup(from_browser)
            os.dup2(to_browser, 3)
            os.dup2(high, 4)

        self._process = subprocess.Popen(
            [CHROMIUM, *OPTIONS.split(), *more, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            close_fds=False, preexec_fn=as_three_and_four,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self.events: list[dict[str, Any]] = []
        self._count = 0
        self._session: str | None = None
        threading.Thread(target=self._read, daemon=True).start()
        self.new_page()

    def new_page(self) -> None:
        """Go on with a new page, without what the one before had: its size, its scripts, its complaints."""
        self._session = None
        pages = [one["targetId"] for one in self.ask("Target.getTargets")["targetInfos"] if one["type"] == "page"]
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        for page in pages:
            self.ask("Target.closeTarget", targetId=page)
        self.events.clear()
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "DOM", "Log"):
            self.ask(f"{domain}.enable")

    def _read(self) -> None:
        rest = b""
        while data := os.read(self._in, 1 << 16):
            *messages, rest = (rest + data).split(b"\0")
            for message in messages:
                found = json.loads(message)
                if "id" in found:
                    self._answers.put(found)
                else:
                    self.events.append(found)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one DevTools command and return its result; a failure is a UserError with the browser's words."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            try:
                answer = self._answers.get(timeout=DEADLINE_S)
            except queue.Empty:
                raise UserError(f"the browser does not answer {method}") from None
            if answer["id"] == self._count:
                break
        if "error" in answer:
            raise UserError(f"{method}: {answer['error']['message']}")
        return dict(answer["result"])

    def open(self, url: str) -> None:
        """Visit a page and wait until its script says that it is ready."""
        self.ask("Page.navigate", url=url)
        self.wait("document.body?.dataset.ready === 'yes' || document.getElementById('alert')?.textContent")

    def run(self, script: str) -> Any:
        """Return the value of an expression of JavaScript; promises are waited for."""
        answer = self.ask(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise UserError(details.get("exception", {}).get("description") or details["text"])
        return answer["result"].get("value")

    def dom(self) -> str:
        """The page's HTML as it is now."""
        return str(self.run("document.documentElement.outerHTML"))

    def wait(self, condition: str, seconds: float = DEADLINE_S) -> Any:
        """Wait until an expression is true and return its value.

        If it never becomes true, the UserError quotes what the page says.
        """
        deadline = time.monotonic() + seconds
        while not (value := self.run(condition)):
            if time.monotonic() > deadline:
                said = self.run("document.body.innerText.slice(0, 1500)")
                raise UserError(f"never came: {condition}; the page: {said}; {self.complaints()}")
            time.sleep(0.05)
        return value

    def complaints(self) -> list[str]:
        """The errors in the console and the uncaught exceptions."""
        own = [event for event in self.events if event.get("sessionId") == self._session]
        found = [event for event in own if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]
        texts = [json.dumps(event["params"]) for event in found]
        return [text for text in texts if '"level": "error"' in text or "exceptionDetails" in text]

    def click(self, selector: str) -> None:
        """Click the element that a selector finds."""
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def key(self, name: str) -> None:
        """Press a key of the keyboard: Tab, Enter or an arrow."""
        code, text = KEYS[name]
        for kind in ("keyDown", "keyUp"):
            self.ask(
                "Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=code,
                **({"text": text} if text and kind == "keyDown" else {}),
            )  # fmt: skip

    def choose_files(self, selector: str, *paths: Path) -> None:
        """Choose files as a person would in the dialog of an <input type=file>."""
        node = self.ask("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")["result"]
        self.ask("DOM.setFileInputFiles", files=[str(path) for path in paths], objectId=node["objectId"])

    def drop(self, x: int, y: int, *paths: Path) -> None:
        """Drop files at a place of the window, as if they came from a file manager."""
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.ask("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def size(self, width: int, height: int, dark: bool = False) -> None:
        """Set the window's size in CSS pixels and the scheme of colours that the user prefers."""
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path) -> None:
        """The window as a PNG."""
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        """End the browser."""
        with contextlib.suppress(UserError, OSError):
            self._session = None
            self.ask("Browser.close")
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._out)


@contextlib.contextmanager
def open_browser(camera: Path | None = None, size: tuple[int, int] = (1200, 800)) -> Iterator[Browser]:
    """A browser with a new profile for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="maix-page-", ignore_cleanup_errors=True) as profile:
        browser = Browser(Path(profile), camera, size)
        try:
            yield browser
        finally:
            browser.close()
