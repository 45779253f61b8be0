"""Power drivers: switching, cycling in one step, confirmation by the device, and interruption."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from jumpstarter.driver import Driver, export

from jumpstarter_driver_power import driver as module
from jumpstarter_driver_power.common import PowerNotConfirmed, PowerReading, PowerState
from jumpstarter_driver_power.driver import MockPower, PowerInterface, SyncMockPower, VirtualPowerInterface

BOTH = pytest.mark.parametrize("kind", [MockPower, SyncMockPower])


@dataclass(kw_only=True)
class Relay(PowerInterface, Driver):
    """A relay with contacts that may weld, and an interface that may be out of order."""

    welded: bool = False
    broken: bool = False
    closed: bool = False
    commands: list[str] = field(default_factory=list)
    heard: anyio.Event = field(default_factory=anyio.Event, repr=False)

    def _command(self, name: str) -> None:
        if self.broken:
            raise ConnectionError("the relay board does not answer")
        self.commands.append(name)
        if not self.welded:
            self.closed = name == "on"
        self.heard.set()

    @export
    async def on(self) -> None:
        self._command("on")
        await self.confirm("on", timeout=0)

    @export
    async def off(self) -> None:
        self._command("off")
        await self.confirm("off", timeout=0)

    @export
    def read(self) -> Iterator[PowerReading]:
        yield PowerReading(voltage=12.0, current=0.5, power=5.5)

    @export
    async def status(self) -> str:
        return "on" if self.closed else "off"


@dataclass(kw_only=True)
class Blind(PowerInterface, Driver):
    """A supply that can't be asked for its state."""

    commands: list[str] = field(default_factory=list)

    @export
    def on(self) -> None:
        self.commands.append("on")

    @export
    def off(self) -> None:
        self.commands.append("off")

    @export
    def read(self) -> Iterator[PowerReading]:
        raise NotImplementedError("no meter")
        yield


@BOTH
async def test_mock_notes_and_logs_what_it_is_told(kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    power = kind()

    with caplog.at_level(logging.INFO):
        await module.call(power.on)
        await module.call(power.off)

    assert list(power.history) == ["on", "off"]
    assert [(r.levelno, r.message) for r in caplog.records] == [(logging.INFO, "power on"), (logging.INFO, "power off")]


@BOTH
async def test_mock_reports_the_state_it_was_switched_to(kind: Any) -> None:
    power = kind()
    assert await power.status() == "off"

    await module.call(power.on)

    assert await power.status() == "on"


def test_mock_remembers_a_bounded_number_of_commands() -> None:
    power = SyncMockPower()

    for _ in range(module.HISTORY_LENGTH + 5):
        power.on()

    assert len(power.history) == module.HISTORY_LENGTH


@BOTH
async def test_cycle_switches_off_and_on(kind: Any) -> None:
    power = kind()

    await power.cycle(0)

    assert list(power.history) == ["off", "on"]


@pytest.mark.parametrize("wait", [-1, -0.001, float("nan"), float("inf"), 3601, "2", None])
async def test_cycle_with_an_impossible_pause_switches_nothing(wait: Any) -> None:
    power = MockPower()

    with pytest.raises(ValueError, match="wait must be 0 to 3600 seconds"):
        await power.cycle(wait)

    assert not power.history


async def test_cycle_works_for_a_supply_that_cannot_be_asked() -> None:
    power = Blind()

    await power.cycle(0)

    assert power.commands == ["off", "on"]


async def test_switching_that_the_device_does_not_confirm_is_an_error() -> None:
    relay = Relay(closed=True, welded=True)

    with pytest.raises(PowerNotConfirmed, match="Relay was switched off, but reports on"):
        await relay.off()


async def test_cycle_of_a_supply_that_stays_on_fails_before_the_pause() -> None:
    relay = Relay(closed=True, welded=True)

    with pytest.raises(PowerNotConfirmed):
        await relay.cycle(60)

    assert relay.commands == ["off"]


async def test_confirmation_waits_for_a_device_that_takes_its_time() -> None:
    class Slow(MockPower):
        asked = 0

        @export
        async def status(self) -> str:
            self.asked += 1
            return "on" if self.asked > 2 else "off"

    power = Slow()

    await power.confirm("on", timeout=10)

    assert power.asked == 3


async def test_failure_of_the_device_reaches_the_caller_of_cycle() -> None:
    with pytest.raises(ConnectionError, match="does not answer"):
        await Relay(broken=True).cycle(0)


async def test_interrupted_cycle_switches_on_again_after_a_short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_OFF_SECONDS", 0.05)
    relay = Relay(closed=True)

    async with anyio.create_task_group() as tg:
        tg.start_soon(relay.cycle, 3000)
        with anyio.fail_after(5):
            await relay.heard.wait()
        tg.cancel_scope.cancel()

    assert relay.commands == ["off", "on"]


async def test_cycle_whose_task_is_cancelled_natively_switches_on_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_OFF_SECONDS", 0.05)
    relay = Relay(closed=True)
    task = asyncio.ensure_future(relay.cycle(3000))
    await asyncio.wait_for(relay.heard.wait(), 5)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)

    assert relay.commands == ["off", "on"]


async def test_cycle_cancelled_again_and_again_still_switches_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_OFF_SECONDS", 0.2)
    relay = Relay(closed=True)
    task = asyncio.ensure_future(relay.cycle(3000))
    await asyncio.wait_for(relay.heard.wait(), 5)

    with anyio.fail_after(5):
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0.02)

    assert relay.commands == ["off", "on"]


def test_interface_demands_on_off_and_read() -> None:
    class Half(PowerInterface, Driver):
        def on(self) -> None: ...

    with pytest.raises(TypeError, match="abstract"):
        Half()


def test_virtual_power_is_power_as_well() -> None:
    assert issubclass(VirtualPowerInterface, PowerInterface)


def test_reading_multiplies_volts_and_amperes() -> None:
    assert PowerReading(voltage=5.0, current=2.0).apparent_power == 10.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "x"])
def test_reading_refuses_what_is_no_measurement(value: Any) -> None:
    with pytest.raises(ValueError, match="voltage"):
        PowerReading(voltage=value, current=0.0)


def test_power_states_are_plain_text_on_the_wire() -> None:
    assert [str(state) for state in PowerState] == ["on", "off", "unknown"]


@BOTH
async def test_end_of_a_session_can_switch_the_supply_off(kind: type[MockPower | SyncMockPower]) -> None:
    supply = kind()
    supply._set(PowerState.ON)
    await supply.switch_off()
    assert supply.state is PowerState.OFF


async def test_switching_off_does_not_wait_for_a_device_that_hangs_when_it_is_given_up() -> None:
    answered = threading.Event()

    class Stuck(SyncMockPower):
        @export
        def off(self) -> None:
            answered.wait(30)

    try:
        with anyio.fail_after(5), anyio.move_on_after(0.1) as patience:
            await Stuck().switch_off()
        assert patience.cancelled_caught
    finally:
        answered.set()
