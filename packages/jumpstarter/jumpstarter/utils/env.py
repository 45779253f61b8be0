"""The client of the session that the environment names, as inside `jmp shell`."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jumpstarter.common.exceptions import EnvironmentVariableNotSetError
from jumpstarter.config.env import (
    JMP_EXPORTER,
    JMP_EXPORTER_LABELS,
    JMP_GRPC_INSECURE,
    JMP_GRPC_PASSPHRASE,
    JMP_LEASE,
    JUMPSTARTER_GRPC_INSECURE,
    JUMPSTARTER_HOST,
)

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

    from jumpstarter.client import DriverClient

__all__ = ["ExporterMetadata", "env", "env_async", "env_with_metadata", "env_with_metadata_async", "lazy_env"]


@dataclass(frozen=True)
class ExporterMetadata:
    """What a shell knows of the exporter that it was opened for."""

    name: str
    """Name of the exporter; empty when it isn't known."""
    labels: dict[str, str] = field(default_factory=dict)
    lease: str | None = None
    """Name of the lease; None without one."""

    @classmethod
    def from_env(cls) -> ExporterMetadata:
        """Read what `jmp shell` put into the environment; malformed labels are left out."""
        pairs = (pair.partition("=") for pair in os.environ.get(JMP_EXPORTER_LABELS, "").split(","))
        return cls(
            name=os.environ.get(JMP_EXPORTER, ""),
            labels={key.strip(): value.strip() for key, equals, value in pairs if equals and key.strip()},
            lease=os.environ.get(JMP_LEASE) or None,
        )


@asynccontextmanager
async def env_async(portal: BlockingPortal, stack: ExitStack) -> AsyncGenerator[DriverClient, None]:
    """Yield the root client of the session at `$JUMPSTARTER_HOST`.

    Args:
        portal: portal of the event loop that this runs on, for the blocking methods of the client.
        stack: holds what the client opens.

    Raises:
        EnvironmentVariableNotSetError: there is no such session; also a RuntimeError.
        ExporterUnreachableError: nothing answers there.
    """
    host = os.environ.get(JUMPSTARTER_HOST)
    if not host:
        raise EnvironmentVariableNotSetError(
            f"{JUMPSTARTER_HOST} is not set: there is no session to connect to. "
            "Run this inside 'jmp shell', or set it to the socket or host:port of an exporter."
        )
    from jumpstarter.client.client import client_from_path

    allow, unsafe = drivers_allowed()
    async with client_from_path(
        host,
        portal,
        stack,
        allow=allow,
        unsafe=unsafe,
        insecure="1" in (os.environ.get(JMP_GRPC_INSECURE), os.environ.get(JUMPSTARTER_GRPC_INSECURE)),
        passphrase=os.environ.get(JMP_GRPC_PASSPHRASE) or None,
        # The shell says whose lease it is, and only a lease is reached through a router.
        leased=bool(os.environ.get(JMP_LEASE)),
    ) as client:
        yield client


def drivers_allowed() -> tuple[list[str], bool]:
    """Return the globs of the client classes that may be imported, and whether all may be.

    The environment decides; where it says nothing, the current client config does.
    """
    from jumpstarter.config import environment

    allowed = environment.drivers_allowed()
    if allowed is not None:
        return allowed
    from jumpstarter.config.user import current_client

    client: Any = current_client()
    return (client.drivers.allow, client.drivers.unsafe) if client is not None else ([], False)


@contextmanager
def env() -> Generator[DriverClient, None, None]:
    """Yield the root client of the session at `$JUMPSTARTER_HOST`, from an event loop in a thread of its own.

    Raises:
        EnvironmentVariableNotSetError: there is no such session; also a RuntimeError.
        ExporterUnreachableError: nothing answers there.
    """
    from jumpstarter.config.serving import in_portal

    with ExitStack() as stack, in_portal(lambda portal: env_async(portal, stack)) as client:
        try:
            yield client
        finally:
            client.close()


@contextmanager
def lazy_env() -> Generator[DriverClient, None, None]:
    """Yield the root client of the session at `$JUMPSTARTER_HOST`, connecting only when a driver is used.

    That is possible where the session is on this machine and left a report of its drivers; elsewhere it is `env`.

    Raises:
        EnvironmentVariableNotSetError: there is no such session; also a RuntimeError.
        ExporterUnreachableError: nothing answers there.
    """
    from jumpstarter.client.lazy import lazy_client

    host = os.environ.get(JUMPSTARTER_HOST)
    allow, unsafe = drivers_allowed() if host else ([], False)
    with ExitStack() as stack:
        client = (
            stack.enter_context(lazy_client(host, allow, unsafe)) if host and not os.environ.get(JMP_LEASE) else None
        )
        yield client if client is not None else stack.enter_context(env())


@asynccontextmanager
async def env_with_metadata_async(
    portal: BlockingPortal, stack: ExitStack
) -> AsyncGenerator[tuple[DriverClient, ExporterMetadata], None]:
    """Yield the client of `env_async` and what is known of its exporter."""
    async with env_async(portal, stack) as client:
        yield client, ExporterMetadata.from_env()


@contextmanager
def env_with_metadata() -> Generator[tuple[DriverClient, ExporterMetadata], None, None]:
    """Yield the client of `env` and what is known of its exporter."""
    with env() as client:
        yield client, ExporterMetadata.from_env()
