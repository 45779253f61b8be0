"""`jmp create lease --wait`: a lease that is printed when it has its exporter, and withdrawn when that is given up."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

import anyio
import click
from jumpstarter.client.lease import new_lease_name
from jumpstarter.client.retry import passing, pauses
from jumpstarter.common.exceptions import ConnectionError

from .stopping import until_stopped

CREATION_TIMEOUT = 10.0
"""Seconds for which making the request is tried while the controller can't be reached, as when it restarts."""

WITHDRAWAL_TIMEOUT = 10.0
"""Seconds for which withdrawing a request is tried; one that was watched ends by itself at our controllers."""


def create_and_wait(config: Any, request: dict[str, Any], timeout: timedelta | None) -> Any:
    """Create a lease, wait for its exporter, and return what is known of it then.

    Args:
        config: of the client.
        request: arguments of `create_lease`.
        timeout: how long to wait; default from the config.

    Raises:
        LeaseError: there is no exporter for it, or not in time; the request has been withdrawn.
        SystemExit: a signal has ended the wait; the request has been withdrawn.
    """
    granted: list[Any] = []

    async def work() -> None:
        granted.append(await _create_and_wait(config, request, timeout))

    code = anyio.run(until_stopped, work)
    if code:
        sys.exit(code)
    return granted[0]


async def _create_and_wait(config: Any, request: dict[str, Any], timeout: timedelta | None) -> Any:
    # The name is known before there is the lease, so that a request whose answer never came can be repeated, and
    # withdrawn; a name that the user gave may be that of another lease.
    name, ours = request["lease_id"] or new_lease_name(), not request["lease_id"]
    try:
        name = await (_create(config, request, name) if ours else _create_once(config, request, name))
        ours = True
        return await _wait(config, name, timeout)
    except BaseException:
        if ours:
            await _withdraw(config, name)
        raise


async def _create_once(config: Any, request: dict[str, Any], name: str) -> str:
    return str((await config.create_lease(**(request | {"lease_id": name}))).name)


async def _create(config: Any, request: dict[str, Any], name: str) -> str:
    """Create a lease of a name of ours, and return the name that it has; a controller that restarts is awaited."""
    waits, deadline, repeated = pauses(), anyio.current_time() + CREATION_TIMEOUT, False
    while True:
        try:
            return await _create_once(config, request, name)
        except ConnectionError as error:
            if repeated and _exists(error):
                return name
            if not passing(error) or anyio.current_time() >= deadline:
                raise
            if not repeated:
                _tell(error)
        repeated = True
        await anyio.sleep(next(waits))


def _exists(error: ConnectionError) -> bool:
    return error.status == "ALREADY_EXISTS" or "already exists" in error.details


async def _wait(config: Any, name: str, timeout: timedelta | None) -> Any:
    """Wait for the exporter of a lease, through times in which the controller can't even be asked for the lease."""
    limit = config.leases.acquisition_timeout if timeout is None else timeout.total_seconds()
    waits, deadline, told = pauses(), anyio.current_time() + limit, False
    while True:
        try:
            return await config.wait_for_lease(name, timeout)
        except ConnectionError as error:
            left = deadline - anyio.current_time()
            if not passing(error) or left <= 0:
                raise
            if not told:
                _tell(error)
            told, timeout = True, timedelta(seconds=left)
        await anyio.sleep(next(waits))


def _tell(error: ConnectionError) -> None:
    click.echo(f"{error.message}; trying again", err=True)


async def _withdraw(config: Any, name: str) -> None:
    waits = pauses()
    with anyio.move_on_after(WITHDRAWAL_TIMEOUT, shield=True):
        while True:
            try:
                await config.delete_lease(name=name)
                return
            except ConnectionError as error:
                if not passing(error):
                    return  # it was never made, or has ended
            await anyio.sleep(next(waits))
