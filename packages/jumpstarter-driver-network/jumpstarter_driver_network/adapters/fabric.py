"""SSH with Fabric: commands and file transfers on a target whose SSH port a driver reaches."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from jumpstarter.client import DriverClient

from .portforward import TcpPortforwardAdapter

if TYPE_CHECKING:
    from fabric import Config, Connection  # type: ignore[import-untyped]


@contextmanager
def FabricAdapter(
    *,
    client: DriverClient,
    method: str = "connect",
    user: str | None = None,
    config: Config | None = None,
    forward_agent: bool | None = None,
    connect_timeout: int | None = None,
    connect_kwargs: dict[str, Any] | None = None,
    inline_ssh_env: bool | None = None,
    gateway: Connection | str | None = None,
) -> Generator[Connection, None, None]:
    """Yield a `fabric.Connection` to the target; it connects at first use and is closed with the context.

    Args:
        client: client of a network driver that leads to an SSH server.
        method: name of the driver's stream.
        user: user on the target; default is the name of the local user.
        connect_kwargs: arguments of `paramiko.SSHClient.connect`, such as `password` or `key_filename`.

    The other arguments are those of `fabric.Connection`. Host keys are not checked: the connection comes from a
    local port of no fixed number, and boards change their keys whenever they are flashed.
    """
    from fabric import Connection

    with (
        TcpPortforwardAdapter(client=client, method=method) as address,
        Connection(
            address[0],
            user=user,
            port=address[1],
            config=config,
            gateway=gateway,
            forward_agent=forward_agent,
            connect_timeout=connect_timeout,
            connect_kwargs=connect_kwargs,
            inline_ssh_env=inline_ssh_env,
        ) as connection,
    ):
        yield connection
