"""Names that sort by the time at which they were made (UUID version 7, RFC 9562)."""

from __future__ import annotations

import secrets
import uuid
from datetime import datetime


def uuid7(now: datetime) -> str:
    """Return a new UUID; those made later are larger, to the microsecond."""
    microseconds = int(now.timestamp() * 1_000_000)
    milliseconds, rest = divmod(microseconds, 1000)
    value = (milliseconds & (1 << 48) - 1) << 80 | 0x7 << 76
    # The fraction of the millisecond fills the 12 bits after the version.
    value |= (rest * 4096 // 1000) << 64 | 0b10 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=value))
