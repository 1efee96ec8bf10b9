"""Tables in the documentation that a benchmark writes."""

from __future__ import annotations

from common.errors import UserError


def put(page: str, name: str, table: str) -> str:
    """Replace what stands between the markers `<!-- name -->` and `<!-- end -->`."""
    begin = f"<!-- {name} -->\n"
    head, found, rest = page.partition(begin)
    _, closed, tail = rest.partition("<!-- end -->")
    if not found or not closed:
        raise UserError(f"the page has no place marked {begin.strip()} … <!-- end -->")
    return f"{head}{begin}{table}\n{closed}{tail}"
