"""The EnerGenie driver against a strip that speaks the protocol of the real ones."""

from __future__ import annotations

import asyncio
import re
import threading
import urllib.request
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner
from jumpstarter.client.core import DriverError, DriverMethodNotImplemented
from jumpstarter.common.utils import serve
from jumpstarter.config.exporter import ExporterConfigV1Alpha1DriverInstance
from jumpstarter_driver_power import driver as power
from jumpstarter_driver_power.common import PowerNotConfirmed
from jumpstarter_testbench.emulated.energenie import EnergenieStrip
from jumpstarter_testbench.emulated.http import Answer

from jumpstarter_driver_energenie import strip as protocol
from jumpstarter_driver_energenie.driver import EnerGenie, EnerGenieError

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def strip() -> Iterator[EnergenieStrip]:
    with EnergenieStrip() as device:
        yield device


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Don't wait as long as with a real strip."""
    monkeypatch.setattr(protocol, "BUSY_INTERVAL", 0.02)
    monkeypatch.setattr(power.PowerInterface.confirm, "__defaults__", (0.3,))


def outlet(strip: EnergenieStrip, slot: int = 1, **config: Any) -> EnerGenie:
    return EnerGenie(host=strip.host, slot=slot, **config)


def requests_of(strip: EnergenieStrip) -> list[tuple[str, str, bytes]]:
    return [(each.method, each.target, each.body) for each in strip.requests]


@pytest.mark.parametrize("slot", [1, 2, 3, 4])
async def test_each_outlet_is_switched_by_itself(strip: EnergenieStrip, slot: int) -> None:
    driver = outlet(strip, slot)

    await driver.on()

    assert strip.outlets == [number == slot for number in range(1, 5)]
    assert await driver.status() == "on"

    await driver.off()

    assert strip.outlets == [False] * 4
    assert await driver.status() == "off"


async def test_the_requests_are_those_of_the_protocol(strip: EnergenieStrip) -> None:
    await outlet(strip, 3).on()

    assert requests_of(strip) == [
        ("POST", "/login.html", b"pw=1"),
        ("POST", "/", b"cte3=1"),
        ("GET", "/energenie.html", b""),
        ("GET", "/login.html", b""),
    ]
    assert strip.requests[0].headers["content-type"] == "application/x-www-form-urlencoded"


async def test_the_session_is_ended_after_each_command(strip: EnergenieStrip) -> None:
    await outlet(strip).on()
    assert strip.owner is None


async def test_the_session_is_ended_after_a_failure(strip: EnergenieStrip) -> None:
    strip.instead = lambda request: Answer("", 500) if request.body == b"cte1=1" else None

    with pytest.raises(EnerGenieError, match=r"refused POST http://127.0.0.1:\d+/: HTTP status 500"):
        await outlet(strip).on()

    assert strip.owner is None


async def test_a_wrong_password_is_told_at_once_and_switches_nothing(strip: EnergenieStrip) -> None:
    with pytest.raises(EnerGenieError, match="does not accept the password") as caught:
        await outlet(strip, password="not this one").on()

    assert "not this one" not in str(caught.value)
    assert strip.outlets == [False] * 4
    assert [each for each in requests_of(strip) if each[0] == "POST"] == [("POST", "/login.html", b"pw=not+this+one")]


async def test_a_password_of_digits_is_a_text(strip: EnergenieStrip) -> None:
    strip.password = "4711"
    config: Any = {"password": 4711, "slot": "2"}

    await EnerGenie(host=strip.host, **config).on()

    assert strip.outlets[1]


async def test_a_strip_that_somebody_else_uses_is_waited_for(strip: EnergenieStrip) -> None:
    log_in_from_elsewhere(strip)

    async with anyio.create_task_group() as tg:
        tg.start_soon(outlet(strip).on)
        strip.heard.clear()
        assert await anyio.to_thread.run_sync(strip.heard.wait, 10)
        assert not strip.outlets[0]
        strip.owner = None

    assert strip.outlets[0]


async def test_a_strip_that_stays_in_use_is_an_error(strip: EnergenieStrip) -> None:
    log_in_from_elsewhere(strip)

    with pytest.raises(EnerGenieError, match="one session at a time: log out in browsers"):
        await outlet(strip, timeout=1).on()

    assert strip.owner == "127.0.0.2"
    assert not strip.outlets[0]


async def test_an_outlet_that_does_not_follow_is_an_error(strip: EnergenieStrip) -> None:
    strip.stuck = {1}

    with pytest.raises(PowerNotConfirmed, match="EnerGenie was switched on, but reports off"):
        await outlet(strip).on()

    assert strip.owner is None


async def test_outlets_of_one_strip_take_turns(strip: EnergenieStrip) -> None:
    async with anyio.create_task_group() as tg:
        for slot in (1, 2, 3, 4):
            tg.start_soon(outlet(strip, slot).on)

    assert strip.outlets == [True] * 4
    bodies = [each.body for each in strip.requests if each.path == "/login.html"]
    # Log in, log out, log in, log out: never two sessions at once.
    assert bodies == [b"pw=1", b""] * 4


async def test_a_strip_that_is_not_there_is_an_error_and_works_again_when_it_is_back() -> None:
    with EnergenieStrip() as gone:
        driver = outlet(gone)
    with pytest.raises(EnerGenieError, match="Check `host`, power and network of the strip"):
        await driver.on()

    with EnergenieStrip() as back:
        driver.base_url = back.url
        await driver.on()
        assert back.outlets[0]


