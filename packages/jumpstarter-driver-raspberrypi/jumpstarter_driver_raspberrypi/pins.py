"""Making gpiozero devices, with errors that say what to do, and giving their pins back when the last one is closed."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.common.owned_directory import OwnedDirectory

D = TypeVar("D")

_lock = threading.Lock()
_users = 0
_own_factory: Any = None
"""The pin factory that gpiozero made for a device of ours; one that was there before belongs to somebody else."""


class PinError(OSError):
    """A pin can't be used; the message says why and what to do."""


def open_device(pin: int | str, make: Callable[[], D], instead_of: Any = None) -> D:
    """Return what `make` returns, a gpiozero device on `pin`; `close_device` is for its end.

    Args:
        pin: what messages call the pin.
        make: opens the device.
        instead_of: an open device on the same pin that is closed first.

    Raises:
        ConfigurationError: there is no such pin.
        PinError: the pin is in use, or there is no library for the pins.
    """
    global _users, _own_factory
    from gpiozero import Device

    with _lock:
        _choose_work_directory()
        had_factory = Device.pin_factory is not None
        _users += 1
        try:
            if instead_of is not None:
                _close(instead_of)
            with explained(pin):
                return make()
        except BaseException:
            _users -= 1
            raise
        finally:
            if not had_factory and Device.pin_factory is not None:
                _own_factory = Device.pin_factory
            _forget_unused()


def close_device(device: Any) -> None:
    """Close a device. With the last one the pins are given back to the system, for other programs."""
    with _lock:
        _close(device)
        _forget_unused()


def _close(device: Any) -> None:
    global _users
    if not device.closed:
        try:
            device.close()
        finally:
            _users -= 1


@contextmanager
def explained(pin: int | str) -> Generator[None, None, None]:
    """Say what failed, why, and what to do.

    Raises:
        ConfigurationError: there is no such pin, or it can't do that.
        PinError: anything else; pin libraries have errors of their own.
    """
    from gpiozero import exc

    try:
        yield
    except PinError:
        raise
    except exc.BadPinFactory as error:
        raise PinError(
            f"pin {pin!r} can't be used: {error} Install a pin library for this Python "
            "('pip install jumpstarter-driver-raspberrypi[lgpio]'), or name one in GPIOZERO_PIN_FACTORY "
            "(lgpio, rpigpio, pigpio, mock)"
        ) from error
    except exc.PinInvalidPin as error:
        raise ConfigurationError(
            f"there is no pin {pin!r}: {error}. Write it like 17, GPIO17, BOARD11 or J8:11 ('pinout' shows them)"
        ) from error
    except exc.GPIOPinInUse as error:
        raise PinError(f"pin {pin!r} is in use by another driver of this exporter: {error}") from error
    except (exc.PinFixedPull, exc.PinInvalidPull) as error:
        raise ConfigurationError(f"pin {pin!r} can't have that pull: {error}. Choose another pull_up") from error
    except Exception as error:
        raise PinError(
            f"pin {pin!r} can't be used: {type(error).__name__}: {error}. Check that the exporter's user may use the "
            "GPIO chip (group gpio) and that no other program has the pin ('gpioinfo')"
        ) from error


def _forget_unused() -> None:
    """Close the factory that gpiozero made for us when nobody uses it any more; lines stay claimed until then."""
    global _own_factory
    from gpiozero import Device

    if _users or _own_factory is None:
        return
    factory, _own_factory = _own_factory, None
    if Device.pin_factory is factory:
        Device.pin_factory = None
    factory.close()


def _choose_work_directory() -> None:
    """Give lgpio a private directory for its pipes, which it would leave in the current one, or fail to make there."""
    if "LG_WD" not in os.environ:
        directory = OwnedDirectory("jumpstarter-lgpio-")
        atexit.register(directory.close)
        os.environ["LG_WD"] = str(directory.path)
