"""The Tasmota driver against mosquitto and a plug that speaks Tasmota's topics."""

from __future__ import annotations

import getpass
import re
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner
from jumpstarter.client.core import DriverError, DriverMethodNotImplemented
from jumpstarter.common.utils import serve
from jumpstarter.config.exporter import ExporterConfigV1Alpha1DriverInstance
from jumpstarter_driver_power.common import PowerReading
from jumpstarter_testbench.daemons import NetworkServer
from jumpstarter_testbench.emulated.certificates import Certificate, loopback_certificate
from jumpstarter_testbench.emulated.tasmota import TasmotaPlug
from jumpstarter_testbench.process import accepts, accepts_unix, running, running_on_free_port
from jumpstarter_testbench.requirements import need, program
from websockets import Subprotocol
from websockets.asyncio.server import serve as serve_websocket

from jumpstarter_driver_tasmota import plug as protocol
from jumpstarter_driver_tasmota.driver import TasmotaError, TasmotaPower, TasmotaTimeout

README = Path(__file__).parents[1] / "README.md"
ENERGY = {"Total": 3.185, "Power": 51, "ApparentPower": 58, "Factor": 0.88, "Voltage": 231, "Current": 0.25}

pytestmark = pytest.mark.daemon

OPEN = "listener {port} 127.0.0.1\nallow_anonymous true"
"""Lines of a broker's config that let everybody in."""


@pytest.fixture
def topic() -> str:
    """A name for a plug that no other test uses."""
    return f"tasmota_{uuid.uuid4().hex[:6].upper()}"


@pytest.fixture
def plug(mosquitto: NetworkServer, topic: str) -> Iterator[TasmotaPlug]:
    with TasmotaPlug(mosquitto.port, topic, energy=ENERGY) as device:
        yield device


@pytest.fixture
def driver(mosquitto: NetworkServer, topic: str) -> TasmotaPower:
    return power(mosquitto.port, topic)


def power(port: int, topic: str, relay: str = "POWER", **config: Any) -> TasmotaPower:
    return TasmotaPower(
        **{
            "host": "127.0.0.1",
            "port": port,
            "tls": False,
            "cmnd_topic": f"cmnd/{topic}/{relay}",
            "stat_topic": f"stat/{topic}/{relay}",
            **config,
        }
    )


@contextmanager
def broker(folder: Path, lines: str) -> Iterator[int]:
    """Run another mosquitto; `{port}` in its config is where it listens."""
    need("mosquitto")

    def command(port: int) -> list[str | Path]:
        config = folder / "mosquitto.conf"
        config.write_text(f"user {getpass.getuser()}\n{lines.format(port=port)}\n")
        return [program("mosquitto"), "-c", config]

    with running_on_free_port(command, log=folder / "log", ready=lambda port: accepts("127.0.0.1", port)) as port:
        yield port


def restarted(folder: Path, port: int) -> AbstractContextManager[Any]:
    """Run mosquitto on a port that it had before."""
    config = folder / "mosquitto.conf"
    config.write_text(f"user {getpass.getuser()}\nlistener {port} 127.0.0.1\nallow_anonymous true\n")
    return running([program("mosquitto"), "-c", config], log=folder / "log", ready=lambda: accepts("127.0.0.1", port))


async def test_a_plug_is_switched_and_confirms(plug: TasmotaPlug, driver: TasmotaPower, topic: str) -> None:
    await driver.on()
    assert plug.on == [True]
    assert await driver.status() == "on"

    await driver.off()
    assert plug.on == [False]
    assert await driver.status() == "off"

    command = f"cmnd/{topic}/POWER"
    assert plug.commands == [(command, payload) for payload in ("ON", "", "", "OFF", "", "")]


async def test_what_the_plug_measures_is_read(plug: TasmotaPlug, driver: TasmotaPower) -> None:
    assert [each async for each in driver.read()] == [PowerReading(voltage=231, current=0.25, power=51)]
    assert plug.commands[-1][1] == "10"


