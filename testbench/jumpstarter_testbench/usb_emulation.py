"""USB devices emulated in Python, for both sides: behind pyusb in the test's own process, and as gadgets in the guest.

An `EmulatedDevice` has ids, strings, interfaces and the code that answers transfers. In process, an `EmulatedBus` takes
the place of libusb: `monkeypatch.setattr("jumpstarter.common.usb.make_backend", bus.backend)`. In the lab guest,
`device.gadget()` plugs the same code into a real kernel.
"""

from __future__ import annotations

import errno
import struct
import threading
from array import array
from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

from usb.backend import IBackend
from usb.core import USBError, USBTimeoutError

from jumpstarter_testbench.usb_gadgets import Gadget, Interface, Protocol, Request, Stall


class EmulatedDevice:
    """One device; derive from it, and answer in `control` and `report`."""

    vendor: ClassVar[int]
    product: ClassVar[int]
    manufacturer: ClassVar[str] = ""
    product_name: ClassVar[str] = ""
    release: ClassVar[int] = 0x0100
    interfaces: ClassVar[tuple[Interface, ...]] = (Interface(),)
    first_interface: ClassVar[int] = 0
    """Number of the first of `interfaces` in the whole device, where others come before them."""

    def __init__(self, serial: str | None = None) -> None:
        """Plug it in."""
        self.serial = serial
        self.is_plugged = True
        self.is_silent = False
        """Whether it answers nothing, as a device whose firmware hangs."""
        self.is_forbidden = False
        """Whether the user lacks the permission to open it (in process only)."""
        self.kernel_driver = False
        """Whether a driver of the kernel has its interfaces (in process only)."""
        self.claimed_by: object = None
        """Who has claimed its interface (in process only)."""
        self.open_handles = 0
        self.packets: deque[bytes] = deque(maxlen=64)
        """What the interrupt IN endpoint gives next (in process only)."""

    def control(self, request: Request) -> bytes | None:
        """Answer a control transfer that isn't a standard one."""
        raise Stall

    def report(self, data: bytes) -> list[bytes]:
        """Take what the host sent to the interrupt OUT endpoint; return what the IN endpoint shall give."""
        return []

    def protocol(self) -> Protocol:
        """Return it as a function of a gadget."""
        return Protocol(self.control, report=self.report, interfaces=self.interfaces)

    def gadget(self, **options: Any) -> Gadget:
        """Return it as a gadget of its own."""
        described: dict[str, Any] = {
            "vendor": self.vendor,
            "product": self.product,
            "serial": self.serial,
            "manufacturer": self.manufacturer,
            "product_name": self.product_name,
            "release": self.release,
            "functions": [self.protocol()],
        }
        return Gadget(**(described | options))


class EmulatedBus:
    """The devices that pyusb finds in this process."""

    def __init__(self, *devices: EmulatedDevice) -> None:
        """Plug devices in."""
        self.devices = list(devices)

    def backend(self) -> IBackend:
        """Return what stands in for libusb."""
        return _Backend(self)


class _Handle:
    def __init__(self, device: EmulatedDevice) -> None:
        self.device = device
        self.claims: set[int] = set()


_CODES = {errno.ENODEV: -4, errno.EACCES: -3, errno.EBUSY: -6, errno.EPIPE: -9, errno.ENOENT: -5}


def _failure(number: int) -> USBError:
    return USBError(errno.errorcode[number], _CODES[number], number)


