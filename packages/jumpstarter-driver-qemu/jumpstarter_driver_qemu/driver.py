"""The QEMU driver: a virtual machine with power, console, disks, screen and network, as a board has them."""

from __future__ import annotations

import base64
import os
import random
import shutil
import tempfile
import threading
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

from anyio import to_thread
from jumpstarter.driver import Driver, export
from jumpstarter_driver_network.driver import UdpNetwork, UnixNetwork, VsockNetwork
from jumpstarter_driver_pyserial.mailbox import Mailbox

from . import images
from .accelerator import Accelerator, host_architecture, resolve
from .directory import StateDirectory
from .machine import Machine, MachineError
from .parts import QemuConsole, QemuFlasher, QemuForward, QemuPower
from .seed import write_seed
from .settings import FIRMWARE, Disk, Hostfwd, check_settings, memory_mebibytes, read_part

__all__ = ["Hostfwd", "Qemu", "QemuConsole", "QemuFlasher", "QemuForward", "QemuPower"]

CONSOLE_LIMIT: Final = 1 << 20
"""Bytes of console output that are kept while nobody is connected."""

SCREENSHOT_CHUNK: Final = 192 << 10
"""Bytes of a picture per message; a multiple of 3, so that the text of each stands for itself."""

VHOST_VSOCK: Final = "/dev/vhost-vsock"

_CPUS: Final = {"aarch64": "cortex-a57", "x86_64": "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt"}
_MACHINES: Final = {"aarch64": "virt", "x86_64": "q35"}
_DISPLAYS: Final = {"x86_64": "virtio-vga"}
_PACKAGES: Final = {"x86_64": "qemu-system-x86", "aarch64": "qemu-system-arm", "arm": "qemu-system-arm"}


