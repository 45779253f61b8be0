"""Client of the U-Boot console: reboot into it, run commands, set it up for the network; and the `j` commands."""

from __future__ import annotations

import re
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import click
from jumpstarter.client.core import DriverError, DriverMethodNotImplemented
from jumpstarter_driver_composite.client import CompositeClient

from .common import ESC
from .reboot import BootSettings, reach_prompt

if TYPE_CHECKING:
    from .common import DhcpInfo
    from .console import Console

RETRY_PAUSE = 2.0
"""Seconds between two tries of a command."""

_NAME = re.compile(r"[\w.:,/+@%-]+")


@dataclass(kw_only=True)
class UbootConsoleClient(CompositeClient):
    """The U-Boot console of a board; commands need one of the contexts `reboot_to_console` and `open_console`.

    Inside a context, `p` is the pexpect session and `console` the engine that runs commands on it.
    """

    if TYPE_CHECKING:
        p: ClassVar[Any]
        console: ClassVar[Console]

    @cached_property
    def prompt(self) -> str:
        """The prompt that the exporter's config names."""
        return str(self.call("get_prompt"))

    @cached_property
    def boot_settings(self) -> BootSettings:
        """How autoboot is stopped, as the exporter's config has it."""
        # Exporters of other releases have no such settings, and neither have clients without an exporter.
        if "stub" in self.__dict__:
            with suppress(DriverMethodNotImplemented):
                return BootSettings(**self.call("get_boot_settings"))
        return BootSettings(interrupt=ESC)

    # -- the console -----------------------------------------------------------------------------

    @contextmanager
    def reboot_to_console(
        self, *, debug: bool = False, retries: int = 100, timeout: float | None = None
    ) -> Generator[UbootConsoleClient, None, None]:
        """Power cycle the board, stop autoboot, and keep the console until the context ends.

        Args:
            debug: copy the console to stdout.
            retries: how often to try to stop autoboot, ten times a second.
            timeout: seconds from power-on to the prompt; given here or in the exporter's config, `retries` don't count.

        Raises:
            RuntimeError: U-Boot's prompt did not come; the message says what came instead.
            DriverError: the board can't be switched, or its console can't be opened.
        """
        settings = self.boot_settings
        limit = settings.boot_timeout if timeout is None else timeout
        with ExitStack() as stack:
            reopen = self._open_early(stack, debug)
            self.children["power"].cycle()  # type: ignore[attr-defined]
            if "p" not in self.__dict__:
                reopen(RETRY_PAUSE * 5)
            reach_prompt(self, settings, retries, limit, reopen)
            yield self

    @contextmanager
    def open_console(self, *, debug: bool = False, timeout: float = 10) -> Generator[UbootConsoleClient, None, None]:
        """Use the console of a board that is at U-Boot's prompt already, and keep it until the context ends.

        What runs there is interrupted.

        Args:
            debug: copy the console to stdout.
            timeout: seconds that U-Boot may take to answer.

        Raises:
            ConsoleError: nobody answers, or it is not U-Boot.
            DriverError: the console can't be opened.
        """
        from .errors import ConsoleError

        with ExitStack() as stack:
            self._connect(stack, debug)
            console = self.console
            console.synchronise(timeout)
            if not console.prompt.endswith(console.prompts):
                raise ConsoleError(
                    f"the console answers with the prompt {console.prompt!r}, which is none of U-Boot's "
                    f"({', '.join(map(repr, console.prompts))}). Reboot into U-Boot, or set 'prompt' in the "
                    "exporter's config",
                    [console.prompt],
                )
            yield self

    def _open_early(self, stack: ExitStack, debug: bool) -> Any:
        """Open the console before the board boots; a port that the board itself powers is opened when it is on.

        Returns:
            A function that opens the console again, within some seconds, after its connection has ended.
        """
        from .errors import ConsoleClosed

        session = stack.enter_context(ExitStack())

        def reopen(limit: float) -> None:
            deadline = time.monotonic() + limit
            session.close()
            while True:
                try:
                    return self._connect(session, debug)
                except DriverError:
                    if time.monotonic() >= deadline:
                        raise
                    time.sleep(0.2)

        try:
            self._connect(session, debug)
            # What the board said before it was switched off must not look like what it says now.
            self.console.drain()
        except ConsoleClosed:
            session.close()
        except DriverError as error:
            if "in use" in str(error):
                raise
            self.logger.info("The console can't be opened before the board is on: %s", error)
        return reopen

    def _connect(self, stack: ExitStack, debug: bool) -> None:
        from .console import Console
        from .dialects import UBOOT

        session = stack.enter_context(self.children["serial"].pexpect())  # type: ignore[attr-defined]
        if debug:
            import sys

            session.logfile_read = getattr(sys.stdout, "buffer", sys.stdout)
        self.__dict__.update(p=session, console=Console(session, UBOOT, [self.prompt]))
        stack.callback(self._forget)

    def _forget(self) -> None:
        self.__dict__.pop("p", None)
        self.__dict__.pop("console", None)

    def _console(self) -> Console:
        if "console" not in self.__dict__:
            raise RuntimeError(
                "Not in a U-Boot console: use 'with client.reboot_to_console():' or open_console() first"
            )
        console: Console = self.__dict__["console"]
        return console

    # -- commands --------------------------------------------------------------------------------

    def run_command(self, cmd: str, timeout: float = 60) -> bytes:
        """Run a command, whatever its status; return its echo and its output.

        Raises:
            ConsoleError: it did not end as commands do; see `Console.run`.
            ValueError: it can't be typed, or is not complete.
        """
        result = self._console().run(cmd, timeout=timeout)
        return f"{cmd}\n{result.text}".replace("\n", "\r\n").encode()

    def run_command_checked(self, cmd: str, timeout: float = 60, check: bool = True, tries: int = 1) -> list[str]:
        """Run a command and return the lines of its output.

        Args:
            cmd: one line.
            timeout: seconds for each try.
            check: raise CommandFailed if its status is not 0.
            tries: how often to try until the status is 0, with a pause of two seconds between.

        Raises:
            CommandFailed: the status of the last try is not 0; `status` and `output` tell more.
            ConsoleError: it did not end as commands do; see `Console.run`.
            ValueError: it can't be typed, or is not complete.
        """
        if tries < 1:
            raise ValueError(f"tries must be at least 1, not {tries}")
        console = self._console()
        for _ in range(tries - 1):
            result = console.run(cmd, timeout=timeout)
            if result.status == 0:
                return result.lines
            self.logger.warning("%r failed with status %d, and is tried again", cmd, result.status)
            time.sleep(RETRY_PAUSE)
        return console.run(cmd, timeout=timeout, check=check).lines

    # -- environment -----------------------------------------------------------------------------

    def get_env(self, key: str, timeout: float = 5) -> str | None:
        """Return a variable of the environment; None if it is not defined."""
        result = self._console().run(f"printenv {_checked_name(key)}", timeout=timeout)
        if result.status != 0 and "not defined" in result.text:
            return None
        found = re.search(rf"^{re.escape(key)}=(.*)\Z", result.text, re.MULTILINE | re.DOTALL)
        if result.status != 0 or found is None:
            from .errors import CommandFailed

            raise CommandFailed(f"'printenv {key}' failed with status {result.status}", result.lines, result.status)
        return found[1].removesuffix("\n")

    def set_env(self, key: str, value: str | None, timeout: float = 5) -> None:
        """Set a variable of the environment, in memory only; None deletes it.

        Raises:
            ValueError: the name can't be one, or the value holds line breaks or other control characters.
            LineTooLong: the value is too long to be typed, for most boards above 450 or 950 characters; `tftp_load` a
                text file and run `env import -t ${loadaddr} ${filesize}`.
            CommandFailed: U-Boot refuses it.
        """
        console = self._console()
        quoted = "" if value is None else f" {console.dialect.quote(value)}"
        console.run(f"setenv {_checked_name(key)}{quoted}", timeout=timeout, check=True)

    def set_env_dict(self, env: dict[str, str | None]) -> None:
        """Set several variables; None deletes one."""
        for key, value in env.items():
            self.set_env(key, value)

    def get_env_dict(self, timeout: float = 15) -> dict[str, str]:
        """Return all variables of the environment."""
        env: dict[str, str] = {}
        name = ""
        for line in self._console().run("printenv", timeout=timeout, check=True).lines:
            key, equals, value = line.partition("=")
            if equals and _NAME.fullmatch(key):
                name, env[key] = key, value
            elif name and not line.startswith("Environment size:") and line:
                env[name] += f"\n{line}"
        return env

    # -- network and boot ------------------------------------------------------------------------

    def setup_dhcp(self, timeout: float = 60, tries: int = 3) -> DhcpInfo:
        """Get an address by DHCP, without loading anything.

        Args:
            timeout: seconds for each try.
            tries: how often to try.

        Raises:
            CommandFailed: no try succeeded.
            ValueError: there is no address or gateway among what was given.
        """
        from .dhcp import DhcpInfo
        from .errors import ConsoleError

        autoload = self.get_env("autoload")
        self.set_env("autoload", "no")
        try:
            lines = self.run_command_checked("dhcp", timeout=timeout, tries=tries)
        except ConsoleError:
            with suppress(ConsoleError):
                self.set_env("autoload", autoload)
            raise
        self.set_env("autoload", autoload)
        address, gateway = self.get_env("ipaddr"), self.get_env("gatewayip")
        if not address or not gateway:
            raise ValueError(
                "U-Boot's DHCP ended without "
                + " and ".join(name for name, got in (("address", address), ("gateway", gateway)) if not got)
                + ". What it said:\n"
                + "\n".join(lines)
            )
        return DhcpInfo(ip_address=address, gateway=gateway, netmask=self.get_env("netmask") or "255.255.255.0")

    def tftp_load(
        self, filename: str, address: int | str | None = None, *, server: str | None = None, timeout: float = 120
    ) -> int:
        """Load a file into the board's memory by TFTP; return its size in bytes.

        Args:
            filename: as the server has it.
            address: where to put it; None for the board's `loadaddr`.
            server: its address; None for the board's `serverip`.
            timeout: seconds for the transfer.

        Raises:
            CommandFailed: the transfer failed; the message has what U-Boot said.
        """
        console = self._console()
        place = "${loadaddr}" if address is None else hex(address) if isinstance(address, int) else address
        source = console.dialect.quote(f"{server}:{filename}" if server else filename)
        console.run(f"tftpboot {place} {source}", timeout=timeout, check=True)
        return int(self.get_env("filesize") or "0", 16)

    def boot(self, command: str = "boot", *, expect: str | None = None, timeout: float = 120) -> None:
        """Run a command that starts something else; the session `p` goes on with what that shows.

        Args:
            command: what boots, such as `booti ${kernel_addr_r} - ${fdtcontroladdr}`.
            expect: a regular expression to wait for, such as `login: `.
            timeout: seconds until it is there.

        Raises:
            ConsoleTimeout: it did not come.
            ConsoleClosed: the connection to the console has ended.
        """
        self._console().start(command)
        if expect is not None:
            self._console().wait_for(expect, timeout=timeout)

    # -- command line ----------------------------------------------------------------------------

    def cli(self) -> click.Group:
        """Return the `j` commands."""
        from .commands import add_commands

        base = super().cli()
        add_commands(self, base)
        return base


def _checked_name(key: str) -> str:
    if not _NAME.fullmatch(key):
        raise ValueError(f"{key!r} can't be the name of a variable of U-Boot's environment")
    return key
