"""Client of µStreamer: that of all video drivers, with the whole state of the program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jumpstarter_driver_video.client import VideoClient

if TYPE_CHECKING:
    from .common import UStreamerState

__all__ = ["UStreamerClient"]


@dataclass(kw_only=True)
class UStreamerClient(VideoClient):
    """Looks at what a camera or a grabber on the exporter shows."""

    def state(self) -> UStreamerState:
        """Return what µStreamer says of itself and its source."""
        from .common import UStreamerState

        return UStreamerState.model_validate(self.call("state"))

    async def stream_path_async(self) -> str:
        """Return the path of the live stream; for use on the event loop."""
        # Published exporters do not tell; µStreamer has it at this place always.
        return "/stream"
