"""The HTTP power driver against emulated plugs, with the very configs of the README."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner
from jumpstarter.client.core import DriverError, DriverMethodNotImplemented
from jumpstarter.common.utils import serve
from jumpstarter.config.exporter import ExporterConfigV1Alpha1DriverInstance
from jumpstarter_driver_power import driver as power
from jumpstarter_driver_power.common import PowerNotConfirmed, PowerReading
from jumpstarter_testbench.emulated.certificates import Certificate, loopback_certificate
from jumpstarter_testbench.emulated.http import Answer, HttpDevice, Request
from jumpstarter_testbench.emulated.http_plugs import PiKvm, ShellyGen1, ShellyGen2, TasmotaHttp

from jumpstarter_driver_http_power import web
from jumpstarter_driver_http_power.driver import BadAnswer, HttpPower, HttpPowerError

README = Path(__file__).parents[1] / "README.md"
ADDRESS = re.compile(r"https?://192\.0\.2\.\d+")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return loopback_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Don't wait as long as with real devices."""
    monkeypatch.setattr(power.PowerInterface.confirm, "__defaults__", (0.3,))


@pytest.fixture
def shelly() -> Iterator[ShellyGen2]:
    with ShellyGen2() as plug:
        yield plug


def readme_config(title: str, url: str) -> str:
    """The config below a title of the README, for a device at another address."""
    _, _, rest = README.read_text().partition(title)
    found = re.search(r"```yaml\n(?:export:\n  power:\n)?(.*?)```", rest, re.DOTALL)
    assert found is not None
    return ADDRESS.sub(url, found[1])


def from_yaml(text: str) -> HttpPower:
    driver = ExporterConfigV1Alpha1DriverInstance.from_str(text).instantiate()
    assert isinstance(driver, HttpPower)
    return driver


def gen2(plug: HttpDevice, **config: Any) -> HttpPower:
    """A driver for a Shelly of the second generation."""
    base = f"{plug.url}/rpc"
    return HttpPower(
        **{
            "power_on": {"url": f"{base}/Switch.Set?id=0&on=true"},
            "power_off": {"url": f"{base}/Switch.Set?id=0&on=false"},
            "power_status": {"url": f"{base}/Switch.GetStatus?id=0", "path": "output"},
            **config,
        }
    )


Devices = Callable[[Certificate], Any]

DEVICES: dict[str, tuple[Devices, PowerReading | None]] = {
    "# Power by HTTP requests": (
        lambda _: ShellyGen2("secret"),
        PowerReading(voltage=237.5, current=0.06, power=8.9),
    ),
    "### Shelly, first generation": (
        lambda _: ShellyGen1("secret"),
        PowerReading(voltage=236.86, current=0.19, power=27.42),
    ),
    "### Tasmota": (lambda _: TasmotaHttp("secret"), PowerReading(voltage=231, current=0.286, power=51)),
    "### PiKVM": (lambda certificate: PiKvm("secret", certificate), None),
}
BY_TITLE = pytest.mark.parametrize("title", DEVICES)


@BY_TITLE
async def test_the_configs_of_the_readme_drive_their_devices(title: str, certificate: Certificate) -> None:
    make, expected = DEVICES[title]
    with make(certificate) as plug:
        driver = from_yaml(readme_config(title, plug.url))

        await driver.on()
        assert plug.on
        assert await driver.status() == "on"
        await driver.off()
        assert not plug.on
        assert await driver.status() == "off"

        if expected is not None:
            assert [reading async for reading in driver.read()] == [expected]


@BY_TITLE
async def test_a_wrong_password_is_an_error_and_switches_nothing(title: str, certificate: Certificate) -> None:
    make, _ = DEVICES[title]
    with make(certificate) as plug:
        driver = from_yaml(readme_config(title, plug.url).replace("secret", "wrong-secret"))

        with pytest.raises(HttpPowerError, match=r"status 401|has no POWER") as caught:
            await driver.on()

        assert not plug.on
        assert "wrong-secret" not in str(caught.value)
        assert len(plug.requests) <= 3


