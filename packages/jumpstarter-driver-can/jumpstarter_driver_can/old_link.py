"""The same face as `link.Link` for exporters that know no frame links: one call for each frame."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from .frames import Filter, Frame, FrameLike, check_frame
from .link import LinkError

if TYPE_CHECKING:
    from jumpstarter.client import DriverClient

STEP: Final = 1.0
"""Seconds that one call waits at most: on such exporters one that nobody waits for any more takes a frame with it."""


class OldLink:
    """Frames by the calls `send` and `_recv_internal`."""

    def __init__(self, client: DriverClient, *, make: Callable[..., Any] = Frame) -> None:
        """
        Args:
            client: the driver's.
            make: makes a frame of the members of `Frame`.
        """
        self.id = ""
        self.lost = 0
        self.broken: str | None = None
        self._client = client
        self._make = make

    def open(self) -> OldLink:
        """Nothing needs to be opened."""
        return self

    def close(self) -> None:
        """Nor closed."""
        self.broken = "the link to the bus was closed"

    def __enter__(self) -> OldLink:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def receive(self, timeout: float | None = None) -> Any:
        """Return the next frame, or None when there is none within `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = STEP if deadline is None else min(STEP, deadline - time.monotonic())
            found = self._call("_recv_internal", max(0.0, left))[0]
            if found is not None:
                return frame_of(found, self._make)
            if deadline is not None and time.monotonic() >= deadline:
                return None

    def send(self, frame: FrameLike, timeout: float | None = None) -> None:
        """Send a frame."""
        check_frame(frame)
        self._call("send", members_of(frame), timeout)

    def flush(self, timeout: float = 0.0) -> None:
        """Every frame is on the bus when `send` returns."""

    def set_filters(self, filters: Sequence[Filter]) -> None:
        """Leave filtering to the client; such exporters fail with the filters of some interfaces."""

    def _call(self, method: str, *args: Any) -> Any:
        from jumpstarter.client.core import DriverError

        if self.broken is not None:
            raise LinkError(self.broken)
        try:
            return self._client.call(method, *args)
        except DriverError as error:
            raise LinkError(str(error)) from error


def members_of(frame: FrameLike) -> dict[str, Any]:
    """Return the wire form of a frame in calls, `CanMessage`."""
    channel = frame.channel
    return {
        "timestamp": frame.timestamp,
        "arbitration_id": frame.arbitration_id,
        "is_extended_id": frame.is_extended_id,
        "is_remote_frame": frame.is_remote_frame,
        "is_error_frame": frame.is_error_frame,
        "channel": channel if isinstance(channel, int | str | None) else str(channel),
        "dlc": frame.dlc,
        "data": base64.b64encode(bytes(frame.data)).decode(),
        "is_fd": frame.is_fd,
        "is_rx": frame.is_rx,
        "bitrate_switch": frame.bitrate_switch,
        "error_state_indicator": frame.error_state_indicator,
    }


def frame_of(members: dict[str, Any], make: Callable[..., Any]) -> Any:
    """Return the frame of a wire form; numbers come as floats."""
    data = base64.b64decode(members["data"]) if members["data"] is not None else b""
    channel = members["channel"]
    return make(
        members["timestamp"],
        int(members["arbitration_id"]),
        members["is_extended_id"],
        members["is_remote_frame"],
        members["is_error_frame"],
        int(channel) if isinstance(channel, float) else channel,
        int(members["dlc"]) if members["dlc"] is not None else len(data),
        data,
        members["is_fd"],
        members["is_rx"],
        members["bitrate_switch"],
        members["error_state_indicator"],
    )
