"""Writing, splitting and resolving network addresses such as `tcp://192.0.2.1:22` or `[::1]:8080`."""

from __future__ import annotations

import socket
from ipaddress import AddressValueError, IPv4Address, IPv6Address


def is_ipv4_address(host: str) -> bool:
    """Tell whether `host` is an IPv4 address in numbers."""
    try:
        IPv4Address(host)
    except AddressValueError:
        return False
    return True


def is_ipv6_address(host: str) -> bool:
    """Tell whether `host` is an IPv6 address in numbers; brackets around it are not part of an address."""
    try:
        IPv6Address(host)
    except AddressValueError:
        return False
    return True


def resolve_hostname(host: str) -> str:
    """Return the first address of `host`, or `host` itself when it has none or is an address. Blocks."""
    if is_ipv4_address(host) or is_ipv6_address(host):
        return host
    try:
        return str(socket.getaddrinfo(host, None)[0][4][0])
    except (OSError, UnicodeError, IndexError):
        return host


def format_address(host: str, port: int | str) -> str:
    """Return `host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if is_ipv6_address(host) else f"{host}:{port}"


def strip_scheme(address: str) -> str:
    """Return `address` without a leading `scheme://`."""
    _, found, rest = address.partition("://")
    return rest if found else address


def parse_address(address: str) -> tuple[str, str]:
    """Split `[scheme://]host[:port][/path]` into host and port, as text; what is missing is empty.

    The brackets of an IPv6 address are removed. An IPv6 address without brackets has no port.
    """
    rest = strip_scheme(address).split("/", 1)[0]
    if rest.startswith("["):
        host, _, tail = rest[1:].partition("]")
        return host, tail.removeprefix(":")
    if is_ipv6_address(rest):
        return rest, ""
    host, _, port = rest.rpartition(":") if ":" in rest else (rest, "", "")
    return host, port
