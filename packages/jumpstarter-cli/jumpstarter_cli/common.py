"""Options and value types that the commands for leases share."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from functools import partial

import click
from jumpstarter_cli_common.durations import (
    DATETIME,
    DURATION,
    POSITIVE_DURATION,
    DateTimeParamType,
    DurationParamType,
    duration_text,
)
from jumpstarter_cli_common.print import print_details

__all__ = [
    "ACQUISITION_TIMEOUT",
    "DATETIME",
    "DIAL_TIMEOUT",
    "DURATION",
    "POSITIVE_DURATION",
    "RETRY_TIMEOUT",
    "DateTimeParamType",
    "DurationParamType",
    "announce_duration",
    "duration_text",
    "opt_acquisition_timeout",
    "opt_begin_time",
    "opt_dial_timeout",
    "opt_duration_partial",
    "opt_exporter_name",
    "opt_retry_timeout",
    "opt_selector",
    "parse_pairs",
    "print_details",
]

ACQUISITION_TIMEOUT = DurationParamType(minimum=timedelta(seconds=5))
DIAL_TIMEOUT = DurationParamType(minimum=timedelta(seconds=5))
RETRY_TIMEOUT = DurationParamType(minimum=timedelta(0))


def _join_selectors(_ctx: click.Context, _param: click.Parameter, value: Iterable[str]) -> str | None:
    return ",".join(part for part in value or () if part) or None


opt_selector = click.option(
    "-l",
    "--selector",
    multiple=True,
    callback=_join_selectors,
    help="Labels that the exporter must have, as `key=value`, `key!=value`, `key in (a,b)`, `key` or `!key`; "
    "comma-separated or repeated.",
)

opt_exporter_name = click.option("-n", "--name", "exporter_name", default=None, help="Name of the exporter.")

opt_duration_partial = partial(
    click.option,
    "--duration",
    type=POSITIVE_DURATION,
    help="How long the lease may last: 1h30m, 90m, seconds, 01:30:00 or ISO 8601 such as PT1H30M.",
)

opt_acquisition_timeout = partial(
    click.option,
    "--acquisition-timeout",
    type=ACQUISITION_TIMEOUT,
    default=None,
    help="How long to wait for an exporter, at least 5 seconds; by default as the config says.",
)

opt_retry_timeout = partial(
    click.option,
    "--retry-timeout",
    type=RETRY_TIMEOUT,
    default=None,
    help="How long to try other exporters when one can't be reached, 0 for not at all; by default as the config says.",
)

opt_dial_timeout = partial(
    click.option,
    "--dial-timeout",
    type=DIAL_TIMEOUT,
    default=None,
    help="How long to try to connect to the exporter, at least 5 seconds; by default as the config says.",
)

opt_begin_time = click.option(
    "--begin-time",
    type=DATETIME,
    default=None,
    help="When the lease begins: ISO 8601, a date, or seconds since 1970; local time where no zone is given.",
)


def parse_pairs(values: Iterable[str], what: str) -> dict[str, str]:
    """Return `key=value` texts as a mapping.

    Raises:
        click.UsageError: one has another form.
    """
    pairs = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals or not key:
            raise click.UsageError(f"Invalid {what} format: {value!r}; write it as key=value.")
        pairs[key] = text
    return pairs


def announce_duration(duration: timedelta) -> None:
    """Say on stderr how a duration was understood."""
    click.echo(f"Requested for {duration_text(duration)}.", err=True)
