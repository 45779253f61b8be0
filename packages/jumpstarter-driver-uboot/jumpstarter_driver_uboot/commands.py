"""The `j` commands of the U-Boot console."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from .client import UbootConsoleClient

_TIMEOUT = click.FloatRange(min=0, min_open=True)


def add_commands(client: UbootConsoleClient, base: click.Group) -> None:
    """Add the commands to the group of the client's children."""
    _add_reboot(client, base)
    _add_run(client, base)
    _add_env(client, base)
    _add_network(client, base)
    _add_boot(client, base)


@contextmanager
def _at_prompt(client: UbootConsoleClient, reboot: bool = False, debug: bool = False) -> Generator[None]:
    """Enter the console and turn errors into messages."""
    with _explained(), client.reboot_to_console(debug=debug) if reboot else client.open_console(debug=debug):
        yield


@contextmanager
def _explained() -> Generator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise click.ClickException(str(error)) from error


def _add_reboot(client: UbootConsoleClient, base: click.Group) -> None:
    @base.command()
    @click.option("--console", "-c", is_flag=True, help="Connect the terminal then; Ctrl-B three times leaves.")
    @click.option("--debug", "-d", is_flag=True, help="Show what the board says while it boots.")
    @click.option("--retries", type=click.IntRange(min=1), default=100, show_default=True, help="Tries, ten a second.")
    @click.option("--timeout", type=_TIMEOUT, help="Seconds until the prompt must be there, instead of --retries.")
    def reboot_to_console(console: bool, debug: bool, retries: int, timeout: float | None) -> None:
        """Power cycle the board and stop at U-Boot's prompt."""
        with _explained(), client.reboot_to_console(debug=debug, retries=retries, timeout=timeout):
            version = client.run_command_checked("version", check=False)
        click.echo(f"At the prompt of {version[0] if version else 'U-Boot'}", err=True)
        if console:
            from jumpstarter_driver_pyserial.client import Console

            with _explained():
                Console(client.children["serial"]).run()


def _add_run(client: UbootConsoleClient, base: click.Group) -> None:
    @base.command(context_settings={"ignore_unknown_options": True})
    @click.option("--reboot", is_flag=True, help="Power cycle the board into U-Boot first.")
    @click.option("--timeout", type=_TIMEOUT, default=60, show_default=True, help="Seconds that it may take.")
    @click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
    @click.pass_context
    def run(ctx: click.Context, reboot: bool, timeout: float, command: tuple[str, ...]) -> None:
        """Run COMMAND at the prompt, print its output, and exit with its status.

        The words of COMMAND are joined by blanks; quote what U-Boot's shell is to see quoted.
        """
        with _at_prompt(client, reboot):
            result = client.console.run(
                " ".join(command), timeout=timeout, on_text=lambda text: click.echo(text, nl=False)
            )
        ctx.exit(min(result.status, 255))


def _add_env(client: UbootConsoleClient, base: click.Group) -> None:
    @base.group()
    def env() -> None:
        """The environment of U-Boot, in memory."""

    @env.command(name="get")
    @click.argument("name")
    def get_env(name: str) -> None:
        """Print the value of the variable NAME; fail if it is not defined."""
        with _at_prompt(client):
            value = client.get_env(name)
        if value is None:
            raise click.ClickException(f"{name!r} is not defined")
        click.echo(value)

    @env.command(name="set")
    @click.argument("name")
    @click.argument("value", required=False)
    def set_env(name: str, value: str | None) -> None:
        """Set the variable NAME to VALUE, or delete it without one. 'run saveenv' keeps it for the next boot."""
        with _at_prompt(client):
            client.set_env(name, value)

    @env.command(name="list")
    @click.option("--json", "as_json", is_flag=True, help="Print one object.")
    def list_env(as_json: bool) -> None:
        """Print all variables."""
        with _at_prompt(client):
            values = client.get_env_dict()
        if as_json:
            click.echo(json.dumps(values, indent=2))
        else:
            for name, value in values.items():
                click.echo(f"{name}={value}")


def _add_network(client: UbootConsoleClient, base: click.Group) -> None:
    @base.command()
    @click.option("--json", "as_json", is_flag=True, help="Print one object.")
    @click.option("--timeout", type=_TIMEOUT, default=60, show_default=True, help="Seconds for each of three tries.")
    def dhcp(as_json: bool, timeout: float) -> None:
        """Get an address by DHCP, and print it with the gateway."""
        with _at_prompt(client):
            info = client.setup_dhcp(timeout)
        click.echo(info.model_dump_json() if as_json else f"{info.interface} gateway {info.gateway}")

    @base.command()
    @click.argument("filename")
    @click.option("--address", help="Where to put it, such as 0x40400000.  [default: the board's loadaddr]")
    @click.option("--server", help="Address of the TFTP server.  [default: the board's serverip]")
    @click.option("--timeout", type=_TIMEOUT, default=120, show_default=True, help="Seconds for the transfer.")
    def tftp_load(filename: str, address: str | None, server: str | None, timeout: float) -> None:
        """Load FILENAME into the board's memory by TFTP."""
        with _at_prompt(client):
            size = client.tftp_load(filename, address, server=server, timeout=timeout)
        click.echo(f"{size} bytes")


def _add_boot(client: UbootConsoleClient, base: click.Group) -> None:
    @base.command()
    @click.argument("command", nargs=-1, type=click.UNPROCESSED)
    @click.option("--reboot", is_flag=True, help="Power cycle the board into U-Boot first.")
    @click.option("--expect", help="Regular expression to wait for, such as 'login: '.")
    @click.option("--timeout", type=_TIMEOUT, default=120, show_default=True, help="Seconds until it is there.")
    def boot(command: tuple[str, ...], reboot: bool, expect: str | None, timeout: float) -> None:
        """Boot with COMMAND, or as the board is set up to.

        With --expect, the console is shown until the text is there.
        """
        with _at_prompt(client, reboot, debug=expect is not None):
            client.boot(" ".join(command) or "boot", expect=expect, timeout=timeout)
