"""The exporter's D-Bus bus in place of the local one, for programs that find their bus by the environment."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from jumpstarter_driver_network.dbus import VARIABLES

from .portforward import TcpPortforwardAdapter, UnixPortforwardAdapter

if TYPE_CHECKING:
    from jumpstarter_driver_network.client import DbusNetworkClient


@contextmanager
def DbusAdapter(*, client: DbusNetworkClient, transport: Literal["unix", "tcp"] = "unix") -> Generator[str, None, None]:
    """Point the bus variable of this process, and so of the programs that it starts, at the exporter's bus.

    Args:
        client: client of a D-Bus driver; its kind decides which variable it is.
        transport: `unix` listens on a socket that only this user can open. `tcp` listens on a loopback port, where
            every local user can use the bus as the user that the exporter runs as.

    Yields the address that the variable is set to. The variable belongs to the whole process: other threads see it
    too. To leave it alone, take the address from `bus_address` and hand it to the program that needs it.
    """
    variable = VARIABLES[client.kind]
    with bus_address(client=client, transport=transport) as address:
        before = os.environ.get(variable)
        os.environ[variable] = address
        try:
            yield address
        finally:
            if before is None:
                os.environ.pop(variable, None)
            else:
                os.environ[variable] = before


@contextmanager
def bus_address(*, client: DbusNetworkClient, transport: Literal["unix", "tcp"] = "unix") -> Generator[str, None, None]:
    """Yield the address of a local socket that leads to the exporter's bus, without touching the environment."""
    if transport == "unix":
        with UnixPortforwardAdapter(client=client) as path:
            yield f"unix:path={quote(str(path), safe='/-_.*')}"
    elif transport == "tcp":
        with TcpPortforwardAdapter(client=client) as address:
            yield f"tcp:host={address[0]},port={address[1]}"
    else:
        raise ValueError(f"transport must be 'unix' or 'tcp', not {transport!r}")
