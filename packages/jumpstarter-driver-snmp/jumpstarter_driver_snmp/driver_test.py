"""The SNMP driver against Net-SNMP's agent with the tables of all families."""

from __future__ import annotations

import asyncio
import gc
import re
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner
from jumpstarter.client.core import DriverError, DriverMethodNotImplemented
from jumpstarter.common.utils import serve
from jumpstarter.config.exporter import ExporterConfigV1Alpha1DriverInstance
from jumpstarter_driver_power.common import PowerNotConfirmed, PowerReading
from jumpstarter_testbench.daemons import SnmpAgent
from jumpstarter_testbench.process import running
from jumpstarter_testbench.requirements import need, program
from jumpstarter_testbench.snmp_pdus import SLOW, WELDED

from jumpstarter_driver_snmp.conftest import (
    AUTH_KEY,
    PRIV_KEY,
    USERS,
    agent_command,
    agent_environment,
    answers,
    ask_agent,
)
from jumpstarter_driver_snmp.driver import AuthProtocol, PowerState, PrivProtocol, SNMPError, SNMPServer
from jumpstarter_driver_snmp.families import families

README = Path(__file__).parents[1] / "README.md"

pytestmark = pytest.mark.daemon

STATES = {
    "raritan": ("1.3.6.1.4.1.13742.6.4.1.2.1.3.1.{}", "7", "8"),
    "apc-masterswitch": ("1.3.6.1.4.1.318.1.1.4.4.2.1.3.{}", "1", "2"),
    "apc-rpdu": ("1.3.6.1.4.1.318.1.1.12.3.3.1.1.4.{}", "1", "2"),
    "apc-rpdu2": ("1.3.6.1.4.1.318.1.1.26.9.2.3.1.5.{}", "2", "1"),
    "apc-easy-pdu": ("1.3.6.1.4.1.318.1.1.30.6.2.1.4.{}", "1", "2"),
    "apc-cpdu": ("1.3.6.1.4.1.318.1.1.32.5.5.1.4.{}", "2", "1"),
    "eaton": ("1.3.6.1.4.1.534.6.6.7.6.6.1.2.0.{}", "1", "0"),
    "sentry3": ("1.3.6.1.4.1.1718.3.2.3.1.10.1.1.{}", "1", "0"),
    "poe": ("1.3.6.1.2.1.105.1.1.1.3.1.{}", "1", "2"),
}
"""What the families' agents say of an outlet: the object, and its values for on and off."""

READINGS = {
    "raritan": PowerReading(voltage=230.5, current=1.5, power=340),
    "apc-rpdu2": PowerReading(voltage=229, current=1.5, power=340),
    "eaton": PowerReading(voltage=231.4, current=0.512, power=117),
    "sentry3": PowerReading(voltage=120.4, current=0.87, power=102),
}


def outlet(port: int, plug: int = 1, pdu: Any = "raritan", **config: Any) -> SNMPServer:
    return SNMPServer(**{"host": "127.0.0.1", "port": port, "plug": plug, "pdu": pdu, "community": "private", **config})


@pytest.mark.parametrize("family", STATES)
async def test_outlets_of_each_family_are_switched(pdus: int, family: str) -> None:
    state, on, off = STATES[family]
    driver = outlet(pdus, 2, family, version="v1" if family.startswith("apc") else "v2c")

    assert await driver.on() == "Power ON command sent successfully"
    assert ask_agent(pdus, state.format(2)) == on
    assert await driver.status() == "on"
    assert await driver.off() == "Power OFF command sent successfully"
    assert ask_agent(pdus, state.format(2)) == off
    assert await driver.status() == "off"

    assert ask_agent(pdus, state.format(1)) == off


def test_every_family_is_driven() -> None:
    assert set(STATES) == set(families())


@pytest.mark.parametrize("family", STATES)
async def test_what_a_family_measures_is_read(pdus: int, family: str) -> None:
    driver = outlet(pdus, 3, family)
    if family in READINGS:
        assert [each async for each in driver.read()] == [READINGS[family]]
    else:
        with pytest.raises(NotImplementedError, match="does not measure its outlets"):
            [_ async for _ in driver.read()]


@pytest.mark.parametrize("family", ["raritan", "apc-rpdu"])
async def test_an_outlet_that_takes_its_time_is_waited_for(pdus: int, family: str) -> None:
    driver = outlet(pdus, SLOW, family)
    await driver.on()
    assert await driver.status() == "on"
    await driver.off()