class _Backend(IBackend):
    def __init__(self, bus: EmulatedBus) -> None:
        super().__init__()
        self._bus = bus
        self._lock = threading.RLock()

    def enumerate_devices(self) -> Iterator[EmulatedDevice]:
        return iter([device for device in self._bus.devices if device.is_plugged])

    def get_parent(self, dev: EmulatedDevice) -> None:
        return None

    def get_device_descriptor(self, dev: EmulatedDevice) -> SimpleNamespace:
        number = self._bus.devices.index(dev) + 1
        triple = {"bDeviceClass": 0, "bDeviceSubClass": 0, "bDeviceProtocol": 0}
        strings = {"iManufacturer": 1, "iProduct": 2, "iSerialNumber": 3 if dev.serial else 0}
        return SimpleNamespace(
            **{"bLength": 18, "bDescriptorType": 1, "bcdUSB": 0x200, **triple, "bMaxPacketSize0": 64},
            **{"idVendor": dev.vendor, "idProduct": dev.product, "bcdDevice": dev.release, **strings},
            **{"bNumConfigurations": 1, "address": number, "bus": 1, "speed": 3},
            **{"port_number": number, "port_numbers": (number,)},
        )

    def get_configuration_descriptor(self, dev: EmulatedDevice, config: int) -> SimpleNamespace:
        if config:
            raise IndexError(config)
        return SimpleNamespace(
            **{"bLength": 9, "bDescriptorType": 2, "wTotalLength": 9, "bNumInterfaces": len(dev.interfaces)},
            **{"bConfigurationValue": 1, "iConfiguration": 0, "bmAttributes": 0x80, "bMaxPower": 50},
            extra_descriptors=b"",
        )

    def get_interface_descriptor(self, dev: EmulatedDevice, intf: int, alt: int, config: int) -> SimpleNamespace:
        if alt or config:
            raise IndexError(alt)
        interface = dev.interfaces[intf]
        return SimpleNamespace(
            **{"bLength": 9, "bDescriptorType": 4, "bInterfaceNumber": dev.first_interface + intf},
            **{"bAlternateSetting": 0, "bNumEndpoints": len(_endpoints(interface)), "iInterface": 0},
            **{"bInterfaceClass": interface.usb_class, "bInterfaceSubClass": interface.subclass},
            **{"bInterfaceProtocol": interface.protocol, "extra_descriptors": interface.extra},
        )

    def get_endpoint_descriptor(
        self, dev: EmulatedDevice, ep: int, intf: int, alt: int, config: int
    ) -> SimpleNamespace:
        address, size = _endpoints(dev.interfaces[intf])[ep]
        return SimpleNamespace(
            **{"bLength": 7, "bDescriptorType": 5, "bEndpointAddress": address, "bmAttributes": 3},
            **{"wMaxPacketSize": size, "bInterval": 4, "bRefresh": 0, "bSynchAddress": 0, "extra_descriptors": b""},
        )

    def open_device(self, dev: EmulatedDevice) -> _Handle:
        if not dev.is_plugged:
            raise _failure(errno.ENODEV)
        if dev.is_forbidden:
            raise _failure(errno.EACCES)
        dev.open_handles += 1
        return _Handle(dev)

    def close_device(self, dev_handle: _Handle) -> None:
        dev_handle.device.open_handles -= 1
        if dev_handle.device.claimed_by is dev_handle:
            dev_handle.device.claimed_by = None

    def get_configuration(self, dev_handle: _Handle) -> int:
        return 1

    def set_configuration(self, dev_handle: _Handle, config_value: int) -> None:
        self._alive(dev_handle)

    def set_interface_altsetting(self, dev_handle: _Handle, intf: int, altsetting: int) -> None:
        self._alive(dev_handle)

    def claim_interface(self, dev_handle: _Handle, intf: int) -> None:
        device = self._alive(dev_handle)
        if device.kernel_driver or device.claimed_by not in (None, dev_handle):
            raise _failure(errno.EBUSY)
        device.claimed_by = dev_handle

    def release_interface(self, dev_handle: _Handle, intf: int) -> None:
        if self._alive(dev_handle).claimed_by is not dev_handle:
            raise _failure(errno.ENOENT)
        dev_handle.device.claimed_by = None

    def is_kernel_driver_active(self, dev_handle: _Handle, intf: int) -> bool:
        return self._alive(dev_handle).kernel_driver

    def detach_kernel_driver(self, dev_handle: _Handle, intf: int) -> None:
        device = self._alive(dev_handle)
        if not device.kernel_driver:
            raise _failure(errno.ENOENT)
        device.kernel_driver = False

    def attach_kernel_driver(self, dev_handle: _Handle, intf: int) -> None:
        self._alive(dev_handle).kernel_driver = True

    def intr_write(self, dev_handle: _Handle, ep: int, intf: int, data: Any, timeout: int) -> int:
        device = self._alive(dev_handle)
        if device.is_silent:
            raise USBTimeoutError("Operation timed out", -7, errno.ETIMEDOUT)
        with self._lock:
            device.packets.extend(device.report(bytes(data)))
        return len(data)

    def intr_read(self, dev_handle: _Handle, ep: int, intf: int, buff: Any, timeout: int) -> int:
        device = self._alive(dev_handle)
        with self._lock:
            if not device.packets:
                raise USBTimeoutError("Operation timed out", -7, errno.ETIMEDOUT)
            packet = device.packets.popleft()[: len(buff)]
        buff[: len(packet)] = array("B", packet)
        return len(packet)

    def ctrl_transfer(
        self, dev_handle: _Handle, bmRequestType: int, bRequest: int, wValue: int, wIndex: int, data: Any, timeout: int
    ) -> int:
        device = self._alive(dev_handle)
        if (bmRequestType, bRequest, wValue >> 8) == (0x80, 6, 3):
            return _fill(data, _string(device, wValue & 0xFF))
        if device.is_silent:
            raise USBTimeoutError("Operation timed out", -7, errno.ETIMEDOUT)
        payload = bytes(data)
        # As in the kernel's gadgets, interfaces count from the first one of the function.
        index = wIndex - device.first_interface if bmRequestType & 0x1F == 1 else wIndex
        request = Request(
            request_type=bmRequestType,
            request=bRequest,
            value=wValue,
            index=index,
            length=len(payload),
            _take=lambda: payload,
        )
        if not 0 <= index < 0x10000:
            raise _failure(errno.EPIPE)
        try:
            with self._lock:
                answer = device.control(request)
        except Stall:
            raise _failure(errno.EPIPE) from None
        return _fill(data, answer or b"") if request.is_in else len(payload)

    def _alive(self, handle: _Handle) -> EmulatedDevice:
        if not handle.device.is_plugged:
            raise _failure(errno.ENODEV)
        return handle.device


def _endpoints(interface: Interface) -> list[tuple[int, int]]:
    pairs = ((0x81, interface.interrupt_in), (0x02, interface.interrupt_out))
    return [(address, size) for address, size in pairs if size is not None]


def _string(device: EmulatedDevice, index: int) -> bytes:
    if index == 0:
        return struct.pack("<BBH", 4, 3, 0x0409)
    text = (device.manufacturer, device.product_name, device.serial or "")[index - 1].encode("utf-16-le")
    return bytes([len(text) + 2, 3]) + text


def _fill(data: Any, answer: bytes) -> int:
    answer = answer[: len(data)]
    data[: len(answer)] = array("B", answer)
    return len(answer)
