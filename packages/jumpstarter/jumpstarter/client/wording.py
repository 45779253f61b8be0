"""Times and places in queues as short texts for people."""

from __future__ import annotations

from datetime import UTC, datetime


def left(seconds: float) -> str:
    """Return a time that is left: `2d 3h`, `1h 5m`, `23m`, below ten minutes `4m 30s`, `45s`."""
    whole = max(int(seconds), 0)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 10:
        return f"{minutes}m {rest}s" if rest else f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{days}d" if days else "", f"{hours}h" if hours else "", f"{minutes}m" if minutes and not days else ""]
    return " ".join(part for part in parts if part)


def ago(moment: datetime) -> str:
    """Return how long ago a moment was, in the form of `left`."""
    return left((datetime.now(UTC) - moment).total_seconds())


def clock_time(moment: datetime) -> str:
    """Return a moment in its own time zone: `14:05` of today, with seconds where they matter, else with the date."""
    now = datetime.now(moment.tzinfo)
    if moment.date() != now.date():
        return moment.strftime("%Y-%m-%d %H:%M")
    return moment.strftime("%H:%M:%S" if abs((moment - now).total_seconds()) < 600 else "%H:%M")


def place(number: int, waiting: int) -> str:
    """Return a place in a queue: `next of 5 in the queue`, `place 2 of 5 in the queue`."""
    if number == 1:
        return f"next of {waiting} in the queue" if waiting > 1 else "next in the queue"
    return f"place {number} of {max(waiting, number)} in the queue"


def one_line(text: str) -> str:
    """Return text of others as one line without what could control a terminal."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
