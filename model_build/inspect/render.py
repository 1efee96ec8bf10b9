"""A description as text and as one self-contained HTML page."""

from __future__ import annotations

from html import escape
from typing import Any

from model_build.inspect.description import Description, TableOf

_TEXT_ROWS = 80


def text(found: Description) -> str:
    """The description as text for a terminal. Long tables are cut; JSON and HTML have all rows."""
    lines = [f"{found.file}: {found.form}", ""]
    width = max((len(label) for label in found.facts), default=0)
    lines += [f"  {label:<{width}}  {value}" for label, value in found.facts.items()]
    for op in found.custom_ops:
        lines += ["", f"custom operator {op.name}", f"  {op.what}"]
        width = max((len(name) for name in op.options), default=0)
        lines += [f"  {name:<{width}}  {value}" for name, value in op.options.items()]
    for table in found.tables:
        if table.rows:
            lines += ["", table.title, *_text_table(table)]
    for note in found.notes:
        lines += ["", note]
    return "\n".join(lines) + "\n"


def _text_table(table: TableOf) -> list[str]:
    shown = table.rows[:_TEXT_ROWS]
    cells = [[_cell(value) for value in row] for row in shown]
    widths = [max([len(column), *(len(row[i]) for row in cells)]) for i, column in enumerate(table.columns)]
    numeric = [all(isinstance(row[i], int | float) or row[i] == "" for row in shown) for i in range(len(widths))]

    def line(values: list[str]) -> str:
        return (
            "  "
            + "  ".join(
                value.rjust(width) if right else value.ljust(width)
                for value, width, right in zip(values, widths, numeric, strict=True)
            ).rstrip()
        )

    lines = [line(list(table.columns)), *(line(row) for row in cells)]
    if len(table.rows) > len(shown):
        lines.append(f"  … and {len(table.rows) - len(shown)} more (--json and --html have all)")
    return lines


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


_STYLE = """
:root { color-scheme: light dark; --bg: #fbfbf9; --fg: #1d1f21; --mute: #6b7075; --line: #dcdcd6; --card: #fff;
  --accent: #0b6e4f; }
@media (prefers-color-scheme: dark) { :root { --bg: #16181a; --fg: #e8e6e1; --mute: #9aa0a6; --line: #33373b;
  --card: #1e2124; --accent: #5fd3a5; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--fg); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }
h1 + p { margin: .2rem 0 1.6rem; color: var(--accent); font-weight: 600; }
h2 { font-size: 1.05rem; margin: 2.2rem 0 .6rem; text-transform: capitalize; }
h2 small { color: var(--mute); font-weight: 400; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.2rem; margin: 0; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; padding: 1rem 1.2rem; }
dt { color: var(--mute); } dd { margin: 0; overflow-wrap: anywhere; }
.note { border-left: 3px solid var(--accent); background: var(--card); padding: .6rem 1rem; margin: 1rem 0; }
.custom { margin: 1.4rem 0; } .custom h2 { text-transform: none; } .custom p { margin: .2rem 0 .6rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; background: var(--card);
  max-height: 34rem; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th { position: sticky; top: 0; background: var(--card); text-align: left; color: var(--mute); font-weight: 600; }
th, td { padding: .35rem .8rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
td.n, th.n { text-align: right; } tr:last-child td { border-bottom: 0; }
input { font: inherit; padding: .35rem .7rem; border: 1px solid var(--line); border-radius: 6px;
  background: var(--card); color: inherit; width: 16rem; max-width: 100%; margin-bottom: .5rem; }
"""

_SCRIPT = """
for (const box of document.querySelectorAll('input')) box.addEventListener('input', () => {
  const words = box.value.toLowerCase();
  for (const row of box.nextElementSibling.querySelectorAll('tbody tr'))
    row.hidden = !row.textContent.toLowerCase().includes(words);
});
"""


def html(found: Description) -> str:
    """The description as one HTML file without links to others, for light and dark screens."""
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(found.file)}</title><style>{_STYLE}</style></head><body><main>",
        f"<h1>{escape(found.file)}</h1><p>{escape(found.form)}</p>",
        _facts(found.facts),
    ]
    parts += [f'<div class="note">{escape(note)}</div>' for note in found.notes]
    for op in found.custom_ops:
        parts.append(f'<section class="custom"><h2>Custom operator {escape(op.name)}</h2><p>{escape(op.what)}</p>')
        parts.append(_facts(op.options) if op.options else "")
        parts.append("</section>")
    parts += [_html_table(table) for table in found.tables if table.rows]
    parts.append(f"</main><script>{_SCRIPT}</script></body></html>")
    return "\n".join(parts) + "\n"


def _facts(facts: dict[str, Any]) -> str:
    rows = "".join(f"<dt>{escape(label)}</dt><dd>{escape(str(value))}</dd>" for label, value in facts.items())
    return f"<dl>{rows}</dl>"


def _html_table(table: TableOf) -> str:
    numeric = [
        all(isinstance(row[i], int | float) or row[i] == "" for row in table.rows) for i in range(len(table.columns))
    ]
    classes = [' class="n"' if right else "" for right in numeric]
    head = "".join(f"<th{mark}>{escape(column)}</th>" for column, mark in zip(table.columns, classes, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{mark}>{escape(_cell(v))}</td>" for v, mark in zip(row, classes, strict=True)) + "</tr>"
        for row in table.rows
    )
    label = f"<h2>{escape(table.title)} <small>{len(table.rows)}</small></h2>"
    box = '<input type="search" placeholder="filter">' if len(table.rows) > 12 else ""
    return f'{label}{box}<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
