"""USB devices made of software, as the lab guest's kernel and libusb see them."""

import os
import threading

import pytest

from jumpstarter_testbench.usb_gadgets import (
    Gadget,
    Hub,
    Interface,
    MassStorage,
    Protocol,
    SerialPort,
    Stall,
    wait_until,
)

pytestmark = [pytest.mark.lab_guest, pytest.mark.need("libusb")]

VENDOR_IN, VENDOR_OUT = 0xC0, 0x40


class Register:
    """A device with one byte of memory: request 1 writes it (wValue or data), 2 reads it, others are refused."""

    def __init__(self):
        self.value = 0

    def __call__(self, request):
        match request.request, request.is_in:
            case 1, False:
                if request.value == 0xBAD:
                    raise Stall
                self.value = (request.receive() or bytes([request.value & 0xFF]))[0]
                return None
            case 2, True:
                return bytes([self.value])
        raise Stall


def register_device(register, **options):
    return Gadget(vendor=0x1209, product=0x0001, functions=[Protocol(register)], **options)


def find(serial):
    import usb.core
    from usb.backend import libusb1

    # A libusb context learns of new devices from udev, which the guest doesn't run; a new one looks by itself.
    backend = libusb1.get_backend()
    devices = usb.core.find(find_all=True, idVendor=0x1209, backend=type(backend)(backend.lib))
    return next((device for device in devices if device.serial_number == serial), None)


def test_python_code_answers_control_transfers():
    register = Register()
    with register_device(register, serial="R1", manufacturer="We", product_name="Register", release=0x0123):
        device = find("R1")
        device.ctrl_transfer(VENDOR_OUT, 1, 42, 0)

        assert register.value == 42
        device.ctrl_transfer(VENDOR_OUT, 1, 0, 0, b"\x17")
        assert bytes(device.ctrl_transfer(VENDOR_IN, 2, 0, 0, 8)) == b"\x17"
        assert (device.manufacturer, device.product, device.bcdDevice) == ("We", "Register", 0x0123)


def test_a_refused_transfer_is_a_pipe_error_and_the_next_one_works():
    import usb.core

    with register_device(Register(), serial="R2"):
        device = find("R2")
        for transfer in ((VENDOR_OUT, 9, 0, 0), (VENDOR_IN, 9, 0, 0, 4), (VENDOR_OUT, 1, 0xBAD, 0, b"1")):
            with pytest.raises(usb.core.USBError) as caught:
                device.ctrl_transfer(*transfer)
            assert caught.value.backend_error_code == -9

        assert bytes(device.ctrl_transfer(VENDOR_IN, 2, 0, 0, 1)) == b"\x00"


def test_an_error_in_the_code_of_a_protocol_is_raised_when_the_gadget_is_closed():
    import usb.core

    def broken(request):
        raise LookupError("oops")

    gadget = Gadget(vendor=0x1209, product=1, serial="R3", functions=[Protocol(broken)]).__enter__()
    with pytest.raises(usb.core.USBError):
        find("R3").ctrl_transfer(VENDOR_IN, 1, 0, 0, 1)

    with pytest.raises(ExceptionGroup) as caught:
        gadget.close()
    assert caught.group_contains(LookupError)


def test_several_devices_are_told_apart_by_serial_number():
    first, second = Register(), Register()
    with register_device(first, serial="A"), register_device(second, serial="B"):
        find("B").ctrl_transfer(VENDOR_OUT, 1, 2, 0)

        assert (first.value, second.value) == (0, 2)


def test_an_unplugged_device_is_gone_and_works_again_after_it_was_plugged_in():
    import usb.core

    register = Register()
    with register_device(register, serial="P") as gadget:
        device = find("P")
        device.ctrl_transfer(VENDOR_OUT, 1, 5, 0)
        gadget.unplug()

        assert find("P") is None
        with pytest.raises(usb.core.USBError):
            device.ctrl_transfer(VENDOR_IN, 2, 0, 0, 1)
        gadget.plug()
        assert bytes(find("P").ctrl_transfer(VENDOR_IN, 2, 0, 0, 1)) == b"\x05"


def hid_interface():
    descriptor = bytes([9, 0x21, 0x11, 0x01, 0, 1, 0x22, 4, 0])
    return Interface(usb_class=3, extra=descriptor, interrupt_in=64, interrupt_out=64)


