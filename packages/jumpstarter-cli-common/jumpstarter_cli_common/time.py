"""Ages of things as short texts."""

from __future__ import annotations

from datetime import UTC, datetime

from jumpstarter.common.age import age_text


def time_since(t_str: str) -> str:
    """Return how long ago a UTC time such as `2026-01-31T12:00:00Z` was: `65 s` are `1m5s`, 400 days `1y1mo`.

    Future times are negative seconds.

    Raises:
        ValueError: the text has another form.
    """
    then = datetime.strptime(t_str, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    return age_text(int((datetime.now(UTC) - then).total_seconds()))
