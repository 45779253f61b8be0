"""The driver against an emulated mux in this process, with a file as the card: protocol, errors, safety."""

import errno
import io
import os
import subprocess
import sys
import threading
from contextlib import asynccontextmanager

import anyio
import pytest
from jumpstarter.client.core import DriverError
from jumpstarter.common.medium import Disk, WrongMedium
from jumpstarter.common.utils import serve
from jumpstarter_driver_opendal import medium_mux
from jumpstarter_driver_opendal.client import MediumLeftAtHost
from jumpstarter_testbench.usb_emulation import EmulatedBus

from jumpstarter_driver_sdwire.driver import SDWire
from jumpstarter_driver_sdwire.emulation import EmulatedFt200x, EmulatedSDWire

IMAGE = os.urandom(3 << 20)


@pytest.fixture
def bus(monkeypatch):
    bus = EmulatedBus(EmulatedSDWire("sdw-00001"))
    monkeypatch.setattr("jumpstarter.common.usb.make_backend", bus.backend)
    return bus


@pytest.fixture
def mux(bus):
    yield bus.devices[0]
    assert bus.devices[0].open_handles == 0


@pytest.fixture
def card(tmp_path):
    path = tmp_path / "card"
    path.write_bytes(bytes(8 << 20))
    return path


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(IMAGE)
    return path


def sdwire(card=None, **settings):
    return SDWire(storage_device=card and str(card), storage_leeway=0, **({"storage_timeout": 0.5} | settings))


def test_host_and_dut_are_the_two_vendor_requests_and_are_confirmed_by_the_third(mux, card):
    driver = sdwire(card)
    with serve(driver) as client:
        client.host()
        assert mux.is_at_host
        client.dut()
        assert not mux.is_at_host
    set_bitmode, read_pins = (0x40, 0x0B), (0xC0, 0x0C)
    switches = [(*request[:2], request[2]) for request in mux.requests if request[:2] == set_bitmode]
    assert switches == [(*set_bitmode, 0x20F1), (*set_bitmode, 0x20F0)]
    assert mux.requests[-1] == (*read_pins, 0, 0, 1)


def test_the_position_is_asked_of_the_mux(mux):
    driver = sdwire()
    driver.select(0xF1)
    assert driver.query() == "host"
    driver.select(0xF0)
    assert driver.query() == "dut"
    with serve(driver) as client:
        assert client.call("query") == "dut"


def test_off_connects_the_card_to_the_exporter_as_there_is_no_third_position(mux, card):
    with serve(sdwire(card)) as client:
        client.dut()
        client.off()
    assert mux.is_at_host


def test_a_mux_whose_pin_does_not_move_is_an_error(mux):
    mux.has_gpio = False
    with serve(sdwire()) as client, pytest.raises(DriverError, match=r"still connected to the dut.*--init"):
        client.host()


def test_flash_writes_the_card_and_connects_it_to_the_device(mux, card, image):
    with serve(sdwire(card)) as client:
        client.flash(image)
    assert card.read_bytes()[: len(IMAGE)] == IMAGE
    assert card.stat().st_size == 8 << 20
    assert not mux.is_at_host


def test_write_leaves_the_card_at_the_exporter(mux, card, image):
    with serve(sdwire(card)) as client:
        client.write_local_file(image)
    assert mux.is_at_host


def test_an_empty_image_changes_nothing(mux, card, tmp_path):
    (tmp_path / "empty").touch()
    with serve(sdwire(card)) as client:
        client.flash(tmp_path / "empty")
    assert card.read_bytes() == bytes(8 << 20)


