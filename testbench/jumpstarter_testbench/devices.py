"""Devices under test: a virtual board with Linux, booted or woken from a saved state, and U-Boot at its prompt."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pexpect.fdpexpect import fdspawn

from jumpstarter_testbench import guest
from jumpstarter_testbench.process import Process, free_port
from jumpstarter_testbench.requirements import need, program, unavailable

BOOT_TIMEOUT = 60
"""Seconds until a board that emulates its processor shows its login; an idle machine needs three."""

UBOOT_PROMPT = "=> "
UBOOT_ARM64 = Path("/usr/lib/u-boot/qemu_arm64/u-boot.bin")


class Qmp:
    """QEMU's machine protocol on a Unix socket, as far as tests need it."""

    def __init__(self, connection: socket.socket) -> None:
        """Take over a connection to QEMU's control socket and leave the negotiation behind."""
        self._socket = connection
        self._socket.settimeout(30)
        self._lines = self._socket.makefile("r", encoding="utf-8")
        self._receive()
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command and return what it returns; events in between are dropped.

        Raises:
            RuntimeError: QEMU refuses the command.
            ConnectionError: QEMU has ended.
        """
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while True:
            message = self._receive()
            if "error" in message:
                raise RuntimeError(f"QMP {command}: {message['error']['desc']}")
            if "return" in message:
                return message["return"]

    def monitor(self, line: str) -> str:
        """Run a line of the human monitor.

        Raises:
            RuntimeError: the monitor answers with an error.
        """
        answer: str = self.execute("human-monitor-command", **{"command-line": line})
        if answer.startswith("Error"):
            raise RuntimeError(f"{line}: {answer.strip()}")
        return answer

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._socket.close()

    def _receive(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise ConnectionError("QEMU closed its control socket")
        message: dict[str, Any] = json.loads(line)
        return message


@dataclass(kw_only=True)
class Machine:
    """A running virtual machine."""

    process: Process
    folder: Path
    console: fdspawn
    """The serial console, to talk to with pexpect."""
    qmp: Qmp
    disk: Path | None = None
    """The raw or qcow2 file behind the first disk."""
    ssh_port: int | None = None
    """The port of the host's loopback that leads to port 22 of the machine."""

    def run(self, command: str, prompt: str, timeout: float = 30) -> str:
        """Type a command at the console and return what it printed until the next prompt."""
        self.console.sendline(command)
        self.console.expect_exact(command, timeout=timeout)
        self.console.expect_exact(prompt, timeout=timeout)
        output: str = self.console.before or ""
        return output.strip()


@dataclass(frozen=True, kw_only=True)
class GuestFiles:
    """What the virtual board boots from."""

    kernel: Path
    initramfs: Path
    user: str = guest.DEFAULT_USER
    password: str = guest.DEFAULT_PASSWORD
    prompt: str = f"{guest.DEFAULT_USER}@{guest.DEFAULT_HOSTNAME}:~# "
    command_line: str = "console=ttyS0 quiet panic=-1"


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """A disk that holds the state of a board whose shell waits for a command."""

    disk: Path
    name: str = "ready"
    options: Sequence[str] = field(default_factory=list)


def guest_cache(config: pytest.Config) -> Path:
    """The folder where downloaded guest material is kept from run to run."""
    return config.rootpath / ".cache" / "guest"


@pytest.fixture(scope="session")
def guest_material(pytestconfig: pytest.Config) -> guest.Material:
    """The unpacked packages that Linux guests are made of; the first use downloads them."""
    try:
        return guest.fetch(guest_cache(pytestconfig))
    except guest.GuestError as error:
        unavailable(str(error))


@pytest.fixture(scope="session")
def guest_files(guest_material: guest.Material, tmp_path_factory: pytest.TempPathFactory) -> GuestFiles:
    """Kernel and initramfs of the virtual board."""
    initramfs = guest.write_initramfs(tmp_path_factory.mktemp("guest") / "initramfs.gz", guest_material)
    return GuestFiles(kernel=guest_material.kernel, initramfs=initramfs)


@pytest.fixture
def board(guest_files: GuestFiles) -> Iterator[Machine]:
    """A freshly booted board whose console shows the login; 64 MiB of raw disk, SSH on a port of the host."""
    need("qemu-x86_64")
    with _folder() as folder:
        disk = guest.write_blank_image(folder / "disk.raw", 64 << 20)
        with _linux(folder, guest_files, disk, "raw") as machine:
            machine.console.expect_exact("login: ", timeout=BOOT_TIMEOUT)
            yield machine


@pytest.fixture(scope="session")
def saved_state(guest_files: GuestFiles, tmp_path_factory: pytest.TempPathFactory) -> SavedState:
    """The state of a board at its shell, made by one boot per session."""
    need("qemu-x86_64", "qemu-img")
    disk = tmp_path_factory.mktemp("saved-state") / "disk.qcow2"
    subprocess.run(
        [program("qemu-img"), "create", "-q", "-f", "qcow2", disk, "64M"], check=True, capture_output=True, timeout=30
    )
    state = SavedState(disk=disk)
    with _folder() as folder, _linux(folder, guest_files, disk, "qcow2") as machine:
        log_in(machine, guest_files)
        machine.qmp.monitor(f"savevm {state.name}")
        machine.qmp.execute("quit")
        machine.process.wait(30)
    return state


