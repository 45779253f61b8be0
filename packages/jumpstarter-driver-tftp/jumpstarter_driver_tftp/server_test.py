"""The server against hand-made packets and a lossy network, without Jumpstarter."""

from __future__ import annotations

import os
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest
from jumpstarter_testbench.folder_servers import lay_traps

from .packets import Opcode, TftpErrorCode, oack_packet
from .server import TftpServer

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def serving(root, host: str = "127.0.0.1", **settings) -> AsyncIterator[TftpServer]:
    server = TftpServer(host, 0, root, **settings)
    async with anyio.create_task_group() as tasks:
        await tasks.start(server.start)
        try:
            yield server
        finally:
            await server.shutdown()


def rrq(name: str, mode: str = "octet", opcode: int = Opcode.RRQ, **options: object) -> bytes:
    fields = [name, mode, *(str(part) for pair in options.items() for part in pair)]
    return struct.pack("!H", opcode) + b"".join(field.encode() + b"\0" for field in fields)


def ack(block: int) -> bytes:
    return struct.pack("!HH", Opcode.ACK, block & 0xFFFF)


class Peer:
    """A TFTP client that does only what a test says."""

    def __init__(self, udp, server: tuple[str, int]) -> None:
        self.udp = udp
        self.server = server
        self.tid: tuple[str, int] | None = None

    async def ask(self, packet: bytes) -> None:
        await self.udp.sendto(packet, *self.server)

    async def say(self, packet: bytes) -> None:
        assert self.tid is not None
        await self.udp.sendto(packet, *self.tid)

    async def hear(self, within: float = 5) -> bytes:
        with anyio.fail_after(within):
            packet, self.tid = await self.udp.receive()
        return packet

    async def hears_nothing(self, seconds: float = 0.15) -> bool:
        with anyio.move_on_after(seconds):
            await self.udp.receive()
            return False
        return True

    async def data(self) -> tuple[int, bytes]:
        packet = await self.hear()
        opcode, block = struct.unpack_from("!HH", packet)
        assert opcode == Opcode.DATA, packet
        return block, packet[4:]

    async def error(self) -> int:
        packet = await self.hear()
        opcode, code = struct.unpack_from("!HH", packet)
        assert opcode == Opcode.ERROR, packet
        assert packet.endswith(b"\0")
        return code

    async def fetch(self, name: str, mode: str = "octet", **options: object) -> bytes:
        """Download in step, block by block."""
        await self.ask(rrq(name, mode, **options))
        size = int(options.get("blksize", 512))
        if options:
            assert struct.unpack_from("!H", await self.hear())[0] == Opcode.OACK
            await self.say(ack(0))
        received, expected = [], 1
        while True:
            block, payload = await self.data()
            assert block == expected & 0xFFFF
            received.append(payload)
            await self.say(ack(block))
            expected += 1
            if len(payload) < size:
                return b"".join(received)


@asynccontextmanager
async def peer(server: TftpServer) -> AsyncIterator[Peer]:
    assert server.address is not None
    async with await anyio.create_udp_socket(socket.AF_INET, local_host="127.0.0.1") as udp:
        yield Peer(udp, server.address)


@pytest.fixture
def root(tmp_path):
    served = tmp_path / "served"
    (served / "dir").mkdir(parents=True)
    (served / "small").write_bytes(b"hello")
    (served / "dir" / "file").write_bytes(b"inner")
    (served / "block").write_bytes(os.urandom(512))
    (served / "three").write_bytes(os.urandom(1300))
    (served / "empty").write_bytes(b"")
    (served / "text").write_bytes(b"a\nb\rc\r\n")
    lay_traps(served)
    return served


@pytest.mark.parametrize("name", ["small", "block", "three", "empty", "dir/file", "/small", "in", "./dir//file"])
async def test_a_file_arrives_whole(root, name):
    async with serving(root) as server, peer(server) as client:
        assert await client.fetch(name) == (root / name.lstrip("/")).read_bytes()


