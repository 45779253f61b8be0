"""Pictures by the protocol: servers of every version, with and without password, rude and broken ones."""

from __future__ import annotations

import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest
from jumpstarter.streams.common import MemoryStream, create_memory_stream
from PIL import Image

from .errors import PasswordNeeded, ScreenError
from .rfb import DESKTOP_SIZE, RAW, ZLIB, take_picture, vnc_response

WIDTH, HEIGHT = 5, 3
NAME = b"board"
HELLO = struct.pack(">HH", WIDTH, HEIGHT) + bytes(16) + struct.pack(">I", len(NAME)) + NAME


class Server:
    """The server's end: `say` bytes, `hear` bytes."""

    def __init__(self, stream: MemoryStream) -> None:
        self.stream = stream
        self.buffer = b""

    async def say(self, data: bytes, pieces: int = 1 << 20) -> None:
        for start in range(0, len(data), pieces):
            await self.stream.send(data[start : start + pieces])

    async def hear(self, count: int) -> bytes:
        while len(self.buffer) < count:
            self.buffer += await self.stream.receive()
        head, self.buffer = self.buffer[:count], self.buffer[count:]
        return head

    async def open(self, version: bytes = b"003.008") -> None:
        """Everything up to the request of a picture, without a password."""
        await self.say(b"RFB " + version + b"\n", 5)
        answer = await self.hear(12)
        if answer == b"RFB 003.003\n":
            await self.say(struct.pack(">I", 1))
        else:
            await self.say(b"\2\2\1")
            assert await self.hear(1) == b"\1"
        if answer == b"RFB 003.008\n":
            await self.say(bytes(4))
        assert await self.hear(1) == b"\1"
        await self.say(HELLO, 7)
        assert (await self.hear(20))[:5] == b"\0\0\0\0\x20"
        assert await self.hear(16) == b"\2\0\0\3" + struct.pack(">3i", ZLIB, RAW, DESKTOP_SIZE)

    async def asked(self, width: int = WIDTH, height: int = HEIGHT) -> None:
        assert await self.hear(10) == struct.pack(">BBHHHH", 3, 0, 0, 0, width, height)


def pixels(count: int, colour: tuple[int, int, int] = (255, 128, 1)) -> bytes:
    red, green, blue = colour
    return bytes([blue, green, red, 0]) * count


def rectangle(x: int, y: int, width: int, height: int, data: bytes, encoding: int = RAW) -> bytes:
    return struct.pack(">HHHHi", x, y, width, height, encoding) + data


def update(*rectangles: bytes) -> bytes:
    return struct.pack(">BxH", 0, len(rectangles)) + b"".join(rectangles)


FULL = update(rectangle(0, 0, WIDTH, HEIGHT, pixels(WIDTH * HEIGHT)))

Serve = Callable[[Server], Awaitable[None]]


async def picture_of(serve: Serve, **options: Any) -> Image.Image:
    """The picture that a client takes from a server that does this."""
    ours, theirs = create_memory_stream()

    async def run() -> None:
        async with ours:
            await serve(Server(ours))
            # What a server still waits for, the client need not say.
            await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        async with theirs:
            image = await take_picture(theirs, **options)
        tasks.cancel_scope.cancel()
    return image


async def failure_of(serve: Serve, **options: Any) -> BaseException:
    """The error that a client gets from a server that does this and hangs up."""
    ours, theirs = create_memory_stream()

    async def run() -> None:
        async with ours:
            await serve(Server(ours))

    error: BaseException | None = None
    async with anyio.create_task_group() as tasks, theirs:
        tasks.start_soon(run)
        try:
            await take_picture(theirs, **options)
        except (ScreenError, TimeoutError) as caught:
            error = caught
        tasks.cancel_scope.cancel()
    assert error is not None
    return error


@pytest.mark.parametrize("version", [b"003.003", b"003.005", b"003.007", b"003.008", b"003.889", b"004.001"])
async def test_servers_of_every_version_give_their_picture(version: bytes) -> None:
    async def serve(server: Server) -> None:
        await server.open(version)
        await server.asked()
        await server.say(FULL, 3)

    image = await picture_of(serve)

    assert image.size == (WIDTH, HEIGHT)
    assert image.getcolors() == [(WIDTH * HEIGHT, (255, 128, 1))]


async def test_rectangles_make_up_the_picture_in_their_order() -> None:
    async def serve(server: Server) -> None:
        await server.open()
        await server.asked()
        await server.say(update(rectangle(0, 0, WIDTH, 2, pixels(WIDTH * 2, (1, 1, 1)))))
        await server.say(b"\2")  # bell
        await server.say(b"\3\0\0\0" + struct.pack(">I", 3) + b"abc")  # clipboard
        await server.say(b"\1\0" + struct.pack(">HH", 0, 2) + bytes(12))  # colours
        await server.say(update(rectangle(0, 2, WIDTH, 1, pixels(WIDTH, (2, 2, 2)))))

    image = await picture_of(serve)

    assert [image.getpixel((4, y)) for y in range(3)] == [(1, 1, 1), (1, 1, 1), (2, 2, 2)]


