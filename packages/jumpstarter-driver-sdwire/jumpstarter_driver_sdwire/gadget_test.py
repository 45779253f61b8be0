"""The driver against SDWires made of a mux and a card reader behind one hub, as USB devices of a real kernel."""

import os
import subprocess
import threading
from contextlib import contextmanager

import pytest
from jumpstarter.client.core import DriverError
from jumpstarter.common.utils import serve
from jumpstarter_testbench.requirements import program
from jumpstarter_testbench.usb_gadgets import Gadget, Hub, MassStorage, wait_until

from jumpstarter_driver_sdwire.driver import SDWire
from jumpstarter_driver_sdwire.emulation import EmulatedSDWire

pytestmark = [pytest.mark.lab_guest, pytest.mark.need("libusb")]

SIZE = 1 << 20
IMAGE = os.urandom(1 << 18) + b"the end"


class Rig:
    """One SDWire with a card in it."""

    def __init__(self, hub, serial, card):
        self.card = card
        self.mux = EmulatedSDWire(serial, self._switched)
        self.storage = MassStorage(None)
        self.mux_gadget = self.mux.gadget(port=hub.port(2))
        self.reader = Gadget(
            vendor=0x0424, product=0x4050, serial="000000225001", functions=[self.storage], port=hub.port(1)
        )

    def clear(self):
        """Put a blank card in, at the device."""
        self.mux.pins = 0
        self.storage.eject()
        self.card.write_bytes(bytes(SIZE))

    def _switched(self, host):
        self.storage.eject()
        if host:
            self.storage.insert(self.card)


@contextmanager
def plugged_in(serial, folder):
    with Hub() as hub:
        rig = Rig(hub, serial, folder / serial)
        with rig.reader, rig.mux_gadget:
            rig.clear()
            yield rig


@pytest.fixture(scope="module")
def first_rig(tmp_path_factory):
    with plugged_in("sdw-1", tmp_path_factory.mktemp("rig")) as rig:
        yield rig


@pytest.fixture
def rig(first_rig):
    first_rig.clear()
    return first_rig


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(IMAGE)
    return path


def sdwire(serial="sdw-1", **settings):
    return SDWire(serial=serial, **({"storage_timeout": 20, "storage_leeway": 0} | settings))


def untouched(path):
    return path.stat().st_blocks == 0 or not any(path.read_bytes())


def test_flash_writes_the_card_in_the_muxs_own_reader_and_dump_reads_it_back(rig, image, tmp_path):
    driver = sdwire()
    with serve(driver) as client:
        client.flash(image)
        assert rig.card.read_bytes()[: len(IMAGE)] == IMAGE
        assert not rig.mux.is_at_host

        client.dump(tmp_path / "copy")
        copy = (tmp_path / "copy").read_bytes()
        assert len(copy) == SIZE
        assert copy.startswith(IMAGE)


def test_of_two_muxes_the_card_of_the_one_with_the_serial_number_is_written(rig, image, tmp_path):
    with plugged_in("sdw-2", tmp_path) as other:
        other.reader.unplug()
        rig.reader.unplug()
        other.reader.plug()  # now the first name is that of the other one
        rig.reader.plug()
        with serve(sdwire("sdw-1")) as client:
            client.write_local_file(image)
        assert rig.card.read_bytes().startswith(IMAGE)
        assert untouched(other.card)
        # Linux 6.1 falls over an emulated device of this kind that goes without ever having been asked (vep_dequeue).
        with serve(sdwire("sdw-2")) as client:
            client.dut()


def test_a_disk_that_is_not_behind_the_muxs_hub_is_refused(rig, image, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.write_bytes(bytes(SIZE))
    with Gadget(vendor=0x0781, product=0x5567, serial="STICK", functions=[MassStorage(foreign)]) as stick:
        driver = sdwire(storage_device=str(stick.block_device()))
        with serve(driver) as client, pytest.raises(DriverError, match=r"0781:5567, serial STICK.*does not belong to"):
            client.write_local_file(image)
    assert untouched(foreign)
    assert untouched(rig.card)


def test_a_stick_in_a_port_beside_a_mux_with_factory_settings_is_no_card(image, tmp_path):
    stick = tmp_path / "stick"
    stick.write_bytes(bytes(SIZE))
    with (
        Hub() as hub,
        EmulatedSDWire("sdw-9").gadget(port=hub.port(2)),
        Gadget(vendor=0x0781, product=0x5567, serial="S", functions=[MassStorage(stick)], port=hub.port(1)) as gadget,
    ):
        gadget.block_device()
        driver = sdwire("sdw-9", storage_timeout=1)
        with serve(driver) as client, pytest.raises(DriverError, match="did not become available"):
            client.write_local_file(image)
    assert untouched(stick)


@pytest.mark.need("e2fsprogs")
def test_a_mounted_card_is_neither_written_nor_switched_away(rig, image, tmp_path):
    subprocess.run([program("mke2fs"), "-q", "-F", str(rig.card)], check=True, timeout=60)
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    with serve(sdwire()) as client:
        client.host()
        node = rig.reader.block_device()
        wait_until(lambda: size(node) == SIZE, "card")
        subprocess.run(["mount", str(node), str(mountpoint)], check=True, timeout=60)
        try:
            for step in (client.dut, lambda: client.write_local_file(image)):
                with pytest.raises(DriverError, match=r"is busy: it is mounted.*umount"):
                    step()
            assert rig.mux.is_at_host
        finally:
            subprocess.run(["umount", str(mountpoint)], check=True, timeout=60)
        client.dut()
    assert not rig.mux.is_at_host


def test_an_image_that_does_not_fit_is_an_error(rig, tmp_path):
    (tmp_path / "large").write_bytes(bytes(SIZE + 1))
    with serve(sdwire()) as client, pytest.raises(DriverError, match="the image is larger than the medium"):
        client.write_local_file(tmp_path / "large")


def test_a_reader_that_is_unplugged_while_the_card_is_written_is_an_error_and_works_again(rig, image):
    source, sink = os.pipe()

    def feed():
        with open(sink, "wb") as pipe:
            pipe.write(IMAGE)
            pipe.flush()
            wait_until(lambda: descriptors_of(rig.reader.block_device()) == 2, "hold and writer of the card")
            rig.reader.unplug()
            pipe.write(b"the rest")

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    with serve(sdwire()) as client:
        with pytest.raises(DriverError, match="was unplugged or disconnected while it was written, and is incomplete"):
            client.write_local_file(f"/proc/self/fd/{source}")
        feeder.join(30)
        os.close(source)
        rig.reader.plug()
        client.write_local_file(image)
    assert rig.card.read_bytes().startswith(IMAGE)


def descriptors_of(node):
    """How many descriptors of this process are open on a device."""
    paths = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return sum(os.path.realpath(path) == str(node) for path in paths)


def test_a_mux_that_is_unplugged_is_an_error_and_works_again_after_it_was_plugged_in(rig):
    with serve(sdwire()) as client:
        client.host()
        rig.mux_gadget.unplug()
        with pytest.raises(DriverError, match="no sd-wire with serial number 'sdw-1' is plugged in"):
            client.dut()
        rig.mux_gadget.plug()
        client.dut()
        assert client.call("query") == "dut"


def size(node):
    try:
        with open(node, "rb") as disk:
            return disk.seek(0, os.SEEK_END)
    except OSError:
        return 0