async def test_an_older_plug_is_asked_for_status_8(mosquitto: NetworkServer, topic: str) -> None:
    with TasmotaPlug(mosquitto.port, topic, energy=ENERGY, status=(8,)) as plug:
        readings = [each async for each in power(mosquitto.port, topic, timeout=2).read()]
        assert readings == [PowerReading(voltage=231, current=0.25, power=51)]
        assert [payload for _, payload in plug.commands] == ["10", "8"]


async def test_a_plug_without_a_meter_has_no_measurements(mosquitto: NetworkServer, topic: str) -> None:
    with TasmotaPlug(mosquitto.port, topic), pytest.raises(NotImplementedError, match="does not measure"):
        [_ async for _ in power(mosquitto.port, topic).read()]


@pytest.mark.parametrize(
    "options",
    [{"option4": True}, {"option26": True}, {"option90": True}, {"option4": True, "option26": True, "option90": True}],
)
async def test_plugs_may_answer_in_other_ways(mosquitto: NetworkServer, topic: str, options: dict[str, bool]) -> None:
    with TasmotaPlug(mosquitto.port, topic, **options) as plug:
        await power(mosquitto.port, topic).on()
        assert plug.on == [True]


async def test_relays_of_one_device_are_told_apart(mosquitto: NetworkServer, topic: str) -> None:
    with TasmotaPlug(mosquitto.port, topic, relays=2) as plug:
        second = power(mosquitto.port, topic, "POWER2")
        await second.on()
        assert plug.on == [False, True]
        assert await power(mosquitto.port, topic, "POWER1").status() == "off"


async def test_a_state_that_was_told_before_the_command_confirms_nothing(
    mosquitto: NetworkServer, plug: TasmotaPlug, topic: str
) -> None:
    """Given a broker that keeps the state ON, when a deaf plug is switched on, then that is an error."""
    plug.say("ON", retain=True)
    plug.deaf = True

    with pytest.raises(TasmotaTimeout, match=r"the plug has not confirmed ON within 1 s"):
        await power(mosquitto.port, topic, timeout=1).on()

    plug.say("", retain=True)


async def test_a_second_command_needs_a_confirmation_of_its_own(
    mosquitto: NetworkServer, plug: TasmotaPlug, topic: str
) -> None:
    driver = power(mosquitto.port, topic, timeout=1)
    await driver.off()
    plug.deaf = True

    with pytest.raises(TasmotaTimeout, match="has not confirmed OFF"):
        await driver.off()


async def test_a_relay_that_does_not_follow_is_an_error(
    mosquitto: NetworkServer, plug: TasmotaPlug, topic: str
) -> None:
    plug.stuck = True
    with pytest.raises(TasmotaTimeout, match=r"has not confirmed ON, and says OFF within 1 s"):
        await power(mosquitto.port, topic, timeout=1).on()


async def test_a_plug_that_is_offline_is_told_at_once(
    mosquitto: NetworkServer, topic: str, presence: Callable[[], str]
) -> None:
    with TasmotaPlug(mosquitto.port, topic) as plug:
        assert presence() == "Online"
        plug.vanish()
        assert presence() == "Offline"

    with anyio.fail_after(30), pytest.raises(TasmotaError, match="the plug is offline, says the MQTT broker"):
        await power(mosquitto.port, topic, timeout=60).on()

    with TasmotaPlug(mosquitto.port, topic) as plug:
        await power(mosquitto.port, topic).on()
        assert plug.on == [True]


