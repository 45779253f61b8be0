"""Client of the SSH driver: runs OpenSSH's programs on the device, with the `j ssh` command."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click
from jumpstarter.client.core import DriverError, DriverInvalidArgument, DriverMethodNotImplemented
from jumpstarter.client.decorators import driver_click_command
from jumpstarter_driver_composite.client import CompositeClient

from .command import checked_command, names_user, split_arguments
from .common import SSHCommandRunOptions, SSHCommandRunResult

__all__ = ["SSHCommandRunOptions", "SSHCommandRunResult", "SSHWrapperClient"]

Tool = Literal["ssh", "scp", "sftp", "rsync"]

DEVICE = "device"
"""What the device is called in arguments of programs that use `ssh_program()`; any other name does as well."""

PACKAGES = {"rsync": "rsync", "sshpass": "sshpass"}
"""Debian packages of programs that aren't OpenSSH's."""

NOT_FOUND = 127
"""Exit status of a program that isn't installed, as shells have it."""


@dataclass(frozen=True)
class Connection:
    """How to reach the device: an SSH command line up to the place where its own options go, and the rest of it."""

    before: list[str]
    after: list[str]
    user: str
    host: str
    port: int

    def ssh(self, arguments: Sequence[str], *, host: str | None = None) -> list[str]:
        """Return the command line for options and a remote command."""
        options, command = split_arguments(arguments)
        user = ["-l", self.user] if self.user and not names_user(options) else []
        target = ["-p", str(self.port), *user, host or self.host]
        return [*self.before, *options, *self.after, *target, *command]

    def program(self) -> list[str]:
        """Return the beginning of a command line that takes options, any name for the device, and a command."""
        user = ["-o", f"User={self.user}"] if self.user else []
        return [*self.before, *self.after, "-o", f"HostName={self.host}", "-o", f"Port={self.port}", *user]


