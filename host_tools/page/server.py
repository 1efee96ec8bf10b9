"""The page's server: all views at one address."""

from __future__ import annotations

from common.page_server import PageServer, page_files, views
from host_tools.page.boards import Boards
from host_tools.page.try_view import TryView


class Page:
    """Everything in one page, served on 127.0.0.1 until close(); port 0 means any free port."""

    def __init__(
        self, port: int = 0, option: str = "--page", try_view: TryView | None = None, boards: Boards | None = None
    ):
        self.boards = boards or Boards()
        handlers = views("try", "flash", "watch") | (try_view or TryView()).handlers() | self.boards.handlers()
        self.server = PageServer(page_files(), handlers, port, option)

    @property
    def url(self) -> str:
        """The address to open, with this run's key."""
        return self.server.url

    def close(self) -> None:
        """Stop serving and release all boards."""
        self.server.close()
        self.boards.close()