@BY_TITLE
async def test_a_relay_that_does_not_follow_is_an_error(title: str, certificate: Certificate) -> None:
    make, _ = DEVICES[title]
    with make(certificate) as plug:
        plug.stuck = True
        driver = from_yaml(readme_config(title, plug.url))

        with pytest.raises(PowerNotConfirmed, match="was switched on, but reports off"):
            await driver.on()


async def test_an_error_of_the_device_is_shown(shelly: ShellyGen2) -> None:
    driver = gen2(shelly, power_on={"url": f"{shelly.url}/rpc/Switch.Set?id=5&on=true"})
    with pytest.raises(
        HttpPowerError, match=r"GET http://127.0.0.1:\d+/rpc/Switch.Set\?... was refused with status 500"
    ):
        await driver.on()


async def test_a_body_is_sent_as_text_or_as_json(shelly: ShellyGen2) -> None:
    call = {"id": 1, "method": "Switch.Set", "params": {"id": 0, "on": True}}
    driver = gen2(
        shelly,
        power_on={"url": f"{shelly.url}/rpc", "method": "post", "data": call},
        power_off={
            "url": f"{shelly.url}/rpc",
            "method": "POST",
            "data": '{"method": "Switch.Set", "params": {"id": 0, "on": false}}',
            "headers": {"X-Lab": "one"},
        },
    )

    await driver.on()
    assert shelly.on
    await driver.off()
    assert not shelly.on

    sent = [each for each in shelly.requests if each.method == "POST"]
    assert json.loads(sent[0].body) == call
    assert sent[0].headers["content-type"] == "application/json"
    assert sent[1].body.startswith(b'{"method": "Switch.Set"')
    assert sent[1].headers["x-lab"] == "one"


async def test_credentials_of_pikvm_may_be_headers(certificate: Certificate) -> None:
    with PiKvm("secret", certificate) as kvm:
        request = {
            "url": f"{kvm.url}/api/atx/power?action=on",
            "method": "POST",
            "headers": {"X-KVMD-User": "admin", "X-KVMD-Passwd": "secret"},
        }
        await HttpPower(power_on=request, power_off=request, ca_file=str(certificate.file)).on()
        assert kvm.on


async def test_addresses_are_sent_as_they_are_written() -> None:
    with TasmotaHttp() as plug:
        await HttpPower(power_on={"url": f"{plug.url}/cm?cmnd=Power%20On"}, power_off={"url": plug.url}).on()
        assert [each.target for each in plug.requests] == ["/cm?cmnd=Power%20On"]


async def test_a_certificate_that_is_not_trusted_is_an_error(certificate: Certificate) -> None:
    with ShellyGen2(certificate=certificate) as plug:
        with pytest.raises(HttpPowerError, match=r"certificate is not trusted .*ca_file"):
            await gen2(plug).on()
        assert not plug.requests

        await gen2(plug, ca_file=str(certificate.file)).on()
        assert plug.on
        await gen2(plug, insecure_tls=True).off()
        assert not plug.on


async def test_a_device_that_is_not_there_is_an_error_and_works_again_when_it_is_back() -> None:
    with ShellyGen2() as gone:
        driver = gen2(gone)
        port = gone._server.server_address[1]
    with pytest.raises(HttpPowerError, match="Check that the device is there"):
        await driver.on()

    with ShellyGen2() as back:
        forward = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
        async with forward, anyio.create_task_group() as tg:
            tg.start_soon(_relay, forward, back.host)
            await driver.on()
            tg.cancel_scope.cancel()
        assert back.on


async def _relay(listener: Any, target: str) -> None:
    """Join connections with a server."""
    host, _, port = target.partition(":")

    async def serve_one(client: Any) -> None:
        async with client, await anyio.connect_tcp(host, int(port)) as server, anyio.create_task_group() as tg:

            async def copy(source: Any, sink: Any) -> None:
                async for chunk in source:
                    await sink.send(chunk)
                tg.cancel_scope.cancel()

            tg.start_soon(copy, client, server)
            tg.start_soon(copy, server, client)

    await listener.serve(serve_one)


async def test_a_silent_device_is_an_error_within_the_time_out(shelly: ShellyGen2) -> None:
    shelly.awake.clear()
    with anyio.fail_after(20), pytest.raises(HttpPowerError, match=r"no answer to GET .* within 0.2 s.*`timeout`"):
        await gen2(shelly, timeout=0.2).on()


