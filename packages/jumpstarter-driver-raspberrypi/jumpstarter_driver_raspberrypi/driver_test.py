"""Pins by gpiozero's own pins in memory; for real GPIO lines see hardware_test.py."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner
from gpiozero import Device
from gpiozero.pins.mock import MockFactory, MockPin
from jumpstarter.client.core import DriverError, DriverInvalidArgument, DriverMethodNotImplemented
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.common.utils import serve
from jumpstarter_driver_power.client import PowerClient
from jumpstarter_driver_power.common import PowerNotConfirmed
from jumpstarter_testbench import readme

from jumpstarter_driver_raspberrypi import pins
from jumpstarter_driver_raspberrypi.client import DigitalInputClient, DigitalOutputClient, PinState
from jumpstarter_driver_raspberrypi.driver import DigitalInput, DigitalOutput
from jumpstarter_driver_raspberrypi.pins import PinError

BOUND = 30


@pytest.fixture
def factory() -> Iterator[MockFactory]:
    """Pins in memory."""
    Device.pin_factory = MockFactory()
    try:
        yield Device.pin_factory
    finally:
        Device.pin_factory.close()
        Device.pin_factory = None


async def waiting(driver: DigitalInput, number: int) -> None:
    """Return when so many wait."""
    with anyio.fail_after(BOUND):
        while len(driver._waits._waiters) < number:  # noqa: ASYNC110 (they tell nobody)
            await anyio.sleep(0.01)


def test_output_is_an_input_until_it_is_switched(factory: MockFactory) -> None:
    pin = factory.pin(1)
    output = DigitalOutput(pin=1)
    assert (pin.function, pin.pull) == ("input", "floating")

    with serve(output) as client:
        assert isinstance(client, DigitalOutputClient)
        assert isinstance(client, PowerClient)
        assert client.status() == "unknown"
        client.off()
        assert (pin.function, client.status()) == ("output", "off")
        client.on()
        assert (client.status(), client.read_pin()) == ("on", PinState.ACTIVE)
        client.off()
        client.cycle(0)

    pin.assert_states([False, True, False, True])


def test_output_may_be_active_when_low_and_set_from_the_beginning(factory: MockFactory) -> None:
    output = DigitalOutput(pin="GPIO4", active_high=False, initial_value=False)

    assert (factory.pin(4).state, int(output.read_pin())) == (True, 0)
    output.close()


async def test_pin_that_does_not_follow_is_an_error(factory: MockFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DigitalOutput.confirm, "__defaults__", (0.1,))
    output = DigitalOutput(pin=1)
    await output.off()
    monkeypatch.setattr(type(factory.pin(1)), "_get_state", lambda pin: False)

    with pytest.raises(PowerNotConfirmed, match="was switched on, but reports off"):
        await output.on()
    output.close()


def test_output_measures_nothing(factory: MockFactory) -> None:
    with serve(DigitalOutput(pin=1)) as client, pytest.raises(DriverMethodNotImplemented, match="neither volts"):
        list(client.read())


def test_input_is_waited_for_and_read(factory: MockFactory) -> None:
    driver = DigitalInput(pin=4)
    with serve(driver) as client, ThreadPoolExecutor() as pool:
        assert isinstance(client, DigitalInputClient)
        active = pool.submit(client.wait_for_active)
        driver.device.pin.drive_high()
        active.result(BOUND)
        assert client.read_pin() is PinState.ACTIVE

        inactive = pool.submit(client.wait_for_inactive, BOUND)
        driver.device.pin.drive_low()
        inactive.result(BOUND)
        assert client.read_pin() is PinState.INACTIVE


async def test_pulse_that_is_over_at_once_is_noticed(factory: MockFactory) -> None:
    driver = DigitalInput(pin=4)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(driver.wait_for_active, BOUND)
        await waiting(driver, 1)
        factory.pin(4).drive_high()
        factory.pin(4).drive_low()
    driver.close()


async def test_pin_without_events_is_looked_at(
    factory: MockFactory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(pin: Any, value: str) -> None:
        raise OSError("no interrupts")

    factory.pin(4)
    monkeypatch.setattr(MockPin, "_set_edges", refuse)
    driver = DigitalInput(pin=4)
    assert "pin 4 can't tell of changes (no interrupts); looking at it every 0.01 s" in caplog.text

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(driver.wait_for_active, BOUND)
        await waiting(driver, 1)
        factory.pin(4).drive_high()
    driver.close()


def test_end_of_the_time_is_an_error(factory: MockFactory) -> None:
    with serve(DigitalInput(pin=4)) as client:
        with pytest.raises(DriverError, match=r"pin 4 did not become active within 0\.05 s"):
            client.wait_for_active(0.05)
        client.wait_for_inactive(0)
        for bad in (-1, "soon"):
            with pytest.raises(DriverInvalidArgument, match="timeout must be a number of seconds"):
                client.wait_for_active(bad)


async def test_cancelled_waits_leave_nothing_behind(factory: MockFactory) -> None:
    driver = DigitalInput(pin=4)
    for _ in range(20):
        with anyio.move_on_after(0.005):
            await driver.wait_for_active()

    assert not driver._waits._waiters
    driver.close()


async def test_waits_hold_no_worker_threads(factory: MockFactory) -> None:
    driver = DigitalInput(pin=4)
    limit = int(anyio.to_thread.current_default_thread_limiter().total_tokens)
    async with anyio.create_task_group() as tasks:
        for _ in range(limit + 10):
            tasks.start_soon(driver.wait_for_active, BOUND)
        await waiting(driver, limit + 10)
        with anyio.fail_after(BOUND):
            assert await anyio.to_thread.run_sync(driver.read_pin) == 0
        factory.pin(4).drive_high()
    driver.close()


async def test_waits_end_with_an_error_when_the_session_ends(factory: MockFactory) -> None:
    driver = DigitalInput(pin=4)

    async def wait() -> None:
        with pytest.raises(PinError, match="was released"):
            await driver.wait_for_active(BOUND)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await waiting(driver, 1)
        driver.close()


@pytest.mark.parametrize("kind", [DigitalInput, DigitalOutput])
def test_pin_is_free_again_after_each_session(factory: MockFactory, kind: Any) -> None:
    for _ in range(3):
        driver = kind(pin=4)
        with pytest.raises(PinError, match="pin 4 is in use by another driver of this exporter"):
            kind(pin=4)
        driver.close()
        driver.close()


def test_factory_of_somebody_else_is_left_open(factory: MockFactory) -> None:
    DigitalOutput(pin=4).close()

    assert Device.pin_factory is factory


def test_factory_that_was_made_for_the_drivers_is_closed_with_the_last_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPIOZERO_PIN_FACTORY", "mock")
    first, second = DigitalOutput(pin=4), DigitalInput(pin=5)
    assert Device.pin_factory is not None

    first.close()
    assert Device.pin_factory is not None
    second.close()
    assert Device.pin_factory is None

    with serve(DigitalOutput(pin=4)) as client:
        client.on()
        assert client.status() == "on"
    assert Device.pin_factory is None


def test_missing_pin_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPIOZERO_PIN_FACTORY", "no-such-library")

    with pytest.raises(PinError, match=r"pin 4 can't be used: .* Install a pin library .* GPIOZERO_PIN_FACTORY"):
        DigitalOutput(pin=4)
    assert pins._users == 0


@pytest.mark.parametrize("pin", ["GPIO99", "BOARD1", 77, "nonsense"])
def test_pin_that_does_not_exist_is_told(factory: MockFactory, pin: int | str) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no pin .*: .* Write it like 17, GPIO17, BOARD11"):
        DigitalInput(pin=pin)


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        (DigitalInput, {"pin": ""}, "pin must be a number or a name"),
        (DigitalOutput, {"pin": True}, "pin must be a number or a name"),
        (DigitalOutput, {"pin": 4, "active_high": "yes"}, "active_high must be one of true, false"),
        (DigitalOutput, {"pin": 4, "initial_value": "on"}, "initial_value must be one of true, false, null"),
        (DigitalInput, {"pin": 4, "pull_up": "up"}, "pull_up must be one of true, false, null"),
        (DigitalInput, {"pin": 4, "pull_up": True, "active_state": True}, "active at its other level"),
        (DigitalInput, {"pin": 4, "bounce_time": -1}, "bounce_time must be 0 to 60 seconds"),
        (DigitalInput, {"pin": 4, "poll_interval": 0}, r"poll_interval must be 0\.001 to 60 seconds"),
    ],
)
def test_bad_config_is_refused_before_a_pin_is_touched(kind: Any, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        kind(**config)
    assert Device.pin_factory is None


def test_pull_and_active_state_are_taken_over(factory: MockFactory) -> None:
    with_resistor = DigitalInput(pin=4, pull_up=True)
    without = DigitalInput(pin=5, pull_up=None, active_state=False)

    assert (factory.pin(4).pull, int(with_resistor.read_pin())) == ("up", 0)
    assert (factory.pin(5).pull, int(without.read_pin())) == ("floating", 1)
    with_resistor.close()
    without.close()


def test_commands_of_pins(factory: MockFactory) -> None:
    run = CliRunner().invoke
    with serve(DigitalOutput(pin=4)) as client:
        assert run(client.cli(), ["on"]).exit_code == 0
        assert run(client.cli(), ["read-pin"]).output == "active\n"
        assert run(client.cli(), ["status"]).output == "on\n"
    with serve(DigitalInput(pin=4)) as client:
        assert run(client.cli(), ["read"]).output == "inactive\n"
        assert run(client.cli(), ["wait-for-inactive", "--timeout", "5"]).exit_code == 0
        assert run(client.cli(), ["wait-for-active", "-t", "0"]).exit_code == 1


def test_pins_of_an_exporter_process_are_chosen_by_the_environment(tmp_path: Path) -> None:
    program = (
        "from jumpstarter.common.utils import serve\n"
        "from jumpstarter_driver_raspberrypi.driver import DigitalOutput\n"
        "with serve(DigitalOutput(pin='GPIO17')) as client:\n"
        "    client.on(); print(client.status())\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"GPIOZERO_PIN_FACTORY": "mock", "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=BOUND,
    )

    assert (done.returncode, done.stdout) == (0, "on\n"), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_threads_switch_one_output_safely(factory: MockFactory) -> None:
    output = DigitalOutput(pin=4)
    threads = [threading.Thread(target=output._set, args=[number % 2 == 0]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)

    assert factory.pin(4).function == "output"
    assert pins._users == 1
    output.close()


def test_configs_of_the_readme_make_their_drivers(factory: MockFactory) -> None:
    drivers = {name: instance.instantiate() for name, instance in readme.exports(__file__).items()}

    assert {name: type(driver) for name, driver in drivers.items()} == {"power": DigitalOutput, "led": DigitalInput}
    for driver in drivers.values():
        driver.close()