@dataclass(kw_only=True)
class SSHWrapperClient(CompositeClient):
    """Logs in to the device by SSH. Its child `tcp` is the connection itself."""

    ssh_command: str | None = None
    """The SSH client's command line to use instead of the one that the exporter's config names."""

    @property
    def username(self) -> str:
        """Who logs in, unless the caller says otherwise."""
        return str(self.call("get_default_username") or "")

    @property
    def command(self) -> str:
        """The SSH client's command line, as the exporter's config names it."""
        return str(self.call("get_ssh_command"))

    @property
    def identity(self) -> str | None:
        """The private key, where the exporter gives it away; the programs here have the exporter sign instead."""
        found = self.call("get_ssh_identity")
        return None if found is None else str(found)

    def run(
        self, options: SSHCommandRunOptions | Sequence[str] | None = None, args: Sequence[str] | None = None
    ) -> SSHCommandRunResult:
        """Run a command on the device.

        Args:
            options: how; may be left out.
            args: options for ssh, then the command; without a command, a shell.

        Returns:
            The exit status and the output, if it was to be captured.

        Raises:
            DriverError: the exporter does not give what is needed for the login.
            TimeoutError: the command was stopped after `options.timeout` seconds.
        """
        if options is not None and not isinstance(options, SSHCommandRunOptions):
            options, args = None, options
        options = options or SSHCommandRunOptions()
        with self._connection(options.direct) as connection:
            return self._run(connection.ssh(_words(args)), options)

    @contextmanager
    def ssh_program(self, direct: bool = False) -> Generator[Path, None, None]:
        """Yield the path of a program that is like `ssh`, but reaches the device whatever the host is called.

        For `rsync -e`, `scp -S`, `sftp -S`, `GIT_SSH` and the like. It works while the context lasts.
        """
        from jumpstarter.common.owned_directory import OwnedDirectory

        with self._connection(direct) as connection, OwnedDirectory() as folder:
            path = folder.path / "ssh"
            path.write_text(f'#!/bin/sh\nexec {shlex.join(connection.program())} "$@"\n')
            path.chmod(0o700)
            yield path

    def put(self, local: str | os.PathLike[str], remote: str, *, recursive: bool = False, direct: bool = False) -> None:
        """Copy a file, or with `recursive` a directory, to the device.

        Raises:
            DriverError: it failed; the message is that of scp.
        """
        self._copy([_local(local), f"{DEVICE}:{remote}"], recursive, direct)

    def get(self, remote: str, local: str | os.PathLike[str], *, recursive: bool = False, direct: bool = False) -> None:
        """Copy a file, or with `recursive` a directory, from the device.

        Raises:
            DriverError: it failed; the message is that of scp.
        """
        self._copy([f"{DEVICE}:{remote}", _local(local)], recursive, direct)

    def _copy(self, arguments: list[str], recursive: bool, direct: bool) -> None:
        with self.ssh_program(direct) as program:
            command = ["scp", "-q", "-S", str(program), *(["-r"] if recursive else []), *arguments]
            result = self._run(command, SSHCommandRunOptions())
        if result.return_code != 0:
            raise DriverError(f"scp failed with exit status {result.return_code}: {str(result.stderr).strip()}")

    def _run(self, command: list[str], options: SSHCommandRunOptions) -> SSHCommandRunResult:
        self.logger.debug("running %s", shlex.join(command))
        try:
            with nullcontext() if options.capture_output else _terminal_kept():
                done = subprocess.run(
                    command,
                    capture_output=options.capture_output,
                    text=options.capture_as_text,
                    errors="replace" if options.capture_as_text else None,
                    timeout=options.timeout,
                    check=False,
                )
        except FileNotFoundError:
            package = PACKAGES.get(os.path.basename(command[0]), "openssh-client")
            text = f"{command[0]} not found. Install it on this machine; on Debian: apt-get install {package}"
            self.logger.error(text)
            empty, message = ("", text) if options.capture_as_text else (b"", text.encode())
            return SSHCommandRunResult(return_code=NOT_FOUND, stdout=empty, stderr=message)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the command on the device did not end within {options.timeout:g} s") from None
        return SSHCommandRunResult.from_completed_process(done)

    # -- the connection -----------------------------------------------------------------------------------------------

    @contextmanager
    def _connection(self, direct: bool) -> Generator[Connection, None, None]:
        """Yield how to reach the device; what that needs is there while the context lasts."""
        with ExitStack() as stack:
            words = shlex.split(self.ssh_command) if self.ssh_command else checked_command(self.command)
            start = next(index for index, word in enumerate(words) if os.path.basename(word) == "ssh") + 1
            first = [*self._host_key_options(stack), *self._identity_options(stack)]
            host, port = (self._address() if direct else None) or self._forwarded(stack)
            yield Connection(
                before=[*words[:start], *first], after=words[start:], user=self.username, host=host, port=port
            )

    def _address(self) -> tuple[str, int] | None:
        """Return the device's own address; None, with a warning, when it isn't to be had."""
        from jumpstarter_driver_network.address import parse_address

        try:
            host, port = parse_address(str(self.children["tcp"].call("address")))
            if not host or host.startswith("-"):
                raise DriverError(f"the exporter gave no address, but {host!r}")
            return host, int(port or 22)
        except (DriverError, ValueError) as error:
            self.logger.warning("no direct connection, going through the exporter: %s", error)
            return None

    def _forwarded(self, stack: ExitStack) -> tuple[str, int]:
        from jumpstarter_driver_network.adapters import TcpPortforwardAdapter

        address = stack.enter_context(TcpPortforwardAdapter(client=self.children["tcp"]))
        return address[0], address[1]

    def _host_key_options(self, stack: ExitStack) -> list[str]:
        """Return the options that accept the device's own host keys only, if the exporter names them."""
        try:
            keys = [str(key) for key in self.call("get_ssh_host_keys")]
        except DriverMethodNotImplemented:
            return []
        lines = [f"{DEVICE} {key}\n" for key in keys if key and not key.startswith(("@", "#")) and "\n" not in key]
        if not lines:
            return []
        path = _private_file(stack, "known_hosts", "".join(lines))
        return [
            *("-o", f"UserKnownHostsFile={_quoted(path)}", "-o", "GlobalKnownHostsFile=/dev/null"),
            *("-o", f"HostKeyAlias={DEVICE}", "-o", "StrictHostKeyChecking=yes", "-o", "UpdateHostKeys=no"),
            *("-o", "CheckHostIP=no"),
        ]

    def _identity_options(self, stack: ExitStack) -> list[str]:
        """Return the options for the exporter's key: it signs there; only where it can't, the key comes here."""
        try:
            public = self.call("get_ssh_public_key")
        except (DriverMethodNotImplemented, DriverInvalidArgument) as error:
            self.logger.debug("the exporter does not sign: %s", error)
            private = self.identity
            if private is None:
                return []
            return ["-i", str(_private_file(stack, "identity", private.rstrip("\n") + "\n"))]
        if public is None:
            return []
        from jumpstarter_driver_network.adapters import UnixPortforwardAdapter

        agent = stack.enter_context(UnixPortforwardAdapter(client=self, method="ssh_agent"))
        path = _private_file(stack, "identity.pub", f"{public}\n")
        return ["-i", str(path), "-o", f"IdentityAgent={_quoted(agent)}", "-o", "IdentitiesOnly=yes"]

    # -- commands -----------------------------------------------------------------------------------------------------

    def cli(self) -> click.Command:  # type: ignore[override]
        """Return the `j` command of this driver."""

        @driver_click_command(
            self, name="ssh", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
        )
        @click.option("--direct", is_flag=True, help="Connect to the device's own address, not through the exporter.")
        @click.option(
            "--scp", "tool", flag_value="scp", help="Copy files: ARGS are those of scp, :PATH is on the device."
        )
        @click.option("--sftp", "tool", flag_value="sftp", help="Transfer files by hand with sftp.")
        @click.option("--rsync", "tool", flag_value="rsync", help="Like --scp, with rsync.")
        @click.option("--ssh-command", metavar="TEXT", help="Use this command line instead of the exporter's.")
        @click.argument("args", nargs=-1, type=click.UNPROCESSED)
        @click.pass_context
        def ssh(
            context: click.Context, direct: bool, tool: Tool | None, ssh_command: str | None, args: tuple[str, ...]
        ) -> None:
            """Log in to the device, or run a command there.

            ARGS are options of ssh and then the command; without a command, a shell. The exit status is that of the
            command.
            """
            if ssh_command is not None:
                self.ssh_command = ssh_command
            context.exit(self._run_tool(tool or "ssh", args, direct))

        return ssh

    def _run_tool(self, tool: Tool, args: Sequence[str], direct: bool) -> int:
        """Run a program in the foreground; return its exit status."""
        options = SSHCommandRunOptions(direct=direct, capture_output=False)
        if tool == "ssh":
            return self.run(options, args).return_code
        words = [f"{DEVICE}{word}" if word.startswith(":") else word for word in args]
        with self.ssh_program(direct) as program:
            if tool == "rsync":
                command = ["rsync", "-e", _rsync_word(program), *words]
            else:
                command = [tool, "-S", str(program), *words, *([DEVICE] if tool == "sftp" else [])]
            return self._run(command, options).return_code


