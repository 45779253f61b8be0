"""Handles by which a driver finds the bytes that a client offers or wants: a stream, or a presigned URL."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field, Json

ContentEncoding = Literal["gzip", "xz", "bz2", "zstd"]
"""Compressions of a client's file that an exporter decodes and encodes."""


class ClientStreamResource(BaseModel):
    """Bytes of a stream that the client opened on the same driver."""

    kind: Literal["client_stream"] = "client_stream"
    uuid: UUID
    x_jmp_content_encoding: str | None = None


class PresignedRequestResource(BaseModel):
    """Bytes that the exporter itself transfers by an HTTP request."""

    kind: Literal["presigned_request"] = "presigned_request"
    headers: dict[str, str]
    url: str
    method: Literal["GET", "PUT"]


Resource = Annotated[ClientStreamResource | PresignedRequestResource, Field(discriminator="kind")]


class ResourceMetadata(BaseModel):
    """Initial metadata of a resource stream."""

    resource: Json[Resource]
    x_jmp_accept_encoding: str | None = None