async def test_an_endless_answer_is_an_error(shelly: ShellyGen2) -> None:
    shelly.instead = lambda _: Answer(b"x" * (web.ANSWER_LIMIT + 1))
    with pytest.raises(HttpPowerError, match=f"more than {web.ANSWER_LIMIT} bytes"):
        await gen2(shelly).on()


async def test_what_is_no_http_is_an_error() -> None:
    async def answer(client: Any) -> None:
        async with client:
            await client.receive()
            await client.send(b"SSH-2.0-OpenSSH_9.2\r\n")

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tg:
        tg.start_soon(listener.serve, answer)
        endpoint = {"url": f"http://127.0.0.1:{port}/on?token=hidden"}
        with pytest.raises(HttpPowerError, match="failed") as caught:
            await HttpPower(power_on=endpoint, power_off=endpoint).on()
        assert "hidden" not in str(caught.value)
        tg.cancel_scope.cancel()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirections_on_the_same_host_are_followed(shelly: ShellyGen2, status: int) -> None:
    shelly.instead = lambda request: (
        Answer("", status, {"Location": "/rpc/Switch.Set?id=0&on=true"}) if request.path == "/old" else None
    )
    await gen2(shelly, power_on={"url": f"{shelly.url}/old"}).on()
    assert shelly.on


@pytest.mark.parametrize("status", [307, 308])
async def test_redirections_that_keep_the_method_keep_the_body(shelly: ShellyGen2, status: int) -> None:
    shelly.instead = lambda request: Answer("", status, {"Location": "/rpc"}) if request.path == "/old" else None
    call = {"method": "Switch.Set", "params": {"id": 0, "on": True}}
    await gen2(shelly, power_on={"url": f"{shelly.url}/old", "method": "POST", "data": call}).on()
    assert shelly.on


@pytest.mark.parametrize("status", [301, 302])
async def test_a_redirection_that_would_lose_the_command_is_an_error(shelly: ShellyGen2, status: int) -> None:
    shelly.instead = lambda _: Answer("", status, {"Location": "/new"})
    with pytest.raises(HttpPowerError, match=r"would lose the command.*/new"):
        await gen2(shelly, power_on={"url": f"{shelly.url}/old", "method": "POST"}).on()
    assert len(shelly.requests) == 1


async def test_a_redirection_to_https_is_followed(certificate: Certificate) -> None:
    with ShellyGen2("secret") as plain, ShellyGen2("secret", certificate) as secure:
        plain.instead = lambda request: Answer("", 301, {"Location": f"{secure.url}{request.target}"})
        auth = {"digest": {"user": "admin", "password": "secret"}}
        await gen2(plain, auth=auth, ca_file=str(certificate.file)).on()
        assert secure.on


async def test_a_redirection_to_another_place_is_not_followed(shelly: ShellyGen2) -> None:
    with ShellyGen2() as other:
        shelly.instead = lambda request: Answer("", 307, {"Location": f"{other.url}{request.target}"})
        auth = {"basic": {"user": "admin", "password": "secret"}}
        with pytest.raises(HttpPowerError, match="redirected to another place, which is not followed"):
            await gen2(shelly, auth=auth).on()
        assert not other.requests


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer("", 302, {"Location": "/rpc/Switch.Set?id=0&on=true"}), "redirected more than 5 times"),
        (Answer("", 302), "but to nowhere"),
        (Answer("", 302, {"Location": "ftp://127.0.0.1/"}), "another place"),
        (Answer("", 302, {"Location": "http://[::"}), "failed"),
    ],
)
async def test_redirections_that_lead_nowhere_are_errors(shelly: ShellyGen2, answer: Answer, message: str) -> None:
    shelly.instead = lambda _: answer
    with pytest.raises(HttpPowerError, match=message):
        await gen2(shelly).on()


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("on", "on"),
        ("ON\n", "on"),
        ("1", "on"),
        ("true", "on"),
        ("Off", "off"),
        ("0", "off"),
        ("pending", "unknown"),
        ("", "unknown"),
    ],
)
async def test_a_plain_answer_is_the_state_itself(shelly: ShellyGen2, text: str, state: str) -> None:
    shelly.instead = lambda _: Answer(text)
    assert await gen2(shelly, power_status={"url": shelly.url}).status() == state


