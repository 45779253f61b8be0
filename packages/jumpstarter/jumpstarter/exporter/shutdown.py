"""The state that devices are left in at the end of a session, as the exporter config asks for."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

import anyio
from anyio import CancelScope, to_thread

from jumpstarter.driver.dispatch import details_of

if TYPE_CHECKING:
    from jumpstarter.driver import Driver

    from .session import Session

__all__ = ["Shutdown", "settle"]

logger = logging.getLogger(__name__)

SETTLE_TIMEOUT = 60.0
"""Seconds that switching off or resetting all drivers may take together."""


class Shutdown(StrEnum):
    """What happens to the devices when a session is over, before the drivers are closed."""

    LEAVE = "leave"
    """Nothing."""
    OFF = "off"
    """Every driver that switches power switches it off."""
    RESET = "reset"
    """Every driver is reset, as at the beginning of a session."""


async def settle(session: Session, shutdown: Shutdown) -> None:
    """Bring the devices of a session into the state that they are to be left in, also when cancelled.

    What fails or takes longer than SETTLE_TIMEOUT is logged, and drivers are switched off independently of each other:
    they all must be closed in any case.
    """
    with CancelScope(shield=True):
        if shutdown is Shutdown.RESET:
            root = session.root_device
            await _attempt(root, "reset", partial(to_thread.run_sync, root.reset, abandon_on_cancel=True))
        if shutdown is Shutdown.OFF:
            async with anyio.create_task_group() as tasks:
                for driver in session.mapping.values():
                    tasks.start_soon(_attempt, driver, "switched off", driver.switch_off)


async def _attempt(driver: Driver, what: str, action: Callable[[], Awaitable[None]]) -> None:
    failure: Exception
    try:
        with anyio.move_on_after(SETTLE_TIMEOUT):
            await action()
            return
        failure = TimeoutError(f"it did not end within {SETTLE_TIMEOUT:g} s")
    except Exception as error:  # noqa: BLE001 (drivers of any kind)
        failure = error
    logger.error(
        "%s can't be %s at the end of the session: %s",
        type(driver).__name__,
        what,
        details_of(failure),
        exc_info=failure,
    )
