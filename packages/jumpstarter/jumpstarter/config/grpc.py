"""Credentials that tell a controller who calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import grpc

    from .common import ObjectMeta


def call_credentials(kind: str, metadata: ObjectMeta, token: str) -> grpc.CallCredentials:
    """Return credentials that send the bearer token and who the caller is with every call.

    Args:
        kind: `Client` or `Exporter`.
        metadata: namespace and name of the caller; no namespace is sent as an empty one.
        token: bearer token that the controller issued.
    """
    import grpc

    who = (
        ("jumpstarter-kind", kind),
        ("jumpstarter-namespace", metadata.namespace or ""),
        ("jumpstarter-name", metadata.name),
    )

    def send(context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        callback(who, None)

    return grpc.composite_call_credentials(
        grpc.metadata_call_credentials(send, "jumpstarter-metadata"),
        grpc.access_token_call_credentials(token),
    )
