"""Addresses of routers, as they are given to peers."""

from __future__ import annotations

from urllib.parse import urlsplit

import anyio

from ..errors import Code, Refused

LONGEST = 300
"""Characters: a host name of 253, brackets, a port."""


def parse_endpoint(text: str) -> str:
    """Return an endpoint that is well formed.

    Raises:
        Refused: it is not of the form host:port.
    """
    try:
        host, port = split_endpoint(text)
    except ValueError as error:
        message = f"{text[:LONGEST]!r} is no endpoint of a router: {error}; give host:port, as peers are to dial it"
        raise Refused(Code.INVALID_ARGUMENT, "BAD_ENDPOINT", message) from None
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_endpoint(text: str) -> tuple[str, int]:
    """Return host and port.

    Raises:
        ValueError: it is not of the form host:port.
    """
    if len(text) > LONGEST or not text.isprintable() or any(character.isspace() for character in text):
        raise ValueError("it is too long, or has blanks or unprintable characters in it")
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("there is no host name, or more than host and port")
    if not parts.port:
        raise ValueError("there is no port")
    return parts.hostname, parts.port


async def reachable(endpoint: str, timeout: float) -> bool:
    """Tell whether somebody accepts connections there within `timeout` seconds."""
    host, port = split_endpoint(endpoint)
    try:
        with anyio.fail_after(timeout):
            stream = await anyio.connect_tcp(host, port)
    except (OSError, TimeoutError):
        return False
    with anyio.CancelScope(shield=True):
        await stream.aclose()
    return True
