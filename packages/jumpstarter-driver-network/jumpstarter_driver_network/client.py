"""Clients of network drivers, with the `j` commands that forward ports."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import click
from jumpstarter.client import DriverClient
from jumpstarter.client.core import DriverInvalidArgument, DriverMethodNotImplemented
from jumpstarter.client.decorators import driver_click_group

from .address import format_address
from .address import parse_address as _parse_address
from .address import strip_scheme as _strip_scheme
from .common import DATAGRAMS, KIND_LABEL, STREAM, TRANSPORT_LABEL

__all__ = ["DbusNetworkClient", "NetworkClient", "_parse_address", "_strip_scheme"]

PORT = click.IntRange(0, 65535)


@dataclass(kw_only=True)
class NetworkClient(DriverClient):
    """Connections to something that the exporter can reach: `stream()` opens one, the adapters make use of them."""

    def address(self) -> str:
        """Return the address of the target as a URL, such as `tcp://192.0.2.1:22`, to connect to it directly.

        Raises:
            DriverInvalidArgument: the exporter config does not allow it.
            DriverMethodNotImplemented: the driver has none, or the exporter is older than this method.
        """
        return str(self.call("address"))

    def cli(self) -> click.Group:
        """Return the `j` group of this driver."""

        @driver_click_group(self)
        def base() -> None:
            """Connections to the device's network."""

        self._add_forward_tcp(base)
        self._add_forward_udp(base)
        self._add_forward_unix(base)
        self._add_novnc(base)
        self._add_address(base)
        return base

    def _add_forward_tcp(self, base: click.Group) -> None:
        @base.command(name="forward-tcp")
        @click.option(
            "--address", default="localhost", show_default=True, help="Local address or host name to listen on."
        )
        @click.argument("port", type=PORT)
        @click.argument("command", nargs=-1, type=click.UNPROCESSED)
        def forward_tcp(address: str, port: int, command: tuple[str, ...]) -> None:
            """Forward connections to the local PORT (0: any free one) to the device.

            Runs until it is interrupted, or while COMMAND runs, which follows after -- and in which
            {host}, {port} and {address} are filled in.
            """
            from .adapters import TcpPortforwardAdapter

            self._refuse_unless_transport(STREAM, "forward-tcp", "forward-udp")
            with (
                local_errors(),
                TcpPortforwardAdapter(client=self, local_host=address, local_port=port) as bound,
            ):
                hold(command, host=bound[0], port=bound[1])

    def _add_forward_udp(self, base: click.Group) -> None:
        @base.command(name="forward-udp")
        @click.option(
            "--address", default="localhost", show_default=True, help="Local address or host name to listen on."
        )
        @click.argument("port", type=PORT)
        @click.argument("command", nargs=-1, type=click.UNPROCESSED)
        def forward_udp(address: str, port: int, command: tuple[str, ...]) -> None:
            """Forward datagrams to the local PORT (0: any free one) to the device, and the answers back.

            Runs until it is interrupted, or while COMMAND runs, which follows after -- and in which
            {host}, {port} and {address} are filled in.
            """
            from .adapters import UdpPortforwardAdapter

            self._refuse_unless_transport(DATAGRAMS, "forward-udp", "forward-tcp")
            with (
                local_errors(),
                UdpPortforwardAdapter(client=self, local_host=address, local_port=port) as bound,
            ):
                hold(command, host=bound[0], port=bound[1])

    def _add_forward_unix(self, base: click.Group) -> None:
        @base.command(name="forward-unix")
        @click.argument("path", type=click.Path(), required=False)
        @click.argument("command", nargs=-1, type=click.UNPROCESSED)
        def forward_unix(path: str | None, command: tuple[str, ...]) -> None:
            """Forward connections to a local Unix socket to the device.

            Without PATH, or with -, the socket gets a private directory under XDG_RUNTIME_DIR. Runs until it is
            interrupted, or while COMMAND runs, which follows after -- and in which {path} is filled in.
            """
            from .adapters import UnixPortforwardAdapter

            self._refuse_unless_transport(STREAM, "forward-unix", "forward-udp")
            with local_errors(), ExitStack() as stack:
                chosen = stack.enter_context(runtime_socket()) if path in (None, "-") else path
                bound = stack.enter_context(UnixPortforwardAdapter(client=self, path=chosen))
                hold(command, path=str(bound))

    def _add_novnc(self, base: click.Group) -> None:
        @base.command(name="novnc")
        def novnc() -> None:
            """Serve a VNC viewer for the browser, when the device's port is a VNC server."""
            from .adapters import NovncAdapter

            with local_errors(), NovncAdapter(client=self) as url:
                click.echo(url)
                wait_for_ever()

    def _add_address(self, base: click.Group) -> None:
        @base.command()
        @click.option("--host", is_flag=True, help="Print the host only.")
        @click.option("--port", is_flag=True, help="Print the port only.")
        def address(host: bool, port: bool) -> None:
            """Print the address of the device, as the exporter sees it."""
            try:
                found = self.address()
            except DriverMethodNotImplemented as error:
                raise click.ClickException(
                    "the driver has no address to print, or the exporter is too old to tell: "
                    "update the exporter, or use the forward commands"
                ) from error
            except DriverInvalidArgument as error:
                raise click.ClickException(f"the address is not available: {error}") from error
            if host == port:
                click.echo(_strip_scheme(found))
            else:
                click.echo(_parse_address(found)[0 if host else 1])

    def _refuse_unless_transport(self, needed: str, command: str, other: str) -> None:
        """Raise when the driver says that its streams are of another kind; an exporter may be too old to say so."""
        said = self.labels.get(TRANSPORT_LABEL, needed)
        if said != needed:
            kind = "datagrams" if said == DATAGRAMS else "a stream of bytes"
            raise click.UsageError(f"this device speaks {kind}, which {command} can't carry: use {other}")


