"""`jmp admin audit`: the record of who did what."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click
from jumpstarter_cli_common.durations import DATETIME, DURATION
from jumpstarter_cli_common.exceptions import handle_exceptions
from jumpstarter_cli_common.opt import OutputMode, OutputType, opt_output_all

from .backend import ALL_NAMESPACES
from .records import AuditEntry, AuditQuery
from .target import Target, opt_all_namespaces, opt_target

if TYPE_CHECKING:
    from .backend import Backend

LIMIT = 100
INTERVAL = 1.0
"""Seconds between two looks for new entries."""

OVERLAP = timedelta(seconds=5)
"""Entries are written in batches, so some come later than others that have a later time."""


class MomentParamType(click.ParamType):
    """A moment of the past: how long ago it was, or a date with or without a time."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return the moment with a zone."""
        if isinstance(value, datetime):
            return value
        try:
            ago = DURATION.convert(value, None, None)
        except click.BadParameter:
            try:
                return DATETIME.convert(value, None, None)
            except click.BadParameter:
                self.fail(
                    f"{value!r} is neither a time ago, such as 2h or 7d, nor a date such as 2026-01-31T12:00",
                    param,
                    ctx,
                )
        return datetime.now(UTC) - abs(ago)


MOMENT = MomentParamType()


@click.command("audit", short_help="Show who did what, when.")
@click.option("--since", type=MOMENT, default=None, help="From then on: 2h, 7d, or a date and time.")
@click.option("--until", type=MOMENT, default=None, help="Up to then.")
@click.option("--client", default="", help="About this client.")
@click.option("--exporter", default="", help="About this exporter.")
@click.option("--lease", default="", help="About this lease.")
@click.option("--action", default="", help="Of this kind: lease.create, or lease for all about leases.")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=LIMIT,
    show_default=True,
    help="The newest ones, so many; 0 for all.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on to show what comes; ended by Ctrl-C.")
@opt_all_namespaces
@opt_target
@opt_output_all
@handle_exceptions
def audit(
    target: Target,
    since: datetime | None,
    until: datetime | None,
    client: str,
    exporter: str,
    lease: str,
    action: str,
    limit: int,
    follow: bool,
    all_namespaces: bool,
    output: OutputType,
) -> None:
    """Show who did what, the oldest first: accounts, leases and every use of a device.

    `-o wide` shows from where, and the details; `-o json` all there is.
    """
    if follow and until is not None:
        raise click.UsageError("--follow shows what is yet to come, so --until can't be used with it.")
    query = AuditQuery(since=since, until=until, client=client, exporter=exporter, lease=lease, action=_action(action))
    namespace = ALL_NAMESPACES if all_namespaces else target.namespace

    async def look(backend: Backend) -> Sequence[AuditEntry]:
        found: list[AuditEntry] = []
        async for entry in backend.audit(namespace, query, newest_first=True):
            found.append(entry)
            if len(found) == limit:
                break
        return found[::-1]

    async def go_on(backend: Backend) -> None:
        entries = await look(backend)
        printer = _Printer(output, all_namespaces)
        printer.write(entries)
        await _follow(backend, namespace, query, entries, printer)

    if follow:
        try:
            target.run(go_on)
        except KeyboardInterrupt:
            sys.exit(130)
        return
    from .shown import AUDIT, show

    entries = target.run(look)
    if output == OutputMode.NAME:
        for entry in entries:
            click.echo(str(entry.id))
        return
    show(AUDIT, entries, output, namespace=target.namespace, namespaces=all_namespaces)
    if limit and len(entries) == limit and output in (None, OutputMode.TABLE, OutputMode.WIDE):
        click.echo(f"These are the newest {limit}; --limit 0 shows all, --since and others choose.", err=True)


def _action(text: str) -> str:
    """Return the action to look for; a word without a dot means all actions on such things."""
    text = text.removesuffix("*")
    return text if not text or "." in text else f"{text}."


async def _follow(
    backend: Backend, namespace: str, query: AuditQuery, known: Sequence[AuditEntry], printer: _Printer
) -> None:
    import anyio

    seen = {entry.id: entry.time for entry in known}
    latest = max(seen.values(), default=query.since or datetime.now(UTC))
    while True:
        await anyio.sleep(INTERVAL)
        fresh = []
        async for entry in backend.audit(namespace, replace(query, since=latest - OVERLAP), newest_first=False):
            if entry.id not in seen:
                fresh.append(entry)
        printer.write(fresh)
        seen |= {entry.id: entry.time for entry in fresh}
        latest = max(latest, *(entry.time for entry in fresh)) if fresh else latest
        seen = {number: time for number, time in seen.items() if time >= latest - 2 * OVERLAP}


class _Printer:
    """Writes entries as they come: as rows, an object per line, or YAML documents."""

    def __init__(self, output: OutputType, namespaces: bool) -> None:
        self._output, self._namespaces = output, namespaces
        self._widths: list[int] = []

    def write(self, entries: Sequence[AuditEntry]) -> None:
        from .manifests import manifest

        match self._output:
            case OutputMode.JSON:
                for entry in entries:
                    click.echo(json.dumps(manifest(entry), ensure_ascii=False))
            case OutputMode.YAML:
                import yaml

                for entry in entries:
                    click.echo("---\n" + yaml.safe_dump(manifest(entry), indent=2, allow_unicode=True), nl=False)
            case OutputMode.NAME:
                for entry in entries:
                    click.echo(str(entry.id))
            case _:
                self._write_rows(entries)
        sys.stdout.flush()

    def _write_rows(self, entries: Sequence[AuditEntry]) -> None:
        from jumpstarter_cli_common.table import Table, text_width

        from .shown import AUDIT, Shown

        table, wide = Table(), self._output == OutputMode.WIDE
        shown = Shown(AUDIT, entries, namespaces=self._namespaces)
        shown.rich_add_columns(table, wide)
        shown.rich_add_rows(table, wide)
        rows = table.rows if self._widths else [table.titles, *table.rows]
        widths = self._widths or [len(title) for title in table.titles]
        self._widths = [max([width, *(text_width(row[column]) for row in rows)]) for column, width in enumerate(widths)]
        for row in rows:
            padded = (cell + " " * (width - text_width(cell)) for cell, width in zip(row, self._widths, strict=True))
            click.echo("  ".join(padded).rstrip())