async def test_zlib_is_one_stream_over_all_rectangles() -> None:
    deflate = zlib.compressobj()

    def compressed(data: bytes) -> bytes:
        packed = deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH)
        return struct.pack(">I", len(packed)) + packed

    async def serve(server: Server) -> None:
        await server.open()
        await server.asked()
        for y in range(HEIGHT):
            await server.say(update(rectangle(0, y, WIDTH, 1, compressed(pixels(WIDTH, (y, y, y))), ZLIB)))

    image = await picture_of(serve)

    assert [image.getpixel((0, y)) for y in range(HEIGHT)] == [(0, 0, 0), (1, 1, 1), (2, 2, 2)]


async def test_screen_that_changes_its_size_is_asked_for_again() -> None:
    async def serve(server: Server) -> None:
        await server.open()
        await server.asked()
        await server.say(update(rectangle(0, 0, 8, 6, b"", DESKTOP_SIZE), rectangle(7, 5, 1, 1, pixels(1))))
        await server.asked(8, 6)
        await server.say(update(rectangle(0, 0, 8, 6, pixels(48, (9, 9, 9)))))

    image = await picture_of(serve)

    assert image.getcolors() == [(48, (9, 9, 9))]


async def test_password_is_answered_and_refusals_are_told() -> None:
    challenge = bytes(range(16))

    async def serve(server: Server) -> None:
        await server.say(b"RFB 003.008\n")
        await server.hear(12)
        await server.say(b"\1\2")
        assert await server.hear(1) == b"\2"
        await server.say(challenge)
        if await server.hear(16) == vnc_response(challenge, "secret"):
            await server.say(bytes(4))
            await server.hear(1)
            await server.say(HELLO)
            await server.hear(36)
            await server.asked()
            await server.say(FULL)
        else:
            await server.say(struct.pack(">II", 1, 3) + b"bad")

    assert (await picture_of(serve, password="secret")).size == (WIDTH, HEIGHT)
    assert "refused this password: bad" in str(await failure_of(serve, password="wrong"))
    assert isinstance(await failure_of(serve), PasswordNeeded)


async def broken_servers() -> AsyncIterator[tuple[Serve, str]]:
    def says(data: bytes) -> Serve:
        async def serve(server: Server) -> None:
            await server.say(data)

        return serve

    def sends(data: bytes) -> Serve:
        async def serve(server: Server) -> None:
            await server.open()
            await server.asked()
            await server.say(data)

        return serve

    yield says(b"SSH-2.0-OpenSSH_9.2\r\n"), "this is no VNC server: it says b'SSH-2.0-Open'"
    yield says(b""), "closed the connection before it had sent its picture"
    yield says(b"RFB 003.008\n\0" + struct.pack(">I", 4) + b"busy"), "the VNC server refuses: busy"
    yield says(b"RFB 003.003\n" + bytes(4) + struct.pack(">I", 4) + b"busy"), "the VNC server refuses: busy"
    yield says(b"RFB 003.008\n\2\x13\x12"), "security types 19, 18"
    yield says(b"RFB 003.008\n\0" + b"\xff" * 4), "a text of 4294967295 bytes"
    yield sends(b"\x07"), "a message of an unknown kind: 7"
    yield sends(update(rectangle(1, 0, WIDTH, HEIGHT, b""))), "outside of its screen"
    yield sends(update(rectangle(0, 0, 1, 1, b"", 16))), "an encoding that was not offered: 16"
    yield sends(update(rectangle(0, 0, 60000, 60000, b"", DESKTOP_SIZE))), "an impossible size: 60000 by 60000"
    yield sends(update(rectangle(0, 0, 0, 0, b"", DESKTOP_SIZE))), "an impossible size"
    yield sends(update(rectangle(0, 0, WIDTH, HEIGHT, b"\xff" * 4, ZLIB))), "compressed bytes for 15 pixels"
    yield sends(update(rectangle(0, 0, WIDTH, HEIGHT, struct.pack(">I", 3) + b"abc", ZLIB))), "a damaged picture"
    yield sends(update(*[rectangle(0, 0, 0, 0, b"")] * 65535)), "again and again"
    yield sends(FULL[:-1]), "closed the connection"


async def test_broken_servers_are_told_apart() -> None:
    async for serve, message in broken_servers():
        assert message in str(await failure_of(serve))


async def test_silent_server_is_given_up_in_time() -> None:
    async def serve(server: Server) -> None:
        await anyio.sleep_forever()

    error = await failure_of(serve, timeout=0.1)

    assert isinstance(error, TimeoutError)
    assert "did not send its picture within 0.1 s" in str(error)


def test_answer_to_a_challenge_is_that_of_des() -> None:
    # DES of a block of zeros with a key of zeros, for each half (NBS Special Publication 500-20).
    assert vnc_response(bytes(16), "").hex() == "8ca64de9c1b123a7" * 2
