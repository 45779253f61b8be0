"""Durations and points in time as options take them, and durations as texts for people."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
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
DATETIME = DateTimeParamType()


def duration_text(duration: timedelta) -> str:
    """Return a duration as text for people: `1h30m`."""
    seconds = int(duration.total_seconds())
    parts = []
    for name, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        number, seconds = divmod(seconds, size)
        if number:
            parts.append(f"{number}{name}")
    return "".join(parts) or "0s"
