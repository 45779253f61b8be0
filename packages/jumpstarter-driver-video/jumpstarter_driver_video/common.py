"""What both ends of a video driver share: the state of a source, and the limits of its pictures."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel

MAX_PICTURE: Final = 32 << 20
"""Bytes of the largest picture that is taken from a camera or over the wire."""

UNARY_LIMIT: Final = 3_000_000
"""Bytes of the largest picture that the unary call `snapshot` returns: its base64 must fit into a message of 4 MiB."""

CHUNK: Final = 192 << 10
"""Bytes of a picture per message of `snapshot_chunks`; a multiple of 3, so that the text of each stands for itself."""


class VideoState(BaseModel):
    """What a video source does at the moment."""

    online: bool = False
    """Whether the source delivers pictures."""
    width: int = 0
    """Pixels; 0 when it isn't known."""
    height: int = 0
    """Pixels; 0 when it isn't known."""
    fps: float = 0
    """Pictures per second that arrive; 0 when it isn't known, as with sources that have no stream."""
    reason: str | None = None
    """Why the source is not online, where that is known."""