@pytest.mark.parametrize(
    ("value", "state"),
    [(True, "on"), (1, "on"), ("on", "on"), (False, "off"), (0, "off"), (2, "unknown"), (None, "unknown")],
)
async def test_a_value_of_the_answer_is_the_state(shelly: ShellyGen2, value: Any, state: str) -> None:
    shelly.instead = lambda _: Answer(json.dumps({"a": [{"b": value}]}))
    assert await gen2(shelly, power_status={"url": shelly.url, "path": "a.0.b"}).status() == state


async def test_words_of_the_device_can_be_configured(shelly: ShellyGen2) -> None:
    shelly.instead = lambda _: Answer("energised")
    status = {"url": shelly.url, "on_values": ["Energised", 5], "off_values": ["dead"]}
    assert await gen2(shelly, power_status=status).status() == "on"


@pytest.mark.parametrize("text", ["", "<html>", "[]", '{"a": 1}', '{"output": {}}'.replace("output", "x")])
async def test_an_answer_without_the_state_is_an_error(shelly: ShellyGen2, text: str) -> None:
    shelly.instead = lambda _: Answer(text)
    with pytest.raises(BadAnswer, match=r"is not JSON|has no output"):
        await gen2(shelly).status()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<html>", "not JSON"),
        ('{"voltage": 230}', "has no current"),
        ('{"voltage": "many", "current": 1}', "voltage in the answer .* is no number: 'many'"),
        ('{"voltage": true, "current": 1}', "is no number"),
        ('{"voltage": NaN, "current": 1}', "is no number"),
        ('{"voltage": 1e999, "current": 1}', "is no number"),
        ('{"voltage": null, "current": 1}', "is no number"),
    ],
)
async def test_measurements_that_are_none_are_an_error(shelly: ShellyGen2, text: str, message: str) -> None:
    shelly.instead = lambda _: Answer(text)
    driver = gen2(shelly, power_read={"url": shelly.url})
    with pytest.raises(BadAnswer, match=message):
        [_ async for _ in driver.read()]


async def test_measurements_lie_at_the_top_unless_paths_are_given(shelly: ShellyGen2) -> None:
    shelly.instead = lambda _: Answer('{"voltage": "12.1", "current": 2, "deep": {"v": 5, "a": 0.5}}')

    plain = gen2(shelly, power_read={"url": shelly.url})
    inside = gen2(shelly, power_read={"url": shelly.url, "voltage_path": "deep.v", "current_path": "deep.a"})
    beside = gen2(shelly, power_read={"url": shelly.url}, voltage_path="deep.v", current_path="deep.a")

    assert [each async for each in plain.read()] == [PowerReading(voltage=12.1, current=2)]
    assert [each async for each in inside.read()] == [PowerReading(voltage=5, current=0.5)]
    assert [each async for each in beside.read()] == [PowerReading(voltage=5, current=0.5)]


async def test_what_is_not_configured_is_not_implemented(shelly: ShellyGen2) -> None:
    driver = gen2(shelly, power_status=None, name="plug 7")
    with pytest.raises(NotImplementedError, match="plug 7 can't be asked"):
        await driver.status()
    with pytest.raises(ValueError, match="no `power_read`"):
        [_ async for _ in driver.read()]

    await driver.on()

    assert shelly.on


async def test_a_cancelled_command_leaves_nothing(shelly: ShellyGen2) -> None:
    shelly.awake.clear()
    before = len(asyncio.all_tasks())

    async with anyio.create_task_group() as tg:
        tg.start_soon(gen2(shelly).on)
        assert await anyio.to_thread.run_sync(shelly.heard.wait, 10)
        tg.cancel_scope.cancel()

    with anyio.fail_after(5):
        while len(asyncio.all_tasks()) > before:  # noqa: ASYNC110 (tasks of aiohttp tell nobody when they end)
            await anyio.sleep(0.01)


