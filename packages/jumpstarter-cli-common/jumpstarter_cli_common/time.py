"""Ages of things as short texts."""

from __future__ import annotations

from datetime import UTC, datetime

_MINUTE, _HOUR, _DAY, _MONTH, _YEAR = 60, 3600, 86400, 30 * 86400, 365 * 86400


def time_since(t_str: str) -> str:
    """Return how long ago a UTC time such as `2026-01-31T12:00:00Z` was: `65 s` are `1m5s`, 400 days `1y1mo`.

    Future times are negative seconds.

    Raises:
        ValueError: the text has another form.
    """
    then = datetime.strptime(t_str, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    seconds = int((datetime.now(UTC) - then).total_seconds())
    if seconds < _MINUTE:
        return f"{seconds}s"
    if seconds < _HOUR:
        return _two(seconds, _MINUTE, "m", 1, "s")
    if seconds < 2 * _HOUR:
        return _two(seconds, _HOUR, "h", _MINUTE, "m")
    if seconds < _DAY:
        return f"{seconds // _HOUR}h"
    if seconds < _MONTH:
        return _two(seconds, _DAY, "d", _HOUR, "h")
    if seconds < _YEAR:
        return _two(seconds, _MONTH, "mo", _DAY, "d")
    return _two(seconds, _YEAR, "y", _MONTH, "mo")


def _two(seconds: int, large: int, large_name: str, small: int, small_name: str) -> str:
    rest = seconds % large // small
    return f"{seconds // large}{large_name}" + (f"{rest}{small_name}" if rest else "")
