"""The report of an exporter's drivers as a file beside the socket of its session.

It spares a command that only looks at the tree, for its help or a completion, the connection and all that it takes to
make one. A session writes it, private as the socket is, and removes it at its end.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

SUFFIX = ".report"
"""Added to the path of a session's socket."""

MAX_SIZE = 64 << 20
"""Bytes of a report that are read."""

_MEMBERS = ("uuid", "parent_uuid", "labels", "description", "methods_description")


def write_report(socket: Path, reports: Iterable[Mapping[str, Any]]) -> Path:
    """Write the report of the session at `socket`; return the file's path.

    Raises:
        OSError: the file can't be written.
    """
    path = Path(f"{socket}{SUFFIX}")
    temporary = Path(f"{path}.new")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump([{name: report.get(name) for name in _MEMBERS} for report in reports], file)
    temporary.replace(path)
    return path


def read_report(socket: str) -> list[dict[str, Any]] | None:
    """Return the members of each driver's report, root first; None when the session at `socket` wrote none."""
    try:
        with open(f"{socket}{SUFFIX}", encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_size > MAX_SIZE:
                return None
            reports = json.load(file)
    except (OSError, ValueError):
        return None
    if not isinstance(reports, list) or not all(isinstance(report, dict) for report in reports):
        return None
    return reports