def test_interrupt_endpoints_carry_reports_both_ways_also_after_replugging():
    protocol = Protocol(report=lambda data: [bytes(reversed(data))], interfaces=[hid_interface()])
    with Gadget(vendor=0x1209, product=2, serial="H", functions=[protocol]) as gadget:
        for _ in range(2):
            device = find("H")
            device.write(0x02, bytes(range(64)), 5000)
            assert bytes(device.read(0x81, 64, 5000)) == bytes(reversed(range(64)))
            gadget.unplug()
            gadget.plug()


def test_a_packet_waits_at_the_interrupt_endpoint_until_the_host_fetches_it():
    protocol = Protocol(report=lambda data: [], interfaces=[hid_interface()])
    with Gadget(vendor=0x1209, product=2, serial="H2", functions=[protocol]):
        device = find("H2")
        protocol.send(b"unasked")

        assert bytes(device.read(0x81, 64, 5000)) == b"unasked"


def test_no_thread_is_left_of_a_closed_gadget():
    protocol = Protocol(Register(), report=lambda data: [data], interfaces=[hid_interface()])
    with Gadget(vendor=0x1209, product=2, serial="T", functions=[protocol]):
        assert any(thread.name.startswith("usb-gadget") for thread in threading.enumerate())

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("usb-gadget")]


@pytest.fixture
def medium(tmp_path):
    path = tmp_path / "medium"
    path.write_bytes(bytes(1 << 20))
    return path


def test_mass_storage_writes_reach_the_file(medium):
    with Gadget(vendor=0x1209, product=3, serial="DISK1", functions=[MassStorage(medium)]) as gadget:
        node = gadget.block_device()
        with open(node, "r+b") as disk:
            disk.write(b"hello disk")
            disk.flush()
            os.fsync(disk.fileno())

        assert medium.read_bytes().startswith(b"hello disk")
        assert (gadget.path / "serial").read_text().strip() == "DISK1"


def test_a_medium_is_ejected_and_inserted(medium):
    storage = MassStorage(medium)
    with Gadget(vendor=0x1209, product=3, serial="DISK2", functions=[storage]) as gadget:
        node = gadget.block_device()
        assert os.path.getsize(node) == 0
        storage.eject()

        with pytest.raises(OSError, match="No medium"):
            os.open(node, os.O_RDONLY)
        storage.insert(medium)
        wait_until(lambda: size(node) == 1 << 20, "medium")


def size(node):
    with open(node, "rb") as disk:
        return disk.seek(0, os.SEEK_END)


def test_storage_that_is_unplugged_while_open_fails_and_comes_back(medium):
    with Gadget(vendor=0x1209, product=3, serial="DISK3", functions=[MassStorage(medium)]) as gadget:
        disk = os.open(gadget.block_device(), os.O_RDWR | os.O_SYNC)
        gadget.unplug()

        with pytest.raises(OSError, match=r"\[Errno (5|19|28)\]"):
            os.write(disk, bytes(4096))
        os.close(disk)
        gadget.plug()
        assert size(gadget.block_device()) == 1 << 20


def test_a_composite_device_has_a_serial_port_storage_and_a_protocol(medium):
    import serial

    port, register = SerialPort(), Register()
    functions = [port, MassStorage(medium), Protocol(register, interfaces=[Interface(subclass=1, protocol=1)])]
    with Gadget(vendor=0x1209, product=4, serial="ALL", functions=functions, device_class=(0xEF, 2, 1)) as gadget:
        with serial.Serial(str(gadget.tty()), timeout=10) as host, serial.Serial(str(port.path), timeout=10) as device:
            host.write(b"to the device")
            assert device.read(13) == b"to the device"
            device.write(b"to the host")
            assert host.read(11) == b"to the host"

        interface_out = 0x41
        find("ALL").ctrl_transfer(interface_out, 1, 7, 3)
        assert register.value == 7
        assert size(gadget.block_device()) == 1 << 20


def test_gadgets_in_a_hub_are_siblings_and_are_plugged_one_by_one(medium):
    with (
        Hub() as hub,
        register_device(Register(), serial="SIB", port=hub.port(2)) as register,
        Gadget(vendor=0x1209, product=3, functions=[MassStorage(medium)], port=hub.port(1)) as reader,
    ):
        assert register.path.parent == reader.path.parent
        assert (register.path.name.split("-")[1], reader.path.name.split("-")[1]) == ("2", "1")
        find("SIB").ctrl_transfer(VENDOR_OUT, 1, 3, 0)
        assert size(reader.block_device()) == 1 << 20
        reader.unplug()
        assert bytes(find("SIB").ctrl_transfer(VENDOR_IN, 2, 0, 0, 1)) == b"\x03"
        reader.plug()
        assert size(reader.block_device()) == 1 << 20
