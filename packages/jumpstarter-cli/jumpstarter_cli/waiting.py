"""`jmp create lease --wait`: a lease that is printed when it has its exporter, and withdrawn when that is given up."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

import anyio
from jumpstarter.client.lease import new_lease_name
from jumpstarter.common.exceptions import ConnectionError

from .stopping import until_stopped

WITHDRAWAL_TIMEOUT = 10.0
"""Seconds for which withdrawing a request is tried; what remains ends by itself at our controllers."""


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
    # The name is known before there is the lease, so that a request whose answer never came can be withdrawn; a name
    # that the user gave may be that of another lease.
    name, ours = request["lease_id"] or new_lease_name(), not request["lease_id"]
    try:
        created = await config.create_lease(**(request | {"lease_id": name}))
        name, ours = created.name, True
        return await config.wait_for_lease(name, timeout)
    except BaseException:
        if ours:
            await _withdraw(config, name)
        raise


async def _withdraw(config: Any, name: str) -> None:
    with anyio.move_on_after(WITHDRAWAL_TIMEOUT, shield=True):
        try:
            await config.delete_lease(name=name)
        except ConnectionError:
            # It was never made, or has ended; or the controller is away, which ends a request that nobody watches.
            return
