"""The page's server: which views there are, and the files that all of them share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from common.page_server import PAGES, Answer, Handler, PageServer
from host_tools.page.try_view import TryView


class Page:
    """Everything in one page, served on 127.0.0.1 until close(); port 0 takes a free one."""

    def __init__(self, port: int = 0, option: str = "--page"):
        self.try_view = TryView()
        self.server = PageServer(page_files(), {**views("try"), **self.try_view.handlers()}, port, option)

    @property
    def url(self) -> str:
        """What a person opens, with this run's key."""
        return self.server.url

    def close(self) -> None:
        """Stop serving."""
        self.server.close()


def page_files() -> dict[str, Path]:
    """Path → file of the page."""
    files = {f"/{path.name}": path for path in PAGES.iterdir() if path.suffix in (".css", ".js")}
    return {"/": PAGES / "page.html", **files}


def views(*names: str) -> Mapping[str, Handler]:
    """The handler that tells the page which of its views are served."""
    return {"GET /views": lambda request: Answer.json({"views": names})}
