"""The state that devices are left in when a session is over."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar

import anyio
import pytest
from anyio import create_task_group, fail_after

from jumpstarter.common.enums import ExporterStatus
from jumpstarter.config.exporter import ExporterConfigV1Alpha1
from jumpstarter.driver import Driver
from jumpstarter.exporter import Session
from jumpstarter.exporter import shutdown as shutdown_module
from jumpstarter.exporter.shutdown import Shutdown, settle

LIMIT = 20
BOARD = "rpi"


@dataclass(kw_only=True)
class Device(Driver):
    """Notes what is done to it, and to all others."""

    events: ClassVar[list[str]] = []
    called: str
    trouble: Exception | None = None
    hangs: bool = False
    done: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    def reset(self) -> None:
        self.events.append(f"reset {self.called}")
        if self.hangs:
            self.done.wait(LIMIT)
        if self.trouble is not None:
            raise self.trouble
        super().reset()

    async def switch_off(self) -> None:
        if self.hangs:
            await anyio.sleep_forever()
        if self.trouble is not None:
            raise self.trouble
        self.events.append(f"off {self.called}")

    def close(self) -> None:
        self.events.append(f"close {self.called}")
        super().close()


@pytest.fixture(autouse=True)
def events() -> list[str]:
    Device.events.clear()
    return Device.events


def tree(**settings: Any) -> Session:
    """A session of a root with the devices `a`, which has the settings, and `b`."""
    return Session(
        root_device=Device(called="root", children={"a": Device(called="a", **settings), "b": Device(called="b")})
    )


async def test_devices_are_left_alone_unless_something_else_is_asked_for(events: list[str]) -> None:
    await settle(tree(), Shutdown.LEAVE)
    assert events == []


async def test_every_driver_of_the_tree_is_switched_off(events: list[str]) -> None:
    await settle(tree(), Shutdown.OFF)
    assert sorted(events) == ["off a", "off b", "off root"]


async def test_every_driver_of_the_tree_is_reset(events: list[str]) -> None:
    await settle(tree(), Shutdown.RESET)
    assert events == ["reset root", "reset a", "reset b"]


@pytest.mark.parametrize("shutdown", [Shutdown.OFF, Shutdown.RESET])
async def test_a_cancelled_session_settles_its_devices_all_the_same(events: list[str], shutdown: Shutdown) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await settle(tree(), shutdown)
    assert len(events) == 3


async def test_one_that_fails_is_told_and_keeps_no_other_from_its_turn(
    events: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    await settle(tree(trouble=OSError("the outlet does not answer")), Shutdown.OFF)
    assert sorted(events) == ["off b", "off root"]
    assert "Device can't be switched off at the end of the session: " in caplog.text
    assert "the outlet does not answer" in caplog.text


@pytest.mark.parametrize("shutdown", [Shutdown.OFF, Shutdown.RESET])
async def test_one_that_hangs_is_given_up(
    shutdown: Shutdown, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutdown_module, "SETTLE_TIMEOUT", 0.1)
    session = tree(hangs=True)
    try:
        with fail_after(LIMIT):
            await settle(session, shutdown)
    finally:
        session.root_device.children["a"].done.set()  # type: ignore[attr-defined]
    assert "it did not end within 0.1 s" in caplog.text


# -- sessions of an exporter config ----------------------------------------------------------------

POWER = {
    "asynchronous": {"type": "jumpstarter_driver_power.driver.MockPower"},
    "group": {"children": {"blocking": {"type": "jumpstarter_driver_power.driver.SyncMockPower"}}},
    "again": {"ref": "asynchronous"},
}


def config(**members: Any) -> ExporterConfigV1Alpha1:
    return ExporterConfigV1Alpha1.model_validate(
        {"metadata": {"namespace": "lab", "name": BOARD}, "export": POWER} | members
    )


@pytest.fixture
def power(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What supplies are told, by whichever of them."""
    from jumpstarter_driver_power.driver import MockPower, SyncMockPower

    told: list[str] = []
    for kind in MockPower, SyncMockPower:
        monkeypatch.setattr(kind, "_set", lambda self, state: told.append(f"{type(self).__name__} {state}"))
        monkeypatch.setattr(kind, "reset", lambda self: told.append(f"{type(self).__name__} reset"))
        monkeypatch.setattr(kind, "close", lambda self: told.append(f"{type(self).__name__} close"))
    return told


EXPECTED = {
    "leave": [],
    "off": ["MockPower off", "SyncMockPower off"],
    "reset": ["MockPower reset", "SyncMockPower reset"],
}
"""What happens between use and closing; a driver that is shown at two places gets its turn once."""


def end(told: list[str]) -> list[str]:
    """What was told after the use and before the closing."""
    used = told.index("used")
    closed = min(index for index, entry in enumerate(told) if index > used and entry.endswith("close"))
    return sorted(told[used + 1 : closed])


@pytest.mark.parametrize("shutdown", EXPECTED)
async def test_the_end_of_a_local_session_is_as_the_config_says(shutdown: str, power: list[str]) -> None:
    async with config(shutdown=shutdown).serve_unix_async():
        power.append("used")
    assert end(power) == EXPECTED[shutdown]


@pytest.mark.parametrize("shutdown", EXPECTED)
async def test_the_end_of_a_lease_is_as_the_config_says(lab: Any, shutdown: str, power: list[str]) -> None:
    bench = config(shutdown=shutdown, endpoint=lab.endpoint, token="exporter-token", tls={"ca": lab.certificate.ca})
    with fail_after(LIMIT), ExitStack() as stack:
        async with bench.create_exporter() as exporter, create_task_group() as tasks:
            tasks.start_soon(exporter.serve)
            async with (
                lab.client().lease_async(None, BOARD, None, timedelta(minutes=5), lab.portal) as lease,
                lease.connect_async(stack) as client,
            ):
                await client.children["asynchronous"].call_async("on")
                power.append("used")
            await available_again(lab)
            assert end(power) == EXPECTED[shutdown]
            exporter.stop()


async def available_again(lab: Any) -> None:
    """Wait until the exporter is ready for the next lease."""
    while True:
        news = lab.controller.news
        reported = [ExporterStatus.from_proto(report.status) for report in lab.controller.reported]
        if reported.count(ExporterStatus.AVAILABLE) == 2:
            return
        await news.wait()


async def test_without_a_controller_every_session_ends_so(power: list[str]) -> None:
    with fail_after(LIMIT):
        async with config(shutdown="off").create_exporter(standalone=True) as exporter, create_task_group() as tasks:
            await tasks.start(exporter.serve_standalone_tcp, "127.0.0.1", 0)
            power.append("used")
            exporter.stop()
    assert end(power) == EXPECTED["off"]


async def test_an_exporter_that_can_not_listen_leaves_the_devices_alone(power: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with config(shutdown="off").create_exporter(standalone=True) as exporter:
            with pytest.raises(OSError, match="another program listens there"):
                await exporter.serve_standalone_tcp("127.0.0.1", taken.getsockname()[1])
    assert not [entry for entry in power if entry.endswith("off")]
