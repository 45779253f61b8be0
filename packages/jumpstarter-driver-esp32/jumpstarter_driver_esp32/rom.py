"""An ESP32 as it is seen on its serial port: boot modes by DTR and RTS, ROM loader, flasher stub, flash chip.

The protocol is that of Espressif's "Serial Protocol" page of the esptool documentation: SLIP frames with an 8-byte
header (direction, command, size, checksum or value), four status bytes of the ROM and two of the stub. The auto-reset
circuit is that of the development boards: DTR alone pulls GPIO0 low, RTS alone pulls EN low.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

END, ESCAPE, ESCAPED_END, ESCAPED_ESCAPE = 0xC0, 0xDB, 0xDC, 0xDD
CHECKSUM_SEED = 0xEF
SECTOR = 0x1000

MAGIC_REGISTER = 0x40001000
ESP32_MAGIC = 0x00F01D83
EFUSES = 0x3FF5A000
CLOCK_DIVIDER = 0x3FF40014
CALIBRATION = 0x3FF5F06C
"""How long the crystal takes for a number of the slow clock's cycles; with the eFuse word 4 it makes 40 MHz."""
SPI = 0x3FF42000
SPI_USR2, SPI_ADDRESS, SPI_W0 = SPI + 0x24, SPI + 0x04, SPI + 0x80

BAD_CHECKSUM, INVALID_MESSAGE, FAILED = 0x07, 0x05, 0x06

DOWNLOAD_LOG = (
    b"ets Jun  8 2016 00:22:57\r\n\r\nrst:0x1 (POWERON_RESET),boot:0x3 (DOWNLOAD_BOOT(UART0/UART1/SDIO_REI_REO_V2))\r\n"
    b"waiting for download\r\n"
)
BOOT_LOG = (
    b"ets Jun  8 2016 00:22:57\r\n\r\nrst:0x1 (POWERON_RESET),boot:0x13 (SPI_FAST_FLASH_BOOT)\r\n"
    b"I (29) boot: ESP-IDF v5.1 2nd stage bootloader\r\n"
)


def slip(data: bytes) -> bytes:
    """Return a frame."""
    escaped = data.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc")
    return b"\xc0" + escaped + b"\xc0"


