"""Options and value types that the commands for leases share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import click
from pydantic import TypeAdapter, ValidationError

_UNITS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
_UNIT = r"(?P<{0}>\d+(?:\.\d+)?)\s*(?:{1})"
_UNIT_TEXT = re.compile(
    r"(?P<sign>[-+])?\s*"
    + r"[\s,]*".join(
        f"(?:{_UNIT.format(name, words)})?"
        for name, words in (
            ("w", "weeks?|wks?|w"),
            ("d", "days?|d"),
            ("h", "hours?|hrs?|h"),
            ("m", "minutes?|mins?|m"),
            ("s", "seconds?|secs?|s"),
        )
    ),
    re.IGNORECASE,
)
_CLOCK = re.compile(r"(?P<sign>[-+])?(?P<minutes>\d+):(?P<seconds>[0-5]\d(?:\.\d+)?)")

_TIMEDELTA: TypeAdapter[timedelta] = TypeAdapter(timedelta)
_DATETIME: TypeAdapter[datetime] = TypeAdapter(datetime)


class DurationParamType(click.ParamType):
    """A duration: `1h30m`, `90 min`, seconds, ISO 8601, `HH:MM:SS` or `MM:SS`, days with a time."""

    name = "duration"

    def __init__(self, minimum: timedelta | None = None) -> None:
        self.minimum = minimum

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Return the duration; numbers are seconds.

        Raises:
            click.BadParameter: it is no duration, too long for the type, or shorter than the minimum.
        """
        if isinstance(value, timedelta):
            duration = value
        else:
            try:
                duration = self._parse(value)
            except OverflowError:
                self.fail(f"{value!r} exceeds the maximum allowed duration", param, ctx)
            except ValueError:
                self.fail(f"{value!r} is not a valid duration; write it as 1h30m, 90m, 5400 or 01:30:00", param, ctx)
        if self.minimum is not None and duration < self.minimum:
            self.fail(f"{value!r} must be at least {self.minimum.total_seconds():g} seconds", param, ctx)
        return duration

    @staticmethod
    def _parse(value: Any) -> timedelta:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return timedelta(seconds=value)
        if not isinstance(value, str) or not (text := value.strip()):
            raise ValueError(value)
        try:
            return timedelta(seconds=int(text))
        except ValueError:
            pass
        if re.fullmatch(r"[-+]?\d+\.\d+", text):
            return timedelta(seconds=float(text))
        # Two fields are minutes and seconds, as on a stop watch.
        if clock := _CLOCK.fullmatch(text):
            sign = -1 if clock["sign"] == "-" else 1
            return sign * timedelta(minutes=int(clock["minutes"]), seconds=float(clock["seconds"]))
        units = _UNIT_TEXT.fullmatch(text)
        if units and any(units[name] for name in _UNITS):
            seconds = sum(float(units[name]) * factor for name, factor in _UNITS.items() if units[name])
            return timedelta(seconds=-seconds if units["sign"] == "-" else seconds)
        if text in ("P", "PT"):
            raise ValueError(value)
        try:
            return _TIMEDELTA.validate_python(text)
        except ValidationError as error:
            if any("too large" in item["msg"] or "exceed" in item["msg"] for item in error.errors()):
                raise OverflowError(value) from None
            raise ValueError(value) from None


class DateTimeParamType(click.ParamType):
    """A point in time: ISO 8601, a date, or seconds since 1970; local time where no zone is given."""

    name = "datetime"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return the time with a zone.

        Raises:
            click.BadParameter: it is none.
        """
        try:
            moment = value if isinstance(value, datetime) else _DATETIME.validate_python(value)
        except ValidationError:
            self.fail(f"{value!r} is not a valid datetime; write it as 2026-01-31T12:00", param, ctx)
        return moment.astimezone() if moment.tzinfo is None else moment


DURATION = DurationParamType()
POSITIVE_DURATION = DurationParamType(minimum=timedelta(seconds=1))
ACQUISITION_TIMEOUT = DurationParamType(minimum=timedelta(seconds=5))
DIAL_TIMEOUT = DurationParamType(minimum=timedelta(seconds=5))
RETRY_TIMEOUT = DurationParamType(minimum=timedelta(0))
DATETIME = DateTimeParamType()


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


def print_details(rows: Iterable[tuple[str, str]]) -> None:
    """Print names and texts on stdout, one pair per line."""
    pairs = list(rows)
    width = max((len(name) for name, _ in pairs), default=0)
    for name, text in pairs:
        printable = "".join(char if char.isprintable() else " " for char in text)
        click.echo(f"{name + ':':<{width + 1}}  {printable}")


def duration_text(duration: timedelta) -> str:
    """Return a duration as text for people: `1h30m`."""
    seconds = int(duration.total_seconds())
    parts = []
    for name, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        number, seconds = divmod(seconds, size)
        if number:
            parts.append(f"{number}{name}")
    return "".join(parts) or "0s"


def announce_duration(duration: timedelta) -> None:
    """Say on stderr how a duration was understood."""
    click.echo(f"Requested for {duration_text(duration)}.", err=True)