async def test_a_state_between_on_and_off_is_unknown(pdus: int) -> None:
    driver = outlet(pdus, SLOW, STATE_ONLY_SENT)
    await driver.on()
    assert await outlet(pdus, SLOW, "raritan").status() == "unknown"
    await outlet(pdus, SLOW, "raritan").confirm("on")
    await outlet(pdus, SLOW, "raritan").off()


STATE_ONLY_SENT = {
    "switch_on": {"oid": "1.3.6.1.4.1.13742.6.4.1.2.1.2.1.{outlet}", "value": 1},
    "switch_off": {"oid": "1.3.6.1.4.1.13742.6.4.1.2.1.2.1.{outlet}", "value": 0},
}
"""Raritan's units without the object that tells the state."""


@pytest.mark.parametrize("family", ["raritan", "apc-rpdu2"])
async def test_an_outlet_that_does_not_follow_is_an_error(pdus: int, family: str) -> None:
    with pytest.raises(PowerNotConfirmed, match="SNMPServer was switched on, but reports off"):
        await outlet(pdus, WELDED, family, confirm_timeout=0.3).on()


async def test_without_a_state_the_answer_has_to_do(pdus: int) -> None:
    driver = outlet(pdus, WELDED, STATE_ONLY_SENT)
    await driver.on()
    with pytest.raises(NotImplementedError, match="does not tell the state"):
        await driver.status()


# -- who is let in ----------------------------------------------------------------------------------------------------


def secured(port: int, name: str, **config: Any) -> SNMPServer:
    auth, priv = USERS[name]
    security = {
        "auth_protocol": auth,
        "auth_key": AUTH_KEY if auth != "NONE" else None,
        "priv_protocol": priv,
        "priv_key": PRIV_KEY if priv != "NONE" else None,
    }
    return outlet(port, 4, **{"community": None, "user": name, "timeout": 2, **security, **config})


@pytest.mark.parametrize("user", USERS)
async def test_version_3_works_with_all_protocols(pdus: int, user: str) -> None:
    driver = secured(pdus, user)
    await driver.on()
    assert ask_agent(pdus, STATES["raritan"][0].format(4)) == "7"
    await driver.off()


@pytest.mark.parametrize(
    ("user", "config", "message"),
    [
        ("sha", {"auth_key": "another-key"}, "Wrong SNMP PDU digest .*Check `auth_protocol` and `auth_key`"),
        ("sha", {"auth_protocol": "MD5"}, "Wrong SNMP PDU digest"),
        ("sha256", {"auth_protocol": "SHA512"}, "Wrong SNMP PDU digest"),
        ("sha", {"user": "nobody"}, "Unknown USM user .*does not know the `user`"),
        ("sha", {"priv_protocol": "AES", "priv_key": PRIV_KEY, "timeout": 0.5}, "(?i)security level|timed out|decrypt"),
        ("shaaes", {"priv_key": "another-key", "timeout": 0.5}, "(?i)timed out|decrypt"),
        ("shaaes", {"priv_protocol": "NONE"}, "authorizationError|noAccess|notWritable"),
        (
            "plain",
            {"version": "v2c", "community": "wrong-one", "user": None, "timeout": 0.5},
            "timed out.*wrong community",
        ),
        ("plain", {"version": "v2c", "community": "public", "user": None}, "noAccess .*may write"),
        ("plain", {"version": "v1", "community": "public", "user": None}, "noSuchName .*may write"),
    ],
)
async def test_who_is_not_let_in_switches_nothing(pdus: int, user: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(SNMPError, match=message) as caught:
        await secured(pdus, user, **{"timeout": 3, **config}).on()

    assert "SNMP set failed: " in str(caught.value)
    for secret in (AUTH_KEY, PRIV_KEY, "another-key", "wrong-one"):
        assert secret not in str(caught.value)
    assert ask_agent(pdus, STATES["raritan"][0].format(4)) == "8"


# -- what may go wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v1", "v2c"])
async def test_an_outlet_that_does_not_exist_is_an_error(pdus: int, version: str) -> None:
    driver = outlet(pdus, 9, version=version)
    oid = r"1\.3\.6\.1\.4\.1\.13742\.6\.4\.1\.2\.1\.[23]\.1\.9"
    with pytest.raises(SNMPError, match=rf"SNMP set failed: SNMP error: \w+ at {oid}.*Check the outlet number"):
        await driver.on()
    with pytest.raises(SNMPError, match=rf"SNMP get failed: .*at {oid}.*Check the outlet number"):
        await driver.status()


async def test_a_unit_of_another_family_is_an_error(snmpd: SnmpAgent) -> None:
    with pytest.raises(SNMPError, match="SNMP set failed: SNMP error: notWritable"):
        await outlet(snmpd.port, 1, "eaton").on()


async def test_an_object_that_is_no_number_is_an_error(pdus: int) -> None:
    described = {**STATE_ONLY_SENT, "state": {"oid": "1.3.6.1.2.1.1.5.0", "on_states": [1], "off_states": [2]}}
    with pytest.raises(SNMPError, match=r"has a \w*String at 1.3.6.1.2.1.1.5.0"):
        await outlet(pdus, 1, described).status()


async def test_nobody_there_is_an_error_within_the_time_out() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        driver = outlet(silent.getsockname()[1], timeout=0.3)
        with (
            anyio.fail_after(30),
            pytest.raises(SNMPError, match=r"SNMP operation timed out: no answer .*within 0\.3 s"),
        ):
            await driver.on()
        silent.setblocking(False)
        asked = 0
        while silent.recv(2000):
            asked += 1
            if asked == 5:
                break
        assert asked == 5


async def test_a_host_that_can_not_be_found_is_an_error_at_use_only() -> None:
    driver = outlet(161, host="no-such-host.invalid")
    with pytest.raises(SNMPError, match=r"the host no-such-host.invalid can't be found|no answer about the name"):
        await driver.on()


class Relay(asyncio.DatagramProtocol):
    """Passes datagrams between a client and the agent, and loses some."""

    def __init__(self, agent: int) -> None:
        self.agent = ("127.0.0.1", agent)
        self.lose = 0
        """Datagrams of the client that get lost next."""
        self.instead: bytes | None = None
        """What the client gets instead of any answer."""
        self.client: Any = None
        self.heard = anyio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.port: int = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, address: Any) -> None:
        if address == self.agent:
            self.transport.sendto(data, self.client)
            return
        self.client = address
        self.heard.set()
        if self.instead is not None:
            self.transport.sendto(self.instead, address)
        elif self.lose:
            self.lose -= 1
        else:
            self.transport.sendto(data, self.agent)