async def test_a_file_whose_size_is_a_multiple_of_the_block_ends_with_an_empty_block(root):
    async with serving(root) as server, peer(server) as client:
        await client.ask(rrq("block"))
        assert (await client.data())[0] == 1
        await client.say(ack(1))
        assert await client.data() == (2, b"")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("missing", TftpErrorCode.FILE_NOT_FOUND),
        ("dir", TftpErrorCode.FILE_NOT_FOUND),
        ("small/x", TftpErrorCode.FILE_NOT_FOUND),
        ("fifo", TftpErrorCode.FILE_NOT_FOUND),
        (".file.1f.jmp-part", TftpErrorCode.FILE_NOT_FOUND),
        ("n" * 300, TftpErrorCode.NOT_DEFINED),
        ("../secret", TftpErrorCode.ACCESS_VIOLATION),
        ("dir/../small", TftpErrorCode.ACCESS_VIOLATION),
        ("/etc/passwd", TftpErrorCode.ACCESS_VIOLATION),
        ("link", TftpErrorCode.ACCESS_VIOLATION),
        ("out/secret", TftpErrorCode.ACCESS_VIOLATION),
        ("bad\x07name", TftpErrorCode.ACCESS_VIOLATION),
    ],
)
async def test_a_name_that_is_not_served_gets_the_error_code_of_its_reason(root, name, code):
    async with serving(root) as server, peer(server) as client:
        await client.ask(rrq(name))
        assert await client.error() == code
        assert await client.fetch("small") == b"hello"


@pytest.mark.parametrize(
    "packet",
    [
        b"\0",
        b"\0\1",
        b"\0\1\0\0",
        b"\0\1name\0octet",
        b"\0\1name\0",
        b"\0\x09name\0octet\0",
        rrq("small", "mail"),
        rrq("small", "octet", Opcode.WRQ),
        struct.pack("!HH", Opcode.ACK, 1),
        b"\0\1\xff\xfe\0octet\0",
    ],
)
async def test_a_bad_request_gets_an_error_and_hurts_nobody(root, packet):
    async with serving(root) as server, peer(server) as client:
        await client.ask(packet)
        assert await client.error() in (TftpErrorCode.ILLEGAL_OPERATION, TftpErrorCode.ACCESS_VIOLATION)
        assert await client.fetch("small") == b"hello"


async def test_an_error_is_never_answered(root):
    async with serving(root) as server, peer(server) as client:
        await client.ask(struct.pack("!HH", Opcode.ERROR, 0) + b"oops\0")
        assert await client.hears_nothing()


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ({"blksize": 512}, {"blksize": "512"}),
        ({"blksize": 400}, {"blksize": "400"}),
        ({"blksize": 70000}, {"blksize": "65464"}),
        ({"timeout": 7}, {"timeout": "7"}),
        ({"tsize": 0}, {"tsize": "1300"}),
        ({"windowsize": 4}, {"windowsize": "4"}),
        ({"windowsize": 65535, "blksize": 65464}, {"windowsize": "64", "blksize": "65464"}),
        ({"BLKSIZE": 600, "unknown": 1, "timeout": 300}, {"blksize": "600"}),
    ],
)
async def test_options_are_answered_as_agreed(root, asked, answered):
    async with serving(root) as server, peer(server) as client:
        await client.ask(rrq("three", **asked))
        packet = await client.hear()
        assert struct.unpack_from("!H", packet)[0] == Opcode.OACK
        fields = packet[2:-1].decode().split("\0")
        assert dict(zip(fields[::2], fields[1::2], strict=True)) == answered


@pytest.mark.parametrize("asked", [{"blksize": 7}, {"blksize": "x"}, {"timeout": 0}, {"windowsize": 0}, {"foo": 1}])
async def test_without_an_acceptable_option_the_data_comes_at_once(root, asked):
    async with serving(root) as server, peer(server) as client:
        await client.ask(rrq("small", **asked))
        assert await client.data() == (1, b"hello")


async def test_text_mode_translates_line_ends_and_keeps_quiet_about_the_size(root):
    async with serving(root) as server, peer(server) as client:
        assert await client.fetch("text", "NetASCII") == b"a\r\nb\r\0c\r\0\r\n"
        await client.ask(rrq("text", "netascii", tsize=0))
        assert (await client.data())[0] == 1


async def test_an_unacknowledged_block_is_repeated_until_the_retries_are_used_up(root):
    async with serving(root, timeout=0.1, retries=2) as server, peer(server) as client:
        await client.ask(rrq("small"))
        for _ in range(3):
            assert await client.data() == (1, b"hello")
        assert await client.hears_nothing(0.4)
        assert not server.active_transfers