async def test_a_silent_strip_is_an_error_within_the_time_out(
    strip: EnergenieStrip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "LEAVE_TIMEOUT", 0.1)
    strip.awake.clear()

    with anyio.fail_after(20), pytest.raises(EnerGenieError, match=r"no answer to POST .*/login.html within 0.2 s"):
        await outlet(strip, timeout=0.2).on()


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<html>login.html Log Out</html>", "did not let us in"),
        (b"\xff\x00\xfe", "did not let us in"),
        ("x" * (protocol.PAGE_LIMIT + 1), "too large"),
    ],
)
async def test_garbage_instead_of_a_page_is_an_error(strip: EnergenieStrip, page: str | bytes, message: str) -> None:
    strip.instead = lambda _: Answer(page)
    with pytest.raises(EnerGenieError, match=message):
        await outlet(strip, timeout=1).on()


@pytest.mark.parametrize("states", ["", "var sockstates = [1,0];", "var sockstates = [1,0,2,0];"])
async def test_a_page_without_states_is_an_error(strip: EnergenieStrip, states: str) -> None:
    strip.instead = lambda request: Answer(states) if request.path == "/energenie.html" else None
    with pytest.raises(EnerGenieError, match="shows no states of 4 outlets"):
        await outlet(strip).status()


async def test_a_redirection_is_not_followed(strip: EnergenieStrip) -> None:
    strip.instead = lambda _: Answer("", 302, {"Location": "http://192.0.2.1/"})
    with pytest.raises(EnerGenieError, match="HTTP status 302"):
        await outlet(strip).on()


async def test_a_cancelled_command_logs_out(strip: EnergenieStrip) -> None:
    reached = threading.Event()

    def hold(request: Any) -> Answer | None:
        if request.path == "/energenie.html":
            reached.set()
            strip.awake.clear()
        return None

    strip.instead = hold
    async with anyio.create_task_group() as tg:
        tg.start_soon(outlet(strip).on)
        assert await anyio.to_thread.run_sync(reached.wait, 10)
        strip.instead = None
        strip.awake.set()
        tg.cancel_scope.cancel()

    assert strip.owner is None
    assert requests_of(strip)[-1] == ("GET", "/login.html", b"")


async def test_nothing_is_left_after_a_command(strip: EnergenieStrip) -> None:
    before = len(asyncio.all_tasks())
    await outlet(strip).on()
    with anyio.fail_after(5):
        while len(asyncio.all_tasks()) > before:  # noqa: ASYNC110 (tasks of aiohttp tell nobody when they end)
            await anyio.sleep(0.01)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "host must be"),
        ({"host": None}, "host must be"),
        ({"host": " "}, "host must be"),
        ({"host": "http://strip"}, "host must be"),
        ({"host": "strip", "slot": 0}, "slot must be a number from 1 to 4, not 0"),
        ({"host": "strip", "slot": 5}, "slot must be"),
        ({"host": "strip", "slot": "one"}, "slot must be"),
        ({"host": "strip", "slot": 1.5}, "slot must be"),
        ({"host": "strip", "slot": True}, "slot must be"),
        ({"host": "strip", "timeout": 0}, "timeout must be"),
        ({"host": "strip", "timeout": "5"}, "timeout must be"),
    ],
)
def test_a_config_that_can_not_work_is_refused_before_anything_is_sent(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnerGenie(**config)


def test_the_password_is_not_shown() -> None:
    assert "geheim" not in repr(EnerGenie(host="strip", password="geheim"))


def test_constructing_needs_no_network() -> None:
    EnerGenie(host="no-such-host.invalid")


def test_clients_drive_an_outlet(strip: EnergenieStrip) -> None:
    with serve(outlet(strip, 2)) as client:
        client.on()
        assert client.status() == "on"
        client.cycle(0)
        assert strip.outlets == [False, True, False, False]
        client.off()
        assert client.status() == "off"
        with pytest.raises(DriverMethodNotImplemented, match="do not measure"):
            list(client.read())


def test_clients_see_why_a_command_failed(strip: EnergenieStrip) -> None:
    with serve(outlet(strip, password="wrong")) as client, pytest.raises(DriverError, match="Check `password`"):
        client.on()


def test_commands(strip: EnergenieStrip) -> None:
    with serve(outlet(strip)) as client:
        runner = CliRunner()
        assert runner.invoke(client.cli(), ["on"]).exit_code == 0
        assert runner.invoke(client.cli(), ["status"]).output == "on\n"
        failed = runner.invoke(client.cli(), ["read"])
        assert failed.exit_code == 1
        assert "do not measure" in failed.output


def test_the_config_of_the_readme_loads() -> None:
    text = re.search(r"```yaml\nexport:\n  power:\n(.*?)```", README.read_text(), re.DOTALL)
    assert text is not None
    driver = ExporterConfigV1Alpha1DriverInstance.from_str(text[1]).instantiate()
    assert isinstance(driver, EnerGenie)


def log_in_from_elsewhere(strip: EnergenieStrip) -> None:
    host, _, port = strip.host.partition(":")
    elsewhere = HTTPConnection(host, int(port), timeout=5, source_address=("127.0.0.2", 0))
    elsewhere.request("POST", "/login.html", "pw=1")
    assert b"Log Out" in elsewhere.getresponse().read()
    elsewhere.close()


def test_the_emulated_strip_shows_nothing_without_a_login(strip: EnergenieStrip) -> None:
    with urllib.request.urlopen(f"{strip.url}/energenie.html", timeout=5) as answer:
        assert b"sockstates" not in answer.read()