@pytest.fixture
def presence(mosquitto: NetworkServer, topic: str) -> Iterator[Callable[[], str]]:
    """Waits for the next word of the broker about the plug, as mosquitto's own client hears it."""
    command = [program("mosquitto_sub"), "-h", "127.0.0.1", "-p", str(mosquitto.port), "-W", "60"]
    with subprocess.Popen([*command, "-t", f"tele/{topic}/LWT"], stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        out = listener.stdout
        yield lambda: out.readline().strip()
        listener.terminate()


async def test_no_plug_at_all_is_an_error(mosquitto: NetworkServer, topic: str) -> None:
    driver = power(mosquitto.port, topic, timeout=1)
    with pytest.raises(TasmotaTimeout, match=r"does not answer .*Check the topics"):
        await driver.status()
    with pytest.raises(TasmotaTimeout, match="does not tell its measurements"):
        [_ async for _ in driver.read()]


async def test_a_broker_that_is_down_is_an_error_and_works_again_when_it_is_back(tmp_path: Path, topic: str) -> None:
    with broker(tmp_path, OPEN) as port, TasmotaPlug(port, topic):
        driver = power(port, topic, timeout=5)
        await driver.on()
    with pytest.raises(TasmotaError, match=r"can't connect to the MQTT broker 127.0.0.1:\d+: .*refused"):
        await driver.on()

    with restarted(tmp_path, port), TasmotaPlug(port, topic) as plug:
        await driver.on()
        assert plug.on == [True]


async def test_a_plug_that_outlives_its_broker_is_switched_again(tmp_path: Path, topic: str) -> None:
    with ExitStack() as stack:
        with broker(tmp_path, OPEN) as port:
            plug = stack.enter_context(TasmotaPlug(port, topic))
            driver = power(port, topic)
            await driver.on()
            plug.forget_ready()
        stack.enter_context(restarted(tmp_path, port))
        await anyio.to_thread.run_sync(plug.wait_ready)

        await driver.off()

        assert plug.on == [False]


def test_a_broker_that_dies_during_a_command_is_an_error(tmp_path: Path, topic: str) -> None:
    with ExitStack() as stack:
        with broker(tmp_path, OPEN) as port:
            plug = stack.enter_context(TasmotaPlug(port, topic))
            plug.deaf = True
            client = stack.enter_context(serve(power(port, topic, timeout=60, lwt_topic="")))
            caller = stack.enter_context(ThreadPoolExecutor(1)).submit(client.on)
            assert plug.heard.wait(20)

        with pytest.raises(DriverError, match=r"the connection to the MQTT broker 127.0.0.1:\d+ was lost"):
            caller.result(30)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Certificate]]:
    """A broker with TLS and passwords, which lets `blind` read nothing."""
    need("mosquitto")
    folder = tmp_path_factory.mktemp("secured")
    certificate = loopback_certificate(folder)
    passwords = folder / "passwords"
    passwords.touch()
    for user in ("lab", "blind"):
        subprocess.run([program("mosquitto_passwd"), "-b", passwords, user, "secret"], check=True, timeout=20)
    (folder / "access").write_text("user lab\ntopic readwrite #\nuser blind\ntopic write cmnd/#\n")
    lines = (
        "listener {port} 127.0.0.1\n"
        f"certfile {certificate.file}\nkeyfile {certificate.key}\n"
        f"password_file {passwords}\nacl_file {folder / 'access'}\n"
    )
    with broker(folder, lines) as port:
        yield port, certificate


async def test_tls_and_a_password_are_used(secured: tuple[int, Certificate], topic: str) -> None:
    port, certificate = secured
    plug = TasmotaPlug(port, topic)
    plug._client.tls_set(str(certificate.file))
    plug._client.username_pw_set("lab", "secret")
    with plug:
        config = {"tls": True, "ca_file": str(certificate.file), "username": "lab", "password": "secret"}
        await power(port, topic, **config).on()
        assert plug.on == [True]
        await power(port, topic, **(config | {"ca_file": None, "insecure_tls": True})).off()
        assert plug.on == [False]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"password": "wrong"}, "refused the connection: Not authorized. Check `username` and `password`"),
        ({"username": None, "password": None}, "refused the connection: Not authorized"),
        ({"ca_file": None}, "certificate of the MQTT broker .* is not trusted .*`ca_file`"),
        ({"tls": False}, "ended the connection|was lost"),
    ],
)
async def test_a_broker_that_refuses_is_an_error(
    secured: tuple[int, Certificate], topic: str, config: dict[str, Any], message: str
) -> None:
    port, certificate = secured
    right = {"tls": True, "ca_file": str(certificate.file), "username": "lab", "password": "secret", "timeout": 5}
    with pytest.raises(TasmotaError, match=message) as caught:
        await power(port, topic, **(right | config)).on()
    assert "wrong" not in str(caught.value)


