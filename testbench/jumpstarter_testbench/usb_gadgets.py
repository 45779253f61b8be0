"""USB devices made of software, for tests inside the lab guest: vendor protocols in Python, storage, serial ports.

A `Gadget` is one USB device with chosen ids and strings, made of functions: `Protocol` answers control and interrupt
transfers with Python code (FunctionFS), `MassStorage` is a card reader or disk behind a file, `SerialPort` a CDC-ACM
port. It is plugged into a USB port of its own, or into a port of a `Hub` beside other gadgets, and can be unplugged and
plugged in again at any time. Everything above the wire is real: kernel drivers, device nodes, libusb.

Sources: Linux's Documentation/usb/gadget_configfs.rst, include/uapi/linux/usb/functionfs.h, tools/usb/usbip.
"""

from __future__ import annotations

import errno
import itertools
import os
import queue
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol as Shape
from typing import Self

from jumpstarter_testbench.requirements import program

CONFIGFS = Path("/sys/kernel/config")
PORTS = 8
"""USB ports for gadgets outside of hubs."""
HUBS = 4
"""Hubs that a test run may use at once; the kernel has 8."""
HUB_PORTS = 8
"""Gadgets that may be in hubs at once."""
PLUG_ATTEMPTS = 3
TIMEOUT = 30.0
"""Seconds that the kernel may take to recognise a device, or that it is gone."""

_numbers = itertools.count(1)
_ports_in_use: set[str] = set()


class UsbGadgetError(RuntimeError):
    """The gadget can't be made, or the host did not take notice of it in time."""


def modprobe(*modules: str) -> None:
    """Load kernel modules by name; `name=value` after a module is a parameter of it.

    Raises:
        UsbGadgetError: the kernel doesn't have one of them.
    """
    commands: list[list[str]] = []
    for word in modules:
        if "=" in word:
            commands[-1].append(word)
        else:
            commands.append([word])
    for command in commands:
        result = subprocess.run([program("modprobe"), *command], capture_output=True, text=True, timeout=60)
        if result.returncode:
            raise UsbGadgetError(f"modprobe {' '.join(command)}: {result.stderr.strip()}")


