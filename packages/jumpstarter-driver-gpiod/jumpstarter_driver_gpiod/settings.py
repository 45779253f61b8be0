"""The configuration of a GPIO line: checked when it is read, and turned into what libgpiod takes."""

from __future__ import annotations

from math import isfinite
from typing import Any, Final

from jumpstarter.common.exceptions import ConfigurationError

DRIVES: Final = ("push_pull", "open_drain", "open_source")
BIASES: Final = ("as_is", "pull_up", "pull_down", "disabled")
AS_IS: Final = "as_is"
_INITIAL: Final[dict[str, bool | None]] = {
    "inactive": False,
    "active": True,
    "off": False,
    "on": True,
    AS_IS: None,
}


def check_place(driver: str, device: Any, line: Any) -> None:
    """Check where a line is.

    Raises:
        ConfigurationError: `device` is no text or number, or `line` neither a number from 0 nor a name.
    """
    if isinstance(device, bool) or not isinstance(device, str | int) or device == "":
        raise ConfigurationError(f"{driver}: device must be a path such as /dev/gpiochip0, not {device!r}")
    if isinstance(line, str) and line and not line.isdigit():
        return
    if isinstance(line, bool) or not isinstance(line, int) or line < 0:
        raise ConfigurationError(
            f"{driver}: line must be a number from 0, or the name that 'gpioinfo' shows, not {line!r}"
        )


def check_choice(driver: str, name: str, value: Any, known: tuple[str, ...]) -> None:
    """Raises: ConfigurationError: a value is given that isn't one of those known."""
    if value is not None and value not in known:
        raise ConfigurationError(f"{driver}: {name} must be one of {', '.join(known)}, not {value!r}")


def check_flag(driver: str, name: str, value: Any) -> None:
    """Raises: ConfigurationError: a value is neither true nor false."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{driver}: {name} must be true or false, not {value!r}")


def check_seconds(driver: str, name: str, value: Any, lowest: float, highest: float) -> None:
    """Raises: ConfigurationError: a value is no number of seconds within the limits."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not lowest <= value <= highest:
        raise ConfigurationError(f"{driver}: {name} must be {lowest:g} to {highest:g} seconds, not {value!r}")


def initial_state(driver: str, value: Any) -> bool | None:
    """Return the state that an output gets when a session starts; None when it is to be left as it is.

    Raises:
        ConfigurationError: there is no such state.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _INITIAL:
        return _INITIAL[value.lower()]
    raise ConfigurationError(f"{driver}: initial_value must be one of {', '.join(_INITIAL)}, not {value!r}")


def check_timeout(timeout: Any, default: float) -> float:
    """Return how many seconds to wait.

    Raises:
        ValueError: that is no number, negative or without end.
    """
    if timeout is None:
        return default
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not isfinite(timeout) or timeout < 0:
        raise ValueError(f"timeout must be a number of seconds, 0 or more, not {timeout!r}")
    return float(timeout)
