"""A picture of a screen by the remote framebuffer protocol (RFC 6143): connect, ask for all of it, hang up.

It knows protocol 3.3, 3.7 and 3.8, servers without a password and with one (VNC authentication, 7.2.2), and the
encodings Raw (7.7.1), which every server has, and Zlib (number 6 in the registry of 8.4.3).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import anyio
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, to_thread

from .errors import PasswordNeeded, ScreenError

if TYPE_CHECKING:
    from PIL.Image import Image

NONE: Final = 1
PASSWORD: Final = 2
"""Security types of 7.1.2."""

RAW: Final = 0
ZLIB: Final = 6
DESKTOP_SIZE: Final = -223

MAX_PIXELS: Final = 64 << 20
"""Pixels of the largest screen; four bytes each."""

MAX_TEXT: Final = 1 << 20
"""Bytes of a name, a reason or a clipboard."""

MAX_SCREENS: Final = 4
"""How many times the bytes of a whole screen may come until the picture is complete."""

PIXEL: Final = 4

# 7.4: 32 bits per pixel, depth 24, little endian, true colour, 8 bits each, red at bit 16, green at 8, blue at 0.
_PIXEL_FORMAT: Final = struct.pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)


class Stream(Protocol):
    """What is read and written: bytes."""

    async def receive(self) -> bytes:
        """Return the next bytes."""
        ...

    async def send(self, item: bytes, /) -> None:
        """Send bytes."""
        ...


@dataclass(frozen=True)
class Rectangle:
    """A part of the screen, as it came over the wire."""

    x: int
    y: int
    width: int
    height: int
    encoding: int
    data: bytes


async def take_picture(stream: Stream, *, password: str | None = None, timeout: float = 30) -> Image:
    """Return what the screen shows.

    Args:
        stream: a fresh connection to the server.
        password: for servers that ask for one; of 8 characters, as the protocol has it.
        timeout: seconds that all of it may take.

    Raises:
        ScreenError: the server refuses, or does not speak the protocol.
        PasswordNeeded: it asks for a password, and none was given.
        TimeoutError: it takes longer.
    """
    try:
        with anyio.fail_after(timeout):
            session = Session(stream)
            await session.handshake(password)
            width, height, rectangles = await session.whole_screen()
    except (EndOfStream, BrokenResourceError, ClosedResourceError):
        raise ScreenError("the VNC server closed the connection before it had sent its picture") from None
    except TimeoutError:
        raise TimeoutError(f"the VNC server did not send its picture within {timeout:g} s") from None
    return await to_thread.run_sync(compose, width, height, rectangles)


class Session:
    """One connection to a server."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self._taken = 0
        """Bytes of rectangles that came, and something for each."""
        self.width = self.height = 0

    async def handshake(self, password: str | None) -> None:
        """Agree on version, security and pixel format (7.1 to 7.3, 7.5.1, 7.5.2)."""
        greeting = await self._read(12)
        if not greeting.startswith(b"RFB ") or greeting[11:] != b"\n":
            raise ScreenError(f"this is no VNC server: it says {greeting!r}")
        version = greeting[4:11]
        # 7.1.1: of newer versions 3.8 is understood by all; versions between mean 3.3.
        minor = 8 if version >= b"003.008" else 7 if version == b"003.007" else 3
        await self._stream.send(b"RFB 003.%03d\n" % minor)
        security = await self._security(minor, password)
        if security == PASSWORD:
            await self._stream.send(vnc_response(await self._read(16), password or ""))
        if security == PASSWORD or minor == 8:
            await self._result(minor, password)
        await self._stream.send(b"\1")  # 7.3.1: others stay connected
        width, height = struct.unpack(">HH", await self._read(4))
        await self._read(16)
        await self._text()
        self._resize(width, height)
        encodings = struct.pack(">3i", ZLIB, RAW, DESKTOP_SIZE)
        await self._stream.send(b"\0\0\0\0" + _PIXEL_FORMAT + b"\2\0\0\3" + encodings)

    async def _security(self, minor: int, password: str | None) -> int:
        if minor == 3:
            offered = [int.from_bytes(await self._read(4))]
            if offered == [0]:
                raise ScreenError(f"the VNC server refuses: {await self._text()}")
        else:
            offered = list(await self._read((await self._read(1))[0]))
            if not offered:
                raise ScreenError(f"the VNC server refuses: {await self._text()}")
        if NONE in offered:
            chosen = NONE
        elif PASSWORD in offered:
            if password is None:
                raise PasswordNeeded("the VNC server asks for a password")
            chosen = PASSWORD
        else:
            known = ", ".join(map(str, offered))
            raise ScreenError(
                f"the VNC server wants a way of logging in that is not known here (security types {known}). "
                "The viewer in the browser knows more: use session"
            )
        if minor != 3:
            await self._stream.send(bytes([chosen]))
        return chosen

    async def _result(self, minor: int, password: str | None) -> None:
        if int.from_bytes(await self._read(4)) == 0:
            return
        reason = f": {await self._text()}" if minor == 8 else ""
        raise ScreenError(f"the VNC server refused {'this password' if password else 'the connection'}{reason}")

    async def whole_screen(self) -> tuple[int, int, list[Rectangle]]:
        """Return the size of the screen and the rectangles that make it up, in their order."""
        await self._request()
        rectangles: list[Rectangle] = []
        missing = self.width * self.height
        while missing > 0:
            resized = False
            for rectangle in await self._update():
                rectangles.append(rectangle)
                if rectangle.encoding == DESKTOP_SIZE:
                    # What was sent before has another size; what Zlib has compressed before still counts.
                    missing, resized = self.width * self.height, True
                else:
                    missing -= rectangle.width * rectangle.height
            if resized:
                await self._request()
        return self.width, self.height, rectangles

    def _resize(self, width: int, height: int) -> None:
        if not 0 < width * height <= MAX_PIXELS:
            raise ScreenError(f"the screen of the VNC server has an impossible size: {width} by {height}")
        self.width, self.height = width, height

    async def _request(self) -> None:
        """Ask for the whole screen, whether it changed or not (7.5.3)."""
        await self._stream.send(struct.pack(">BBHHHH", 3, 0, 0, 0, self.width, self.height))

    async def _update(self) -> list[Rectangle]:
        """Return the rectangles of the next update; other messages are skipped (7.6)."""
        while True:
            kind = (await self._read(1))[0]
            if kind == 0:
                count = struct.unpack(">xH", await self._read(3))[0]
                return [await self._rectangle() for _ in range(count)]
            if kind == 1:
                await self._read(6 * struct.unpack(">xHH", await self._read(5))[1])
            elif kind == 3:
                await self._read(3)
                await self._text()
            elif kind != 2:
                raise ScreenError(f"the VNC server sent a message of an unknown kind: {kind}")

    async def _rectangle(self) -> Rectangle:
        x, y, width, height, encoding = struct.unpack(">HHHHi", await self._read(12))
        if encoding == DESKTOP_SIZE:
            self._resize(width, height)
            return Rectangle(0, 0, width, height, encoding, b"")
        if x + width > self.width or y + height > self.height:
            raise ScreenError("the VNC server sent a piece of picture that lies outside of its screen")
        if encoding == RAW:
            data = await self._read(width * height * PIXEL)
        elif encoding == ZLIB:
            length = int.from_bytes(await self._read(4))
            if length > width * height * PIXEL + 65536:
                raise ScreenError(f"the VNC server sent {length} compressed bytes for {width * height} pixels")
            data = await self._read(length)
        else:
            raise ScreenError(f"the VNC server used an encoding that was not offered: {encoding}")
        self._taken += len(data) + 64
        if self._taken > MAX_SCREENS * self.width * self.height * PIXEL + MAX_TEXT:
            raise ScreenError("the VNC server sends its picture again and again")
        return Rectangle(x, y, width, height, encoding, data)

    async def _text(self) -> str:
        length = int.from_bytes(await self._read(4))
        if length > MAX_TEXT:
            raise ScreenError(f"the VNC server sent a text of {length} bytes")
        return (await self._read(length)).decode("utf-8", "replace")

    async def _read(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._buffer += await self._stream.receive()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data


def compose(width: int, height: int, rectangles: list[Rectangle]) -> Image:
    """Return the picture that rectangles make up, the later ones above the earlier ones.

    Raises:
        ScreenError: one of them is damaged.
    """
    from PIL import Image

    image = Image.new("RGB", (width, height))
    inflate = zlib.decompressobj()
    for each in rectangles:
        if each.encoding == DESKTOP_SIZE:
            continue
        size = each.width * each.height * PIXEL
        data = each.data
        if each.encoding == ZLIB:
            try:
                data = inflate.decompress(data, size)
            except zlib.error as error:
                raise ScreenError(f"the VNC server sent a damaged picture: {error}") from None
        if len(data) != size:
            raise ScreenError("the VNC server sent a damaged picture: a piece of it is too short")
        if size:
            part = Image.frombuffer("RGB", (each.width, each.height), data, "raw", "BGRX", 0, 1)
            image.paste(part, (each.x, each.y))
    return image


def vnc_response(challenge: bytes, password: str) -> bytes:
    """Return the answer to a challenge of VNC authentication (7.2.2): DES, with the bits of each key byte reversed."""
    from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.modes import ECB

    text = password.encode("latin-1", "replace")[:8].ljust(8, b"\0")
    key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in text)
    # DES three times with the same key is DES.
    encryptor = Cipher(TripleDES(key * 3), ECB()).encryptor()
    return encryptor.update(challenge) + encryptor.finalize()
