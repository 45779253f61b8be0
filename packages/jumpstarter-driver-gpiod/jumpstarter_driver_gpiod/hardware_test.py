"""GPIO lines of two USB adapters as Linux sees them: one without edge events, and one with them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner
from jumpstarter.client.core import DriverError, DriverInvalidArgument, DriverMethodNotImplemented
from jumpstarter.common.utils import serve
from jumpstarter_driver_power.client import PowerClient
from jumpstarter_driver_power.common import PowerNotConfirmed
from jumpstarter_testbench.cp2112 import Cp2112
from jumpstarter_testbench.viperboard import Viperboard

from jumpstarter_driver_gpiod import waits
from jumpstarter_driver_gpiod.client import DigitalInputClient, DigitalOutputClient, PinState
from jumpstarter_driver_gpiod.driver import DigitalInput, DigitalOutput, PowerSwitch
from jumpstarter_driver_gpiod.lines import GpioError, Line

pytestmark = pytest.mark.lab_guest

BOUND = 60
"""Seconds that anything may take in a guest on a busy machine."""

QUIET = 0.3
"""Seconds after which an edge has been reported for sure."""


@pytest.fixture(scope="module")
def shared_viperboard() -> Iterator[Viperboard]:
    """One board for all tests, as making one takes a second."""
    with Viperboard() as board:
        yield board


@pytest.fixture(scope="module")
def shared_cp2112() -> Iterator[Cp2112]:
    """One adapter for all tests."""
    with Cp2112() as adapter:
        yield adapter


@pytest.fixture
def viperboard(shared_viperboard: Viperboard) -> Viperboard:
    """Lines without edge events; all pins low."""
    for line in range(16):
        shared_viperboard.drive(line, False)
    return shared_viperboard


@pytest.fixture
def cp2112(shared_cp2112: Cp2112) -> Cp2112:
    """Lines with edge events, which are read at the pin; all pins open."""
    for line in range(8):
        shared_cp2112.drive(line, None)
    return shared_cp2112


@pytest.fixture(params=["viperboard", "cp2112"])
def adapter(request: pytest.FixtureRequest) -> Any:
    """Both kinds of adapters."""
    return request.getfixturevalue(request.param)


@dataclass(frozen=True)
class Input:
    """An input, and what is at its pin."""

    driver: DigitalInput
    drive: Callable[[bool], None]


@pytest.fixture(scope="module")
def inputs(shared_viperboard: Viperboard, shared_cp2112: Cp2112) -> Iterator[dict[str, Input]]:
    """An input without events, and one with them.

    All tests share that one, as it can't be released at any time, see `Cp2112.rest`.
    """
    polled = DigitalInput(device=shared_viperboard.chip(), line=1)
    evented = DigitalInput(device=shared_cp2112.chip(), line=1)
    yield {
        "polled": Input(polled, lambda high: shared_viperboard.drive(1, high)),
        "events": Input(evented, lambda high: shared_cp2112.drive(1, high)),
    }
    polled.close()
    time.sleep(QUIET)
    if evented._gpio._has_edges:
        shared_cp2112.rest()
    evented.close()


@pytest.fixture(params=["polled", "events"])
def pin(request: pytest.FixtureRequest, inputs: dict[str, Input]) -> Input:
    """Both kinds of inputs, low to begin with."""
    pin = inputs[request.param]
    pin.drive(False)
    return pin


class Closing:
    """Drivers that are closed in the end."""

    def __init__(self) -> None:
        self.drivers: list[Any] = []

    def __call__(self, driver: Any) -> Any:
        self.drivers.append(driver)
        return driver


@pytest.fixture
def closing() -> Iterator[Closing]:
    """Close what it is called with."""
    closing = Closing()
    yield closing
    for driver in closing.drivers:
        driver.close()


def claimed_by(chip: str, line: int) -> str:
    import gpiod

    with gpiod.Chip(chip) as opened:
        return opened.get_line_info(line).consumer or ""


def test_output_is_switched_and_read(adapter: Any) -> None:
    with serve(DigitalOutput(device=adapter.chip(), line=3)) as client:
        assert isinstance(client, DigitalOutputClient)
        assert adapter.level(3) is False
        client.on()
        assert (adapter.level(3), client.read()) == (True, PinState.ACTIVE)
        client.off()
        assert (adapter.level(3), client.read()) == (False, PinState.INACTIVE)
        client.on()
        client.cycle(0)
        assert adapter.level(3) is True


def test_output_that_is_active_low_is_inactive_when_high(cp2112: Cp2112, closing: Closing) -> None:
    output = closing(DigitalOutput(device=cp2112.chip(), line=2, active_low=True))

    assert (cp2112.level(2), int(output.read_pin())) == (True, 0)


@pytest.mark.parametrize(("initial", "level"), [("active", True), (False, False)])
def test_initial_value_is_set_when_the_session_starts(
    viperboard: Viperboard, closing: Closing, initial: Any, level: bool
) -> None:
    closing(DigitalOutput(device=viperboard.chip(), line=5, initial_value=initial))

    assert viperboard.level(5) is level


async def test_output_can_be_left_as_it_is(cp2112: Cp2112, closing: Closing) -> None:
    first = PowerSwitch(device=cp2112.chip(), line=1)
    await first.on()
    first.close()

    second = closing(PowerSwitch(device=cp2112.chip(), line=1, initial_value="as_is"))

    assert (cp2112.level(1), await second.status()) == (True, "on")


def test_power_switch_is_a_power_driver(viperboard: Viperboard) -> None:
    with serve(PowerSwitch(device=viperboard.chip(), line=7, mode="whatever")) as client:
        assert isinstance(client, PowerClient)
        client.on()
        assert (viperboard.level(7), client.status()) == (True, "on")
        client.cycle(0)
        assert [level for _, line, level in viperboard.history if line == 7][-2:] == [False, True]
        with pytest.raises(DriverMethodNotImplemented, match="neither volts nor amperes"):
            list(client.read())


async def test_line_that_somebody_else_holds_is_not_confirmed(
    cp2112: Cp2112, closing: Closing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PowerSwitch.confirm, "__defaults__", (0.1,))
    power = closing(PowerSwitch(device=cp2112.chip(), line=4))
    cp2112.drive(4, False)

    with pytest.raises(PowerNotConfirmed, match="was switched on, but reports off"):
        await power.on()


async def test_open_drain_lets_go_of_the_line(cp2112: Cp2112, closing: Closing) -> None:
    output = closing(DigitalOutput(device=cp2112.chip(), line=6, drive="open_drain", active_low=True))
    assert cp2112.level(6) is None  # inactive: others make the level

    await output.on()
    assert cp2112.level(6) is False

    await output.off()
    assert cp2112.level(6) is None


def test_commands_switch_and_print(viperboard: Viperboard) -> None:
    with serve(DigitalOutput(device=viperboard.chip(), line=3)) as client:
        run = CliRunner().invoke
        assert run(client.cli(), ["on"]).exit_code == 0
        assert run(client.cli(), ["read"]).output == "active\n"
        assert run(client.cli(), ["cycle", "--wait", "0"]).exit_code == 0
        assert run(client.cli(), ["off"]).exit_code == 0
        assert run(client.cli(), ["read"]).output == "inactive\n"


def test_input_is_read_and_waited_for(viperboard: Viperboard) -> None:
    with serve(DigitalInput(device=viperboard.chip(), line=0)) as client:
        assert isinstance(client, DigitalInputClient)
        assert client.read() is PinState.INACTIVE
        client.wait_for_inactive(timeout=BOUND)
        with pytest.raises(DriverError, match=r"line 0 of /dev/gpiochip\d+ did not become active within 0\.2 s"):
            client.wait_for_active(timeout=0.2)
        viperboard.drive(0, True)
        client.wait_for_active(timeout=BOUND)
        assert client.read() is PinState.ACTIVE
        with pytest.raises(DriverError, match=r"had no falling edge within 0\.2 s"):
            client.wait_for_edge("falling", timeout=0.2)
        with pytest.raises(DriverInvalidArgument, match="edge must be rising or falling, not 'up'"):
            client.wait_for_edge("up", timeout=0.2)


async def test_levels_are_waited_for(pin: Input) -> None:
    await pin.driver.wait_for_inactive(0)
    with pytest.raises(TimeoutError, match=r"did not become active within 0\.1 s"):
        await pin.driver.wait_for_active(0.1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pin.driver.wait_for_active, BOUND)
        pin.drive(True)


async def driven_until(done: anyio.Event, pin: Input) -> None:
    """Make edges again and again, as it can't be seen from outside whether somebody waits already."""
    while not done.is_set():
        pin.drive(True)
        await anyio.sleep(0.15)
        pin.drive(False)
        await anyio.sleep(0.15)


