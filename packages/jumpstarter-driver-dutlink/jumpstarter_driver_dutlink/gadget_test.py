"""The driver against an emulated board as a USB device of a real kernel, with storage that comes and goes."""

import os
import tty
from contextlib import contextmanager

import pytest
from jumpstarter.client.core import DriverError
from jumpstarter.common.medium import holds_medium
from jumpstarter.common.utils import serve
from jumpstarter_driver_power.common import PowerState
from jumpstarter_testbench.usb_gadgets import Gadget, MassStorage, SerialPort, wait_until

from jumpstarter_driver_dutlink.driver import Dutlink, DutlinkPower, DutlinkStorageMux
from jumpstarter_driver_dutlink.emulation import EmulatedDutlink, EmulatedShell

pytestmark = [pytest.mark.lab_guest, pytest.mark.need("libusb")]

SIZE = 1 << 20
IMAGE = os.urandom(1 << 18) + b"the end"


class Rig:
    """A board with a stick in its storage port."""

    def __init__(self, stick):
        self.stick = stick
        self.port = SerialPort()
        self.board = EmulatedDutlink("1a2b3c4d", self._switched)
        self.gadget = self.board.gadget(functions=[self.port, self.board.protocol()], device_class=(0xEF, 2, 1))
        self.storage = Gadget(
            vendor=0x0781, product=0x5567, serial="STICK1", functions=[MassStorage(stick)], plugged=False
        )

    def clear_stick(self):
        self.stick.write_bytes(bytes(SIZE))

    def _switched(self, side):
        self.storage.unplug()
        if side == "host":
            self.storage.plug()

    @contextmanager
    def console(self):
        descriptor = os.open(self.port.path, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(descriptor)
        shell = EmulatedShell(descriptor, self.board)
        try:
            yield
        finally:
            shell.close()
            os.close(descriptor)


@pytest.fixture(scope="module")
def only_rig(tmp_path_factory):
    stick = tmp_path_factory.mktemp("rig") / "stick"
    stick.touch()
    rig = Rig(stick)
    rig.clear_stick()
    with rig.storage, rig.gadget:
        yield rig


@pytest.fixture
def rig(only_rig):
    only_rig.storage.unplug()
    only_rig.clear_stick()
    only_rig.board.is_on = False
    only_rig.board.storage = "off"
    only_rig.board.requests.clear()
    return only_rig


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(IMAGE)
    return path


def mux(**settings):
    return DutlinkStorageMux(serial="1a2b3c4d", **({"storage_timeout": 20, "storage_leeway": 0} | settings))


def test_flash_power_and_console_of_the_whole_board(rig, image):
    with (
        rig.console(),
        serve(Dutlink(serial="1a2b3c4d", storage_serial="STICK1", storage_timeout=20, storage_leeway=0)) as dutlink,
    ):
        dutlink.storage.flash(image)
        assert rig.stick.read_bytes().startswith(IMAGE)
        assert rig.board.storage == "dut"

        dutlink.power.on()
        assert dutlink.power.status() is PowerState.ON
        assert next(dutlink.power.read()).power == 5.04

        with dutlink.console.pexpect() as session:
            session.send("\x02" * 5)
            session.expect_exact("Exiting console mode", timeout=60)
            session.sendline("about")
            session.expect_exact("Jumpstarter test-harness version", timeout=60)
            session.sendline("console")
            session.expect_exact("Entering console mode", timeout=60)
        dutlink.power.off()
        assert dutlink.power.status() is PowerState.OFF


def test_storage_given_by_its_path_is_written_once_it_went_with_the_mux(rig, image):
    rig.board.storage = "host"
    rig.storage.plug()
    path = rig.storage.block_device()
    with serve(mux(storage_device=str(path))) as client:
        client.write_local_file(image)
        client.dump(image.parent / "copy")
    assert rig.stick.read_bytes().startswith(IMAGE)
    assert (image.parent / "copy").read_bytes() == rig.stick.read_bytes()
    sides = [value for kind, request, value in rig.board.requests if (kind, request) == (0x41, 2)]
    assert sides == [0, 1, 1, 1, 2], "off for the proof, then host to write, host of the client and to read, dut"


@pytest.mark.parametrize("setting", ["path", "serial"])
def test_another_disk_is_never_written(rig, image, tmp_path, setting):
    foreign = tmp_path / "foreign"
    foreign.write_bytes(bytes(SIZE))
    with Gadget(vendor=0x0951, product=0x1666, serial="FOREIGN", functions=[MassStorage(foreign)]) as other:
        node = str(other.block_device())
        if setting == "path":
            driver, message = mux(storage_device=node, storage_timeout=1), "it is another disk; it is not touched"
        else:
            driver, message = mux(storage_device=node, storage_serial="STICK1"), "is not the medium with serial number"
        with serve(driver) as client, pytest.raises(DriverError, match=message):
            client.write_local_file(image)
    assert not any(foreign.read_bytes())


def test_storage_that_stays_at_the_exporter_is_not_given_to_the_device_silently(rig):
    with serve(mux(storage_serial="STICK1", storage_timeout=1)) as client:
        client.host()
        node = rig.storage.block_device()
        wait_until(lambda: holds_medium(node), "stick")
        rig.board._switched = lambda side: None  # its relay is stuck
        with pytest.raises(DriverError, match="has connected its storage to dut, but it is still there"):
            client.dut()
        rig.board._switched = rig._switched


def test_an_unplugged_board_is_an_error_and_all_of_it_works_again_after_it_was_plugged_in(rig, image):
    with serve(Dutlink(serial="1a2b3c4d", storage_serial="STICK1", storage_leeway=0, storage_timeout=20)) as dutlink:
        dutlink.power.on()
        rig.gadget.unplug()
        for use in (dutlink.power.off, lambda: dutlink.storage.flash(image)):
            with pytest.raises(Exception, match=r"Dutlink board|could not write"):
                use()
        assert rig.board.is_on
        rig.gadget.plug()
        dutlink.power.off()
        assert not rig.board.is_on
        with rig.console(), dutlink.console.pexpect() as session:
            session.send("hello")
            session.expect_exact("hello", timeout=60)


def test_no_claim_is_left_after_use(rig):
    with serve(DutlinkPower(serial="1a2b3c4d")) as power:
        power.on()
        node = str(rig.gadget.node)
        assert not [fd for fd in os.listdir("/proc/self/fd") if os.path.realpath(f"/proc/self/fd/{fd}") == node]
        wait_until(lambda: not list(rig.gadget.path.glob("*:1.3/driver")), "release of the control interface")
