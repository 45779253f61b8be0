"""Boards that take firmware as a file: a UF2 boot loader and an ST-LINK, each with a real FAT drive.

A board keeps its drive in an image file and shows it through a plug. `GadgetPlug`, in the lab guest, makes a real USB
drive of it, with FAT. `LoopPlug` mounts it on this machine, as an automounter does (root only), with ext2, as not every
kernel has FAT. Either way the kernel's block layer writes the image, and the board looks at what arrives there: a UF2
boot loader at the sectors, an ST-LINK at the files.

Sources: the UF2 specification (github.com/microsoft/uf2); RP2040 datasheet 2.8.4 and RP2350 datasheet 5.5 (drive and
INFO_UF2.TXT); ST's TN1235 and Arm's DAPLink documentation (DETAILS.TXT, FAIL.TXT, re-enumeration after programming).
"""

from __future__ import annotations

import os
import struct
import subprocess
import tempfile
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from jumpstarter_testbench.requirements import need, program, unavailable
from jumpstarter_testbench.usb_gadgets import Gadget, MassStorage, modprobe

POLL = 0.02
QUIET = 300_000_000
"""Nanoseconds without a write after which a file is taken for complete."""
SECTOR = 512
_UF2_START, _UF2_START_2, _UF2_END = 0x0A324655, 0x9E5D5157, 0x0AB16F30


class FileSystem(Protocol):
    """Making a file system, and looking into it while the host has it mounted."""

    def make(self, image: Path, label: str, files: dict[str, bytes]) -> None:
        """Put one into an empty image."""

    def names(self, image: Path) -> list[str]:
        """The names in the root directory, as far as they have arrived."""

    def content(self, image: Path, name: str) -> bytes:
        """A file in the root directory, as far as it has arrived."""


class Fat:
    """What real boards have."""

    def __init__(self) -> None:
        """Make sure that the tools are there."""
        need("fat")

    def make(self, image: Path, label: str, files: dict[str, bytes]) -> None:
        """Put one into an empty image."""
        _run("mkfs.vfat", "-n", label, str(image))
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                Path(folder, name).write_bytes(content)
            _run("mcopy", "-i", str(image), *(str(Path(folder, name)) for name in files), "::")

    def names(self, image: Path) -> list[str]:
        """The names in the root directory, as far as they have arrived."""
        listing = _output("mdir", "-b", "-i", str(image), "::").decode(errors="replace")
        return [line.removeprefix("::/") for line in listing.splitlines()]

    def content(self, image: Path, name: str) -> bytes:
        """A file in the root directory, as far as it has arrived."""
        return _output("mcopy", "-i", str(image), f"::{name}", "-")


class Ext2:
    """What every kernel has."""

    def make(self, image: Path, label: str, files: dict[str, bytes]) -> None:
        """Put one into an empty image."""
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                Path(folder, name).write_bytes(content)
            _run("mke2fs", "-q", "-t", "ext2", "-m", "0", "-L", label, "-d", folder, str(image))

    def names(self, image: Path) -> list[str]:
        """The names in the root directory, as far as they have arrived."""
        # /inode/mode/owner/group/name/size/
        listing = _output("debugfs", "-R", "ls -p /", str(image)).decode(errors="replace")
        names = [line.split("/")[5] for line in listing.splitlines() if line.count("/") >= 6]
        return [name for name in names if name not in ("", ".", "..", "lost+found")]

    def content(self, image: Path, name: str) -> bytes:
        """A file in the root directory, as far as it has arrived."""
        return _output("debugfs", "-R", f'cat "/{name}"', str(image))


class Plug(Protocol):
    """How a drive is shown to the host."""

    file_system: FileSystem

    def connect(self, image: Path, label: str) -> None:
        """Let the host see the drive."""

    def disconnect(self) -> None:
        """Take it away."""

    def close(self) -> None:
        """Unplug the board."""


