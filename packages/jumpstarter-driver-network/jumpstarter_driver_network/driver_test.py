"""Network drivers against real sockets, through a session: data, ends, refusals and configuration."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from jumpstarter.client.core import DriverError, DriverInvalidArgument
from jumpstarter.common.utils import serve
from pydantic import ValidationError

from jumpstarter_driver_network.driver import (
    DbusNetwork,
    EchoNetwork,
    TcpNetwork,
    UdpNetwork,
    UnixNetwork,
    VsockNetwork,
    WebsocketNetwork,
)

pytestmark = pytest.mark.usefixtures("either_path")


def receive_exactly(stream: Any, count: int) -> bytes:
    """Read `count` bytes of a blocking stream."""
    data = b""
    while len(data) < count:
        data += stream.receive()
    return data


def test_tcp_stream_reaches_the_target(tcp_target: Callable[..., int]) -> None:
    with serve(TcpNetwork(host="127.0.0.1", port=tcp_target())) as client, client.stream() as stream:
        stream.send(b"hello")
        assert receive_exactly(stream, 5) == b"hello"


def test_each_stream_is_a_connection_of_its_own(tcp_target: Callable[..., int]) -> None:
    peers: list[Any] = []

    def name(conn: socket.socket) -> None:
        peers.append(conn.getpeername())
        conn.sendall(b"%d" % len(peers))

    with serve(TcpNetwork(host="127.0.0.1", port=tcp_target(name))) as client, client.stream() as one:
        assert one.receive() == b"1"
        with client.stream() as two:
            assert two.receive() == b"2"

    assert len(set(peers)) == 2


def test_end_of_the_target_is_the_end_of_the_stream(tcp_target: Callable[..., int]) -> None:
    with serve(TcpNetwork(host="127.0.0.1", port=tcp_target(lambda conn: conn.sendall(b"bye")))) as client:  # noqa: SIM117
        with client.stream() as stream:
            assert receive_exactly(stream, 3) == b"bye"
            with pytest.raises(anyio.EndOfStream):
                stream.receive()


def test_end_of_the_client_reaches_the_target_while_the_answer_still_comes(tcp_target: Callable[..., int]) -> None:
    def count(conn: socket.socket) -> None:
        total = 0
        while data := conn.recv(1 << 16):
            total += len(data)
        conn.sendall(b"%d bytes" % total)

    with serve(TcpNetwork(host="127.0.0.1", port=tcp_target(count))) as client, client.stream() as stream:
        stream.send(b"x" * 1000)
        stream.send_eof()
        assert receive_exactly(stream, 10) == b"1000 bytes"


def test_closing_the_stream_hangs_up_at_the_target(tcp_target: Callable[..., int]) -> None:
    hung_up = threading.Event()

    def wait(conn: socket.socket) -> None:
        conn.sendall(b"!")
        while conn.recv(100):
            pass
        hung_up.set()

    with serve(TcpNetwork(host="127.0.0.1", port=tcp_target(wait))) as client:
        with client.stream() as stream:
            stream.receive()
        assert hung_up.wait(5)


@pytest.mark.parametrize("half_closed", [False, True])
def test_stream_of_a_silent_target_closes_at_once(tcp_target: Callable[..., int], half_closed: bool) -> None:
    done = threading.Event()
    try:
        with serve(TcpNetwork(host="127.0.0.1", port=tcp_target(lambda _: done.wait(30)))) as client:
            start = time.monotonic()
            with client.stream() as stream:
                stream.send(b"anybody there?")
                if half_closed:
                    stream.send_eof()
            assert time.monotonic() - start < 1
    finally:
        done.set()


def test_target_that_refuses_is_an_error_on_opening(closed_port: int) -> None:
    with (
        serve(TcpNetwork(host="127.0.0.1", port=closed_port)) as client,
        pytest.raises(DriverError, match=f"can't connect to TCP 127.0.0.1:{closed_port}: .*Connect"),
        client.stream(),
    ):
        pass


def test_host_without_an_address_is_an_error_on_opening() -> None:
    with (
        serve(TcpNetwork(host="does-not-exist.invalid", port=1)) as client,
        pytest.raises(DriverError, match=r"can't connect to TCP does-not-exist\.invalid:1"),
        client.stream(),
    ):
        pass


def test_target_that_never_answers_is_an_error_in_time() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        fillers = []
        try:
            # With a full queue the kernel leaves further connections unanswered.
            for _ in range(4):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(deaf.getsockname())
                fillers.append(filler)
            driver = TcpNetwork(host="127.0.0.1", port=deaf.getsockname()[1], connect_timeout=0.3)
            with (
                serve(driver) as client,
                pytest.raises(DriverError, match=r"no answer from TCP .* within 0\.3 s"),
                client.stream(),
            ):
                pass
        finally:
            for filler in fillers:
                filler.close()


async def test_tcp_connection_is_probed_when_idle(tcp_target: Callable[..., int]) -> None:
    driver = TcpNetwork(host="127.0.0.1", port=tcp_target())

    async with driver.connect() as stream:
        raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
        assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


@pytest.mark.parametrize("kind", [TcpNetwork, UdpNetwork])
def test_address_is_resolved_on_the_exporter(kind: Any) -> None:
    scheme = {TcpNetwork: "tcp", UdpNetwork: "udp"}[kind]
    with serve(kind(host="127.0.0.1", port=1234)) as client:
        assert client.address() == f"{scheme}://127.0.0.1:1234"
    with serve(kind(host="::1", port=1234)) as client:
        assert client.address() == f"{scheme}://[::1]:1234"
    with serve(kind(host="localhost", port=1234)) as client:
        assert client.address() in (f"{scheme}://127.0.0.1:1234", f"{scheme}://[::1]:1234")


@pytest.mark.parametrize(
    "driver",
    [
        lambda: TcpNetwork(host="h", port=1, enable_address=False),
        lambda: UdpNetwork(host="h", port=1, enable_address=False),
        lambda: WebsocketNetwork(url="ws://h", enable_address=False),
    ],
)
def test_address_can_be_kept_from_clients(driver: Any) -> None:
    with serve(driver()) as client, pytest.raises(DriverInvalidArgument, match="enable_address mode is not true"):
        client.address()


def test_udp_items_are_datagrams(udp_target: int) -> None:
    with serve(UdpNetwork(host="127.0.0.1", port=udp_target)) as client, client.stream() as stream:
        for text in (b"one", b"two", b"x" * 9000):
            stream.send(text)
            assert stream.receive() == text.upper()


def test_empty_datagram_passes_in_both_directions(udp_target: int) -> None:
    with serve(UdpNetwork(host="127.0.0.1", port=udp_target)) as client, client.stream() as stream:
        stream.send(b"")
        assert stream.receive() == b""


def test_udp_stream_ends_with_its_client(udp_target: int) -> None:
    with serve(UdpNetwork(host="127.0.0.1", port=udp_target)) as client:
        for _ in range(20):
            with client.stream() as stream:
                stream.send(b"x")
                assert stream.receive() == b"X"


def test_unix_stream_reaches_the_target(unix_target: Path) -> None:
    with serve(UnixNetwork(path=str(unix_target))) as client, client.stream() as stream:
        stream.send(b"hello")
        assert receive_exactly(stream, 5) == b"hello"


def test_missing_unix_socket_is_an_error_on_opening(tmp_path: Path) -> None:
    with (
        serve(UnixNetwork(path=str(tmp_path / "nobody"))) as client,
        pytest.raises(DriverError, match=r"can't connect to Unix socket .*nobody: No such file"),
        client.stream(),
    ):
        pass


def test_echo_returns_what_it_gets() -> None:
    with serve(EchoNetwork()) as client, client.stream() as stream:
        stream.send(b"hello")
        assert stream.receive() == b"hello"


async def test_echo_works_without_a_session() -> None:
    async with EchoNetwork().connect() as stream:
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"
        await stream.send_eof()
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()


def test_vsock_without_a_listener_is_an_error_on_opening() -> None:
    with (
        serve(VsockNetwork(cid=1, port=59999, connect_timeout=2)) as client,
        pytest.raises(DriverError, match="vsock"),
        client.stream(),
    ):
        pass


def test_vsock_stream_reaches_the_target() -> None:
    try:
        listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        listener.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
        listener.listen()
        probe = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        probe.settimeout(2)
        probe.connect((1, listener.getsockname()[1]))
        probe.close()
    except (OSError, AttributeError) as error:
        pytest.skip(f"this kernel has no vsock loopback: {error}. Load the module vsock_loopback")

    def echo() -> None:
        while True:
            try:
                conn, _ = listener.accept()
            except OSError:
                return
            with conn:
                while data := conn.recv(1000):
                    conn.sendall(data)

    thread = threading.Thread(target=echo, daemon=True)
    thread.start()
    with listener, serve(VsockNetwork(cid=1, port=listener.getsockname()[1])) as client, client.stream() as stream:
        stream.send(b"hello")
        assert receive_exactly(stream, 5) == b"hello"


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (TcpNetwork, {"host": "h"}),
        (TcpNetwork, {"host": "", "port": 1}),
        (TcpNetwork, {"host": "h", "port": 0}),
        (TcpNetwork, {"host": "h", "port": 65536}),
        (TcpNetwork, {"host": "h", "port": "ssh"}),
        (TcpNetwork, {"host": "h", "port": 1, "prot": 2}),
        (TcpNetwork, {"host": "h", "port": 1, "connect_timeout": 0}),
        (UdpNetwork, {"host": "h", "port": -1}),
        (UnixNetwork, {"path": ""}),
        (VsockNetwork, {"cid": -1, "port": 1}),
        (DbusNetwork, {"kind": "user"}),
        (WebsocketNetwork, {"url": "http://h"}),
        (EchoNetwork, {"host": "h"}),
    ],
)
def test_wrong_configuration_is_refused(kind: Any, config: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        kind(**config)


def test_port_may_be_written_as_text() -> None:
    assert TcpNetwork(host="h", port="22").port == 22