@dataclass(kw_only=True)
class Qemu(Driver):
    """A virtual machine. Its children are what a board has: power, flasher, console, vnc, ssh and port forwards."""

    driver_type: ClassVar[str] = "composite"

    system_requirements: ClassVar[dict[str, str]] = {
        "qemu-system-x86_64|qemu-system-aarch64": "apt-get install qemu-system-x86 or qemu-system-arm, by `arch`",
        "qemu-img": "apt-get install qemu-utils",
        "/dev/kvm?": "let the exporter's user read it (group kvm); without it there is emulation only, which is slow",
        "/dev/vhost-vsock?": "modprobe vhost_vsock; without it `ssh` goes by a port forward",
        "fls?": "put it on the PATH, or set `fls_version`; it fetches images from registries",
    }

    arch: str = field(default_factory=host_architecture)
    """Decides on `qemu-system-<arch>`."""
    cpu: str | None = None
    smp: int = 2
    mem: str = "512M"
    hostname: str = "demo"
    username: str = "jumpstarter"
    password: str = "password"
    default_partitions: dict[str, Any] = field(default_factory=dict)
    """Images that the machine has until others are flashed; they are never written to."""
    hostfwd: dict[str, Any] = field(default_factory=dict)
    disk_size: str | None = None
    """Size that the root disk grows to; without a root image, that of an empty disk."""
    accel: Accelerator = "tcg"
    machine: str | None = None
    append: str | None = None
    """Command line of the kernel, when one is flashed or among the default partitions."""
    display: str | None = None
    """Model of the graphics card, or `none`."""
    disks: dict[str, Any] = field(default_factory=dict)
    image_dir: str | None = None
    """Directory that keeps flashed images from session to session; a temporary one unless given."""
    extra_args: list[str] = field(default_factory=list)
    fls_version: str | None = None
    """Release of `fls` to download for images from registries; the one on the search path unless given."""
    fls_allow_custom_binaries: bool = False
    fls_custom_binary_url: str | None = None
    """Where to get another `fls`; only with `fls_allow_custom_binaries`."""
    flash_timeout: float = 1800
    """Seconds that `fls` may take."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(self)
        # YAML reads a password of digits as a number.
        self.hostname, self.username, self.password = str(self.hostname), str(self.username), str(self.password)
        self._hostfwd = {name: read_part(Hostfwd, f"hostfwd {name}", value) for name, value in self.hostfwd.items()}
        self._disks = {name: read_part(Disk, f"disk {name}", value) for name, value in self.disks.items()}
        self._vsock_cid = random.SystemRandom().randrange(3, 0xFFFFFFFF) if _has_vsock() else None
        self._state_lock = threading.RLock()
        self._running: Machine | None = None
        self._state = StateDirectory(Path(self.image_dir).expanduser() if self.image_dir else None)
        self._runtime: Path | None = None
        self._console = Mailbox(CONSOLE_LIMIT)
        self._add_children()

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_qemu.client.QemuClient"

    def close(self) -> None:
        """Switch the machine off and remove what belongs to the session."""
        try:
            super().close()
        finally:
            self.power_off()
            self._console.close()
            self._state.close()

    # -- what clients may ask -----------------------------------------------------------------------------------------

    @export(watch=True)
    async def get_hostname(self) -> str:
        """Return the host name that the guest is given."""
        return self.hostname

    @export(watch=True)
    async def get_username(self) -> str:
        """Return the name of the user that the guest is given."""
        return self.username

    @export
    async def get_password(self) -> str:
        """Return the password of that user."""
        return self.password

    @export
    async def set_disk_size(self, size: str) -> None:
        """Have the root disk grow to a size such as `20G` at the next power-on.

        Raises:
            ValueError: it is no size.
        """
        images.parse_size(size)
        self.disk_size = size

    @export
    async def set_memory_size(self, size: str) -> None:
        """Give the machine another amount of memory, such as `2G`, at the next power-on.

        Raises:
            ValueError: it is no size.
        """
        memory_mebibytes(size)
        self.mem = size

    @export(watch=True)
    async def state(self) -> str:
        """Return `off`, or QEMU's word: `running`, `paused`, `shutdown`, `guest-panicked`, ..."""
        machine = self._running
        if machine is None or not machine.running:
            return "off"
        try:
            return await to_thread.run_sync(machine.state)
        except MachineError:
            if machine.running:
                raise
            return "off"

    @export
    async def shutdown(self, timeout: float = 60) -> None:
        """Press the power button, and wait until the guest has switched itself off.

        Raises:
            TimeoutError: it hasn't within `timeout` seconds, 3600 at most.
        """
        if not 0 < timeout <= 3600:
            raise ValueError(f"timeout must be above 0 and at most 3600 seconds, not {timeout!r}")
        # A caller that goes away doesn't wait for the guest; the thread ends with the time.
        await to_thread.run_sync(self.running_machine().shutdown, timeout, abandon_on_cancel=True)

    @export
    async def system_reset(self) -> None:
        """Press the reset button."""
        await self._control("system_reset")

    @export
    async def pause(self) -> None:
        """Stop the machine where it is."""
        await self._control("stop")

    @export
    async def resume(self) -> None:
        """Let a paused machine go on."""
        await self._control("cont")

    @export(watch=True)
    async def screenshot(self) -> AsyncGenerator[str, None]:
        """Yield a picture of the screen: PNG in base64, in pieces that can be decoded one by one.

        Raises:
            MachineError: the machine is off, or has no screen.
        """
        picture = await to_thread.run_sync(self.running_machine().screenshot)
        for start in range(0, len(picture), SCREENSHOT_CHUNK):
            yield base64.b64encode(picture[start : start + SCREENSHOT_CHUNK]).decode()

    async def _control(self, command: str) -> None:
        machine = self.running_machine()
        await to_thread.run_sync(partial(machine.execute, command))

    # -- the machine --------------------------------------------------------------------------------------------------

    def running_machine(self) -> Machine:
        """Return the machine.

        Raises:
            MachineError: it is off.
        """
        machine = self._running
        if machine is None or not machine.running:
            raise MachineError("the machine is off; switch it on first")
        return machine

    def is_on(self) -> bool:
        """Whether the machine is on, paused ones included."""
        return self._running is not None and self._running.running

    def power_on(self) -> None:
        """Switch the machine on; blocking. Only warns when it is on.

        Raises:
            MachineError: QEMU can't start it; the message holds QEMU's own words.
            ValueError, RuntimeError: an image or a setting can't be used.
        """
        with self._state_lock:
            if self.is_on():
                self.logger.warning("already powered on, ignoring request")
                return
            self._release_machine()
            program = self._program()
            runtime = Path(tempfile.mkdtemp(prefix="run-", dir=self._state.path))
            try:
                command = self._command(program, runtime)
                self.logger.debug("starting %s", " ".join(command))
                machine = Machine(command, runtime=runtime, console=self._console, logger=self.logger)
            except BaseException:
                shutil.rmtree(runtime, ignore_errors=True)
                raise
            try:
                machine.start()
            except MachineError as error:
                if self.accel == "tcg":
                    raise
                raise MachineError(f"{error}\nIf that is about virtualization: accel: tcg works everywhere") from None
            self._running, self._runtime = machine, runtime
            self._take_addresses(machine, runtime)

    def power_off(self) -> None:
        """Cut the machine's power; blocking."""
        with self._state_lock:
            self._release_machine()

    def _release_machine(self) -> None:
        machine, self._running = self._running, None
        self._runtime = None
        if machine is not None:
            machine.stop()

    def _take_addresses(self, machine: Machine, runtime: Path) -> None:
        vnc = self.children.get("vnc")
        if isinstance(vnc, UnixNetwork):
            vnc.path = str(runtime / "vnc")
        forwards = [child for child in self.children.values() if isinstance(child, QemuForward)]
        if forwards:
            ports = machine.forwarded_ports()
            for child in forwards:
                child.port = ports.get(("tcp", child.forward.guestport), child.forward.hostport)

    def _program(self) -> str:
        name = f"qemu-system-{self.arch}"
        program = shutil.which(name)
        if program is None:
            package = _PACKAGES.get(self.arch, "qemu-system-misc")
            raise MachineError(f"{name} not found on the exporter. Install it; on Debian: apt-get install {package}")
        return program

    def _command(self, program: str, runtime: Path) -> list[str]:
        """Return QEMU's command line."""
        machine = self.machine or _MACHINES.get(self.arch)
        accelerator = resolve(self.accel, self.arch, program, machine)
        cpu = self.cpu or ("host" if accelerator != "tcg" else _CPUS.get(self.arch))
        command = [program, "-nodefaults", "-display", "none", "-name", _escape(self.hostname), "-accel", accelerator]
        command += ["-machine", machine] if machine else []
        command += ["-cpu", cpu] if cpu else []
        command += ["-smp", str(self.smp), "-m", str(memory_mebibytes(self.mem))]
        command += self._display_arguments(runtime)
        command += self._network_arguments()
        command += ["-device", "virtio-rng-pci"]
        command += self._firmware_arguments()
        for name in self._disk_names():
            command += self._disk_arguments(name)
        seed = runtime / "seed"
        self._write_seed(seed)
        command += [
            *("-blockdev", f"driver=vvfat,node-name=cidata,read-only=on,dir={_escape(seed)},label=CIDATA"),
            *("-device", "virtio-blk-pci,drive=cidata"),
        ]
        return [*command, *self.extra_args]

    def _display_arguments(self, runtime: Path) -> list[str]:
        card = self.display or _DISPLAYS.get(self.arch, "virtio-gpu-pci")
        if card == "none":
            return []
        return ["-vga", "none", "-device", card, "-vnc", f"unix:{_escape(runtime / 'vnc')}"]

    def _network_arguments(self) -> list[str]:
        rules = "".join(
            f",hostfwd={rule.protocol}:{rule.hostaddr}:{rule.hostport}-:{rule.guestport}"
            for rule in self._all_forwards().values()
        )
        # Without a romfile QEMU needs no network boot package.
        arguments = [*("-netdev", f"user,id=eth0{rules}"), *("-device", "virtio-net-pci,netdev=eth0,romfile=")]
        if self._vsock_cid is not None:
            arguments += ["-device", f"vhost-vsock-pci,guest-cid={self._vsock_cid}"]
        return arguments

    def _firmware_arguments(self) -> list[str]:
        found = {name: self._image(name) for name in FIRMWARE}
        arguments: list[str] = []
        if found["bios"] is not None:
            arguments += ["-bios", str(found["bios"])]
        if found["OVMF_CODE.fd"] is not None and found["OVMF_VARS.fd"] is not None:
            for unit, name, mode in ((0, "OVMF_CODE.fd", "readonly=on"), (1, "OVMF_VARS.fd", "snapshot=on")):
                file = _escape(found[name])
                arguments += ["-drive", f"if=pflash,format=raw,unit={unit},file={file},{mode}"]
        if found["kernel"] is not None:
            arguments += ["-kernel", str(found["kernel"])]
            arguments += ["-initrd", str(found["initrd"])] if found["initrd"] is not None else []
            arguments += ["-append", self.append] if self.append is not None else []
        return arguments

    def _disk_arguments(self, name: str) -> list[str]:
        """Return the arguments that attach a disk, having made what it lies on; none when there is no such disk."""
        size = self._disk_size(name)
        flashed, overlay = self._state.path / name, self._overlay(name)
        base = self._image(name)
        if flashed.exists():
            path, image_format = flashed, images.inspect(flashed).format
        elif overlay.exists():
            path, image_format = overlay, "qcow2"
        elif base is not None:
            images.create_overlay(overlay, base, images.inspect(base).format)
            path, image_format = overlay, "qcow2"
        elif size is not None:
            images.create(overlay, size)
            path, image_format = overlay, "qcow2"
        else:
            return []
        if size is not None:
            images.grow(path, image_format, size)
        node = "rootfs" if name == "root" else f"disk-{name}"
        boot = ",bootindex=1" if name == "root" else f",serial={name}"
        return [
            *("-blockdev", f"driver={image_format},node-name={node},file.driver=file,file.filename={_escape(path)}"),
            *("-device", f"virtio-blk-pci,drive={node}{boot}"),
        ]

    # -- images -------------------------------------------------------------------------------------------------------

    @property
    def _tmp_dir(self) -> StateDirectory:
        """The directory of the images; its `name` is the path."""
        return self._state

    def validate_partition(self, partition: str | None = None, use_default_partitions: bool = False) -> Path:
        """Return the file of a partition; None is `root`.

        Args:
            partition: name of the partition.
            use_default_partitions: name the default image when nothing was flashed.

        Raises:
            ValueError: there is no such partition.
        """
        name = "root" if partition is None else partition
        known = [*self._disk_names(), *FIRMWARE]
        if name not in known:
            raise ValueError(f"invalid partition name {name!r}: expected one of {', '.join(known)}")
        flashed = self._state.path / name
        if use_default_partitions and not flashed.exists() and (default := self._default_image(name)) is not None:
            return default
        return flashed

    def cidata(self) -> tempfile.TemporaryDirectory[str]:
        """Return a directory with the cloud-init seed; it is removed with the object."""
        directory = tempfile.TemporaryDirectory(prefix="seed-", dir=self._state.path)
        self._write_seed(Path(directory.name))
        return directory

    def replace_image(self, name: str, new: Path) -> None:
        """Make a complete file the image of a partition.

        Raises:
            ValueError: it can't be a disk of the machine.
            MachineError: the machine was switched on meanwhile.
        """
        if name in self._disk_names():
            info = images.inspect(new)
            self.logger.info("image for %s: %s, %d bytes", name, info.format, info.virtual_size)
        with self._state_lock:
            if self.is_on():
                raise MachineError("the machine was switched on while the image was on its way; nothing was flashed")
            new.replace(self._state.path / name)
            self._overlay(name).unlink(missing_ok=True)

    def readable_image(self, partition: str | None, scratch: Path) -> Path:
        """Return a file with what a partition holds now; for disks that the machine has written to, `scratch`.

        Raises:
            FileNotFoundError: it holds nothing.
        """
        name = "root" if partition is None else partition
        flashed = self.validate_partition(name)
        if flashed.exists():
            return flashed
        overlay = self._overlay(name)
        if overlay.exists():
            images.convert_to_raw(overlay, "qcow2", scratch)
            return scratch
        default = self._default_image(name)
        if default is None:
            raise FileNotFoundError(f"partition {name} is empty: nothing was flashed, and it has no default image")
        return default

    def _disk_names(self) -> list[str]:
        return ["root", *self._disks]

    def _overlay(self, name: str) -> Path:
        return self._state.path / f"{name}.overlay"

    def _default_image(self, name: str) -> Path | None:
        disk = self._disks.get(name)
        value = disk.image if disk is not None else self.default_partitions.get(name)
        return None if value is None else Path(value).expanduser()

    def _image(self, name: str) -> Path | None:
        """Return the file that a partition was flashed with, else its default image, else None."""
        flashed = self._state.path / name
        if flashed.exists():
            return flashed
        default = self._default_image(name)
        if default is not None and not default.is_file():
            raise FileNotFoundError(
                f"the default image of {name}, {default}, is no file on the exporter "
                f"(relative paths start at the exporter's working directory, {Path.cwd()})"
            )
        return default

    def _disk_size(self, name: str) -> int | None:
        disk = self._disks.get(name)
        size = self.disk_size if disk is None else disk.size
        return None if size is None else images.parse_size(size)

    def _write_seed(self, directory: Path) -> None:
        write_seed(
            directory,
            instance_id=str(self.uuid),
            hostname=self.hostname,
            username=self.username,
            password=self.password,
        )

    # -- children and settings ----------------------------------------------------------------------------------------

    def _all_forwards(self) -> dict[str, Hostfwd]:
        """Return the port forwards by name; SSH goes over one when there is no vsock."""
        forwards = dict(self._hostfwd)
        if self._vsock_cid is None and "ssh" not in forwards:
            forwards["ssh"] = Hostfwd(guestport=22)
        return forwards

    def _add_children(self) -> None:
        self.children["power"] = QemuPower(parent=self)
        self.children["flasher"] = QemuFlasher(parent=self)
        self.children["console"] = QemuConsole(parent=self)
        if self.display != "none":
            # The socket's place is known when the machine runs.
            self.children["vnc"] = UnixNetwork(path=str(self._state.path / "vnc-of-a-machine-that-is-off"))
        if self._vsock_cid is not None:
            self.children["ssh"] = VsockNetwork(cid=self._vsock_cid, port=22)
        for name, forward in self._all_forwards().items():
            if forward.protocol == "udp":
                self.children[name] = UdpNetwork(host=forward.hostaddr, port=forward.hostport)
            else:
                self.children[name] = QemuForward(parent=self, name_=name, forward=forward)


def _has_vsock() -> bool:
    return os.access(VHOST_VSOCK, os.R_OK | os.W_OK)


def _escape(value: Any) -> str:
    """Double the commas of a value, which end it in QEMU's options otherwise."""
    return str(value).replace(",", ",,")