@pytest.mark.parametrize("edge", ["rising", "falling"])
async def test_edges_are_waited_for_by_several_at_once(pin: Input, edge: str) -> None:
    done = anyio.Event()

    async def wait_for_both() -> None:
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(pin.driver.wait_for_edge, edge, BOUND)
            waiting.start_soon(pin.driver.wait_for_edge, edge, BOUND)
        done.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_for_both)
        tasks.start_soon(driven_until, done, pin)


async def test_edges_from_before_do_not_count(pin: Input) -> None:
    with pytest.raises(TimeoutError):
        await pin.driver.wait_for_active(0.1)
    pin.drive(True)
    await pin.driver.wait_for_active(BOUND)
    await anyio.sleep(QUIET)

    with pytest.raises(TimeoutError, match=r"had no rising edge within 0\.2 s"):
        await pin.driver.wait_for_edge("rising", 0.2)


async def test_a_cancelled_wait_leaves_nothing_behind(pin: Input) -> None:
    await pin.driver.wait_for_inactive(BOUND)
    threads = threading.active_count()
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(30):
        with anyio.move_on_after(0.02):
            await pin.driver.wait_for_active()

    assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert threading.active_count() <= threads + 2  # worker threads of the loop, which are used again
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pin.driver.wait_for_active, BOUND)
        pin.drive(True)