def _words(args: Sequence[str] | None) -> list[str]:
    if isinstance(args, str):
        raise TypeError(f"args must be a list of words, not the text {args!r}")
    return [str(word) for word in args or ()]


def _local(path: str | os.PathLike[str]) -> str:
    """Return a path that scp takes for neither an option nor a name of a host."""
    return os.path.join(".", os.fspath(path)) if not os.path.isabs(path) else os.fspath(path)


def _private_file(stack: ExitStack, name: str, content: str) -> Path:
    """Write a file that this user alone can read, and that is removed with the context."""
    from jumpstarter.common.owned_directory import OwnedDirectory

    path = stack.enter_context(OwnedDirectory()).path / name
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(content)
    return path


def _quoted(path: Path) -> str:
    """Return a path as the value of an option, where a percent sign and blanks have a meaning (ssh_config(5))."""
    return '"{}"'.format(str(path).replace("%", "%%"))


def _rsync_word(program: Path) -> str:
    """Return a path as rsync's own splitting of `-e` takes it."""
    return f"'{program}'" if " " in str(program) else str(program)


@contextmanager
def _terminal_kept() -> Generator[None, None, None]:
    """Put the terminal back as it was: an ssh that is killed leaves it as the remote shell needed it."""
    import termios

    try:
        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
    except (OSError, ValueError, termios.error):
        yield  # there is no terminal
        return
    try:
        yield
    finally:
        # In the background, it belongs to another program now.
        with suppress(OSError, termios.error):
            if os.tcgetpgrp(descriptor) == os.getpgrp() and termios.tcgetattr(descriptor) != before:
                termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
