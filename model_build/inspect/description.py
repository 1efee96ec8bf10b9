"""The description of a file, from which text, JSON and HTML are made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class TableOf:
    """A table with a title; cells are text or numbers."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True)
class CustomOp:
    """A custom operator: what it is, and its options by name."""

    name: str
    what: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Description:
    """facts: label → value, in order; tables: inputs, outputs, operators, tensors, …; notes: advice."""

    file: str
    form: str
    facts: dict[str, Any]
    tables: list[TableOf] = field(default_factory=list)
    custom_ops: list[CustomOp] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The description as JSON, in which the rows of tables become objects."""
        return {
            "file": self.file,
            "form": self.form,
            "facts": self.facts,
            "tables": {
                table.title: [dict(zip(table.columns, row, strict=True)) for row in table.rows] for table in self.tables
            },
            "custom_ops": [asdict(op) for op in self.custom_ops],
            "notes": self.notes,
        }


def shape_text(shape: Any) -> str:
    """(1, 353, 481, 3) → 1×353×481×3; unknown sides are “?”."""
    return (
        "×".join("?" if side is None or (isinstance(side, int) and side < 0) else str(side) for side in shape)
        or "scalar"
    )


def bytes_text(count: int) -> str:
    """A number of bytes as people read it."""
    if count < 10_000:
        return f"{count} bytes"
    return f"{count:,} bytes ({count / 1024:,.0f} KiB)" if count < 10 << 20 else f"{count:,} bytes ({count >> 20} MiB)"
