"""Labels by which network drivers tell their clients what kind of connection they make."""

from __future__ import annotations

from typing import Final

KIND_LABEL: Final = "jumpstarter.dev/dbusnetwork/kind"
"""Label of a D-Bus driver: `system` or `session`."""

TRANSPORT_LABEL: Final = "jumpstarter.dev/network/transport"
"""Label of a network driver: what its streams carry, STREAM or DATAGRAMS."""

STREAM: Final = "stream"
"""A sequence of bytes."""

DATAGRAMS: Final = "datagrams"
"""Messages: each item of a stream is one."""
