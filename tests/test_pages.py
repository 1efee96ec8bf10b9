"""Links between the pages lead somewhere, and the files and modules that the pages name exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FOLDERS = "benchmarks|common|docs|firmware|host_tools|model_build|sim|tests"


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def test_every_link_leads_to_a_file_and_a_heading():
    """A page is moved or a heading is reworded, and the links to it would silently lead nowhere."""
    links = 0
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if "://" in target:
                continue
            name, _, anchor = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            assert path.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors_of(path), f"{page.name}: {target}"
            links += 1
    assert links > 100


def test_every_file_that_a_page_names_exists():
    """A page that sends its reader to a file that was renamed is worse than no page."""
    names = {
        (page.name, name)
        for page in PAGES
        for name in re.findall(rf"(?<![\w/.-])(?:{FOLDERS})/[\w/]+\.\w+", page.read_text(encoding="utf-8"))
    }
    assert len(names) > 100
    assert not {(page, name) for page, name in names if not (ROOT / name).exists()}


def test_every_module_that_a_page_runs_exists():
    """A command that a page prints must work for the person who copies it."""
    modules = {
        (page.name, name)
        for page in PAGES
        for name in re.findall(rf"python3? -m ((?:{FOLDERS})(?:\.\w+)+)", page.read_text(encoding="utf-8"))
    }
    assert len(modules) > 20
    assert not {(page, name) for page, name in modules if not (ROOT / f"{name.replace('.', '/')}.py").exists()}