def wait_until(condition: Callable[[], bool], what: str, timeout: float = TIMEOUT) -> None:
    """Poll until `condition` is true.

    Raises:
        UsbGadgetError: it isn't within `timeout` seconds; the message says `what` was waited for.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise UsbGadgetError(f"no {what} within {timeout:g} s")
        time.sleep(0.02)


# Where a gadget is plugged in


class Port(Shape):
    """A USB port of the guest's kernel, together with the controller on the gadget's side."""

    @property
    def controller(self) -> str:
        """The name of the controller that the gadget is bound to."""

    def connect(self) -> None:
        """Let the host see the gadget that is bound to the controller."""

    def disconnect(self) -> None:
        """Take it away from the host."""

    def device(self) -> Path | None:
        """The folder in sysfs of the device in this port, or None when nothing is recognised there."""

    def release(self) -> None:
        """Let another gadget use the port."""


class DirectPort:
    """One port right at the (virtual) computer: a dummy_hcd controller, whose root hub has no other."""

    def __init__(self) -> None:
        """Take a free one."""
        _load_direct_ports()
        for number in range(PORTS):
            self.controller = f"dummy_udc.{number}"
            self._host = Path(f"/sys/devices/platform/dummy_hcd.{number}")
            if self.controller not in _ports_in_use:
                _ports_in_use.add(self.controller)
                return
        raise UsbGadgetError(f"all {PORTS} USB ports are in use")

    def connect(self) -> None:
        """Nothing to do: binding the gadget connects it."""

    def disconnect(self) -> None:
        """Nothing to do: unbinding the gadget disconnects it."""

    def device(self) -> Path | None:
        """The folder in sysfs of the device in this port, or None when nothing is recognised there."""
        return next((path for path in self._host.glob("usb*/*-1") if (path / "devnum").exists()), None)

    def release(self) -> None:
        """Let another gadget use the port."""
        _ports_in_use.discard(self.controller)


class Hub:
    """A hub of its own, in whose ports gadgets are siblings: a (virtual) USB/IP host controller.

    Ports count from 1, as in the names that the kernel gives to devices.
    """

    def __init__(self) -> None:
        """Take a free one."""
        modprobe("vhci_hcd", "usbip_vudc", f"num={HUB_PORTS}")
        self._number = next(number for number in range(HUBS) if f"vhci_hcd.{number}" not in _ports_in_use)
        _ports_in_use.add(f"vhci_hcd.{self._number}")

    def port(self, number: int) -> HubPort:
        """Return the port with this number, 1 to 15."""
        return HubPort(self._number, number)

    def close(self) -> None:
        """Let it be used again; its gadgets are closed before."""
        _ports_in_use.discard(f"vhci_hcd.{self._number}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class HubPort:
    """One port of a `Hub`."""

    _HIGH_SPEED = 3
    _PORTS_PER_CONTROLLER = 30

    def __init__(self, hub: int, number: int) -> None:
        """Take port `number` of hub `hub`."""
        self._host = Path(f"/sys/devices/platform/vhci_hcd.{hub}")
        self._attach = Path("/sys/devices/platform/vhci_hcd.0")
        self._port = hub * self._PORTS_PER_CONTROLLER + number - 1
        self._number = number
        free = (f"usbip-vudc.{number}" for number in range(HUB_PORTS))
        self.controller = next(name for name in free if name not in _ports_in_use)
        self._socket_file = Path(f"/sys/devices/platform/{self.controller}/usbip_sockfd")
        self._status_file = Path(f"/sys/devices/platform/{self.controller}/usbip_status")
        _ports_in_use.add(self.controller)

    def connect(self) -> None:
        """Join the gadget's controller with the host's by a pair of sockets."""
        host, device = socket.socketpair()
        with host, device:
            _write(self._socket_file, f"{device.fileno()}\n")
            _write(self._attach / "attach", f"{self._port} {host.fileno()} 1 {self._HIGH_SPEED}\n")

    def disconnect(self) -> None:
        """Part them, and wait until neither side is busy with that: it would end the next connection as well."""
        if not self._is_free():
            _write(self._attach / "detach", f"{self._port}\n")
        available = "1"
        wait_until(
            lambda: self._is_free() and self._status_file.read_text().strip() == available,
            f"end of the connection of {self.controller}",
        )

    def _is_free(self) -> bool:
        """Tell whether the host's side has nothing in this port: its line in the status table says 4."""
        number = self._port // self._PORTS_PER_CONTROLLER
        table = (self._attach / (f"status.{number}" if number else "status")).read_text()
        rows = [line.split() for line in table.splitlines()[1:]]
        return any(int(row[1]) == self._port and int(row[2]) == 4 for row in rows)

    def device(self) -> Path | None:
        """The folder in sysfs of the device in this port, or None when nothing is recognised there."""
        found = self._host.glob(f"usb*/*-{self._number}")
        return next((path for path in found if (path / "devnum").exists()), None)

    def release(self) -> None:
        """Let another gadget use the port."""
        _ports_in_use.discard(self.controller)


def _load_direct_ports() -> None:
    if not Path("/sys/class/udc/dummy_udc.0").exists():
        modprobe("dummy_hcd", f"num={PORTS}")


# What a gadget is made of


class Function(Shape):
    """One function of a USB device."""

    kind: str
    """How configfs names it."""

    def prepare(self, folder: Path, name: str) -> None:
        """Set the function up in its new folder in configfs; `name` is unique."""

    def close(self) -> None:
        """End it, before its folder is removed."""


class Stall(Exception):
    """What a protocol raises to refuse a transfer, as a device does with what it doesn't know."""


class _GivenUp(Exception):
    """The host does not wait for the end of a transfer any more, or was unplugged."""