async def test_tls_to_a_broker_without_it_is_an_error(mosquitto: NetworkServer, topic: str) -> None:
    with pytest.raises(TasmotaError, match=r"does not speak TLS there .*port 8883; without TLS set `tls: false`"):
        await power(mosquitto.port, topic, tls=True, timeout=5).on()


async def test_a_broker_that_says_nothing_is_an_error_within_the_time_out(topic: str) -> None:
    async def ignore(client: Any) -> None:
        async with client:
            await anyio.sleep_forever()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tg:
        tg.start_soon(listener.serve, ignore)
        with anyio.fail_after(30), pytest.raises(TasmotaTimeout, match="no answer from the MQTT broker"):
            await power(port, topic, timeout=0.3).on()
        tg.cancel_scope.cancel()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 64, b" \x02\x00"])
async def test_garbage_instead_of_a_broker_is_an_error(topic: str, answer: bytes) -> None:
    async def babble(client: Any) -> None:
        async with client:
            await client.receive()
            await client.send(answer)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tg:
        tg.start_soon(listener.serve, babble)
        with anyio.fail_after(30), pytest.raises(TasmotaError, match=r"was lost|refused|no answer"):
            await power(port, topic, timeout=1).on()
        tg.cancel_scope.cancel()


async def test_websockets_are_a_way_to_the_broker(mosquitto: NetworkServer, plug: TasmotaPlug, topic: str) -> None:
    async def bridge(connection: Any) -> None:
        """Join a WebSocket with the broker, as its own WebSocket listener does."""
        async with await anyio.connect_tcp("127.0.0.1", mosquitto.port) as tcp, anyio.create_task_group() as tg:

            async def back() -> None:
                async for chunk in tcp:
                    await connection.send(chunk)

            tg.start_soon(back)
            async for message in connection:
                await tcp.send(message)
            tg.cancel_scope.cancel()

    async with serve_websocket(bridge, "127.0.0.1", 0, subprotocols=[Subprotocol("mqtt")]) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        await power(port, topic, transport="websockets").on()

    assert plug.on == [True]


async def test_a_unix_socket_is_a_way_to_the_broker(tmp_path: Path, topic: str) -> None:
    need("mosquitto")
    path = tmp_path / "broker"
    lines = f"listener {{port}} 127.0.0.1\nlistener 0 {path}\nallow_anonymous true"
    with broker(tmp_path, lines) as port, TasmotaPlug(port, topic) as plug:
        assert accepts_unix(path)
        await power(1, topic, transport="unix", host=str(path)).on()
        assert plug.on == [True]


async def test_a_cancelled_command_ends_its_thread(mosquitto: NetworkServer, plug: TasmotaPlug, topic: str) -> None:
    plug.deaf = True
    driver = power(mosquitto.port, topic, timeout=60)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tg:
            tg.start_soon(driver.on)
            assert await anyio.to_thread.run_sync(plug.heard.wait, 10)
            running = list(driver._running.values())
            tg.cancel_scope.cancel()

    assert running
    assert all([await anyio.to_thread.run_sync(done.wait, 10) for done in running])
    plug.deaf = False
    await driver.on()


async def test_closing_ends_a_command_that_is_under_way(
    mosquitto: NetworkServer, plug: TasmotaPlug, topic: str
) -> None:
    plug.deaf = True
    driver = power(mosquitto.port, topic, timeout=60)

    async def switch() -> None:
        with pytest.raises(protocol.Stopped):
            await driver.on()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tg:
            tg.start_soon(switch)
            assert await anyio.to_thread.run_sync(plug.heard.wait, 10)
            await anyio.to_thread.run_sync(driver.close)


