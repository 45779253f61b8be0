"""The Corellium driver against an emulated service and its consoles."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner
from jumpstarter.client.core import DriverError, DriverInvalidArgument, DriverMethodNotImplemented
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.common.utils import serve
from jumpstarter.config.exporter import ExporterConfigV1Alpha1DriverInstance
from jumpstarter_testbench.emulated.certificates import Certificate
from jumpstarter_testbench.emulated.corellium import CorelliumService, Machine
from jumpstarter_testbench.emulated.http import Answer

from jumpstarter_driver_corellium.corellium.api import ApiClient
from jumpstarter_driver_corellium.corellium.exceptions import CorelliumApiException
from jumpstarter_driver_corellium.driver import Corellium, CorelliumConsole, CorelliumPower

README = Path(__file__).parents[1] / "README.md"
CONFIG: dict[str, Any] = {"project_id": "Default Project", "device_name": "board", "device_flavor": "kronos"}


def device(**config: Any) -> Corellium:
    return Corellium(**(CONFIG | config))


def power(**config: Any) -> CorelliumPower:
    child = device(**config).children["power"]
    assert isinstance(child, CorelliumPower)
    return child


def console(**config: Any) -> CorelliumConsole:
    child = device(**config).children["serial"]
    assert isinstance(child, CorelliumConsole)
    return child


def running_machine(service: CorelliumService, state: str = "on") -> Machine:
    machine = Machine("0123456789abcdef", "board", "project", "kronos", "1.1.1", "build", state=state, coming=[])
    service.machines[machine.id] = machine
    return machine


# -- power ------------------------------------------------------------------------------------------------------------


async def test_a_device_that_is_not_there_is_made_and_waited_for(service: CorelliumService) -> None:
    driver = power(device_os="1.2", device_build="some build")

    await driver.on()

    (machine,) = service.machines.values()
    assert machine.state == "on"
    assert (machine.name, machine.flavor, machine.os, machine.osbuild) == ("board", "kronos", "1.2", "some build")
    assert await driver.status() == "on"


async def test_a_device_that_is_off_is_switched_on(service: CorelliumService) -> None:
    machine = running_machine(service, "off")
    await power().on()
    assert machine.state == "on"
    assert len(service.machines) == 1


async def test_a_device_that_is_on_stays_on(service: CorelliumService) -> None:
    running_machine(service)
    await power().on()
    assert not [each for each in service.requests if each.method != "GET"]


async def test_a_device_is_switched_off_and_kept(service: CorelliumService) -> None:
    machine = running_machine(service)
    driver = power()
    await driver.off()
    assert machine.state == "off"
    assert await driver.status() == "off"
    assert list(service.machines) == [machine.id]


@pytest.mark.parametrize("state", ["on", "off", "error"])
async def test_a_device_is_thrown_away(service: CorelliumService, state: str) -> None:
    running_machine(service, state)
    await power().off(destroy=True)
    assert not service.machines


async def test_a_device_that_is_not_there_is_off(service: CorelliumService) -> None:
    driver = power()
    await driver.off()
    await driver.off(destroy=True)
    assert await driver.status() == "off"


async def test_a_device_on_the_way_is_neither_on_nor_off(service: CorelliumService) -> None:
    running_machine(service, "booting")
    assert await power().status() == "unknown"


async def test_a_device_that_fails_is_an_error_at_once(service: CorelliumService) -> None:
    service.broken = True
    with pytest.raises(CorelliumApiException, match=r"board is in the state error; .*`off --destroy`"):
        await power().on()


async def test_a_device_that_had_failed_can_be_switched_on_again(service: CorelliumService) -> None:
    running_machine(service, "error")
    await power().on()


async def test_a_device_that_takes_too_long_is_an_error(
    service: CorelliumService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORELLIUM_API_RETRIES", "3")
    service.slow = True
    with pytest.raises(TimeoutError, match=r"is not on after 3 looks every 0\.01 s, but creating\. Set CORELLIUM_API_"):
        await power().on()


async def test_a_device_that_somebody_deletes_meanwhile_is_an_error(service: CorelliumService) -> None:
    running_machine(service, "off")

    def delete(request: Any) -> Answer | None:
        if request.method != "PUT":
            return None
        service.machines.clear()
        return Answer(b"", 204)

    service.instead = delete
    with pytest.raises(CorelliumApiException, match="is gone; somebody deleted it"):
        await power().on()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"project_id": "no such"}, "Unable to fetch project: no such"),
        ({"device_flavor": "no such"}, "Unable to find a device for this model: no such"),
    ],
)
async def test_names_that_the_service_does_not_know_are_errors(
    service: CorelliumService, config: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        await power(**config).on()
    assert not service.machines


async def test_a_device_measures_nothing(service: CorelliumService) -> None:
    with pytest.raises(NotImplementedError, match="no voltage or current"):
        [_ async for _ in power().read()]


async def test_waiting_can_be_cancelled(service: CorelliumService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORELLIUM_API_INTERVAL", "3600")
    service.slow = True
    driver = power()
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tg:
            tg.start_soon(driver.on)
            assert await anyio.to_thread.run_sync(_created, service)
            tg.cancel_scope.cancel()


def _created(service: CorelliumService) -> bool:
    deadline = time.monotonic() + 15
    while not service.machines and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(service.machines)


async def test_a_silent_service_can_be_cancelled(service: CorelliumService) -> None:
    service.awake.clear()
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tg:
            tg.start_soon(power().on)
            assert await anyio.to_thread.run_sync(service.heard.wait, 10)
            tg.cancel_scope.cancel()


# -- console ----------------------------------------------------------------------------------------------------------


async def test_the_console_s_bytes_go_both_ways(service: CorelliumService) -> None:
    running_machine(service)
    with anyio.fail_after(20):
        async with console().connect() as stream:
            assert await stream.receive() == b"boot: ready\r\n"
            await stream.send(b"ls\r")
            assert await stream.receive() == b"ls\r\n"
    with anyio.fail_after(20):
        while service.open_consoles:  # noqa: ASYNC110 (its threads tell nobody when they end)
            await anyio.sleep(0.01)


async def test_the_address_of_the_console_is_asked_for_each_time(service: CorelliumService) -> None:
    running_machine(service)
    driver = console()
    first, second = await anyio.to_thread.run_sync(lambda: (driver.url, driver.url))
    assert first != second
    assert first.startswith("ws://127.0.0.1:")


@pytest.mark.parametrize(
    ("state", "config", "error", "message"),
    [
        (None, {}, ValueError, "there is no instance board; switch it on first"),
        ("on", {"project_id": "no such"}, ValueError, "Unable to fetch project"),
        (
            "on",
            {"console_name": "no such"},
            ValueError,
            "has no console no such.*there are Primary Compute Non-Secure, System Control Processor",
        ),
        ("off", {}, CorelliumApiException, "Invalid console type"),
    ],
)
async def test_a_console_that_is_not_there_is_an_error(
    service: CorelliumService, state: str | None, config: dict[str, str], error: type[Exception], message: str
) -> None:
    if state is not None:
        running_machine(service, state)
    with pytest.raises(error, match=message):
        async with console(**config).connect():
            pass


@pytest.mark.parametrize("url", [None, "", 7, "http://elsewhere/"])
async def test_an_address_that_is_none_is_an_error(service: CorelliumService, url: Any) -> None:
    running_machine(service)
    service.instead = lambda request: Answer(json.dumps({"url": url})) if "/console" in request.path else None
    with pytest.raises(ValueError, match="gave no address for the console"):
        async with console().connect():
            pass


async def test_a_console_that_refuses_is_an_error_without_the_secret(
    service: CorelliumService, monkeypatch: pytest.MonkeyPatch
) -> None:
    running_machine(service)
    driver = console()
    url = await anyio.to_thread.run_sync(driver.console_url)
    service.console_tickets.clear()
    monkeypatch.setattr(driver, "console_url", lambda: url)

    with pytest.raises(ConnectionError, match="403") as caught:
        async with driver.connect():
            pass

    assert "token=" not in str(caught.value)


# -- config -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CORELLIUM_API_HOST", "CORELLIUM_API_TOKEN"])
def test_the_environment_must_lead_to_the_service(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("CORELLIUM_API_HOST", "host")
    monkeypatch.setenv("CORELLIUM_API_TOKEN", "token")
    monkeypatch.delenv(name)
    with pytest.raises(ConfigurationError) as caught:
        device()
    assert str(caught.value) == f'Missing "{name}" environment variable'

    monkeypatch.setenv(name, "  ")
    with pytest.raises(ConfigurationError) as caught:
        device()
    assert str(caught.value) == f'"{name}" environment variable is empty'


def test_blanks_around_the_environment_are_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORELLIUM_API_HOST", " host ")
    monkeypatch.setenv("CORELLIUM_API_TOKEN", "token\n")
    api = device().api
    assert isinstance(api, ApiClient)
    assert (api.host, api.token) == ("host", "token")


def test_the_patience_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CORELLIUM_API_INTERVAL", raising=False)
    assert CorelliumPower.get_timeout_opts() == {"retries": 60, "interval": 5}
    monkeypatch.setenv("CORELLIUM_API_RETRIES", "7")
    monkeypatch.setenv("CORELLIUM_API_INTERVAL", "0.5")
    assert CorelliumPower.get_timeout_opts() == {"retries": 7, "interval": 0.5}


@pytest.mark.parametrize("value", ["many", "-1", "nan", "inf"])
@pytest.mark.parametrize("name", ["CORELLIUM_API_RETRIES", "CORELLIUM_API_INTERVAL"])
def test_an_impossible_patience_is_refused(
    service: CorelliumService, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=f'"{name}" environment variable must be a number'):
        device()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"project_id": ""}, "project_id must be a text"),
        ({"device_name": None}, "device_name must be a text"),
        ({"device_flavor": ["kronos"]}, "device_flavor must be a text"),
        ({"ca_file": "/no/such/file"}, "there is no such file"),
    ],
)
def test_a_config_that_can_not_work_is_refused(service: CorelliumService, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        device(**config)
    assert not service.requests


def test_the_token_is_not_shown(service: CorelliumService) -> None:
    assert service.token not in repr(device())


def test_the_config_of_the_readme_loads(service: CorelliumService) -> None:
    text = re.search(r"```yaml\nexport:\n  rd1ae:\n(.*?)```", README.read_text(), re.DOTALL)
    assert text is not None
    driver = ExporterConfigV1Alpha1DriverInstance.from_str(text[1]).instantiate()
    assert isinstance(driver, Corellium)


# -- from the client --------------------------------------------------------------------------------------------------


def test_clients_drive_a_device(service: CorelliumService) -> None:
    with serve(device()) as client:
        client.power.on()
        assert client.power.status() == "on"
        with client.serial.pexpect() as session:
            session.expect_exact("ready", timeout=20)
            session.send("uname\r")
            session.expect_exact("uname\r\n", timeout=20)
        client.power.cycle(0)
        assert client.power.status() == "on"
        with pytest.raises(DriverMethodNotImplemented, match="no voltage"):
            list(client.power.read())
        client.power.off(destroy=True)
        assert not service.machines


def test_a_service_with_a_certificate_of_its_own(
    certificate: Certificate, service: CorelliumService, monkeypatch: pytest.MonkeyPatch
) -> None:
    with CorelliumService(certificate=certificate) as secure:
        monkeypatch.setenv("CORELLIUM_API_HOST", secure.host)
        with serve(device(ca_file=str(certificate.file))) as client:
            client.power.on()
            with client.serial.pexpect() as session:
                session.expect_exact("ready", timeout=20)
        with serve(device()) as client, pytest.raises(DriverError, match="set `ca_file`"):
            client.power.on()


def test_clients_see_why_a_command_failed(service: CorelliumService) -> None:
    with serve(device(project_id="no such")) as client:
        with pytest.raises(DriverInvalidArgument, match="Unable to fetch project"):
            client.power.on()
        with pytest.raises(DriverMethodNotImplemented):
            client.serial.set_dtr(True)


def test_a_session_that_ends_closes_its_consoles(service: CorelliumService) -> None:
    running_machine(service)
    with serve(device()) as client:
        stream = client.serial.open_stream()
        assert stream.receive() == b"boot: ready\r\n"
    ended = threading.Event()

    def watch() -> None:
        while service.open_consoles:
            time.sleep(0.01)
        ended.set()

    threading.Thread(target=watch, daemon=True).start()
    assert ended.wait(20)


def test_commands(service: CorelliumService) -> None:
    with serve(device()) as client:
        runner = CliRunner()
        assert runner.invoke(client.cli(), ["power", "on"]).exit_code == 0
        assert runner.invoke(client.cli(), ["power", "status"]).output == "on\n"
        assert "start-console" in runner.invoke(client.cli(), ["serial", "--help"]).output
        assert runner.invoke(client.cli(), ["power", "off", "--destroy"]).exit_code == 0
        assert not service.machines
