"""Drivers, sessions and clients assembled: started, used, ended, also when something fails."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from anyio import create_task_group, fail_after, to_thread
from anyio.from_thread import BlockingPortal

from jumpstarter.client.core import DriverError
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.common.utils import serve, serve_async
from jumpstarter.config.exporter import ExporterConfigV1Alpha1
from jumpstarter.driver import Driver, export


@dataclass(kw_only=True)
class Lamp(Driver):
    events: list[str] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    broken: str = ""

    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    def light(self) -> str:
        self.events.append("light")
        return "on"

    @export
    def fail(self) -> None:
        raise ValueError("burnt out")

    def _note(self, event: str) -> None:
        self.threads.add(threading.get_ident())
        self.events.append(event)
        if self.broken == event:
            raise OSError(f"{event} failed")

    def reset(self) -> None:
        self._note("reset")
        super().reset()

    def close(self) -> None:
        self._note("close")
        super().close()


def test_driver_is_reset_used_and_closed() -> None:
    lamp = Lamp()
    with serve(lamp) as client:
        assert client.call("light") == "on"
    assert lamp.events == ["reset", "light", "close"]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_error_of_the_body_comes_out_as_it_is_and_the_driver_is_closed(error: type[BaseException]) -> None:
    lamp = Lamp()
    with pytest.raises(error), serve(lamp):
        raise error
    assert lamp.events == ["reset", "close"]


def test_error_of_the_driver_comes_out_as_it_is() -> None:
    with pytest.raises(DriverError, match="burnt out"), serve(Lamp()) as client:
        client.call("fail")


def test_driver_that_cannot_be_reset_is_not_served() -> None:
    with pytest.raises(OSError, match="reset failed"), serve(Lamp(broken="reset")):
        pytest.fail("served")


def test_driver_that_cannot_be_closed_does_not_hide_the_result(caplog: pytest.LogCaptureFixture) -> None:
    with serve(Lamp(broken="close")) as client:
        assert client.call("light") == "on"
    assert "close failed" in caplog.text


def test_served_drivers_are_ready_for_clients_that_ask() -> None:
    from jumpstarter.common.enums import ExporterStatus

    with serve(Lamp()) as client:
        assert client.portal.call(client.get_status_async) is ExporterStatus.LEASE_READY


async def test_drivers_never_run_on_the_event_loop() -> None:
    lamp = Lamp()
    async with BlockingPortal() as portal:
        with ExitStack() as stack:
            async with serve_async(lamp, portal, stack) as client:
                assert await client.call_async("light") == "on"
    assert lamp.events == ["reset", "light", "close"]
    assert threading.get_ident() not in lamp.threads


def test_one_served_driver_beside_another() -> None:
    with serve(Lamp()) as one, serve(Lamp()) as other:
        assert (one.call("light"), other.call("light")) == ("on", "on")


def config(**members: Any) -> ExporterConfigV1Alpha1:
    values: dict[str, Any] = {
        "metadata": {"namespace": "lab", "name": "bench"},
        "export": {"power": {"type": "jumpstarter_driver_power.driver.MockPower"}},
    }
    return ExporterConfigV1Alpha1(**(values | members))


def test_config_is_served_to_this_machine() -> None:
    from anyio.from_thread import start_blocking_portal

    from jumpstarter.client import client_from_path

    with config().serve_unix() as path, start_blocking_portal() as portal, ExitStack() as stack:
        opening = client_from_path(path, portal, stack, allow=["jumpstarter_driver_*"], unsafe=False)
        with portal.wrap_async_context_manager(opening) as client:
            client.children["power"].on()  # type: ignore[attr-defined]
    assert not path.exists()


def test_config_with_a_missing_driver_is_not_served() -> None:
    missing = {"x": {"type": "vendor_of_boards.X"}}
    with (
        pytest.raises(ConfigurationError, match="pip install vendor-of-boards"),
        config(export=missing).serve_unix(),
    ):
        pytest.fail("served")


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "endpoint and token not set"), ({"endpoint": "c:1"}, "token not set"), ({"token": "t"}, "endpoint not set")],
)
async def test_exporter_without_a_controller_is_not_made(given: dict[str, str], expected: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{expected}; add it to the config or set JMP_"):
        async with config(**given).create_exporter():
            pytest.fail("made")


async def test_exporter_takes_over_what_the_config_says() -> None:
    members = {
        "endpoint": "c:1",
        "token": "t",
        "motd": "hello",
        "exitOnLeaseEnd": True,
        "grpcOptions": {"grpc.x": 1},
        "hooks": {"beforeLease": {"script": "true"}},
    }
    async with config(**members).create_exporter() as exporter:
        assert (exporter.motd, exporter.exit_on_lease_end, exporter.name) == ("hello", True, "bench")
        assert exporter.grpc_options == {"grpc.x": 1}
        assert exporter.hook_executor is not None
        assert exporter.device_factory().children["power"].client().endswith("PowerClient")


async def test_standalone_exporter_needs_no_controller() -> None:
    async with config().create_exporter(standalone=True) as exporter:
        assert exporter.hook_executor is None


async def test_exporter_config_is_leased_and_used_by_a_client_config(lab: Any) -> None:
    bench = config(endpoint=lab.endpoint, token="exporter-token", tls={"ca": lab.certificate.ca})
    with fail_after(30), ExitStack() as stack:
        async with bench.create_exporter() as exporter, create_task_group() as tg:
            tg.start_soon(exporter.serve)
            for _ in range(2):
                async with (
                    lab.client().lease_async(None, "bench", None, timedelta(minutes=5), lab.portal) as lease,
                    lease.connect_async(stack) as client,
                ):
                    power = client.children["power"]
                    await power.call_async("on")
                    assert [reading["voltage"] async for reading in power.streamingcall_async("read")] == [0, 5]
                assert lab.controller.active() == []
            tg.cancel_scope.cancel()


def test_usual_helpers_are_found_in_one_place_without_loading_the_rest() -> None:
    code = (
        "import sys, jumpstarter.common.utils as u; "
        "print(sorted(m for m in sys.modules if m.startswith(('jumpstarter.', 'grpc', 'pydantic'))), len(dir(u)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("['jumpstarter.common', 'jumpstarter.common.utils']")


def test_every_name_of_the_usual_helpers_exists() -> None:
    import jumpstarter.common.utils as utils

    assert [name for name in utils.__all__ if getattr(utils, name, None) is None] == []
    with pytest.raises(AttributeError, match="no_such_helper"):
        _ = utils.no_such_helper


class Unresettable(Driver):
    """Can be made, but not reset."""

    closed = False

    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    def reset(self) -> None:
        raise RuntimeError("the relay is stuck")

    def close(self) -> None:
        type(self).closed = True
        super().close()


def test_a_driver_that_cannot_be_reset_is_closed() -> None:
    with pytest.raises(RuntimeError, match="the relay is stuck"), serve(Unresettable()):
        pytest.fail("served")
    assert Unresettable.closed


class SlowToMake(Driver):
    """Takes until `gate` to be made."""

    entered, gate, closed = threading.Event(), threading.Event(), threading.Event()

    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.entered.set()
        assert self.gate.wait(10)

    def close(self) -> None:
        self.closed.set()
        super().close()


async def test_drivers_that_were_made_for_nobody_are_closed() -> None:
    config = ExporterConfigV1Alpha1.model_validate(
        {"metadata": {"namespace": "lab", "name": "bench"}, "export": {"slow": {"type": f"{__name__}.SlowToMake"}}}
    )

    async def use() -> None:
        async with config.serve_unix_async():
            pytest.fail("served")

    async with create_task_group() as tasks:
        tasks.start_soon(use)
        await to_thread.run_sync(SlowToMake.entered.wait)
        tasks.cancel_scope.cancel()
        SlowToMake.gate.set()
    assert SlowToMake.closed.is_set()