class LoopPlug:
    """Mounts the drive of a board below `folder`, in a directory with the drive's label, like an automounter does."""

    def __init__(self, folder: Path) -> None:
        """Do nothing yet."""
        if os.geteuid() != 0:
            unavailable("mounting a drive needs root")
        need("e2fsprogs")
        self._folder = folder
        self.file_system: FileSystem = Ext2()
        self.mount_point = Path()
        self.device = ""
        self.options = "rw"

    def connect(self, image: Path, label: str) -> None:
        """Attach and mount it."""
        mount_point = self._folder / label
        mount_point.mkdir(parents=True, exist_ok=True)
        device = _run("losetup", "--find", "--show", str(image)).strip()
        try:
            _run("mount", "-o", self.options, device, str(mount_point))
        except RuntimeError:
            _run("losetup", "--detach", device)
            raise
        self.mount_point, self.device = mount_point, device

    def disconnect(self) -> None:
        """Unmount and detach it, though somebody uses it."""
        if self.device:
            _run("umount", "-l", str(self.mount_point))
            _run("losetup", "--detach", self.device)
            self.mount_point.rmdir()
            self.device = ""

    def close(self) -> None:
        """Unplug the board."""
        self.disconnect()


class GadgetPlug:
    """Shows the drive of a board as a USB device; needs the lab guest. Nobody mounts it."""

    def __init__(self, *, vendor: int, product: int, serial: str = "", changes_medium: bool = False) -> None:
        """Do nothing yet.

        Args:
            vendor: USB id.
            product: USB id.
            serial: serial number.
            changes_medium: take only the medium out of the drive, as some firmware does, not the device from the bus.
        """
        self.file_system: FileSystem = Fat()
        self._ids = {"vendor": vendor, "product": product, "serial": serial}
        self._changes_medium = changes_medium
        self._storage: MassStorage | None = None
        self.gadget: Gadget | None = None

    def connect(self, image: Path, label: str) -> None:
        """Plug it in, or put the medium in."""
        if self._storage is not None:
            self._storage.insert(image)
            return
        modprobe("usb_storage")
        # The kernel waits a second before it looks at a disk, for the sake of old ones.
        Path("/sys/module/usb_storage/parameters/delay_use").write_text("0")
        self._storage = MassStorage(image)
        self.gadget = Gadget(functions=[self._storage], **self._ids)  # type: ignore[arg-type]
        self.gadget.__enter__()
        self.gadget.block_device()

    def disconnect(self) -> None:
        """Pull it out, or take the medium out."""
        if self._changes_medium and self._storage is not None:
            self._storage.eject()
        else:
            self.close()

    def close(self) -> None:
        """Unplug the board."""
        if self.gadget is not None:
            self.gadget.close()
            self.gadget = self._storage = None


@dataclass(kw_only=True)
class DriveBoard:
    """A board with a drive, plugged in while used as a context manager."""

    plug: Plug
    label: str
    size: int = 8 << 20
    flash: bytes = b""
    """What was programmed last."""
    _image: Path = field(init=False)
    _shown_at: int = field(init=False, default=0)
    _thread: threading.Thread | None = field(init=False, default=None)
    errors: list[Exception] = field(init=False, default_factory=list)

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="board-drive-")
        self._stop = threading.Event()
        self._start_drive()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(60)
        self.plug.close()
        self._folder.cleanup()
        if self.errors:
            raise ExceptionGroup("the board failed", self.errors)

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """The files that the drive shows when it appears."""

    @abstractmethod
    def look(self, image: Path) -> bool:
        """Look at what was written to the drive, in the board's own thread; True to take the drive away."""

    def restarted(self) -> bool:
        """What happens after the drive was taken away; True to show it again."""
        return False

    def _start_drive(self) -> None:
        self._show()
        self._thread = threading.Thread(target=self._run, name="drive-board", daemon=True)
        self._thread.start()

    def _show(self) -> None:
        """Show a fresh drive."""
        descriptor, name = tempfile.mkstemp(dir=self._folder.name, suffix=".img")
        os.truncate(descriptor, self.size)
        os.close(descriptor)
        self._image = Path(name)
        self.plug.file_system.make(self._image, self.label, self.files())
        self.plug.connect(self._image, self.label)
        self._shown_at = time.time_ns()

    def _run(self) -> None:
        try:
            while not self._stop.wait(POLL):
                if not self.look(self._image):
                    continue
                self.plug.disconnect()
                if not self.restarted() or self._stop.is_set():
                    return
                self._show()
        except Exception as error:  # noqa: BLE001 (raised by __exit__)
            self.errors.append(error)


