"""Lengths of time as people write them: `90d`, `1h30m`, `250ms`, ISO 8601, or a number of seconds."""

from __future__ import annotations

import re
from datetime import timedelta

_UNITS = {
    "w": timedelta(weeks=1),
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
    "ms": timedelta(milliseconds=1),
    "us": timedelta(microseconds=1),
}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|[wdhms])")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")


def parse_duration(value: object) -> object:
    """Return the length that a text or number means; what is of another form is returned as it is.

    Texts are those of Go (`1h30m0s`), with `d` for 24 hours and `w` for 7 days.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return timedelta(seconds=value)
    text = value.strip() if isinstance(value, str) else ""
    if not _WHOLE.fullmatch(text):
        return value
    return sum((float(number) * _UNITS[unit] for number, unit in _PART.findall(text)), timedelta())