@dataclass
class Esp32:
    """The chip; `feed` and `lines` are what the adapter does to it, `send` what it gets from it."""

    send: Callable[[bytes], None]
    flash_size: int = 4 << 20
    magic: int = ESP32_MAGIC
    mac: bytes = bytes.fromhex("246f28a1b2c3")
    in_download: bool = False
    """Whether the ROM loader listens; otherwise the firmware runs."""
    answers: bool = True
    """Whether the chip answers at all."""
    flash: bytearray = field(default_factory=bytearray)
    commands: list[int] = field(default_factory=list)
    """The commands that were run."""
    line_changes: list[tuple[bool, bool]] = field(default_factory=list)
    """DTR and RTS after each change."""
    resets: int = 0
    damage: Callable[[bytes], bytes] = lambda data: data
    """What becomes of the data of a flash block on its way."""
    on_command: Callable[[int], None] = lambda command: None

    def __post_init__(self) -> None:
        self.flash = self.flash or bytearray(b"\xff" * self.flash_size)
        self._frame: bytearray | None = None
        self._escaped = False
        self._dtr = self._rts = False
        self._in_reset = False
        self._rising = False
        self._start()

    def _start(self) -> None:
        self._stub = False
        self._reading: tuple[bytes, int, int] | None = None
        self._registers: dict[int, int] = {
            MAGIC_REGISTER: self.magic,
            EFUSES + 4: int.from_bytes(self.mac[2:], "big"),
            EFUSES + 8: int.from_bytes(self.mac[:2], "big"),
            EFUSES + 12: 1 << 15,
            EFUSES + 16: 128,
            EFUSES + 20: 1 << 20,
            CALIBRATION: 800 << 7,
            0x3FF6607C: 1 << 31,
            CLOCK_DIVIDER: 40_000_000 // 115200,
        }
        self._write: tuple[int, int] = (0, 0)
        self._inflate = zlib.decompressobj()
        self._frame = None

    def lines(self, dtr: bool, rts: bool) -> None:
        """Set the modem lines; both or none leave EN and GPIO0 high."""
        if (dtr, rts) == (self._dtr, self._rts):
            return
        self._dtr, self._rts = dtr, rts
        self.line_changes.append((dtr, rts))
        ended, self._in_reset = self._in_reset, rts and not dtr
        if self._in_reset or not (ended or self._rising):
            return
        # A capacitor at EN holds the reset longer than the line, so while both lines are set nothing is decided.
        self._rising = dtr and rts
        if not self._rising:
            self.reset(download=dtr)

    def reset(self, download: bool) -> None:
        """Start the chip."""
        self.resets += 1
        self.in_download = download
        self._start()
        self.send(DOWNLOAD_LOG if download else BOOT_LOG)

    def feed(self, data: bytes) -> None:
        """Take bytes from the serial port."""
        if not self.in_download or not self.answers:
            return
        for byte in data:
            if byte == END:
                if self._frame:
                    frame, self._frame = bytes(self._frame), None
                    self._take(frame)
                else:
                    self._frame = bytearray()
            elif self._frame is not None:
                if self._escaped:
                    self._frame.append(END if byte == ESCAPED_END else ESCAPE)
                    self._escaped = False
                elif byte == ESCAPE:
                    self._escaped = True
                else:
                    self._frame.append(byte)

    def _take(self, frame: bytes) -> None:
        if self._reading is not None:
            self._acknowledged(struct.unpack("<I", frame)[0])
            return
        if len(frame) < 8 or frame[0] != 0:
            return
        _, command, size, checksum = struct.unpack_from("<BBHI", frame)
        data = frame[8:]
        if len(data) != size:
            self._answer(command, error=INVALID_MESSAGE)
            return
        self.commands.append(command)
        self.on_command(command)
        handler = (self._stub_commands() if self._stub else {}).get(command) or self._rom_commands().get(command)
        if handler is None:
            self._answer(command, error=INVALID_MESSAGE)
        else:
            handler(data, checksum)

    def _answer(self, command: int, value: int = 0, data: bytes = b"", error: int = 0) -> None:
        status = bytes((int(error != 0), error)) + (b"" if self._stub else b"\0\0")
        body = data + status
        self.send(slip(struct.pack("<BBHI", 1, command, len(body), value) + body))

    # -- commands of the ROM ---------------------------------------------------------------------

    def _rom_commands(self) -> dict[int, Callable[[bytes, int], None]]:
        return {
            0x02: self._flash_begin,
            0x03: self._flash_data,
            0x04: lambda data, _: self._flash_end(0x04, data),
            0x05: lambda data, _: self._answer(0x05),
            0x06: self._mem_end,
            0x07: lambda data, checksum: self._answer(0x07, error=self._check(data, checksum)),
            0x08: self._sync,
            0x09: self._write_register,
            0x0A: lambda data, _: self._answer(0x0A, self._registers.get(struct.unpack_from("<I", data)[0], 0)),
            0x0B: lambda data, _: self._answer(0x0B),
            0x0D: lambda data, _: self._answer(0x0D),
            0x0E: self._read_slow,
            0x0F: lambda data, _: self._answer(0x0F),
            0x10: self._deflate_begin,
            0x11: self._deflate_data,
            0x12: lambda data, _: self._flash_end(0x12, data),
            0x13: self._md5,
        }

    def _sync(self, data: bytes, _: int) -> None:
        if data == b"\x07\x07\x12\x20" + 32 * b"\x55":
            for _number in range(8):
                self._answer(0x08, 0 if self._stub else 0x20120707)

    def _check(self, data: bytes, checksum: int) -> int:
        """Return the error of a data packet: sixteen bytes of header, then what the checksum is of."""
        state = CHECKSUM_SEED
        for byte in data[16:]:
            state ^= byte
        size = struct.unpack_from("<I", data)[0]
        return 0 if state == checksum & 0xFF and size == len(data) - 16 else BAD_CHECKSUM

    def _flash_begin(self, data: bytes, _: int) -> None:
        size, _blocks, _block_size, offset = struct.unpack_from("<IIII", data)
        if offset + size > self.flash_size:
            self._answer(0x02, error=FAILED)
            return
        self._erase(offset, size)
        self._write = (offset, offset)
        self._answer(0x02)

    def _erase(self, offset: int, size: int) -> None:
        start, end = offset // SECTOR * SECTOR, -(-(offset + size) // SECTOR) * SECTOR
        self.flash[start:end] = b"\xff" * (end - start)

    def _flash_data(self, data: bytes, checksum: int) -> None:
        error = self._check(data, checksum)
        if not error:
            size, sequence = struct.unpack_from("<II", data)
            self._program(self._write[0] + sequence * size, self.damage(data[16:]))
        self._answer(0x03, error=error)

    def _program(self, address: int, data: bytes) -> None:
        # Flash can only clear bits.
        for index, byte in enumerate(data):
            if address + index < self.flash_size:
                self.flash[address + index] &= byte

    def _deflate_begin(self, data: bytes, _: int) -> None:
        size, _blocks, _block_size, offset = struct.unpack_from("<IIII", data)
        if offset + size > self.flash_size:
            self._answer(0x10, error=FAILED)
            return
        self._erase(offset, size)
        self._write, self._inflate = (offset, offset), zlib.decompressobj()
        self._answer(0x10)

    def _deflate_data(self, data: bytes, checksum: int) -> None:
        error = self._check(data, checksum)
        if not error:
            plain = self.damage(self._inflate.decompress(data[16:]))
            self._program(self._write[1], plain)
            self._write = (self._write[0], self._write[1] + len(plain))
        self._answer(0x11, error=error)

    def _flash_end(self, command: int, data: bytes) -> None:
        self._answer(command)
        if struct.unpack_from("<I", data)[0] == 0:
            self.reset(download=False)

    def _mem_end(self, data: bytes, _: int) -> None:
        self._answer(0x06)
        if struct.unpack_from("<I", data)[0] == 0:
            # What was loaded is taken for the flasher stub, which greets.
            self._stub = True
            self.send(slip(b"OHAI"))

    def _write_register(self, data: bytes, _: int) -> None:
        for position in range(0, len(data) // 16 * 16, 16):
            address, value, mask, _delay = struct.unpack_from("<IIII", data, position)
            self._registers[address] = self._registers.get(address, 0) & ~mask | value & mask
            if address == SPI and value & 1 << 18:
                self._registers[SPI] = 0
                self._spi_command(self._registers.get(SPI_USR2, 0) & 0xFF)
        self._answer(0x09)

    def _spi_command(self, command: int) -> None:
        """Run a command of the flash chip: its id, and the head of its parameter table."""
        size = self.flash_size.bit_length() - 1
        answers = {0x9F: 0xEF | 0x40 << 8 | size << 16, 0x5A: 0x50444653}
        self._registers[SPI_W0] = answers.get(command, 0)

    def _read_slow(self, data: bytes, _: int) -> None:
        offset, size = struct.unpack_from("<II", data)
        self._answer(0x0E, data=bytes(self.flash[offset : offset + size]).ljust(64, b"\0"))

    def _md5(self, data: bytes, _: int) -> None:
        address, size = struct.unpack_from("<II", data)
        digest = hashlib.md5(self.flash[address : address + size], usedforsecurity=False)
        self._answer(0x13, data=digest.digest() if self._stub else digest.hexdigest().encode())

    # -- commands that only the stub has ---------------------------------------------------------

    def _stub_commands(self) -> dict[int, Callable[[bytes, int], None]]:
        return {0xD0: self._erase_all, 0xD1: self._erase_region, 0xD2: self._read, 0xD3: self._leave_stub}

    def _erase_all(self, _data: bytes, _: int) -> None:
        self._erase(0, self.flash_size)
        self._answer(0xD0)

    def _erase_region(self, data: bytes, _: int) -> None:
        self._erase(*struct.unpack_from("<II", data))
        self._answer(0xD1)

    def _leave_stub(self, _data: bytes, _: int) -> None:
        self._stub = False

    def _read(self, data: bytes, _: int) -> None:
        offset, size, block, window = struct.unpack_from("<IIII", data)
        self._answer(0xD2)
        self._reading = (bytes(self.flash[offset : offset + size]), block, window)
        self._sent = 0
        self._acknowledged(0)

    def _acknowledged(self, count: int) -> None:
        """Send blocks until `window` of them are not acknowledged, then the digest."""
        assert self._reading is not None
        content, block, window = self._reading
        while self._sent < len(content) and self._sent - count < block * window:
            self.send(slip(content[self._sent : self._sent + block]))
            self._sent = min(self._sent + block, len(content))
        if count >= len(content):
            self._reading = None
            self.send(slip(hashlib.md5(content, usedforsecurity=False).digest()))
