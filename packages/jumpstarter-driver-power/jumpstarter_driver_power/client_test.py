"""The power client and its commands, over a real session."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from click.testing import CliRunner
from jumpstarter.client.core import DriverError, DriverInvalidArgument, DriverMethodNotImplemented
from jumpstarter.common.utils import serve
from jumpstarter.driver import Driver, export

from jumpstarter_driver_power import driver as module
from jumpstarter_driver_power.client import PowerClient
from jumpstarter_driver_power.driver import (
    MockPower,
    PowerReading,
    PowerState,
    SyncMockPower,
    VirtualPowerInterface,
)
from jumpstarter_driver_power.driver_test import Blind, Relay


class OldPower(Driver):
    """A driver of a package that knows on and off only, written without the interface."""

    commands: list[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.commands = []

    @classmethod
    def client(cls) -> str:
        return "jumpstarter_driver_power.client.PowerClient"

    @export
    def on(self) -> None:
        self.commands.append("on")

    @export
    def off(self) -> None:
        self.commands.append("off")


@dataclass(kw_only=True)
class Machine(VirtualPowerInterface, Driver):
    """A virtual machine, as far as its power goes."""

    commands: list[str] = field(default_factory=list)

    @export
    def on(self) -> None:
        self.commands.append("on")

    @export
    def off(self, destroy: bool = False) -> None:
        self.commands.append("destroy" if destroy else "off")

    @export
    def read(self) -> Iterator[PowerReading]:
        while True:
            yield PowerReading(voltage=1.5, current=2.0, power=2.5)


def run(client: Any, *arguments: str) -> Any:
    return CliRunner().invoke(client.cli(), arguments)


@pytest.mark.parametrize("kind", [MockPower, SyncMockPower])
def test_client_switches_reads_and_asks(kind: Any) -> None:
    power = kind()
    with serve(power) as client:
        client.on()
        assert client.status() is PowerState.ON
        client.off()
        assert client.status() is PowerState.OFF
        assert list(client.read()) == [PowerReading(voltage=0.0, current=0.0), PowerReading(voltage=5.0, current=2.0)]

    assert list(power.history) == ["on", "off"]


def test_log_of_the_exporter_reaches_the_client(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    seen = threading.Event()

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == "power on" and record.name.startswith("exporter"):
                seen.set()

    watch = Watch()
    logging.getLogger().addHandler(watch)
    try:
        with serve(MockPower()) as client, client.log_stream():
            client.on()
            assert seen.wait(5)
    finally:
        logging.getLogger().removeHandler(watch)


def test_cycle_is_one_step_of_the_exporter_and_logs_three_lines(caplog: pytest.LogCaptureFixture) -> None:
    power = MockPower()
    with serve(power) as client:
        client.cycle(0)

    assert list(power.history) == ["off", "on"]
    assert [r.message for r in caplog.records if r.name == "PowerClient"] == [
        "Power cycle: off",
        "Power cycle: on again in 0 seconds",
        "Power cycle: on",
    ]


def test_client_that_dies_in_the_pause_does_not_leave_the_device_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_OFF_SECONDS", 0.05)
    switched = {"on": threading.Event(), "off": threading.Event()}

    class Watched(MockPower):
        def _set(self, state: PowerState) -> None:
            super()._set(state)
            switched[state].set()

    power = Watched()
    with serve(power) as client:

        async def cancelled_call() -> None:
            import anyio

            async with anyio.create_task_group() as tg:
                tg.start_soon(client.call_async, "cycle", 3000)
                await anyio.to_thread.run_sync(switched["off"].wait, 5)
                tg.cancel_scope.cancel()

        client.portal.call(cancelled_call)
        assert switched["on"].wait(5)

    assert list(power.history) == ["off", "on"]


def test_cycle_works_with_drivers_that_know_only_on_and_off() -> None:
    power = OldPower()
    with serve(power) as client:
        client.cycle(0)

    assert power.commands == ["off", "on"]


def test_device_that_does_not_confirm_is_an_error_at_the_client() -> None:
    with serve(Relay(welded=True)) as client, pytest.raises(DriverError, match="switched on, but reports off"):
        client.on()


def test_bad_pause_is_refused_by_name() -> None:
    with serve(MockPower()) as client, pytest.raises(DriverInvalidArgument, match="wait must be"):
        client.cycle(-1)


@pytest.mark.parametrize("method", ["rescue", "status"])
def test_what_a_device_lacks_is_said(method: str) -> None:
    with serve(Blind()) as client, pytest.raises(DriverMethodNotImplemented, match="Blind"):
        getattr(client, method)()


def test_reading_a_device_without_a_meter_is_said() -> None:
    with serve(Blind()) as client, pytest.raises(DriverMethodNotImplemented, match="no meter"):
        list(client.read())


def test_endless_readings_end_when_the_reader_does() -> None:
    with serve(Machine()) as client:
        readings = client.read()
        assert next(readings).voltage == 1.5
        readings.close()
        client.on()


def test_commands_switch() -> None:
    power = MockPower()
    with serve(power) as client:
        assert run(client, "on").exit_code == 0
        assert run(client, "status").output == "on\n"
        assert run(client, "off").exit_code == 0
        assert run(client, "cycle", "--wait", "0").output.startswith("Power cycling with 0 seconds")

    assert list(power.history) == ["on", "off", "off", "on"]


def test_read_prints_as_many_readings_as_asked_for() -> None:
    with serve(MockPower()) as client:
        assert run(client, "read").output == "voltage=0.0 V  current=0.0 A  apparent_power=0.0 VA\n"
        assert run(client, "read", "-n", "3", "-i", "0").output.splitlines() == [
            "voltage=0.0 V  current=0.0 A  apparent_power=0.0 VA",
            "voltage=5.0 V  current=2.0 A  apparent_power=10.0 VA",
            "voltage=0.0 V  current=0.0 A  apparent_power=0.0 VA",
        ]


def test_read_prints_watts_where_the_device_measures_them() -> None:
    with serve(Machine()) as client:
        assert run(client, "read").output == "voltage=1.5 V  current=2.0 A  apparent_power=3.0 VA  power=2.5 W\n"


@pytest.mark.parametrize("command", ["rescue", "status", "read"])
def test_command_for_what_the_device_lacks_fails_in_one_line(command: str) -> None:
    with serve(Blind()) as client:
        result = run(client, command)

    assert result.exit_code == 1
    assert "this device does not offer it" in result.output
    assert "Traceback" not in result.output


def test_virtual_machine_can_be_destroyed() -> None:
    machine = Machine()
    with serve(machine) as client:
        client.off()
        client.off(destroy=True)
        run(client, "off")
        run(client, "off", "--destroy")

    assert machine.commands == ["off", "destroy", "off", "destroy"]


def test_client_class_is_the_one_of_power_drivers() -> None:
    with serve(MockPower()) as client:
        assert type(client) is PowerClient


def test_readings_are_printed_without_digits_that_mean_nothing() -> None:
    from .client import format_reading
    from .reading import PowerReading

    line = format_reading(PowerReading(voltage=230.5, current=1.2))

    assert line.startswith("voltage=230.5 V  current=1.2 A  apparent_power=276.6 VA")