async def test_waits_hold_no_worker_threads(pin: Input) -> None:
    limit = anyio.to_thread.current_default_thread_limiter().total_tokens
    async with anyio.create_task_group() as tasks:
        for _ in range(int(limit) + 10):
            tasks.start_soon(pin.driver.wait_for_active, BOUND)
        # Were the threads used up, this would wait for its turn until the end of the waits.
        with anyio.fail_after(BOUND / 2):
            await anyio.to_thread.run_sync(pin.driver.read_pin)
        pin.drive(True)


async def test_active_low_turns_levels_around(viperboard: Viperboard, closing: Closing) -> None:
    pin = closing(DigitalInput(device=viperboard.chip(), line=2, active_low=True))
    assert int(pin.read_pin()) == 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pin.wait_for_inactive, BOUND)
        viperboard.drive(2, True)


async def test_line_without_events_is_looked_at_and_that_is_told_once(
    viperboard: Viperboard, closing: Closing, caplog: pytest.LogCaptureFixture
) -> None:
    pin = closing(DigitalInput(device=viperboard.chip(), line=4))

    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await pin.wait_for_active(0.05)

    assert [r.message for r in caplog.records if "no edge events" in r.message] == [
        f"line 4 of {viperboard.chip()} has no edge events; looking at it every 0.01 s instead, so shorter pulses are "
        "missed"
    ]


async def test_wait_ends_with_an_error_when_the_session_ends(adapter: Any) -> None:
    pin = DigitalInput(device=adapter.chip(), line=6)

    async def wait() -> None:
        with pytest.raises(GpioError, match="was released"):
            await pin.wait_for_active(BOUND)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.sleep(QUIET)
        if isinstance(adapter, Cp2112):
            await anyio.to_thread.run_sync(adapter.rest)
        pin.close()
    assert claimed_by(adapter.chip(), 6) == ""


def test_closed_lines_are_free_for_others(viperboard: Viperboard) -> None:
    with serve(PowerSwitch(device=viperboard.chip(), line=2)) as client:
        client.on()
        assert claimed_by(viperboard.chip(), 2) == "jumpstarter"
        with pytest.raises(GpioError, match=r"line 2 of .* is in use by 'jumpstarter'\. End that"):
            DigitalInput(device=viperboard.chip(), line=2)

    assert claimed_by(viperboard.chip(), 2) == ""