@asynccontextmanager
async def relayed(agent: int) -> AsyncIterator[Relay]:
    relay = Relay(agent)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: relay, local_addr=("127.0.0.1", 0))
    try:
        yield relay
    finally:
        transport.close()


async def test_lost_datagrams_are_sent_again(pdus: int) -> None:
    async with relayed(pdus) as relay:
        relay.lose = 2
        driver = secured(relay.port, "shaaes", timeout=2)
        await driver.on()
        assert relay.lose == 0
        await driver.off()


async def test_a_unit_that_is_cut_off_and_comes_back_works_again(pdus: int) -> None:
    async with relayed(pdus) as relay:
        driver = secured(relay.port, "shaaes", timeout=2)
        await driver.on()
        relay.lose = 1000
        with pytest.raises(SNMPError, match="timed out"):
            await driver.off()
        relay.lose = 0
        await driver.off()
        assert await driver.status() == "off"


async def test_a_unit_that_was_restarted_works_again(tmp_path: Path) -> None:
    need("snmpd")

    def started() -> Any:
        return running(
            agent_command(tmp_path, port),
            log=tmp_path / "log",
            ready=lambda: answers(port),
            env=agent_environment(tmp_path),
        )

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    driver = secured(port, "shaaes")
    with started():
        await driver.on()
        boots = ask_agent(port, ENGINE_BOOTS)
    with started():
        assert ask_agent(port, ENGINE_BOOTS) != boots
        assert await driver.status() == "off"
        await driver.on()
        assert await driver.status() == "on"


ENGINE_BOOTS = "1.3.6.1.6.3.10.2.1.2.0"
"""How often an agent was started, which SNMPv3 messages tell too (snmpEngineBoots)."""


@pytest.mark.parametrize("answer", [b"\xff" * 40, b"\x30\x80" * 20])
async def test_garbage_is_no_answer(pdus: int, answer: bytes) -> None:
    async with relayed(pdus) as relay:
        relay.instead = answer
        with pytest.raises(SNMPError, match=r"timed out|SNMP error"):
            await outlet(relay.port, timeout=0.2).on()


async def test_a_cancelled_command_leaves_nothing(pdus: int) -> None:
    async with relayed(pdus) as relay:
        relay.lose = 1000
        driver = outlet(relay.port, timeout=60)
        before = asyncio.all_tasks()

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tg:
                tg.start_soon(driver.on)
                await relay.heard.wait()
                tg.cancel_scope.cancel()

        assert asyncio.all_tasks() == before
        relay.lose = 0
        await driver.on()
        await driver.off()


