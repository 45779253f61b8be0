"""Ages as the short texts of tables."""

from __future__ import annotations

_MINUTE, _HOUR, _DAY, _MONTH, _YEAR = 60, 3600, 86400, 30 * 86400, 365 * 86400


def age_text(seconds: int) -> str:
    """Return an age in at most two units: 65 seconds are `1m5s`, 400 days `1y1mo`.

    Args:
        seconds: negative ones, of future times, stay seconds.
    """
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
