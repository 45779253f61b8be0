"""A byte stream that carries key-value pairs about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from anyio import TypedAttributeSet, typed_attribute
from anyio.abc import AnyByteStream, ObjectStream


class MetadataStreamAttributes(TypedAttributeSet):
    """Typed attributes of streams that carry metadata."""

    metadata: dict[str, str] = typed_attribute()


@dataclass(frozen=True)
class MetadataStream(ObjectStream[bytes]):
    """`stream` with `metadata`, which is fixed for its whole life."""

    stream: AnyByteStream
    metadata: dict[str, str] = field(default_factory=dict)

    async def send(self, item: bytes) -> None:
        """Send to the inner stream."""
        await self.stream.send(item)

    async def receive(self) -> bytes:
        """Receive from the inner stream."""
        return await self.stream.receive()

    async def send_eof(self) -> None:
        """End the sending direction of the inner stream."""
        await self.stream.send_eof()

    async def aclose(self) -> None:
        """Close the inner stream."""
        await self.stream.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The inner stream's attributes, its metadata overlaid with our own."""
        return {
            **self.stream.extra_attributes,
            MetadataStreamAttributes.metadata: lambda: (
                self.stream.extra(MetadataStreamAttributes.metadata, {}) | self.metadata
            ),
        }
