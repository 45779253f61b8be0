"""What is needed of the D-Bus protocol to pass a bus on: addresses, and the authentication that precedes messages.

Source: D-Bus Specification 0.43, sections "Authentication Protocol" and "Server Addresses".
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import unquote

Kind = Literal["system", "session"]

VARIABLES: Final[dict[str, str]] = {"system": "DBUS_SYSTEM_BUS_ADDRESS", "session": "DBUS_SESSION_BUS_ADDRESS"}
"""Environment variables that hold the address of a bus, by kind."""

MAX_AUTH_LINE: Final = 16 * 1024
"""Longest line of the authentication in bytes that is passed on; the reference bus takes as much."""

_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, kw_only=True)
class BusAddress:
    """One address of a bus: a transport with its values."""

    scheme: str
    """`unix` or `tcp`."""
    args: dict[str, str]
    """Values by key, unescaped."""

    @property
    def target(self) -> str | tuple[str, int]:
        """A socket path (an abstract one starts with a zero byte), or host and port."""
        if self.scheme == "tcp":
            return self.args["host"], int(self.args["port"])
        return self.args["path"] if "path" in self.args else "\0" + self.args["abstract"]

    def __str__(self) -> str:
        return f"{self.scheme}:{','.join(f'{key}={value}' for key, value in self.args.items())}"


def default_address(kind: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return the address of this machine's system bus, or of this user's session bus.

    Raises:
        ValueError: `kind` is neither `system` nor `session`.
    """
    if kind == "system":
        return environ.get(VARIABLES["system"]) or "unix:path=/run/dbus/system_bus_socket"
    if kind == "session":
        return environ.get(VARIABLES["session"]) or f"unix:path=/run/user/{os.getuid()}/bus"
    raise ValueError(f"unknown kind of D-Bus bus: {kind!r} (it is 'system' or 'session')")


def parse_addresses(text: str) -> list[BusAddress]:
    """Return the addresses in `text`, in the order in which they are to be tried, that can be connected to.

    Raises:
        ValueError: the text is malformed, or holds no address that can be connected to; the message says why.
    """
    usable: list[BusAddress] = []
    refused: list[str] = []
    for part in filter(None, text.split(";")):
        address = _parse_one(part)
        problem = _problem(address)
        if problem is None:
            usable.append(address)
        else:
            refused.append(f"{part!r}: {problem}")
    if not usable:
        raise ValueError(f"D-Bus address {text!r} can't be used: {'; '.join(refused) or 'it is empty'}")
    return usable


def _parse_one(part: str) -> BusAddress:
    scheme, colon, rest = part.partition(":")
    if not colon or not scheme:
        raise ValueError(f"D-Bus address {part!r} has no transport, such as 'unix:' or 'tcp:'")
    args: dict[str, str] = {}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if not equals or not key or _ESCAPE.search(value):
            raise ValueError(
                f"D-Bus address {part!r} is malformed at {pair!r}: it takes key=value pairs with %xx escapes"
            )
        if key in args:
            raise ValueError(f"D-Bus address {part!r} gives {key!r} twice")
        args[key] = unquote(value)
    return BusAddress(scheme=scheme, args=args)


def _problem(address: BusAddress) -> str | None:
    """Return why nobody can connect to this address, or None."""
    args = address.args
    if address.scheme == "unix":
        if ("path" in args) == ("abstract" in args):
            return "a unix address to connect to needs either path or abstract (dir and tmpdir are for servers only)"
        return None
    if address.scheme == "tcp":
        if not args.get("host"):
            return "a tcp address needs a host"
        port = args.get("port", "")
        if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            return f"a tcp address needs a port from 1 to 65535, not {port!r}"
        return None
    return f"transport {address.scheme!r} is not supported (unix and tcp are)"


class AuthRewriter:
    """Passes the client's side of an authentication on, as if the client were the user of this process.

    A bus compares the identity in `AUTH EXTERNAL` with the user of the process that connects, which is the
    exporter's, not the client's; so the client's claim is replaced by the true one. File descriptors can't cross a
    network, so a client that asks for them is refused by way of a command that every bus answers with ERROR.
    """

    def __init__(self, uid: int) -> None:
        self._identity = str(uid).encode().hex().encode()
        self._pending = b""
        self._done = False
        self._started = False
        self._external = False

    def feed(self, data: bytes) -> bytes:
        """Return what to send to the bus for `data` from the client; incomplete lines are held back.

        Raises:
            ValueError: the client does not speak the protocol.
        """
        if self._done:
            return data
        self._pending += data
        out = b""
        if not self._started and self._pending:
            if self._pending[:1] != b"\0":
                raise ValueError("the client does not speak D-Bus: its first byte is not zero")
            self._started = True
            out, self._pending = b"\0", self._pending[1:]
        while not self._done and (end := self._pending.find(b"\r\n")) >= 0:
            line, self._pending = self._pending[:end], self._pending[end + 2 :]
            out += self._rewrite(line) + b"\r\n"
        if self._done:
            out, self._pending = out + self._pending, b""
        elif len(self._pending) > MAX_AUTH_LINE:
            raise ValueError(
                f"the client does not speak D-Bus: a line of its authentication exceeds {MAX_AUTH_LINE} bytes"
            )
        return out

    def _rewrite(self, line: bytes) -> bytes:
        words = line.split()
        command = words[0] if words else b""
        if command == b"BEGIN":
            self._done = True
        elif command == b"AUTH":
            self._external = words[1:2] == [b"EXTERNAL"]
            # Without an initial response the identity follows in DATA, when the bus has asked for it.
            if self._external and len(words) > 2:
                return b"AUTH EXTERNAL " + self._identity
        elif command == b"DATA" and self._external:
            return b"DATA " + self._identity if len(words) > 1 else line
        elif command == b"NEGOTIATE_UNIX_FD":
            return b"NEGOTIATE_NOTHING"
        return line
