"""What both sides know about a tree of drivers: the child names that a client can't show as attributes."""

from __future__ import annotations

from typing import Final

RESERVED_NAMES: Final = frozenset(
    {
        "call",
        "call_async",
        "check_exporter_status",
        "children",
        "cli",
        "close",
        "description",
        "end_session_async",
        "get_status_async",
        "labels",
        "log_level",
        "log_stream",
        "log_stream_async",
        "logger",
        "methods_description",
        "name",
        "open_stream",
        "portal",
        "resource_async",
        "stack",
        "status",
        "status_monitor_async",
        "stream",
        "stream_async",
        "streamingcall",
        "streamingcall_async",
        "stub",
        "uuid",
        "wait_for_hook_complete_monitored",
        "wait_for_hook_status",
        "wait_for_lease_ready",
        "wait_for_lease_ready_monitored",
    }
)
"""Public attributes of every client; a child of such a name is only reachable through `client.children`."""