_GIVEN_UP = frozenset(
    {errno.EIDRM, errno.ESHUTDOWN, errno.EINTR, errno.ECONNRESET, errno.EOVERFLOW, errno.ESRCH, errno.ECONNABORTED}
)
"""How FunctionFS tells that; EOVERFLOW and ESRCH when the next transfer has come meanwhile, or is over as well."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """A control transfer on endpoint 0, as USB 2.0 section 9.3 defines it.

    For recipient "interface" the kernel puts the number of the interface within the function into `index`.
    """

    request_type: int
    request: int
    value: int
    index: int
    length: int
    _take: Callable[[], bytes] = field(default=lambda: b"", repr=False)

    @property
    def is_in(self) -> bool:
        """Whether the host wants data."""
        return bool(self.request_type & 0x80)

    def receive(self) -> bytes:
        """Take the data that the host sends, if any. Taking it acknowledges it: it can't be refused after that."""
        return self._take() if self.length else b""

    def acknowledge(self) -> None:
        """Let the host go on before the answering code has ended, which otherwise acknowledges a transfer OUT."""
        self._take()


@dataclass(frozen=True, kw_only=True)
class Interface:
    """An interface of a protocol: its class triple, and the packet sizes of interrupt endpoints if it has any."""

    usb_class: int = 0xFF
    subclass: int = 0
    protocol: int = 0
    extra: bytes = b""
    """Class-specific descriptors, such as that of HID."""
    interrupt_in: int | None = None
    interrupt_out: int | None = None