async def test_nothing_is_left_after_a_command(pdus: int) -> None:
    driver = outlet(pdus)
    await driver.status()
    gc.collect()
    tasks, sockets = asyncio.all_tasks(), open_sockets()

    await driver.status()

    assert asyncio.all_tasks() == tasks
    await asyncio.sleep(0)  # the loop closes transports in its next round
    assert open_sockets() == sockets


def open_sockets() -> int:
    return sum("socket:" in str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink())


async def test_outlets_of_one_unit_take_turns(pdus: int) -> None:
    drivers = [outlet(pdus, plug, "apc-masterswitch") for plug in (1, 2, 3, 4)]
    assert len({id(driver._turn) for driver in drivers}) == 1

    async with anyio.create_task_group() as tg:
        for driver in drivers:
            tg.start_soon(driver.on)

    assert [await driver.status() for driver in drivers] == ["on"] * 4
    for driver in drivers:
        await driver.off()


# -- configs ----------------------------------------------------------------------------------------------------------


async def test_a_config_of_older_releases_drives_a_raritan_unit(pdus: int) -> None:
    driver = SNMPServer(
        host="127.0.0.1",
        port=pdus,
        user="shaaes",
        plug=5,
        auth_protocol=AuthProtocol.SHA,
        auth_key=AUTH_KEY,
        priv_protocol=PrivProtocol.AES,
        priv_key=PRIV_KEY,
    )
    await driver.on()
    assert ask_agent(pdus, STATES["raritan"][0].format(5)) == "7"
    await driver.off()
    assert [each async for each in driver.read()] == [READINGS["raritan"]]


async def test_the_object_of_a_known_family_selects_the_family(pdus: int) -> None:
    driver = outlet(pdus, 6, None, oid=".1.3.6.1.4.1.318.1.1.12.3.3.1.1.4")
    await driver.on()
    assert await driver.status() == "on"
    await driver.off()
    assert ask_agent(pdus, STATES["apc-rpdu"][0].format(6)) == "2"


async def test_any_object_can_be_given_with_its_values(snmpd: SnmpAgent) -> None:
    driver = outlet(snmpd.port, 3, None, oid=snmpd.base_oid, on_value=1, off_value=2)
    await driver.on()
    assert await driver.status() == "on"
    await driver.off()
    assert await driver.status() == "off"


async def test_an_object_without_its_values_is_switched_with_1_and_0(snmpd: SnmpAgent) -> None:
    driver = outlet(snmpd.port, 3, None, oid=snmpd.base_oid)
    await driver.on()
    with pytest.raises(SNMPError, match="SNMP error: wrongValue"):
        await driver.off()
    assert (PowerState.ON, PowerState.OFF) == (1, 0)
    await outlet(snmpd.port, 3, None, oid=snmpd.base_oid, on_value=1, off_value=2).off()


async def test_an_object_may_have_another_one_for_its_state(pdus: int) -> None:
    base = "1.3.6.1.4.1.534.6.6.7.6.6.1"
    config = {"oid": f"{base}.4.0", "on_value": 0, "off_value": -1, "state_oid": f"{base}.2.0", "on_states": [1]}
    driver = outlet(pdus, 2, None, **config, off_states=[0])
    await driver.on()
    assert await driver.status() == "on"
    await outlet(pdus, 2, "eaton").off()


async def test_a_unit_of_ones_own_is_described_in_yaml(snmpd: SnmpAgent) -> None:
    text = readme_configs()[2].replace("192.0.2.31", "127.0.0.1")
    assert snmpd.base_oid in text
    driver = from_yaml(f"{text}      port: {snmpd.port}\n")

    await driver.on()
    assert ask_agent_v2(snmpd, 4) == "1"
    await driver.off()
    assert ask_agent_v2(snmpd, 4) == "2"


def ask_agent_v2(agent: SnmpAgent, number: int) -> str:
    command = [program("snmpget"), "-v2c", "-c", agent.community, "-Oqvn", f"127.0.0.1:{agent.port}"]
    found = subprocess.run([*command, agent.outlet_oid(number)], capture_output=True, text=True, timeout=10, check=True)
    return found.stdout.strip()


def readme_configs() -> list[str]:
    return re.findall(r"```yaml\nexport:\n  power:\n(.*?)```", README.read_text(), re.DOTALL)