async def test_commands_with_one_client_id_take_turns(mosquitto: NetworkServer, plug: TasmotaPlug, topic: str) -> None:
    driver = power(mosquitto.port, topic, client_id=f"jumpstarter-{topic}")
    async with anyio.create_task_group() as tg:
        for _ in range(5):
            tg.start_soon(driver.status)


async def test_no_thread_and_no_connection_is_left(plug: TasmotaPlug, driver: TasmotaPower) -> None:
    await driver.on()
    assert not driver._running
    assert not [each for each in threading.enumerate() if "paho" in each.name and each is not plug._client._thread]


VALID = {"host": "broker", "cmnd_topic": "cmnd/plug/POWER", "stat_topic": "stat/plug/POWER"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"host": ""}, "host must be"),
        ({"port": 0}, "port must be"),
        ({"port": "1883"}, "port must be"),
        ({"transport": "udp"}, "transport must be"),
        ({"timeout": 0}, "timeout must be"),
        ({"timeout": float("nan")}, "timeout must be"),
        ({"cmnd_topic": "cmnd/+/POWER"}, "cmnd_topic must be a topic"),
        ({"stat_topic": "stat/#"}, "stat_topic must be a topic"),
        ({"stat_topic": ""}, "stat_topic must be a topic"),
        ({"lwt_topic": "tele/#"}, "lwt_topic must be a topic"),
        ({"password": "secret"}, "needs a username"),
        ({"tls": "yes"}, "tls must be true or false"),
        ({"ca_file": "/no/such/file"}, "there is no such file"),
        ({"key_file": __file__}, "needs a cert_file"),
    ],
)
def test_a_config_that_can_not_work_is_refused_before_anything_is_sent(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TasmotaPower(**(VALID | config))


def test_constructing_and_resetting_need_no_network() -> None:
    driver = TasmotaPower(**VALID)  # type: ignore[arg-type]
    driver.reset()
    driver.close()


def test_the_password_is_not_shown() -> None:
    driver = TasmotaPower(**VALID, username="lab", password="geheim")  # type: ignore[arg-type]
    assert "geheim" not in repr(driver)
    assert "geheim" not in repr(driver._broker)


def test_clients_drive_a_plug(plug: TasmotaPlug, driver: TasmotaPower) -> None:
    with serve(driver) as client:
        client.on()
        assert client.status() == "on"
        client.cycle(0)
        assert plug.on == [True]
        assert [each.power for each in client.read()] == [51]
        client.off()
        assert plug.on == [False]


def test_clients_see_why_a_command_failed(mosquitto: NetworkServer, topic: str) -> None:
    with TasmotaPlug(mosquitto.port, topic) as plug, serve(power(mosquitto.port, topic, timeout=1)) as client:
        with pytest.raises(DriverMethodNotImplemented, match="does not measure"):
            list(client.read())
        plug.deaf = True
        with pytest.raises(DriverError, match="has not confirmed ON"):
            client.on()


def test_commands(plug: TasmotaPlug, driver: TasmotaPower) -> None:
    with serve(driver) as client:
        runner = CliRunner()
        assert runner.invoke(client.cli(), ["on"]).exit_code == 0
        assert runner.invoke(client.cli(), ["status"]).output == "on\n"
        reading = runner.invoke(client.cli(), ["read"]).output
        assert reading == "voltage=231.0 V  current=0.25 A  apparent_power=57.75 VA  power=51.0 W\n"
        assert reading in README.read_text()


def test_the_configs_of_the_readme_load() -> None:
    found = re.findall(r"```yaml\nexport:\n  power:\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(found) == 2
    for text in found:
        assert isinstance(ExporterConfigV1Alpha1DriverInstance.from_str(text).instantiate(), TasmotaPower)