class Protocol:
    """A function whose transfers Python code answers.

    `control` gets a `Request`, and returns the data if the host wants some; it raises `Stall` to refuse. `report` gets
    what the host sent to the interrupt OUT endpoint, and returns the packets that the interrupt IN endpoint shall give,
    which wait there until the host fetches them.

    Both run in threads of the gadget, one call at a time for each. What they raise beside `Stall` is kept in `errors`,
    and `close` raises it.
    """

    kind = "ffs"

    def __init__(
        self,
        control: Callable[[Request], bytes | None] | None = None,
        *,
        report: Callable[[bytes], Sequence[bytes]] | None = None,
        interfaces: Sequence[Interface] = (Interface(),),
    ) -> None:
        """Do nothing yet; the gadget starts it."""
        self._control = control
        self._report = report
        self._interfaces = interfaces
        self._mount = Path()
        self._endpoint_0 = -1
        self._wake = -1
        self._threads: list[threading.Thread] = []
        self._enabled = threading.Event()
        self._packets: queue.Queue[bytes | None] = queue.Queue(64)
        self.errors: list[Exception] = []

    def prepare(self, folder: Path, name: str) -> None:
        """Describe the interfaces to the kernel and start to answer."""
        self._mount = Path("/run/usb-gadgets") / name
        self._mount.mkdir(parents=True)
        _run("mount", "-t", "functionfs", name, str(self._mount))
        self._endpoint_0 = os.open(self._mount / "ep0", os.O_RDWR)
        self._wake = os.eventfd(0)
        os.write(self._endpoint_0, self._descriptors())
        os.write(self._endpoint_0, struct.pack("<IIII", 2, 16, 0, 0))
        self._start(self._serve_endpoint_0)

    def close(self) -> None:
        """Stop answering.

        Raises:
            ExceptionGroup: the code of the protocol failed.
        """
        if self._endpoint_0 >= 0:
            os.eventfd_write(self._wake, 1)
            self._disable()
            for thread in self._threads:
                thread.join(TIMEOUT)
            os.close(self._endpoint_0)
            os.close(self._wake)
            self._endpoint_0 = -1
            _run("umount", str(self._mount))
            self._mount.rmdir()
        if self.errors:
            raise ExceptionGroup("the protocol of a USB gadget failed", self.errors)

    def _descriptors(self) -> bytes:
        descriptors = b"".join(self._interface(number) for number in range(len(self._interfaces)))
        count = sum(
            1 + bool(interface.extra) + (interface.interrupt_in is not None) + (interface.interrupt_out is not None)
            for interface in self._interfaces
        )
        full_and_high_speed, all_recipients = 1 | 2, 64
        body = struct.pack("<II", count, count) + descriptors * 2
        return struct.pack("<III", 3, 12 + len(body), full_and_high_speed | all_recipients) + body

    def _interface(self, number: int) -> bytes:
        interface = self._interfaces[number]
        endpoints = [
            struct.pack("<BBBBHB", 7, 5, address, 3, size, 4)
            for address, size in ((0x81, interface.interrupt_in), (0x02, interface.interrupt_out))
            if size is not None
        ]
        triple = (interface.usb_class, interface.subclass, interface.protocol)
        return struct.pack("<9B", 9, 4, number, 0, len(endpoints), *triple, 0) + interface.extra + b"".join(endpoints)

    def _start(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=f"usb-gadget-{target.__name__}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve_endpoint_0(self) -> None:
        poll = select.poll()
        poll.register(self._endpoint_0, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if self._wake in ready:
                return
            try:
                events = _events(os.read(self._endpoint_0, 12 * 4))
            except OSError as error:
                if error.errno != errno.EIDRM:  # the host has given up the transfer before
                    self.errors.append(error)
                    return
            else:
                for event in events:
                    self._handle(*event)

    def _handle(self, kind: int, setup: bytes) -> None:
        enable, disable, unbind, control = 2, 3, 1, 4
        if kind == control:
            self._answer(setup)
        elif kind == enable:
            self._disable()  # a new setting of the interface comes without one before
            self._enabled.set()
            self._packets = queue.Queue(64)
            if any(interface.interrupt_out for interface in self._interfaces):
                self._start(self._serve_reports)
            if any(interface.interrupt_in for interface in self._interfaces):
                self._start(self._serve_packets)
        elif kind in (disable, unbind):
            self._disable()

    def _disable(self) -> None:
        if self._enabled.is_set():
            self._enabled.clear()
            with self._packets.mutex:
                self._packets.queue.clear()
            self._packets.put(None)

    def _answer(self, setup: bytes) -> None:
        """Answer one control transfer; I/O in the wrong direction is how FunctionFS is told to refuse."""
        request_type, number, value, index, length = struct.unpack("<BBHHH", setup)
        received: list[bytes] = []

        def take() -> bytes:
            if not received:
                received.append(self._receive(length))
            return received[0]

        request = Request(
            request_type=request_type, request=number, value=value, index=index, length=length, _take=take
        )
        try:
            answer = self._reply(request)
            if answer is not None and request.is_in:
                os.write(self._endpoint_0, answer[:length])
            elif request.is_in:
                os.read(self._endpoint_0, 0)
            elif answer is None and not received:
                os.write(self._endpoint_0, b"")
        except _GivenUp:
            return
        except OSError as error:
            # EL2HLT confirms the refusal.
            if error.errno != errno.EL2HLT and error.errno not in _GIVEN_UP:
                self.errors.append(error)

    def _reply(self, request: Request) -> bytes | None:
        """Return the protocol's data, empty when the host sent some; None when the protocol refuses."""
        try:
            if self._control is None:
                return None
            answer = self._control(request)
            return (answer or b"") if request.is_in else request.receive()[:0]
        except Stall:
            return None
        except _GivenUp:
            raise
        except Exception as error:  # noqa: BLE001 (what the test's code raises is told to the test)
            self.errors.append(error)
            return None

    def _receive(self, length: int) -> bytes:
        """Take the data that the host sends."""
        try:
            return os.read(self._endpoint_0, length)
        except OSError as error:
            if error.errno in _GIVEN_UP:
                raise _GivenUp from error
            raise

    def _serve_reports(self) -> None:
        """Hand what the interrupt OUT endpoint receives to the protocol, until the host is gone."""
        size = next(interface.interrupt_out for interface in self._interfaces if interface.interrupt_out)
        endpoint = os.open(self._mount / self._endpoint_name("out"), os.O_RDWR | os.O_NONBLOCK)
        try:
            while data := os.read(endpoint, size):
                for packet in self._report(data) if self._report else ():
                    self._packets.put(packet)
        except OSError:
            return  # disabled: unplugged, or the gadget is closed
        except Exception as error:  # noqa: BLE001 (see _answer)
            self.errors.append(error)
        finally:
            os.close(endpoint)

    def _serve_packets(self) -> None:
        """Offer packets at the interrupt IN endpoint, one after the other, until the host is gone."""
        packets = self._packets
        endpoint = os.open(self._mount / self._endpoint_name("in"), os.O_RDWR | os.O_NONBLOCK)
        try:
            while (packet := packets.get()) is not None:
                os.write(endpoint, packet)
        except OSError:
            return
        finally:
            os.close(endpoint)

    def send(self, packet: bytes) -> None:
        """Put a packet into the interrupt IN endpoint unasked."""
        self._packets.put(packet)

    def _endpoint_name(self, direction: str) -> str:
        """FunctionFS names endpoints ep1, ep2... in the order of their descriptors."""
        names = [
            way
            for interface in self._interfaces
            for way, size in (("in", interface.interrupt_in), ("out", interface.interrupt_out))
            if size is not None
        ]
        return f"ep{names.index(direction) + 1}"


class MassStorage:
    """A USB disk or card reader whose medium is a file."""

    kind = "mass_storage"

    def __init__(self, medium: Path | None, *, removable: bool = True) -> None:
        """Put `medium` in, or nothing: a card reader may be empty."""
        self._medium = medium
        self._removable = removable
        self._file = Path()

    def prepare(self, folder: Path, name: str) -> None:
        """Set it up."""
        modprobe("usb_storage", "delay_use=0", "sd_mod")
        (folder / "lun.0/removable").write_text(str(int(self._removable)))
        self._file = folder / "lun.0/file"
        self._eject_file = folder / "lun.0/forced_eject"
        if self._medium is not None:
            self.insert(self._medium)

    def insert(self, medium: Path) -> None:
        """Put a medium in."""
        _write(self._file, f"{medium}\n")

    def eject(self) -> None:
        """Take the medium out, even if the host uses it."""
        _write(self._eject_file, "1\n")

    def close(self) -> None:
        """Nothing beside the folder."""


class SerialPort:
    """A CDC-ACM serial port; the host has a ttyACM device, and `path` is the gadget's end of it."""

    kind = "acm"

    def __init__(self) -> None:
        """Do nothing yet."""
        self.path = Path()

    def prepare(self, folder: Path, name: str) -> None:
        """Set it up."""
        modprobe("cdc_acm")
        self.path = Path(f"/dev/ttyGS{(folder / 'port_num').read_text().strip()}")

    def close(self) -> None:
        """Nothing beside the folder."""


@dataclass(kw_only=True)
class Gadget:
    """One USB device, plugged in while used as a context manager.

    Functions appear in the order that they are given; a serial port has two interfaces, the others have one each.
    """

    vendor: int
    product: int
    functions: Sequence[Function]
    serial: str | None = None
    manufacturer: str = ""
    product_name: str = ""
    release: int = 0x0100
    """The version of the device, BCD."""
    device_class: tuple[int, int, int] = (0, 0, 0)
    max_power: int = 100
    """Milliamperes."""
    port: Port | None = None
    """Where it is plugged in; None takes a port that is free."""
    plugged: bool = True
    """Whether it is plugged in right from the start."""

    def __enter__(self) -> Self:
        _load()
        self._port = self.port or DirectPort()
        self._name = f"gadget{os.getpid()}-{next(_numbers)}"
        self._folder = CONFIGFS / "usb_gadget" / self._name
        self._functions: list[tuple[Function, Path]] = []
        self._is_plugged = False
        try:
            self._describe()
            for number, function in enumerate(self.functions):
                name = f"{self._name}-{number}"
                folder = self._folder / f"functions/{function.kind}.{name}"
                folder.mkdir()
                self._functions.append((function, folder))
                function.prepare(folder, name)
                (self._folder / "configs/c.1" / folder.name).symlink_to(folder)
            if self.plugged:
                self.plug()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def plug(self) -> None:
        """Plug it in, and wait until the host has configured it.

        Raises:
            UsbGadgetError: the host does not.
        """
        controller = self._port.controller
        _write(self._folder / "UDC", f"{controller}\n")
        self._is_plugged = True
        for attempt in range(1, PLUG_ATTEMPTS + 1):
            self._port.connect()
            try:
                wait_until(
                    self._is_configured,
                    f"configuration of USB device {self.vendor:04x}:{self.product:04x} in {controller}",
                    TIMEOUT / PLUG_ATTEMPTS,
                )
            except UsbGadgetError:
                # A connection between the controllers may break at once while the one before is still cleared up.
                if attempt == PLUG_ATTEMPTS:
                    raise
                self._port.disconnect()
            else:
                return

    def _is_configured(self) -> bool:
        state = Path(f"/sys/class/udc/{self._port.controller}/state").read_text().strip()
        return self._port.device() is not None and state == "configured"

    def unplug(self) -> None:
        """Pull it out, and wait until the host has noticed."""
        if self._is_plugged:
            self._is_plugged = False
            self._port.disconnect()
            _write(self._folder / "UDC", "\n")
            wait_until(lambda: self._port.device() is None, f"removal of the device in {self._port.controller}")

    @property
    def path(self) -> Path:
        """The folder in sysfs of the device as the host sees it.

        Raises:
            UsbGadgetError: it isn't plugged in.
        """
        device = self._port.device()
        if device is None:
            raise UsbGadgetError(f"nothing is plugged into {self._port.controller}")
        return device

    @property
    def node(self) -> Path:
        """The device node that programs such as those of libusb open."""
        path = self.path
        return Path(f"/dev/bus/usb/{int((path / 'busnum').read_text()):03}/{int((path / 'devnum').read_text()):03}")

    def block_device(self) -> Path:
        """The host's device node of the gadget's mass storage, as soon as there is one."""
        return self._device_node("*/host*/target*/*/block/*")

    def tty(self) -> Path:
        """The host's device node of the gadget's serial port, as soon as there is one."""
        return self._device_node("*/tty/*")

    def _device_node(self, pattern: str) -> Path:
        found: list[Path] = []

        def is_there() -> bool:
            found[:] = [node for path in self.path.glob(pattern) if (node := Path("/dev", path.name)).exists()]
            return bool(found)

        wait_until(is_there, f"device node of {self.vendor:04x}:{self.product:04x}")
        return found[0]

    def close(self) -> None:
        """Unplug and remove it.

        Raises:
            ExceptionGroup: the code of a protocol failed.
        """
        errors: list[Exception] = []
        self.unplug()
        for function, folder in self._functions:
            (self._folder / "configs/c.1" / folder.name).unlink(missing_ok=True)
            try:
                function.close()
            except ExceptionGroup as error:
                errors.extend(error.exceptions)
            folder.rmdir()
        self._functions.clear()
        for name in ("configs/c.1/strings/0x409", "configs/c.1", "strings/0x409", ""):
            if (self._folder / name).exists():
                (self._folder / name).rmdir()
        self._port.release()
        if errors:
            raise ExceptionGroup(f"USB gadget {self.vendor:04x}:{self.product:04x}", errors)

    def _describe(self) -> None:
        self._folder.mkdir()
        (self._folder / "idVendor").write_text(f"{self.vendor:#06x}")
        (self._folder / "idProduct").write_text(f"{self.product:#06x}")
        (self._folder / "bcdDevice").write_text(f"{self.release:#06x}")
        (self._folder / "bcdUSB").write_text("0x0200")
        for name, value in zip(("Class", "SubClass", "Protocol"), self.device_class, strict=True):
            (self._folder / f"bDevice{name}").write_text(f"{value:#04x}")
        strings = self._folder / "strings/0x409"
        strings.mkdir()
        texts = {"serialnumber": self.serial, "manufacturer": self.manufacturer, "product": self.product_name}
        for name, text in texts.items():
            if text:
                (strings / name).write_text(text)
        (self._folder / "configs/c.1").mkdir()
        (self._folder / "configs/c.1/MaxPower").write_text(str(self.max_power))
        (self._folder / "configs/c.1/strings/0x409").mkdir()


def _load() -> None:
    modprobe("configfs", "libcomposite")
    if not (CONFIGFS / "usb_gadget").exists():
        _run("mount", "-t", "configfs", "configfs", str(CONFIGFS))


def _events(data: bytes) -> list[tuple[int, bytes]]:
    """Split what endpoint 0 of FunctionFS gives into (kind, setup packet)."""
    return [(data[start + 8], data[start : start + 8]) for start in range(0, len(data), 12)]


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise UsbGadgetError(f"{path} does not take {text.strip()!r}: {error}") from error


def _run(*command: str) -> None:
    result = subprocess.run([program(command[0]), *command[1:]], capture_output=True, text=True, timeout=60)
    if result.returncode:
        raise UsbGadgetError(f"{' '.join(command)}: {result.stderr.strip()}")