@dataclass(kw_only=True)
class Uf2Board(DriveBoard):
    """A Raspberry Pi Pico in BOOTSEL mode: takes the blocks of its own families, and restarts when it has them all."""

    label: str = "RPI-RP2"
    board_id: str = "RPI-RP2"
    families: frozenset[int] = frozenset({0xE48BFF56})
    deaf: bool = False
    """The board ignores what it is given."""
    on_start: Callable[[], None] = lambda: None
    """What the programmed firmware does."""
    blocks: dict[int, bytes] = field(default_factory=dict)
    started: threading.Event = field(default_factory=threading.Event)

    def files(self) -> dict[str, bytes]:
        """Those of the boot ROM."""
        info = f"UF2 Bootloader v3.0\r\nModel: Raspberry Pi RP2\r\nBoard-ID: {self.board_id}\r\n"
        return {"INFO_UF2.TXT": info.encode(), "INDEX.HTM": b"<html></html>"}

    def look(self, image: Path) -> bool:
        """Take the UF2 blocks that have arrived, wherever they are on the drive."""
        if self.deaf:
            return False
        total = None
        for sector in _sectors(image):
            start, start_2, _, address, size, _, count, family = struct.unpack_from("<8I", sector)
            if (start, start_2) != (_UF2_START, _UF2_START_2) or sector[-4:] != struct.pack("<I", _UF2_END):
                continue
            if family in self.families:
                self.blocks[address] = sector[32 : 32 + size]
                total = count
        if total is None or len(self.blocks) < total:
            return False
        self.flash = b"".join(self.blocks[address] for address in sorted(self.blocks))
        return True

    def restarted(self) -> bool:
        """Run the new firmware, if it is complete."""
        if self.flash:
            self.on_start()
            self.started.set()
        return False


@dataclass(kw_only=True)
class StlinkBoard(DriveBoard):
    """A Nucleo board: programs a file that has arrived completely, and shows its drive again."""

    label: str = "NOD_F446RE"
    failure: str = ""
    """What FAIL.TXT says after the next programming; empty when all is well."""
    hangs: bool = False
    """The board takes the file and does nothing."""
    dies: bool = False
    """The board goes away to program, and doesn't come back."""
    _failed: str = field(init=False, default="")
    programmed: list[str] = field(default_factory=list)
    """Names of the files that it took."""

    def files(self) -> dict[str, bytes]:
        """Those of the ST-LINK."""
        details = "Version: 0221\r\nBuild: Jan 20 2019 12:46:32\r\n"
        found = {"DETAILS.TXT": details.encode(), "MBED.HTM": b"<html></html>"}
        return found | {"FAIL.TXT": self._failed.encode()} if self._failed else found

    def look(self, image: Path) -> bool:
        """Program a new file when the drive has been quiet for a moment."""
        written_at = image.stat().st_mtime_ns
        if written_at < self._shown_at or time.time_ns() - written_at < QUIET:
            return False
        name = next((name for name in self.plug.file_system.names(image) if name not in self.files()), "")
        if not name or self.hangs:
            return False
        content = self.plug.file_system.content(image, name)
        if not content:
            return False
        self.programmed.append(name)
        self._failed = self.failure
        if not self.failure:
            self.flash = content
        return True

    def restarted(self) -> bool:
        """Show the drive again."""
        return not self.dies


def uf2(payload: bytes, family: int = 0xE48BFF56, address: int = 0x10000000) -> bytes:
    """Return firmware as a UF2 file with blocks of 256 bytes."""
    pieces = [payload[start : start + 256].ljust(256, b"\0") for start in range(0, len(payload), 256)]
    return b"".join(
        struct.pack("<8I", _UF2_START, _UF2_START_2, 0x2000, address + 256 * number, 256, number, len(pieces), family)
        + piece.ljust(476, b"\0")
        + struct.pack("<I", _UF2_END)
        for number, piece in enumerate(pieces)
    )


def _sectors(image: Path) -> Iterator[bytes]:
    """The sectors of a sparse file that were written."""
    with open(image, "rb") as file:
        position, size = 0, os.fstat(file.fileno()).st_size
        while position < size:
            try:
                position = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(file.fileno(), position, os.SEEK_HOLE)
            data = os.pread(file.fileno(), end - position, position)
            for start in range(0, len(data) - SECTOR + 1, SECTOR):
                yield data[start : start + SECTOR]
            position = end


def _output(*command: str) -> bytes:
    """What a program prints; nothing when it fails, as it may on a drive that is being written."""
    done = subprocess.run([program(command[0]), *command[1:]], capture_output=True, timeout=60)
    return b"" if done.returncode else done.stdout


def _run(*command: str) -> str:
    done = subprocess.run([program(command[0]), *command[1:]], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
