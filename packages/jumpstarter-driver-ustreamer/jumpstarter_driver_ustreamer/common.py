"""The state of µStreamer, as its page `/state` has it and as it travels between exporter and client."""

from __future__ import annotations

from typing import Any

from jumpstarter_driver_video.common import VideoState
from pydantic import BaseModel, model_validator

__all__ = ["UStreamerState"]


class UStreamerState(VideoState):
    """What µStreamer says of itself; `online`, `width`, `height` and `fps` are those of its source."""

    class Result(BaseModel):
        """The document's own part."""

        class Encoder(BaseModel):
            """What makes the JPEG files."""

            type: str
            """CPU, HW, NOOP, M2M-IMAGE and others, by version."""
            quality: int
            """1 to 100."""

        class Source(BaseModel):
            """The camera or grabber."""

            class Resolution(BaseModel):
                """The size of the pictures."""

                width: int
                height: int

            online: bool
            """Whether the device delivers pictures."""
            desired_fps: int
            """Pictures per second that were asked for, 0 for as many as possible."""
            captured_fps: int
            """Pictures that came in the last second."""
            resolution: Resolution

        encoder: Encoder
        source: Source

    ok: bool
    result: Result

    @model_validator(mode="before")
    @classmethod
    def _copy_up(cls, data: Any) -> Any:
        """Fill in what all video drivers have; µStreamer and published exporters have it below `result` only."""
        if not isinstance(data, dict) or "online" in data:
            return data
        source = (data.get("result") or {}).get("source") or {}
        resolution = source.get("resolution") or {}
        copied = {
            "online": source.get("online", False),
            "width": resolution.get("width", 0),
            "height": resolution.get("height", 0),
            "fps": source.get("captured_fps", 0),
        }
        return data | copied
