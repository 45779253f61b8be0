"""The serial driver against real lines: pseudo-terminals, TCP, RFC 2217 and the loop."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import serial
from jumpstarter.client.core import DriverError, DriverInvalidArgument, DriverMethodNotImplemented
from jumpstarter.common.utils import serve

from jumpstarter_driver_pyserial import exclusive, reader
from jumpstarter_driver_pyserial.client import PySerialClient
from jumpstarter_driver_pyserial.conftest import BOUND, Line, Rfc2217Server
from jumpstarter_driver_pyserial.driver import PySerial, ThrottledStream
from jumpstarter_driver_pyserial.mailbox import Mailbox


def receive(stream: Any, count: int) -> bytes:
    """Receive exactly `count` bytes from a blocking stream."""
    data = b""
    while len(data) < count:
        data += stream.receive()
    return data


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until something is so, for a bounded time."""
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextmanager
def tcp_echo() -> Iterator[str]:
    """A TCP server that sends back what one client sends; yields the pyserial URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def echo() -> None:
            connection, _ = listener.accept()
            with connection:
                while data := connection.recv(1024):
                    connection.sendall(data)

        thread = threading.Thread(target=echo)
        thread.start()
        yield f"socket://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(BOUND)
        assert not thread.is_alive()


def test_loop_sends_back_through_a_stream() -> None:
    with serve(PySerial(url="loop://")) as client, client.stream() as stream:
        stream.send(b"hello")
        assert receive(stream, 5) == b"hello"


def test_loop_gives_every_connection_its_own() -> None:
    with serve(PySerial(url="loop://")) as client:
        one, other = client.open_stream(), client.open_stream()
        one.send(b"one")
        other.send(b"two")
        assert (receive(one, 3), receive(other, 3)) == (b"one", b"two")


def test_pexpect_finds_a_line() -> None:
    with serve(PySerial(url="loop://")) as client:
        with client.pexpect() as session:
            session.sendline("hello")
            assert session.expect("hello", timeout=BOUND) == 0
        session = client.open()
        session.sendline("again")
        assert session.expect("again", timeout=BOUND) == 0


@pytest.mark.daemon
@pytest.mark.need("socat")
class TestDevice:
    """A device file."""

    def test_bytes_go_both_ways_unchanged(self, line: Line) -> None:
        every_byte = bytes(range(256))
        with serve(PySerial(url=line.path)) as client, client.stream() as stream:
            stream.send(every_byte)
            assert line.read(256) == every_byte
            line.write(every_byte)
            assert receive(stream, 256) == every_byte

    def test_much_output_arrives_complete(self, line: Line) -> None:
        payload = os.urandom(200_000)

        def talk() -> None:
            left = payload
            while left:
                try:
                    left = left[os.write(line.device, left[:4096]) :]
                except BlockingIOError:
                    time.sleep(0.001)

        with serve(PySerial(url=line.path)) as client, client.stream() as stream:
            talker = threading.Thread(target=talk)
            talker.start()
            assert receive(stream, len(payload)) == payload
            talker.join(BOUND)

    def test_port_can_be_opened_again_at_once(self, line: Line) -> None:
        with serve(PySerial(url=line.path)) as client:
            for _ in range(5):
                with client.stream() as stream:
                    stream.send(b"x")
                    assert line.read(1) == b"x"

    def test_second_connection_is_told_who_has_the_port(self, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exclusive, "RELEASE_WAIT", 0.2)
        with serve(PySerial(url=line.path)) as client, client.stream() as first:
            with (
                pytest.raises(DriverError, match=f"{line.path} is in use by another connection since"),
                client.stream(),
            ):
                pass
            # and the first one goes on undisturbed
            line.write(b"still")
            assert receive(first, 5) == b"still"

    def test_disconnect_frees_the_port(self, line: Line) -> None:
        with serve(PySerial(url=line.path)) as client, client.stream() as first:
            client.disconnect()
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                first.receive()
            with client.stream() as second:
                line.write(b"mine")
                assert receive(second, 4) == b"mine"
            client.disconnect()

    def test_another_program_that_holds_the_port_is_reported(self, line: Line) -> None:
        with open(line.path, "rb", buffering=0) as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(serial.SerialException, match=r"another program uses it.*exclusive: false"):
                PySerial(url=line.path)
            with serve(PySerial(url=line.path, exclusive=False)) as client, client.stream() as stream:
                stream.send(b"x")
                assert line.read(1) == b"x"

    def test_lost_port_ends_the_stream_and_is_logged(self, line: Line, caplog: pytest.LogCaptureFixture) -> None:
        with serve(PySerial(url=line.path)) as client, client.stream() as stream:
            line.hang_up()
            with pytest.raises(anyio.EndOfStream):
                stream.receive()
        assert f"serial port {line.path} is lost" in caplog.text

    def test_speed_limit_holds(self, line: Line) -> None:
        with serve(PySerial(url=line.path, cps=100)) as client, client.stream() as stream:
            begun = time.monotonic()
            stream.send(b"0123456789")
            assert line.read(10) == b"0123456789"
            assert 0.08 <= time.monotonic() - begun < 5

    def test_settings_reach_the_line(self, line: Line) -> None:
        with serve(PySerial(url=line.path, baudrate=9600, stopbits=2)) as client, client.stream() as stream:
            stream.send(b"x")
            line.read(1)
            descriptor = os.open(line.path, os.O_RDWR | os.O_NOCTTY)
            try:
                _, _, cflag, _, _, speed, _ = termios.tcgetattr(descriptor)
            finally:
                os.close(descriptor)
        assert speed == termios.B9600
        assert cflag & termios.CSTOPB

    def test_settings_that_the_port_refuses_are_reported(self, line: Line) -> None:
        # given that a pseudo-terminal knows 8 data bits without parity only
        def open_twice() -> None:
            # The C library reports settings that changed nothing at all, so not those of the first time.
            PySerial(url=line.path, bytesize=7, parity="E")
            PySerial(url=line.path, bytesize=7, parity="E")

        with pytest.raises(serial.SerialException, match=r"it refuses the settings \(115200 baud, 7E1\)"):
            open_twice()

    @pytest.mark.parametrize("disabled", [True, False])
    def test_hupcl_is_cleared_only_when_asked(self, line: Line, disabled: bool) -> None:
        descriptor = os.open(line.path, os.O_RDWR | os.O_NOCTTY)
        try:
            attributes = termios.tcgetattr(descriptor)
            attributes[2] |= termios.HUPCL
            termios.tcsetattr(descriptor, termios.TCSANOW, attributes)
            with serve(PySerial(url=line.path, disable_hupcl=disabled)) as client, client.stream() as stream:
                stream.send(b"x")
                line.read(1)
                assert bool(termios.tcgetattr(descriptor)[2] & termios.HUPCL) is not disabled
        finally:
            os.close(descriptor)

    def test_lines_that_a_port_lacks_are_not_implemented(self, line: Line) -> None:
        with serve(PySerial(url=line.path)) as client:
            with pytest.raises(DriverMethodNotImplemented, match="has no modem lines"):
                client.set_dtr(True)
            with pytest.raises(DriverMethodNotImplemented, match="has no modem lines"):
                client.set_rts(False)

    def test_break_is_sent_on_the_open_port(self, line: Line) -> None:
        with serve(PySerial(url=line.path)) as client, client.stream():
            client.send_break(0.01)
            with pytest.raises(DriverInvalidArgument, match="duration must be above 0"):
                client.send_break(0)

    def test_backlog_keeps_what_nobody_received(self, line: Line) -> None:
        driver = PySerial(url=line.path, backlog=1000)
        with serve(driver) as client:
            with client.stream() as stream:
                stream.send(b"x")
                line.read(1)
            # when the device talks while nobody is connected, not even for the last moments of a connection
            eventually(lambda: driver._stream is None)
            line.write(b"boot log")
            eventually(lambda: recorded(driver).unread == 8)
            # then the next connection gets it, once
            with client.stream() as stream:
                assert receive(stream, 8) == b"boot log"
            eventually(lambda: driver._stream is None)
            with client.stream() as stream:
                line.write(b"more")
                assert receive(stream, 4) == b"more"

    def test_backlog_keeps_the_newest(self, line: Line, caplog: pytest.LogCaptureFixture) -> None:
        driver = PySerial(url=line.path, backlog=10)
        with serve(driver) as client:
            with client.stream() as stream:
                stream.send(b"x")
                line.read(1)
            # Until the connection has ended here too, it would take what comes.
            eventually(lambda: driver._stream is None)
            line.write(b"0123456789abcde")
            eventually(lambda: recorded(driver).dropped == 5)
            with client.stream() as stream:
                assert receive(stream, 10) == b"56789abcde"
            assert "5 bytes of output were dropped" in caplog.text

    @pytest.mark.parametrize("backlog", [0, 1000])
    def test_port_is_lent_to_another_program(self, line: Line, backlog: int) -> None:
        driver = PySerial(url=line.path, backlog=backlog)

        async def use() -> bytes:
            async with driver.lent() as url:
                with serial.serial_for_url(url, exclusive=True, timeout=10) as port:
                    line.write(b"for the program")
                    data: bytes = await anyio.to_thread.run_sync(port.read, 15)
            return data

        with serve(driver) as client:
            with client.stream() as stream:
                stream.send(b"x")
                line.read(1)
                # when a program borrows the port of an open connection
                assert client.portal.call(use) == b"for the program"
            # then clients get it again afterwards
            with client.stream() as stream:
                line.write(b"back")
                assert receive(stream, 4) == b"back"

    def test_recorded_port_comes_back_when_it_is_plugged_in_again(
        self, line: Line, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reader, "REOPEN_INTERVAL", 0.05)
        driver = PySerial(url=line.path, backlog=100)
        with serve(driver) as client:
            line.hang_up()
            eventually(lambda: f"serial port {line.path} is lost" in caplog.text)
            # when another device appears under the same name
            master, slave = os.openpty()
            tty.setraw(slave)
            Path(line.path).unlink(missing_ok=True)
            Path(line.path).symlink_to(os.ttyname(slave))
            try:
                with client.stream() as stream:
                    stream.send(b"back")
                    assert os.read(master, 4) == b"back"
            finally:
                driver.close()
                os.close(master)
                os.close(slave)


def recorded(driver: PySerial) -> Mailbox:
    """What a driver with a backlog has recorded."""
    assert driver._mailbox is not None
    return driver._mailbox


class TestNetwork:
    """Ports that are reached over TCP."""

    def test_socket_url_carries_bytes(self) -> None:
        with tcp_echo() as url, serve(PySerial(url=url, check_present=False)) as client, client.stream() as stream:
            stream.send(b"over tcp")
            assert receive(stream, 8) == b"over tcp"

    def test_rfc2217_carries_bytes_and_settings(self, rfc2217: Rfc2217Server) -> None:
        driver = PySerial(url=rfc2217.url, baudrate=57600, bytesize=7, parity="O", stopbits=2)
        with serve(driver) as client, client.stream() as stream:
            payload = b"all \xff of it \x00 escaped" * 500
            stream.send(payload)
            assert receive(stream, len(payload)) == payload
            port = rfc2217.port
            assert (port.baudrate, port.bytesize, port.parity, port.stopbits) == (57600, 7, "O", 2)

    def test_rfc2217_carries_modem_lines_and_break(self, rfc2217: Rfc2217Server) -> None:
        with serve(PySerial(url=rfc2217.url, check_present=False)) as client, client.stream():
            client.set_dtr(False)
            eventually(lambda: rfc2217.port.dtr is False)
            client.set_dtr(True)
            eventually(lambda: rfc2217.port.dtr is True)
            client.set_rts(False)
            eventually(lambda: rfc2217.port.rts is False)
            client.send_break(0.01)

    def test_rfc2217_end_of_the_server_ends_the_stream(
        self, rfc2217: Rfc2217Server, caplog: pytest.LogCaptureFixture
    ) -> None:
        with serve(PySerial(url=rfc2217.url, check_present=False)) as client, client.stream() as stream:
            stream.send(b"x")
            assert receive(stream, 1) == b"x"
            rfc2217.drop_client()
            with pytest.raises(anyio.EndOfStream):
                stream.receive()
        assert f"serial port {rfc2217.url} is lost" in caplog.text

    def test_pexpect_works_over_rfc2217(self, rfc2217: Rfc2217Server) -> None:
        with serve(PySerial(url=rfc2217.url, check_present=False)) as client, client.pexpect() as session:
            session.sendline("hello")
            assert session.expect("hello", timeout=BOUND) == 0


class TestErrors:
    """What a user reads when something is wrong."""

    def test_missing_device_stops_the_exporter_with_a_reason(self) -> None:
        with pytest.raises(serial.SerialException, match=r"/dev/no-such-port can't be opened: there is no such file"):
            PySerial(url="/dev/no-such-port")

    def test_missing_device_is_reported_when_it_is_opened(self) -> None:
        with (
            serve(PySerial(url="/dev/no-such-port", check_present=False)) as client,
            pytest.raises(DriverError, match=r"/dev/no-such-port can't be opened: there is no such file"),
            client.stream(),
        ):
            pass

    def test_pexpect_reports_a_missing_device(self) -> None:
        with (
            serve(PySerial(url="/dev/no-such-port", check_present=False)) as client,
            pytest.raises(DriverError, match="can't be opened: there is no such file"),
            client.pexpect() as session,
        ):
            session.expect("x", timeout=BOUND)

    def test_refused_connection_is_reported(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        with (
            serve(PySerial(url=f"socket://127.0.0.1:{port}", check_present=False)) as client,
            pytest.raises(DriverError, match=r"can't be opened: .*refused"),
            client.stream(),
        ):
            pass

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"baudrate": 0}, "baudrate must be a whole number above 0, not 0"),
            ({"baudrate": "fast"}, "baudrate must be a whole number above 0, not 'fast'"),
            ({"parity": "X"}, "parity must be one of"),
            ({"bytesize": 9}, "bytesize must be one of"),
            ({"stopbits": 3}, "stopbits must be one of"),
            ({"cps": -1}, "cps must be a number of characters per second"),
            ({"backlog": -1}, "backlog must be a number of bytes"),
            ({"url": ""}, "url must be a device path or a pyserial URL"),
        ],
    )
    def test_bad_configuration_is_refused_by_name(self, config: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            PySerial(**{"url": "loop://", **config})

    def test_unknown_url_scheme_is_refused(self) -> None:
        with pytest.raises(ValueError, match="nothing://x can't be opened"):
            PySerial(url="nothing://x")

    def test_loop_has_no_lines(self) -> None:
        with (
            serve(PySerial(url="loop://")) as client,
            pytest.raises(DriverMethodNotImplemented, match="no modem lines"),
        ):
            client.set_dtr(True)


class _Sink(anyio.abc.ObjectStream[bytes]):
    """Records when it is sent what."""

    def __init__(self) -> None:
        self.sent: list[tuple[float, bytes]] = []

    async def send(self, item: bytes) -> None:
        self.sent.append((time.monotonic(), item))

    async def receive(self) -> bytes:
        return b"x"

    async def send_eof(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


async def test_throttled_stream_sends_one_byte_at_a_time() -> None:
    sink = _Sink()
    await ThrottledStream(stream=sink, cps=200).send(b"abcd")
    assert [data for _, data in sink.sent] == [b"a", b"b", b"c", b"d"]
    assert sink.sent[-1][0] - sink.sent[0][0] >= 3 / 200


@pytest.mark.parametrize("cps", [None, 0])
async def test_unlimited_stream_sends_all_at_once(cps: float | None) -> None:
    sink = _Sink()
    await ThrottledStream(stream=sink, cps=cps).send(b"abcd")
    assert [data for _, data in sink.sent] == [b"abcd"]


def test_client_module_is_light() -> None:
    import subprocess
    import sys

    program = (
        "import sys, jumpstarter_driver_pyserial.client;"
        "print([name for name in ('pexpect', 'serial', 'jumpstarter_driver_network') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
    assert PySerialClient.__name__ == "PySerialClient"
    logging.getLogger(__name__).debug("import checked")