@dataclass(kw_only=True)
class DbusNetworkClient(NetworkClient):
    """Client of a bus; as a context manager, it points this process and its children at that bus."""

    _contexts: list[ExitStack] = field(init=False, default_factory=list, repr=False)

    @property
    def kind(self) -> str:
        """Which bus it is: `system` or `session`."""
        return self.labels[KIND_LABEL]

    def __enter__(self) -> str:
        """Set the bus variable of this process; returns the address that it is set to."""
        from .adapters import DbusAdapter

        stack = ExitStack()
        address = stack.enter_context(DbusAdapter(client=self))
        self._contexts.append(stack)
        return address

    def __exit__(self, *error: Any) -> None:
        """Restore the variable."""
        self._contexts.pop().__exit__(*error)


@contextmanager
def runtime_socket() -> Generator[str, None, None]:
    """Yield a path for a socket in a private directory of this user's run-time directory."""
    import os

    from jumpstarter.common.owned_directory import OwnedDirectory

    folder = os.environ.get("XDG_RUNTIME_DIR")
    folder = folder if folder and os.path.isdir(folder) else None
    with OwnedDirectory(parent=folder) as private:
        yield str(private.path / "socket")


@contextmanager
def local_errors() -> Generator[None, None, None]:
    """Turn errors of the local end, such as a port that is taken, into one line."""
    try:
        yield
    except OSError as error:
        raise click.ClickException(error.strerror or str(error)) from error


def hold(command: tuple[str, ...], **values: Any) -> None:
    """Keep a forward open: print where it listens and wait for ever, or run `command` and exit with its status.

    In the words of the command `{host}`, `{port}`, `{address}` and `{path}` stand for where the forward listens.
    """
    if "host" in values:
        values["address"] = format_address(values["host"], values["port"])
    if not command:
        click.echo(values.get("address") or values["path"])
        wait_for_ever()
    import subprocess

    words = [fill(word, values) for word in command]
    try:
        done = subprocess.run(words, check=False)
    except OSError as error:
        raise click.ClickException(f"can't run {words[0]}: {error.strerror or error}") from error
    status = done.returncode
    raise click.exceptions.Exit(status if status >= 0 else 128 - status)


def fill(word: str, values: dict[str, Any]) -> str:
    """Put values into the places of `word` that name them; other braces stay as they are."""
    for name, value in values.items():
        word = word.replace(f"{{{name}}}", str(value))
    return word


def wait_for_ever() -> None:
    """Return when the user interrupts."""
    threading.Event().wait()
