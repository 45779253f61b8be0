"""Plain tables: columns are as wide as their longest cell, nothing is cut, folded or taken for markup."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any


def text_width(text: str) -> int:
    """Return how many terminal columns the text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


class Table:
    """Collects columns and rows; models fill it through the `add_column` and `add_row` of rich's tables."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.rows: list[list[str]] = []

    def add_column(self, header: Any = "", *_: Any, **__: Any) -> None:
        """Add a column; options for its look are accepted and not used."""
        self.titles.append(_cell(header))

    def add_row(self, *cells: Any, **__: Any) -> None:
        """Add a row; missing cells are empty, surplus ones get columns without a title."""
        row = [_cell(cell) for cell in cells]
        self.titles += [""] * (len(row) - len(self.titles))
        self.rows.append(row + [""] * (len(self.titles) - len(row)))

    def __str__(self) -> str:
        rows = [self.titles, *self.rows]
        widths = [max((text_width(row[i]) for row in rows if i < len(row)), default=0) for i in range(len(self.titles))]
        lines = []
        for row in rows:
            padded = (cell + " " * (width - text_width(cell)) for cell, width in zip(row, widths, strict=False))
            lines.append("  ".join(padded).rstrip() + "\n")
        return "".join(lines)


def _cell(value: Any) -> str:
    # A line break or control character from a label would break the table, or the terminal.
    text = "" if value is None else str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def make_table(columns: list[str], values: Iterable[Mapping[str, Any]]) -> str:
    """Return a table with a trailing newline; a row without one of the columns has an empty cell there."""
    table = Table()
    for column in columns:
        table.add_column(column)
    for value in values:
        table.add_row(*(value.get(column) for column in columns))
    return str(table)