async def test_an_unacknowledged_oack_is_repeated(root):
    async with serving(root, timeout=0.1, retries=1) as server, peer(server) as client:
        await client.ask(rrq("small", tsize=0))
        for _ in range(2):
            assert await client.hear() == oack_packet({"tsize": "5"})
        assert await client.hears_nothing(0.4)
        assert not server.active_transfers


async def test_a_repeated_acknowledgement_causes_no_retransmission(root):
    async with serving(root, timeout=60) as server, peer(server) as client:
        await client.ask(rrq("three"))
        await client.data()
        await client.say(ack(1))
        await client.data()
        for _ in range(5):
            await client.say(ack(1))
        assert await client.hears_nothing()


async def test_a_window_is_sent_without_waiting(root):
    async with serving(root) as server, peer(server) as client:
        await client.ask(rrq("three", windowsize=3))
        await client.hear()
        await client.say(ack(0))
        assert [(await client.data())[0] for _ in range(3)] == [1, 2, 3]


async def test_after_a_gap_in_a_window_the_rest_is_sent_again(root):
    async with serving(root, timeout=60) as server, peer(server) as client:
        await client.ask(rrq("three", windowsize=3))
        await client.hear()
        await client.say(ack(0))
        for _ in range(3):
            await client.data()
        await client.say(ack(1))
        assert [(await client.data())[0] for _ in range(2)] == [2, 3]


async def test_when_the_first_block_of_a_window_got_lost_the_window_is_sent_again_once(root):
    async with serving(root, timeout=60) as server, peer(server) as client:
        await client.ask(rrq("three", windowsize=2))
        await client.hear()
        await client.say(ack(0))
        for _ in range(2):
            await client.data()
        await client.say(ack(0))
        assert [(await client.data())[0] for _ in range(2)] == [1, 2]
        await client.say(ack(0))
        assert await client.hears_nothing()


async def test_a_stranger_gets_an_error_and_the_transfer_goes_on(root):
    async with serving(root) as server, peer(server) as client, peer(server) as stranger:
        await client.ask(rrq("three"))
        await client.data()
        stranger.tid = client.tid
        await stranger.say(ack(1))
        assert await stranger.error() == TftpErrorCode.UNKNOWN_TID
        await client.say(ack(1))
        assert (await client.data())[0] == 2


async def test_an_error_from_the_client_ends_the_transfer_at_once(root):
    async with serving(root, timeout=0.2) as server, peer(server) as client:
        await client.ask(rrq("three"))
        await client.data()
        await client.say(struct.pack("!HH", Opcode.ERROR, 0) + b"stop\0")
        assert await client.hears_nothing(0.5)
        assert not server.active_transfers


async def test_a_repeated_request_starts_no_second_transfer(root):
    async with serving(root, timeout=60) as server, peer(server) as client:
        await client.ask(rrq("small"))
        await client.ask(rrq("small"))
        await client.data()
        assert await client.hears_nothing()
        assert len(server.active_transfers) == 1


async def test_a_new_request_from_the_same_port_replaces_a_transfer_under_way(root):
    async with serving(root, timeout=60) as server, peer(server) as client:
        await client.ask(rrq("three"))
        await client.data()
        await client.say(ack(1))
        await client.data()
        assert await client.fetch("small") == b"hello"


async def test_more_transfers_than_allowed_are_refused(root):
    async with serving(root, max_transfers=1, timeout=60) as server, peer(server) as one, peer(server) as two:
        await one.ask(rrq("three"))
        await one.data()
        await two.ask(rrq("small"))
        assert await two.error() == TftpErrorCode.NOT_DEFINED


async def test_a_request_to_one_of_many_addresses_is_answered_from_that_address(root):
    async with serving(root, host="0.0.0.0") as server, peer(server) as client:
        assert server.address is not None
        client.server = ("127.0.0.3", server.address[1])
        assert await client.fetch("small") == b"hello"
        assert client.tid is not None
        assert client.tid[0] == "127.0.0.3"


async def test_ipv6_is_served(root):
    async with serving(root, host="::1") as server:
        assert server.address is not None
        async with await anyio.create_udp_socket(socket.AF_INET6, local_host="::1") as udp:
            assert await Peer(udp, server.address).fetch("three") == (root / "three").read_bytes()


async def test_a_port_that_is_taken_is_an_error(root):
    async with serving(root) as server:
        assert server.address is not None
        with pytest.raises(OSError, match="in use"):
            await TftpServer("127.0.0.1", server.address[1], root).start()