def from_yaml(text: str) -> SNMPServer:
    driver = ExporterConfigV1Alpha1DriverInstance.from_str(text).instantiate()
    assert isinstance(driver, SNMPServer)
    return driver


def test_the_configs_of_the_readme_load() -> None:
    assert len([from_yaml(text) for text in readme_configs()]) == 3


def test_the_readme_names_all_families() -> None:
    for name in families():
        assert f"| `{name}` |" in README.read_text()


VALID: dict[str, Any] = {"host": "pdu", "plug": 1, "pdu": "raritan", "user": "lab"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"host": ""}, "host must be"),
        ({"plug": 0}, "plug must be a whole number from 1"),
        ({"plug": "1"}, "plug must be"),
        ({"plug": True}, "plug must be"),
        ({"port": 70000}, "port must be"),
        ({"unit": -1}, "unit must be"),
        ({"timeout": 0}, "timeout must be"),
        ({"confirm_timeout": float("inf")}, "confirm_timeout must be"),
        ({"pdu": "unknown"}, "use one of raritan"),
        ({"pdu": {"switch_on": 1}}, "does not describe"),
        ({"oid": "1.3.6"}, "`oid` and `pdu` exclude each other"),
        ({"state_oid": "1.3.6"}, "`state_oid` and `pdu` exclude each other"),
        ({"pdu": None, "oid": "1.3.x"}, "is no object identifier"),
        ({"pdu": None, "oid": "1.3.6", "on_value": 0}, "must differ"),
        ({"pdu": None, "oid": "1.3.6", "on_value": "1"}, "on_value must be"),
        ({"user": None}, "credentials"),
        ({"version": "v4"}, "version must be one of v1, v2c, v3"),
        ({"version": "v2c"}, "needs credentials"),
        ({"version": "v2c", "community": "private"}, "`user` is for SNMPv3"),
        ({"version": "v3", "user": None, "community": "private"}, "SNMPv3 needs a `user`"),
        ({"auth_protocol": "SHA3"}, "auth_protocol must be one of NONE, MD5, SHA"),
        ({"auth_protocol": "SHA"}, "auth_key for SHA must be a text of at least 8 characters"),
        ({"auth_protocol": "SHA", "auth_key": "short"}, "at least 8 characters"),
        ({"auth_protocol": "SHA", "auth_key": 12345678}, "must be a text"),
        ({"priv_protocol": "AES", "priv_key": "long enough"}, "needs an auth_protocol as well"),
        ({"auth_protocol": "SHA", "auth_key": "long enough", "priv_protocol": "AES"}, "priv_key for AES"),
        ({"auth_protocol": "SHA", "auth_key": "long enough", "priv_protocol": "RC4"}, "priv_protocol must be one of"),
    ],
)
def test_a_config_that_can_not_work_is_refused_before_anything_is_sent(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SNMPServer(**(VALID | config))


def test_secrets_are_not_shown() -> None:
    keys = {"auth_protocol": "SHA", "auth_key": "geheim-1", "priv_protocol": "AES", "priv_key": "geheim-2"}
    for driver in (SNMPServer(**VALID, **keys), SNMPServer(host="pdu", plug=1, community="geheim-3")):
        assert "geheim" not in repr(driver)
        assert "geheim" not in repr(driver._target)


# -- from the client --------------------------------------------------------------------------------------------------


def test_clients_drive_an_outlet(pdus: int) -> None:
    with serve(outlet(pdus, 3)) as client:
        client.on()
        assert client.status() == "on"
        client.cycle(0)
        assert ask_agent(pdus, STATES["raritan"][0].format(3)) == "7"
        assert list(client.read()) == [READINGS["raritan"]]
        client.off()
        assert client.status() == "off"


def test_clients_see_why_a_command_failed(pdus: int) -> None:
    with serve(outlet(pdus, 9, "poe")) as client:
        with pytest.raises(DriverError, match="SNMP set failed: SNMP error: notWritable"):
            client.on()
        with pytest.raises(DriverMethodNotImplemented, match="does not measure"):
            list(client.read())


def test_commands(pdus: int) -> None:
    with serve(outlet(pdus, 3)) as client:
        runner = CliRunner()
        assert runner.invoke(client.cli(), ["on"]).exit_code == 0
        assert runner.invoke(client.cli(), ["status"]).output == "on\n"
        reading = runner.invoke(client.cli(), ["read"]).output
        assert reading == "voltage=230.5 V  current=1.5 A  apparent_power=345.75 VA  power=340.0 W\n"
        assert reading in README.read_text()
        assert runner.invoke(client.cli(), ["off"]).exit_code == 0
