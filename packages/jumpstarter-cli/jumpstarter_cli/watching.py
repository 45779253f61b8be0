"""`--watch`: a table that is kept current on a terminal; a line, or an object, per change elsewhere."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Any

import anyio
import click
from jumpstarter.client.controller.following import Change, ChangeKind
from jumpstarter_cli_common.opt import OutputMode, OutputType
from jumpstarter_cli_common.table import Table, text_width

from .stopping import until_stopped

REDRAW_INTERVAL = 1.0
"""Seconds after which times that are left are drawn anew."""

TABLES = (None, OutputMode.WIDE)
"""Formats that are tables."""

GATHERING = 0.1
"""Seconds for which changes are gathered before they are drawn."""

Changes = AsyncGenerator[Change[Any], None]


Draw = Callable[[list[Any]], Table]
"""Returns a table of leases or exporters."""


def watch(changes: Changes, draw: Draw, output: OutputType) -> int:
    """Show changes until they end or the user has seen enough, and return the exit code."""
    live = output in TABLES and sys.stdout.isatty()
    shown: _Live | _Lines = _Live(draw) if live else _Lines(draw, output)

    async def work() -> None:
        async with aclosing(changes):
            await shown.follow(changes)

    code = anyio.run(until_stopped, work)
    if live and code == 128 + signal.SIGINT:
        click.echo()  # the terminal has shown ^C
    return code


class _Lines:
    """Writes each change once: as a line with its event, a JSON object per line, or a YAML document."""

    def __init__(self, draw: Draw, output: OutputType) -> None:
        self._draw, self._output = draw, output
        self._known: set[str] = set()
        self._first: list[tuple[str, Any]] | None = []
        self._widths: list[int] = []
        self._lost = False

    async def follow(self, changes: Changes) -> None:
        """Write all changes."""
        async for change in changes:
            self._take(change)

    def _take(self, change: Change[Any]) -> None:
        if change.kind is ChangeKind.LOST:
            self._say_lost(change.text)
            return
        if self._lost:
            self._lost = False
            click.echo("The controller is back.", err=True)
        if change.kind is ChangeKind.CURRENT:
            self._write_first()
            return
        item: Any = change.item
        name = item.name
        if change.kind is ChangeKind.DELETED:
            event = "deleted"
            self._known.discard(name)
        else:
            event = "changed" if name in self._known else "added"
            self._known.add(name)
        if self._first is not None and self._output in TABLES:
            self._first.append((event, item))
        else:
            self._write(event, item)

    def _say_lost(self, text: str) -> None:
        if not self._lost:
            click.echo(f"{click.style('Warning: ', fg='yellow')}{text}; trying again.", err=True)
        self._lost = True

    def _write_first(self) -> None:
        """Write what there is at the begin, with a header to which all columns are fitted."""
        if self._first is None or self._output not in TABLES:
            return
        first, self._first = self._first, None
        table = self._draw([item for _, item in first])
        rows = [["EVENT", *table.titles], *([event, *row] for (event, _), row in zip(first, table.rows, strict=True))]
        self._widths = [max(text_width(row[i]) for row in rows) for i in range(len(rows[0]))]
        self._widths[0] = len("deleted")
        for row in rows:
            self._write_row(row)

    def _write_row(self, row: list[str]) -> None:
        cells = (cell + " " * max(0, width - text_width(cell)) for cell, width in zip(row, self._widths, strict=True))
        click.echo("  ".join(cells).rstrip())

    def _write(self, event: str, item: Any) -> None:
        match self._output:
            case OutputMode.JSON:
                click.echo(json.dumps(_dump(event, item), ensure_ascii=False))
            case OutputMode.YAML:
                import yaml

                click.echo("---\n" + yaml.safe_dump(_dump(event, item), indent=2), nl=False)
            case OutputMode.NAME:
                click.echo(item.name)
            case _:
                self._write_row([event, *self._draw([item]).rows[0]])
        sys.stdout.flush()


def _dump(event: str, item: Any) -> dict[str, Any]:
    kind = "lease" if hasattr(item, "selector") else "exporter"
    return {"event": event, kind: item.model_dump(mode="json", by_alias=True)}


class _Live:
    """Keeps a table on the terminal current."""

    def __init__(self, table: Draw) -> None:
        self._table = table
        self._items: dict[str, Any] = {}
        self._lost = self._since = ""
        self._current = False
        self._drawn = 0
        self._size: tuple[int, int] | None = None
        self._changed = anyio.Event()

    async def follow(self, changes: Changes) -> None:
        """Draw until the changes end."""
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._draw_on)
            try:
                async for change in changes:
                    self._take(change)
            except Exception as error:  # noqa: BLE001 - raised again below, outside of the group that would wrap it
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        self._draw()

    def _take(self, change: Change[Any]) -> None:
        item: Any = change.item
        if change.kind is ChangeKind.LOST:
            self._since = self._since or f"{datetime.now():%H:%M:%S}"
            self._lost = f"No news since {self._since}, trying again: {change.text}"
            self._changed.set()
            return
        self._lost = self._since = ""
        if change.kind is ChangeKind.DELETED:
            self._items.pop(item.name, None)
        elif change.kind is ChangeKind.PUT:
            self._items[item.name] = item
        self._current = self._current or change.kind is ChangeKind.CURRENT
        self._changed.set()

    async def _draw_on(self) -> None:
        while True:
            with anyio.move_on_after(REDRAW_INTERVAL):
                await self._changed.wait()
            self._changed = anyio.Event()
            self._draw()
            await anyio.sleep(GATHERING)

    def _draw(self) -> None:
        if not (self._current or self._items or self._lost):
            return
        items = [self._items[name] for name in sorted(self._items)]
        width, height = shutil.get_terminal_size()
        lines = str(self._table(items)).splitlines()
        notes = [self._lost] if self._lost else [] if items else ["No resources found."]
        room = max(height - 1 - len(notes), 2)
        if len(lines) > room:
            notes.insert(0, f"… and {len(lines) - room + 1} more")
            lines = lines[: room - 1]
        lines = [_cropped(line, width) for line in [*lines, *notes]]
        # Where the size has changed, nobody knows in which line the table began.
        if self._size not in (None, (width, height)):
            start = "\x1b[H\x1b[2J"
        else:
            start = f"\x1b[{self._drawn}F\x1b[J" if self._drawn else ""
        self._size, self._drawn = (width, height), len(lines)
        sys.stdout.write(start + "".join(f"{line}\n" for line in lines))
        sys.stdout.flush()


def _cropped(line: str, width: int) -> str:
    """Return the line without what doesn't fit, so that it stays one."""
    if text_width(line) <= width:
        return line
    while text_width(line) >= width:
        line = line[:-1]
    return f"{line}…"