async def test_shutdown_ends_transfers_and_frees_the_port(root):
    async with serving(root, timeout=60) as server, peer(server) as client:
        address = server.address
        await client.ask(rrq("three"))
        await client.data()
    assert server.address is None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(address)


@pytest.mark.parametrize("settings", [{"block_size": 7}, {"timeout": 0}, {"retries": -1}, {"max_transfers": 0}])
async def test_settings_out_of_range_are_refused(root, settings):
    with pytest.raises(ValueError, match=r"must be"):
        TftpServer("127.0.0.1", 0, root, **settings)


async def test_a_storage_that_fails_does_not_end_the_server(root):
    class Flaky:
        def __init__(self, inner):
            self.inner = inner

        async def stat(self, path):
            if path == "three":
                raise RuntimeError("storage is down")
            return await self.inner.stat(path)

        async def open(self, path, mode):
            return await self.inner.open(path, mode)

    async with serving(root) as server, peer(server) as client:
        server.operator = Flaky(server.operator)
        await client.ask(rrq("three"))
        assert await client.error() == TftpErrorCode.NOT_DEFINED
        assert await client.fetch("small") == b"hello"


async def test_an_operator_of_the_opendal_library_can_be_served(root):
    opendal = pytest.importorskip("opendal")
    async with serving(opendal.AsyncOperator("fs", root=str(root))) as server, peer(server) as client:
        assert await client.fetch("three") == (root / "three").read_bytes()
        await client.ask(rrq("missing"))
        assert await client.error() == TftpErrorCode.FILE_NOT_FOUND


@asynccontextmanager
async def lossy(server: TftpServer, drops: Callable[[int], bool]) -> AsyncIterator[tuple[str, int]]:
    """A network between one client and the server that loses and doubles packets; yields the address to ask."""
    count = 0

    async def carry(udp, other, target: list, back: list) -> None:
        nonlocal count
        async for packet, sender in udp:
            back[:] = sender
            count += 1
            if drops(count):
                continue
            for _ in range(2 if count % 11 == 0 else 1):
                await other.sendto(packet, *target)

    client_side, server_side = [], list(server.address or ())
    async with (
        await anyio.create_udp_socket(socket.AF_INET, local_host="127.0.0.1") as near,
        await anyio.create_udp_socket(socket.AF_INET, local_host="127.0.0.1") as far,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(carry, near, far, server_side, client_side)
        tasks.start_soon(carry, far, near, client_side, server_side)
        address = near.extra(anyio.abc.SocketAttribute.local_address)
        yield address[0], address[1]
        tasks.cancel_scope.cancel()


async def fetch_over_lossy_network(udp, address: tuple[str, int], name: str, window: int) -> bytes:
    """Download as a careful client does: repeat the last packet in silence, and report a gap once (RFC 7440)."""
    last = rrq(name, windowsize=window) if window > 1 else rrq(name)
    target = address
    received: list[bytes] = []
    unreported, gap_reported = 0, False
    await udp.sendto(last, *target)
    while True:
        packet = None
        with anyio.move_on_after(0.08):
            packet, target = await udp.receive()
        if packet is None:
            await udp.sendto(last, *target)
            continue
        opcode, number = struct.unpack_from("!HH", packet)
        if opcode == Opcode.OACK:
            last = ack(0)
        elif number == (len(received) + 1) & 0xFFFF:
            received.append(packet[4:])
            unreported, gap_reported = unreported + 1, False
            last = ack(len(received))
            if len(packet) == 516 and unreported < window:
                continue
        elif gap_reported and number != len(received) & 0xFFFF:
            continue
        else:
            gap_reported = True
        unreported = 0
        await udp.sendto(last, *target)
        if received and len(received[-1]) < 512:
            return b"".join(received)


@pytest.mark.parametrize("window", [1, 8])
async def test_a_file_arrives_whole_through_a_network_that_loses_and_doubles_packets(root, window):
    content = os.urandom(200 * 512 + 17)
    (root / "big").write_bytes(content)
    chance = random.Random(7440)
    async with (
        serving(root, timeout=0.05, retries=20) as server,
        lossy(server, lambda _: chance.random() < 0.1) as address,
        await anyio.create_udp_socket(socket.AF_INET, local_host="127.0.0.1") as udp,
    ):
        with anyio.fail_after(60):
            assert await fetch_over_lossy_network(udp, address, "big", window) == content