def test_lines_of_a_process_that_is_killed_are_free_for_others(viperboard: Viperboard) -> None:
    program = (
        "import sys, time; from jumpstarter_driver_gpiod.lines import Line\n"
        "line = Line(sys.argv[1], 5); line.claim_output(True)\n"
        "print('claimed', flush=True); time.sleep(600)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, viperboard.chip()], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"claimed\n"
        assert claimed_by(viperboard.chip(), 5) == "jumpstarter"
    finally:
        child.kill()
        child.communicate(timeout=BOUND)

    assert claimed_by(viperboard.chip(), 5) == ""


def test_wait_of_a_client_that_has_gone_ends_on_the_exporter(
    viperboard: Viperboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = DigitalInput(device=viperboard.chip(), line=5)
    looks = threading.Semaphore(0)
    get = driver._gpio.get
    monkeypatch.setattr(driver._gpio, "get", lambda: (looks.release(), get())[1])

    with serve(driver) as client:

        async def go_away_in_the_middle() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.call_async, "wait_for_active")
                await anyio.to_thread.run_sync(looks.acquire)
                tasks.cancel_scope.cancel()

        client.portal.call(go_away_in_the_middle)
        deadline = time.monotonic() + BOUND
        while looks.acquire(timeout=10 * driver.poll_interval + QUIET):  # nobody looks any more
            assert time.monotonic() < deadline
        assert client.read() is PinState.INACTIVE


async def test_unplugged_adapter_is_an_error_and_lines_work_again_when_it_is_back(
    tmp_path: Path, closing: Closing
) -> None:
    # The number of a chip may be another one each time, which is why udev rules make links.
    link = tmp_path / "gpio"
    with Viperboard() as adapter:
        link.symlink_to(adapter.chip())
        output = closing(PowerSwitch(device=str(link), line=3))
        pin = closing(DigitalInput(device=str(link), line=1))
        await output.on()

        async def pull_the_cable() -> None:
            await anyio.sleep(QUIET)
            await anyio.to_thread.run_sync(adapter.unplug)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pull_the_cable)
            with pytest.raises(GpioError, match=r"^line 1 of .* is gone .*: its adapter was unplugged\. Plug it in"):
                await pin.wait_for_active(BOUND)
        with pytest.raises(GpioError, match="its adapter was unplugged"):
            await output.off()
        with pytest.raises(GpioError, match="there is no such chip"):
            await output.off()
        adapter.plug()
        link.unlink()
        link.symlink_to(adapter.chip())

        assert await output.status() == "off"
        assert adapter.level(3) is None  # looking at it has switched nothing
        await output.on()
        assert adapter.level(3) is True
        adapter.drive(1, True)
        await pin.wait_for_active(BOUND)


def test_chips_are_found_by_name_number_and_label(viperboard: Viperboard, cp2112: Cp2112) -> None:
    name = cp2112.chip().removeprefix("/dev/")
    for device in (name, int(name.removeprefix("gpiochip")), "cp2112_gpio"):
        line = Line(device, 0)
        line.claim_input()
        assert line.get() is False
        line.close()
    with pytest.raises(GpioError, match=r"there is no GPIO chip 'sunxi'; there are: .*\(cp2112_gpio\)"):
        Line("sunxi", 0).claim_input()


def test_line_that_the_chip_lacks_is_told(cp2112: Cp2112) -> None:
    with pytest.raises(GpioError, match="has no line 8: it has lines 0 to 7"):
        DigitalInput(device=cp2112.chip(), line=8)
    with pytest.raises(GpioError, match="has no line called 'RESET'"):
        DigitalInput(device=cp2112.chip(), line="RESET")


def test_waits_are_commands(viperboard: Viperboard) -> None:
    with serve(DigitalInput(device=viperboard.chip(), line=8)) as client:
        run = CliRunner().invoke
        assert run(client.cli(), ["wait-for-inactive", "-t", str(BOUND)]).exit_code == 0
        assert run(client.cli(), ["read"]).output == "inactive\n"
        assert run(client.cli(), ["wait-for-active", "-t", "0.1"]).exit_code == 1
        assert run(client.cli(), ["wait-for-edge", "sideways"]).exit_code == 2
        assert run(client.cli(), ["wait-for-edge", "rising", "-t", "0.1"]).exit_code == 1


async def test_a_wait_notices_a_level_even_if_its_event_is_lost(
    inputs: dict[str, Input], monkeypatch: pytest.MonkeyPatch
) -> None:
    pin = inputs["events"]
    pin.drive(False)
    await pin.driver.wait_for_inactive(BOUND)
    monkeypatch.setattr(waits, "CHECK_INTERVAL", 0.05)
    monkeypatch.setattr(Line, "edges", lambda line: [])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pin.driver.wait_for_active, BOUND)
        await anyio.sleep(0.2)
        pin.drive(True)