OK = {"url": "http://192.0.2.1/"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"power_on": OK}, "power_off"),
        ({"power_on": OK, "power_off": {}}, "url"),
        ({"power_on": OK, "power_off": {"url": "192.0.2.1"}}, "http:// or https://"),
        ({"power_on": OK, "power_off": {"url": "ftp://192.0.2.1"}}, "http:// or https://"),
        ({"power_on": OK, "power_off": {"url": "http://u:p@192.0.2.1"}}, "put them into `auth`"),
        ({"power_on": OK, "power_off": {"url": "http://192.0.2.1:99999"}}, "port|Port"),
        ({"power_on": OK, "power_off": OK | {"method": "SWITCH"}}, "method"),
        ({"power_on": OK, "power_off": OK | {"metod": "GET"}}, "metod"),
        ({"power_on": OK, "power_off": OK, "power_of": OK}, "power_of"),
        ({"power_on": OK, "power_off": OK, "auth": {}}, "basic"),
        ({"power_on": OK, "power_off": OK, "timeout": 0}, "timeout"),
        ({"power_on": OK, "power_off": OK, "ca_file": "/no/such/file"}, "there is no such file"),
        ({"power_on": OK, "power_off": OK, "power_status": OK | {"on_values": []}}, "on_values"),
    ],
)
def test_a_config_that_can_not_work_is_refused_before_anything_is_sent(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HttpPower(**config)


def test_a_body_that_is_not_sent_is_told(caplog: pytest.LogCaptureFixture) -> None:
    HttpPower(power_on=OK | {"data": "on"}, power_off=OK)
    assert "power_on: GET requests have no body" in caplog.text


def test_passwords_are_not_shown() -> None:
    auth: Any = {"basic": {"user": "admin", "password": 4711}}
    driver = HttpPower(power_on=OK, power_off=OK, auth=auth)
    assert "4711" not in repr(driver)
    assert "4711" not in repr(driver.auth)


def test_clients_drive_a_plug(shelly: ShellyGen2) -> None:
    driver = gen2(shelly, power_read={"url": f"{shelly.url}/rpc/Switch.GetStatus?id=0", "power_path": "apower"})
    with serve(driver) as client:
        client.on()
        assert client.status() == "on"
        client.cycle(0)
        assert shelly.on
        assert [reading.power for reading in client.read()] == [8.9]
        client.off()
        assert not shelly.on


def test_clients_see_why_a_command_failed(shelly: ShellyGen2) -> None:
    shelly.instead = lambda _: Answer("overheated", 503)
    with serve(gen2(shelly, power_status=None)) as client:
        with pytest.raises(DriverError, match="refused with status 503: 'overheated'"):
            client.on()
        with pytest.raises(DriverMethodNotImplemented, match="power_status"):
            client.status()


def test_commands(shelly: ShellyGen2) -> None:
    driver = gen2(shelly, power_read={"url": f"{shelly.url}/rpc/Switch.GetStatus?id=0", "power_path": "apower"})
    with serve(driver) as client:
        runner = CliRunner()
        assert runner.invoke(client.cli(), ["on"]).exit_code == 0
        assert runner.invoke(client.cli(), ["status"]).output == "on\n"
        expected = "voltage=237.5 V  current=0.06 A  apparent_power=14.25 VA  power=8.9 W\n"
        assert runner.invoke(client.cli(), ["read"]).output == expected
        assert expected in README.read_text()


def test_the_emulated_shelly_lets_nobody_in_with_an_old_answer() -> None:
    # Else the test of digest authentication could not fail.
    plug = ShellyGen2("secret")
    forged = 'Digest username="admin", realm="x", nonce="1", uri="/rpc", response="00", qop=auth, nc=1, cnonce="1"'
    with plug:
        answer = plug.answer(Request("GET", "/rpc", b"", {"authorization": forged}, "127.0.0.1"))
    assert answer.status == 401


def test_the_emulated_device_speaks_tls(certificate: Certificate) -> None:
    with ShellyGen2(certificate=certificate) as plug:
        host, _, port = plug.host.partition(":")
        assert certificate.file.read_text() == ssl.get_server_certificate((host, int(port)))