def test_dump_reads_the_card_and_connects_it_to_the_device(mux, card, tmp_path):
    card.write_bytes(IMAGE)
    with serve(sdwire(card)) as client:
        client.dump(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == IMAGE
    assert not mux.is_at_host


def test_a_card_that_does_not_come_is_a_timeout_that_says_what_to_check(mux, tmp_path, image):
    with serve(sdwire(tmp_path / "missing")) as client:
        with pytest.raises(DriverError, match=r"did not become available within 0\.5 s"):
            client.write_local_file(image)
        with pytest.raises(MediumLeftAtHost):
            client.flash(image)
    assert mux.is_at_host


def test_a_card_that_somebody_else_gave_to_the_device_meanwhile_is_not_written(mux, card, image, monkeypatch):
    driver = sdwire(card)
    hold = medium_mux.hold

    def hold_after_switch(*args, **options):
        mux.pins = 0
        return hold(*args, **options)

    monkeypatch.setattr(medium_mux, "hold", hold_after_switch)
    with serve(driver) as client, pytest.raises(DriverError, match="somebody else switched it"):
        client.write_local_file(image)
    assert card.read_bytes() == bytes(8 << 20)


def test_a_card_that_was_taken_away_while_it_was_written_is_an_error(mux, card, image, monkeypatch):
    written = medium_mux.write_to_storage_device

    async def switched_at_the_end(*args, **options):
        await written(*args, **options)
        mux.pins = 0

    monkeypatch.setattr(medium_mux, "write_to_storage_device", switched_at_the_end)
    with serve(sdwire(card)) as client, pytest.raises(DriverError, match="somebody else switched it"):
        client.write_local_file(image)


def test_data_that_did_not_reach_the_card_is_an_error_even_if_a_later_sync_succeeds(mux, card, image, monkeypatch):
    def fails(self):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("jumpstarter.common.medium.Medium.check_stored", fails)
    with serve(sdwire(card)) as client:
        with pytest.raises(MediumLeftAtHost) as caught:
            client.flash(image)
        assert "Input/output error" in str(caught.value.__cause__)
    assert mux.is_at_host


def test_a_device_that_is_neither_disk_nor_file_is_refused(mux, image):
    driver = sdwire("/dev/zero")
    with serve(driver) as client, pytest.raises(DriverError, match=r"neither a block device nor a file|did not become"):
        client.write_local_file(image)


def test_a_disk_that_does_not_belong_to_the_mux_is_refused(mux, card):
    driver = sdwire(card)
    driver.select(0xF1)
    with pytest.raises(WrongMedium, match=r"/dev/sdz \(not on USB\) does not belong to SDWire sdw-00001"):
        driver.check_medium(Disk(name="sdz", usb=None))


def test_the_card_is_not_switched_away_while_it_is_written(mux, card, monkeypatch):
    monkeypatch.setattr(medium_mux, "TURN_TIMEOUT", 0.2)
    reader, writer = os.pipe()
    started = threading.Event()
    written = medium_mux.write_to_storage_device

    async def writes(*args, **options):
        started.set()
        await written(*args, **options)

    monkeypatch.setattr(medium_mux, "write_to_storage_device", writes)
    with serve(sdwire(card)) as client:
        errors = []

        def write():
            try:
                client.write_local_file(f"/dev/fd/{reader}")
            except Exception as error:
                errors.append(error)
                raise

        thread = threading.Thread(target=write)
        thread.start()
        assert started.wait(30)
        for step in (client.dut, client.off, client.host):
            with pytest.raises(DriverError, match=r"refusing to switch: the medium is busy, it is being written"):
                step()
        assert mux.is_at_host
        with io.FileIO(writer, "w") as pipe:
            pipe.write(b"the rest")
        thread.join(30)
    os.close(reader)
    assert errors == []
    assert card.read_bytes().startswith(b"the rest")


def test_without_a_mux_the_driver_does_not_start(bus):
    bus.devices.clear()
    with pytest.raises(FileNotFoundError, match="no sd-wire is plugged in"):
        SDWire()


def test_of_several_muxes_none_is_taken_by_chance(bus, mux):
    bus.devices.append(EmulatedSDWire("sdw-00002"))
    with pytest.raises(RuntimeError, match=r"multiple sd-wire devices: .*sdw-00001.*sdw-00002.*'serial'"):
        SDWire()


def test_the_serial_number_chooses_the_mux(bus, mux):
    bus.devices.append(EmulatedSDWire("sdw-00002"))
    with serve(sdwire(serial="sdw-00002")) as client:
        client.host()
    assert bus.devices[1].is_at_host
    assert mux.requests == []


def test_other_devices_with_the_same_ids_are_left_alone(bus, mux, monkeypatch):
    phone = EmulatedSDWire("PHONE")
    phone.product_name = "SAMSUNG_Android"
    bus.devices.append(phone)
    assert SDWire().serial == "sdw-00001"
    with pytest.raises(FileNotFoundError, match="'PHONE'"):
        SDWire(serial="PHONE")
    assert phone.requests == []


def test_a_mux_that_may_not_be_opened_does_not_hide_another(bus, mux):
    bus.devices.append(EmulatedSDWire("sdw-00002"))
    bus.devices[1].is_forbidden = True
    assert SDWire(serial="sdw-00001").query() == "dut"


def test_missing_permission_is_explained_by_a_udev_rule(mux):
    mux.is_forbidden = True
    with pytest.raises(PermissionError, match=r'ATTR\{idVendor\}=="04e8".*udevadm'):
        SDWire(serial="sdw-00001")


def test_a_chip_with_factory_settings_is_used_only_by_its_serial_number(bus):
    bus.devices[:] = [EmulatedFt200x("DM00AAAA")]
    with pytest.raises(FileNotFoundError):
        SDWire()
    with serve(sdwire(serial="DM00AAAA")) as client:
        client.host()
    assert bus.devices[0].is_at_host


def test_an_unplugged_mux_is_an_error_and_works_again_after_it_was_plugged_in(mux):
    with serve(sdwire()) as client:
        mux.is_plugged = False
        with pytest.raises(DriverError, match="no sd-wire with serial number 'sdw-00001' is plugged in"):
            client.host()
        mux.is_plugged = True
        client.host()
    assert mux.is_at_host


def test_a_silent_mux_is_a_timeout(mux):
    driver = sdwire()
    mux.is_silent = True
    with serve(driver) as client, pytest.raises(DriverError, match="SDWire sdw-00001 does not answer"):
        client.host()


def test_an_answer_without_pins_is_an_error(mux):
    driver = sdwire()
    mux.control = lambda request: b"" if request.is_in else None
    with pytest.raises(OSError, match="did not tell the state of its pins"):
        driver.query()


@pytest.mark.parametrize(
    "setting",
    [
        {"serial": 1},
        {"storage_device": ""},
        {"storage_timeout": "10"},
        {"storage_leeway": -1},
        {"storage_fsync_timeout": None},
    ],
)
def test_a_wrong_setting_is_an_error_before_the_mux_is_touched(mux, setting):
    with pytest.raises(ValueError, match=f"^{next(iter(setting))} must be"):
        SDWire(**setting)
    assert mux.requests == []


def test_the_client_needs_no_usb_library():
    code = "import sys, jumpstarter_driver_opendal.client; assert not {'usb', 'pyudev'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


async def test_a_write_whose_client_is_gone_leaves_neither_a_lock_nor_an_open_card(mux, card, monkeypatch):
    driver = sdwire(card)
    sender, receiver = anyio.create_memory_object_stream[bytes](1)

    @asynccontextmanager
    async def endless(handle):
        yield receiver

    monkeypatch.setattr(driver, "resource", endless)
    async with anyio.create_task_group() as tasks, sender, receiver:
        tasks.start_soon(driver.write, "handle")
        with anyio.fail_after(30):
            await sender.send(bytes(5 << 20))
            await sender.send(b"more")
        assert is_open(card)
        tasks.cancel_scope.cancel()

    assert not is_open(card)
    with anyio.fail_after(30):
        await driver.dut()
    assert not mux.is_at_host


def is_open(path):
    return any(os.path.realpath(f"/proc/self/fd/{name}") == str(path) for name in os.listdir("/proc/self/fd"))
