"""The SSH driver: how clients log in to a device, and a key that signs for them without leaving the exporter."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

import anyio
from anyio import to_thread
from anyio.abc import ObjectStream
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter.streams.common import create_memory_stream

from .agent import serve_agent
from .command import UnsafeCommand, checked_command
from .common import DEFAULT_SSH_COMMAND
from .keys import KeyUnusable, SigningKey

__all__ = ["SSHWrapper"]

MAX_KEY: Final = 64 << 10
"""Bytes of the largest private key file."""

_HOST_KEY: Final = re.compile(r"[a-z0-9@.-]+ [A-Za-z0-9+/]+=*( .*)?")


@dataclass(kw_only=True)
class SSHWrapper(Driver):
    """An SSH server on the device, behind the child `tcp`."""

    driver_type: ClassVar[str] = "network"

    default_username: str = ""
    """Who logs in, unless the caller says otherwise."""
    ssh_command: str = DEFAULT_SSH_COMMAND
    """The SSH client's command line on the client's side: `ssh` and its options."""
    ssh_identity: str | None = field(default=None, repr=False)
    """A private key for the login, as text."""
    ssh_identity_file: str | None = None
    """A file with it on the exporter."""
    share_identity: bool = True
    """Give the private key to clients that ask for it, as those of published releases do; others have it sign."""
    host_keys: list[str] = field(default_factory=list)
    """Public host keys of the device, as in /etc/ssh/ssh_host_*_key.pub; with any, no other one is accepted."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if "tcp" not in self.children:
            raise ConfigurationError(
                "'tcp' child is required via ref, or directly as a TcpNetwork driver instance: "
                "the way to the SSH server of the device"
            )
        if self.ssh_identity and self.ssh_identity_file:
            raise ConfigurationError("Cannot specify both ssh_identity and ssh_identity_file")
        if not isinstance(self.default_username, str):
            raise ConfigurationError(f"default_username must be text, not {self.default_username!r}")
        if not isinstance(self.ssh_command, str) or not self.ssh_command.strip():
            raise ConfigurationError(f"ssh_command must be a command line such as {DEFAULT_SSH_COMMAND!r}")
        try:
            checked_command(self.ssh_command)
        except UnsafeCommand as error:
            self.logger.warning("clients may refuse the ssh_command: %s", error)
        for key in self._checked_host_keys():
            if not isinstance(key, str) or not _HOST_KEY.fullmatch(key.strip()):
                raise ConfigurationError(f"host_keys: {key!r} is no public key such as 'ssh-ed25519 AAAA...'")
        self._check_identity()

    def _checked_host_keys(self) -> list[Any]:
        if isinstance(self.host_keys, str):
            self.host_keys = [line for line in self.host_keys.splitlines() if line.strip()]
        if not isinstance(self.host_keys, list):
            raise ConfigurationError(f"host_keys must be a list of public keys, not {self.host_keys!r}")
        return self.host_keys

    def _check_identity(self) -> None:
        text = self._identity()
        if text is None:
            return
        where = f"ssh_identity_file {self.ssh_identity_file}" if self.ssh_identity_file else "ssh_identity"
        if "PRIVATE KEY-----" not in text:
            raise ConfigurationError(f"{where} holds no private key as ssh-keygen makes it")
        try:
            SigningKey(text)
        except KeyUnusable as error:
            if "passphrase" in str(error):
                raise ConfigurationError(f"{where}: {error}") from None
            self.logger.warning("%s: %s; clients get the key itself if share_identity allows it", where, error)

    def _identity(self) -> str | None:
        """Return the private key; the file is read each time, so that it can be replaced.

        Raises:
            ConfigurationError: the file can't be read.
        """
        if not self.ssh_identity_file:
            return self.ssh_identity or None
        path = Path(os.path.expanduser(self.ssh_identity_file))
        try:
            with path.open() as file:
                return file.read(MAX_KEY)
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise ConfigurationError(f"Failed to read ssh_identity_file '{self.ssh_identity_file}': {why}") from None

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_ssh.client.SSHWrapperClient"

    # -- what clients may ask -----------------------------------------------------------------------------------------

    @export(watch=True)
    async def get_default_username(self) -> str:
        """Return who logs in, unless the caller says otherwise; empty for nobody in particular."""
        return self.default_username

    @export(watch=True)
    async def get_ssh_command(self) -> str:
        """Return the SSH client's command line."""
        return self.ssh_command

    @export(watch=True)
    async def get_ssh_host_keys(self) -> list[str]:
        """Return the public host keys of the device; none when they are not known."""
        return [key.strip() for key in self.host_keys]

    @export(watch=True)
    def get_ssh_public_key(self) -> str | None:
        """Return the public half of the key that `ssh_agent` signs with; None when there is no key.

        Raises:
            ValueError: the key can't be signed with here.
        """
        text = self._identity()
        return None if text is None else SigningKey(text).public

    @export
    def get_ssh_identity(self) -> str | None:
        """Return the private key; None when there is none.

        Raises:
            PermissionError: the config keeps it on the exporter.
        """
        text = self._identity()
        if text is None:
            return None
        if not self.share_identity:
            raise PermissionError(
                "the private key stays on the exporter (share_identity: false), which signs for its clients instead. "
                "Update jumpstarter-driver-ssh on the client"
            )
        self.logger.warning(
            "gave the private key to a client that can't have it sign; share_identity: false stops that"
        )
        return text

    @exportstream
    @asynccontextmanager
    async def ssh_agent(self) -> AsyncGenerator[ObjectStream[bytes], None]:
        """Open a connection to an SSH agent with the key, which signs logins and nothing else.

        Raises:
            ValueError: there is no key, or it can't be signed with.
        """
        text = await to_thread.run_sync(self._identity)
        if text is None:
            raise ValueError("no ssh_identity is configured")
        key = await to_thread.run_sync(SigningKey, text)
        ours, theirs = create_memory_stream()
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve_agent, ours, key, "jumpstarter", self.logger)
            try:
                async with ours, theirs:
                    yield theirs
            except Exception as error:  # noqa: BLE001 (raised again below, outside the group that would wrap it)
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
