"""Client of serial ports: streams, pexpect, and the `j` commands for consoles and pipes."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from jumpstarter.client import DriverClient
from jumpstarter.client.decorators import driver_click_group

if TYPE_CHECKING:
    from pexpect.fdpexpect import fdspawn

    from .console import Console
    from .pipe import Pipe

__all__ = ["Console", "PySerialClient"]


def __getattr__(name: str) -> Any:
    if name == "Console":
        from .console import Console

        return Console
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(kw_only=True)
class PySerialClient(DriverClient):
    """A serial port of the exporter; `stream()` and `open_stream()` give its bytes."""

    def open(self) -> fdspawn:
        """Return a pexpect session on the port, open until close() of this client."""
        return self.stack.enter_context(self.pexpect())

    @contextmanager
    def pexpect(self) -> Generator[fdspawn, None, None]:
        """Yield a pexpect session on the port.

        Raises:
            DriverError: the exporter can't open the port.
        """
        from jumpstarter_driver_network.adapters import PexpectAdapter

        with PexpectAdapter(client=self) as session:
            yield session

    def set_dtr(self, value: bool) -> None:
        """Set the DTR line.

        Raises:
            DriverMethodNotImplemented: the port has no such line.
        """
        self.call("set_dtr", value)

    def set_rts(self, value: bool) -> None:
        """Set the RTS line.

        Raises:
            DriverMethodNotImplemented: the port has no such line.
        """
        self.call("set_rts", value)

    def send_break(self, duration: float = 0.25) -> None:
        """Hold the line in the break state for `duration` seconds, 10 at most."""
        self.call("send_break", duration)

    def disconnect(self) -> None:
        """End the connection that has the port, whoever opened it."""
        self.call("close")

    def cli(self) -> click.Group:
        """Return the `j` group of this driver."""

        @driver_click_group(self)
        def base() -> None:
            """Serial port."""

        self._add_console(base)
        self._add_pipe(base)
        self._add_lines(base)
        return base

    def _add_console(self, base: click.Group) -> None:
        @base.command()
        @click.option("--escape", default="b", show_default=True, help="Letter that leaves, with Ctrl, three times.")
        @click.option(
            "--log", type=click.Path(dir_okay=False, path_type=Path), help="Add the device's output to this file."
        )
        def start_console(escape: str, log: Path | None) -> None:
            """Connect the terminal to the port; Ctrl-B three times leaves."""
            if len(escape) != 1 or not "a" <= escape.lower() <= "z":
                raise click.BadParameter(f"{escape!r} is not one letter", param_hint="--escape")
            from .console import Console

            try:
                Console(self, escape=bytes((ord(escape.upper()) - 64,)), log=log).run()
            except RuntimeError as error:
                raise click.ClickException(str(error)) from error

    def _add_pipe(self, base: click.Group) -> None:
        @base.command()
        @click.option("-o", "--output", type=click.Path(dir_okay=False), help="Write to this file, not to stdout.")
        @click.option("-a", "--append", is_flag=True, help="Add to the file of --output.")
        @click.option("-i", "--input", "force_input", is_flag=True, help="Send stdin, even when it is a terminal.")
        @click.option("--no-input", is_flag=True, help="Don't send stdin.")
        @click.option("--no-output", is_flag=True, help="Send stdin, then exit; read nothing.")
        def pipe(output: str | None, append: bool, force_input: bool, no_input: bool, no_output: bool) -> None:
            """Copy the port to stdout or a file, and stdin to the port when it is no terminal."""
            if append and not output:
                raise click.UsageError("--append requires --output")
            if force_input and no_input:
                raise click.UsageError("Cannot use both --input and --no-input")
            if no_output and output:
                raise click.UsageError("Cannot use both --no-output and --output")
            if no_output and append:
                raise click.UsageError("Cannot use both --no-output and --append")
            piped = not sys.stdin.isatty()
            sends = force_input or (piped and not no_input)
            if no_output and not sends:
                raise click.UsageError("--no-output requires stdin input: pipe something in, or use --input")
            click.echo(_pipe_mode(output, sends, force_input, no_output), err=True)
            try:
                self.portal.call(self._pipe_serial, output, sends, append, no_output)
            except KeyboardInterrupt:
                if (running := self.__dict__.get("_pipe")) is not None:
                    self.portal.call(running.stop)
                click.echo("\nStopped", err=True)

    def _add_lines(self, base: click.Group) -> None:
        @base.command()
        @click.argument("state", type=click.Choice(["on", "off"]))
        def set_dtr(state: str) -> None:
            """Set the DTR line."""
            self.set_dtr(state == "on")

        @base.command()
        @click.argument("state", type=click.Choice(["on", "off"]))
        def set_rts(state: str) -> None:
            """Set the RTS line."""
            self.set_rts(state == "on")

        @base.command()
        @click.option(
            "--duration", type=click.FloatRange(0, 10, min_open=True), default=0.25, show_default=True, help="Seconds."
        )
        def send_break(duration: float) -> None:
            """Hold the line in the break state for a moment."""
            self.send_break(duration)

    async def _pipe_serial(self, output_file: str | None, input_enabled: bool, append: bool, no_output: bool) -> None:
        from .pipe import Pipe

        pipe: Pipe = Pipe(
            output_file if not no_output else None, append=append, sends=input_enabled, reads=not no_output
        )
        self.__dict__["_pipe"] = pipe
        try:
            async with self.stream_async(method="connect") as stream:
                await pipe.run(stream)
        finally:
            self.__dict__["_pipe"] = None


def _pipe_mode(output: str | None, sends: bool, forced: bool, no_output: bool) -> str:
    """Return the line that tells what the pipe command does."""
    if no_output:
        return "Fire-and-forget mode: sending stdin to the serial port"
    target = output or "stdout"
    if sends:
        reason = "forced input" if forced else "auto-detected piped stdin"
        return f"Bidirectional mode ({reason}): stdin to the serial port, output to {target}. Ctrl+C to exit"
    return f"Reading from serial port to {target} (read-only). Ctrl+C to exit"
