"""Configs of GPIO lines, and what is said where there is no such chip; for real lines see hardware_test.py."""

from __future__ import annotations

from typing import Any

import pytest
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter_testbench import readme

from jumpstarter_driver_gpiod.common import PinState
from jumpstarter_driver_gpiod.driver import DigitalInput, DigitalOutput, PowerSwitch
from jumpstarter_driver_gpiod.lines import GpioError
from jumpstarter_driver_gpiod.settings import check_timeout, initial_state

NOWHERE = "/dev/gpiochip-that-is-not-there"


@pytest.mark.parametrize("kind", [DigitalInput, DigitalOutput, PowerSwitch])
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"line": -1}, "line must be a number from 0, or the name"),
        ({"line": True}, "line must be a number from 0"),
        ({"line": ""}, "line must be a number from 0"),
        ({"line": 1, "device": ""}, "device must be a path"),
        ({"line": 1, "drive": "push"}, "drive must be one of push_pull, open_drain, open_source"),
        ({"line": 1, "bias": "up"}, "bias must be one of as_is, pull_up, pull_down, disabled"),
        ({"line": 1, "active_low": "no"}, "active_low must be true or false"),
    ],
)
def test_bad_config_is_refused_before_the_line_is_touched(kind: Any, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        kind(**{"device": NOWHERE, **config})


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        (DigitalOutput, {"initial_value": "high"}, "initial_value must be one of inactive, active, off, on, as_is"),
        (PowerSwitch, {"initial_value": 1.5}, "initial_value must be"),
        (DigitalInput, {"debounce": -1}, "debounce must be 0 to 60 seconds"),
        (DigitalInput, {"poll_interval": 0}, r"poll_interval must be 0\.001 to 60 seconds"),
    ],
)
def test_bad_config_of_one_kind_is_refused(kind: Any, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        kind(device=NOWHERE, line=1, **config)


@pytest.mark.parametrize(
    ("value", "state"),
    [
        ("inactive", False),
        ("active", True),
        ("off", False),
        ("ON", True),
        (True, True),
        (False, False),
        ("as_is", None),
    ],
)
def test_initial_values_have_many_names(value: str | bool, state: bool | None) -> None:
    assert initial_state("X", value) is state


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), "1", True])
def test_waits_without_an_end_are_refused(timeout: Any) -> None:
    with pytest.raises(ValueError, match="timeout must be a number of seconds"):
        check_timeout(timeout, 1)


@pytest.mark.parametrize("device", [NOWHERE, 97, "97", "gpiochip97"])
def test_chip_that_is_not_there_is_named(device: str | int) -> None:
    with pytest.raises(GpioError, match=r"there is no (such chip|GPIO chip 'gpiochip97').*plug"):
        DigitalInput(device=device, line=1)


def test_file_that_is_no_chip_is_an_error() -> None:
    with pytest.raises(GpioError, match=r"^/dev/null is no GPIO chip"):
        PowerSwitch(device="/dev/null", line=1)


def test_states_are_numbers_with_names() -> None:
    assert [int(PinState.INACTIVE), int(PinState.ACTIVE)] == [0, 1]
    assert [str(state) for state in PinState] == ["inactive", "active"]


def test_configs_of_the_readme_are_complete() -> None:
    instances = readme.exports(__file__)

    assert {name: instance.root.type.rpartition(".")[2] for name, instance in instances.items()} == {
        "power": "PowerSwitch",
        "reset": "DigitalOutput",
        "ready": "DigitalInput",
    }
    for instance in instances.values():
        # Everything is checked before the line is asked for, which isn't there.
        with pytest.raises(GpioError, match="gpiochip-that-is-not-there"):
            globals()[instance.root.type.rpartition(".")[2]](**{**instance.root.config, "device": NOWHERE})