@pytest.fixture
def ready_board(saved_state: SavedState, guest_files: GuestFiles) -> Iterator[Machine]:
    """A board of the test's own that is at its shell at once, because it wakes from the saved state."""
    with _folder() as folder:
        disk = Path(shutil.copyfile(saved_state.disk, folder / "disk.qcow2"))
        with _linux(folder, guest_files, disk, "qcow2", ["-loadvm", saved_state.name]) as machine:
            machine.console.sendline("")
            machine.console.expect_exact(guest_files.prompt, timeout=BOOT_TIMEOUT)
            yield machine


def log_in(machine: Machine, files: GuestFiles) -> None:
    """Answer the login prompt of a board that boots and wait for its shell, which is 500 columns wide."""
    machine.console.expect_exact("login: ", timeout=BOOT_TIMEOUT)
    machine.console.sendline(files.user)
    machine.console.expect_exact("Password: ", timeout=30)
    machine.console.sendline(files.password)
    machine.console.expect_exact(files.prompt, timeout=30)
    machine.run("stty columns 500", files.prompt)  # else the shell folds long commands as they are typed


@pytest.fixture
def uboot() -> Iterator[Machine]:
    """U-Boot for 64-bit Arm at its prompt, with a blank disk of 64 MiB and a network card; 10.0.2.2 is the host."""
    need("qemu-aarch64", "u-boot")
    with _folder() as folder:
        disk = guest.write_blank_image(folder / "disk.raw", 64 << 20)
        options = [
            *("-M", "virt", "-cpu", "cortex-a57", "-m", "1024", "-bios", str(UBOOT_ARM64)),
            *("-netdev", "user,id=n0", "-device", "virtio-net-pci,netdev=n0,romfile="),
            *("-drive", f"file={_escaped(disk)},format=raw,if=none,id=d0", "-device", "virtio-blk-pci,drive=d0"),
        ]
        with _machine("qemu-system-aarch64", folder, options) as machine:
            machine.disk = disk
            machine.console.expect_exact("Hit any key to stop autoboot", timeout=BOOT_TIMEOUT)
            machine.console.send(" ")
            machine.console.expect_exact(UBOOT_PROMPT, timeout=30)
            yield machine


@contextlib.contextmanager
def _linux(
    folder: Path, files: GuestFiles, disk: Path, disk_format: str, options: Sequence[str] = ()
) -> Iterator[Machine]:
    port = free_port()
    arguments = [
        *("-M", "q35", "-m", "256", "-kernel", str(files.kernel), "-initrd", str(files.initramfs)),
        *("-append", files.command_line),
        *("-drive", f"file={_escaped(disk)},format={disk_format},if=virtio"),
        *("-netdev", f"user,id=n0,hostfwd=tcp:127.0.0.1:{port}-:22"),
        *("-device", "virtio-net-pci,netdev=n0,romfile="),
        *options,
    ]
    with _machine("qemu-system-x86_64", folder, arguments) as machine:
        machine.disk = disk
        machine.ssh_port = port
        yield machine


@contextlib.contextmanager
def _machine(emulator: str, folder: Path, options: Sequence[str]) -> Iterator[Machine]:
    """Start QEMU without acceleration, which is slow and behaves the same everywhere."""
    serial, control = folder / "serial", folder / "qmp"
    command = [
        *(program(emulator), "-accel", "tcg", "-nodefaults", "-display", "none", "-no-reboot"),
        *("-serial", f"unix:{_escaped(serial)},server=on,wait=off"),
        *("-qmp", f"unix:{_escaped(control)},server=on,wait=off"),
        *options,
    ]
    with contextlib.ExitStack() as stack:
        process = Process(command, log=folder / "log")
        stack.callback(process.stop)
        console_socket = stack.enter_context(_connect(process, serial))
        qmp = Qmp(_connect(process, control))
        stack.callback(qmp.close)
        console = fdspawn(console_socket.fileno(), timeout=BOOT_TIMEOUT, encoding="utf-8", codec_errors="replace")
        yield Machine(process=process, folder=folder, console=console, qmp=qmp)


def _connect(process: Process, path: Path) -> socket.socket:
    """Connect to a Unix socket as soon as the program listens on it, which is a moment after the file is there."""
    connections: list[socket.socket] = []

    def connected() -> bool:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
        except OSError:
            connection.close()
            raise
        connections.append(connection)
        return True

    process.wait_until(connected)
    return connections[0]


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A folder with a short path: the address of a Unix socket has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="jmp-", dir="/tmp") as folder:
        yield Path(folder)


def _escaped(path: Path) -> str:
    """A path inside a QEMU option, where a comma is doubled."""
    return str(path).replace(",", ",,")
