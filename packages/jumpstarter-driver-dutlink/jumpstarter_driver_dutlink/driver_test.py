"""The driver against an emulated board in this process, with a file as the storage and a PTY as its serial port."""

import itertools
import os
import subprocess
import sys
import tty

import pytest
from click.testing import CliRunner
from jumpstarter.client.core import DriverError, DriverInvalidArgument
from jumpstarter.common.medium import Disk, WrongMedium
from jumpstarter.common.utils import serve
from jumpstarter_driver_power.common import PowerState
from jumpstarter_testbench.usb_emulation import EmulatedBus

from jumpstarter_driver_dutlink import driver as driver_module
from jumpstarter_driver_dutlink.board import Board
from jumpstarter_driver_dutlink.driver import Dutlink, DutlinkPower, DutlinkSerial, DutlinkStorageMux
from jumpstarter_driver_dutlink.emulation import EmulatedDutlink, EmulatedShell

IMAGE = os.urandom(1 << 20)
OUT, IN = 0x41, 0xC1


@pytest.fixture
def bus(monkeypatch):
    bus = EmulatedBus(EmulatedDutlink("1a2b3c4d"))
    monkeypatch.setattr("jumpstarter.common.usb.make_backend", bus.backend)
    return bus


@pytest.fixture
def board(bus):
    yield bus.devices[0]
    assert bus.devices[0].open_handles == 0
    assert bus.devices[0].claimed_by is None


@pytest.fixture
def serial_port(board, monkeypatch):
    """A PTY as the board's serial port, with the board's shell at its other end."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    path = os.ttyname(theirs)
    monkeypatch.setattr(Board, "tty", lambda self: path)
    shell = EmulatedShell(ours, board)
    yield path
    shell.close()
    os.close(ours)
    os.close(theirs)


@pytest.fixture
def stick(tmp_path):
    path = tmp_path / "stick"
    path.write_bytes(bytes(4 << 20))
    return path


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image"
    path.write_bytes(IMAGE)
    return path


def storage(stick, **settings):
    return DutlinkStorageMux(storage_device=str(stick), storage_leeway=0, **({"storage_timeout": 0.5} | settings))


def sent(board, number):
    return [value for kind, request, value in board.requests if (kind, request) == (OUT, number)]


def test_power_is_switched_by_vendor_requests_and_confirmed_by_the_meter(board):
    with serve(DutlinkPower()) as power:
        power.on()
        assert board.is_on
        assert power.status() is PowerState.ON
        power.off()
        assert not board.is_on
        assert power.status() is PowerState.OFF
        power.cycle(0)
        assert board.is_on
    assert sent(board, 1) == [1, 0, 0, 1]


def test_every_command_reaches_the_board_even_when_it_repeats_the_last_one(board):
    with serve(DutlinkPower(last_action="on")) as power:
        power.on()
        board.is_on = False  # by its button
        power.on()
    assert board.is_on


def test_rescue_and_forced_switching_have_requests_of_their_own(board):
    with serve(DutlinkPower()) as power:
        power.rescue()
        power.call("force_off")
        power.call("force_on")
    assert sent(board, 1) == [4, 2, 3]


def test_readings_are_told_by_their_units(board):
    board.is_on = True
    with serve(DutlinkPower()) as power:
        reading = next(power.read())
    assert (reading.voltage, reading.current, reading.power) == (12.0, 0.42, 5.04)


def test_a_reading_in_the_order_of_the_shell_is_the_same_reading(board):
    board.answer = b"0.42A 12.00V 5.04W"
    with serve(DutlinkPower()) as power:
        reading = next(power.read())
    assert (reading.voltage, reading.current, reading.power) == (12.0, 0.42, 5.04)


def test_a_stable_load_is_read_again_and_again(board, monkeypatch):
    monkeypatch.setattr(driver_module, "READ_INTERVAL", 0.01)
    with serve(DutlinkPower()) as power:
        readings = list(itertools.islice(power.read(), 3))
    assert len(readings) == 3


@pytest.mark.parametrize("answer", [b"", b"12.00V", b"garbage", b"\xff\xfe"])
def test_a_reading_that_makes_no_sense_is_an_error(board, answer):
    board.answer = answer
    with serve(DutlinkPower()) as power, pytest.raises(DriverError, match=r"where a measurement|that are no text"):
        next(power.read())


@pytest.mark.parametrize(("is_on", "step"), [(False, "on"), (True, "off")])
def test_a_supply_that_does_not_switch_is_an_error(board, is_on, step, monkeypatch):
    board.stuck = True
    board.is_on = is_on
    driver = DutlinkPower()
    monkeypatch.setattr(driver, "confirm", lambda state: type(driver).confirm(driver, state, 0.1))
    with serve(driver) as power, pytest.raises(DriverError, match=f"was switched {step}, but reports"):
        getattr(power, step)()


def test_a_device_that_draws_no_current_is_in_an_unknown_state_and_switched_by_the_boards_word(board):
    board.draws_current = False
    with serve(DutlinkPower()) as power:
        power.on()
        assert power.status() is PowerState.UNKNOWN


def test_a_sequence_that_presses_a_button_is_not_judged_by_the_meter(board):
    board.config[3] = b"aL,w1,aZ"
    with serve(DutlinkPower()) as power:
        power.on()
    assert not board.is_on
    assert board.pins[1] == 2


def test_storage_is_switched_by_vendor_requests(board, stick):
    with serve(storage(stick)) as client:
        for side in ("host", "dut", "off"):
            getattr(client, side)()
            assert board.storage == side
    assert sent(board, 2) == [1, 2, 0]


def test_flash_writes_the_storage_and_connects_it_to_the_device(board, stick, image):
    with serve(storage(stick)) as client:
        client.flash(image)
    assert stick.read_bytes().startswith(IMAGE)
    assert board.storage == "dut"


def test_write_leaves_the_storage_at_the_exporter_and_read_gives_it_back(board, stick, image, tmp_path):
    with serve(storage(stick)) as client:
        client.write_local_file(image)
        assert board.storage == "host"
        client.read_local_file(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == stick.read_bytes()


def test_storage_that_does_not_come_is_a_timeout_that_says_what_to_check(board, tmp_path, image):
    with serve(storage(tmp_path / "missing")) as client, pytest.raises(DriverError, match="did not become available"):
        client.write_local_file(image)


def test_a_disk_that_is_not_on_usb_is_refused(board, stick):
    with pytest.raises(WrongMedium, match=r"/dev/sda \(not on USB\) is not in the board's storage port"):
        storage(stick).check_medium(Disk(name="sda", usb=None))


def test_a_disk_with_another_serial_number_is_refused(board, tmp_path):
    (tmp_path / "serial").write_text("OTHER\n")
    driver = DutlinkStorageMux(storage_serial="MINE")
    with pytest.raises(WrongMedium, match="is not the medium with serial number 'MINE'; it is not touched"):
        driver.check_medium(Disk(name="sda", usb=tmp_path))


def test_the_medium_of_a_session_must_stay_the_same(board, stick, tmp_path):
    driver = storage(stick)
    (tmp_path / "serial").write_text("FIRST\n")
    driver.check_medium(Disk(name="sda", usb=tmp_path))
    (tmp_path / "serial").write_text("SECOND\n")
    with pytest.raises(WrongMedium, match="serial number 'FIRST' of this session"):
        driver.check_medium(Disk(name="sda", usb=tmp_path))


def test_a_board_that_is_gone_right_before_writing_stops_it(board, stick, image):
    driver = storage(stick)
    find = driver.find_medium

    def unplug_after_search():
        path = find()
        board.is_plugged = board.storage != "host"
        return path

    driver.find_medium = unplug_after_search
    with serve(driver) as client, pytest.raises(DriverError, match="no Dutlink board with serial number"):
        client.write_local_file(image)
    assert not any(stick.read_bytes())


async def test_storage_is_disconnected_at_the_end_of_a_session_that_asks_for_it(board, stick):
    board.storage = "dut"
    await storage(stick).switch_off()
    assert board.storage == "off"


def test_the_console_is_the_boards_serial_port(board, serial_port):
    with serve(DutlinkSerial()) as console, console.pexpect() as session:
        session.send("\x02" * 5)
        session.expect_exact("Exiting console mode", timeout=30)
        session.sendline("about")
        session.expect_exact("Jumpstarter test-harness version: 0.07", timeout=30)
        session.sendline("console")
        session.expect_exact("Entering console mode", timeout=30)
        session.send("hello")
        session.expect_exact("hello", timeout=30)


def test_a_board_without_a_serial_port_is_reported(board, monkeypatch):
    monkeypatch.setattr(driver_module, "TTY_TIMEOUT", 0.1)
    with pytest.raises(RuntimeError, match=r"has no serial port on this machine after 0\.1 s"):
        DutlinkSerial()


def test_the_whole_board_has_power_storage_and_console(board, serial_port, stick, image):
    with serve(Dutlink(storage_device=str(stick), storage_leeway=0)) as dutlink:
        dutlink.storage.flash(image)
        dutlink.power.on()
        with dutlink.console.pexpect() as session:
            session.send("login")
            session.expect_exact("login", timeout=30)
    assert stick.read_bytes().startswith(IMAGE)
    assert (board.storage, board.is_on) == ("dut", True)


def test_settings_of_the_whole_board_reach_its_parts(board, serial_port, stick):
    driver = Dutlink(
        storage_device=str(stick), storage_timeout=1, storage_leeway=2, storage_fsync_timeout=3, baudrate=9600
    )
    part = driver.children["storage"]
    assert (part.storage_timeout, part.storage_leeway, part.storage_fsync_timeout) == (1, 2, 3)
    assert driver.children["console"].baudrate == 9600
    assert {child.serial for name, child in driver.children.items() if name != "console"} == {"1a2b3c4d"}


def test_an_alternate_console_may_be_missing_until_the_device_is_on(board, stick, tmp_path):
    port = tmp_path / "ttyUSB7"
    with serve(Dutlink(storage_device=str(stick), alternate_console=str(port))) as dutlink:
        with pytest.raises(Exception, match="there is no such file"), dutlink.console.pexpect() as session:
            session.read(1)
        ours, theirs = os.openpty()
        tty.setraw(theirs)
        port.symlink_to(os.ttyname(theirs))
        with dutlink.console.pexpect() as session:
            os.write(ours, b"booting")
            session.expect_exact("booting", timeout=30)
        os.close(ours)
        os.close(theirs)
    assert sent(board, 1) == []


def test_version_settings_and_pins_of_the_board(board, serial_port, stick):
    with serve(Dutlink(storage_device=str(stick))) as dutlink:
        assert dutlink.call("version") == "0.07 git-ref: 1a2b3c4"
        dutlink.call("set_config", "power_on", "p1,w1")
        assert board.config[3] == b"p1,w1"
        assert dutlink.call("get_config", "power_on") == "p1,w1"
        dutlink.call("set_pin", "reset", "low")
        assert board.pins[0] == 0
        for wrong in (("get_config", "colour"), ("set_pin", "x", "low"), ("set_pin", "a", "up")):
            with pytest.raises(DriverInvalidArgument, match="must be one of"):
                dutlink.call(*wrong)
        with pytest.raises(DriverInvalidArgument, match="takes 32 bytes at most, not 33"):
            dutlink.call("set_config", "power_on", "p" * 33)


@pytest.mark.parametrize("driver", [DutlinkPower, DutlinkSerial])
def test_without_a_board_the_driver_does_not_start(bus, driver):
    bus.devices.clear()
    with pytest.raises(FileNotFoundError, match="no Dutlink board is plugged in"):
        driver()


def test_of_several_boards_none_is_taken_by_chance(bus, board):
    bus.devices.append(EmulatedDutlink("99999999"))
    with pytest.raises(RuntimeError, match=r"multiple Dutlink board devices: .*1a2b3c4d.*99999999"):
        DutlinkPower()


def test_the_serial_number_chooses_the_board(bus, board):
    bus.devices.append(EmulatedDutlink("99999999"))
    with serve(DutlinkPower(serial="99999999")) as power:
        power.on()
    assert bus.devices[1].is_on
    assert board.requests == []


def test_missing_permission_is_explained_by_a_udev_rule(board):
    board.is_forbidden = True
    with pytest.raises(PermissionError, match=r'ATTR\{idVendor\}=="2b23".*udevadm'):
        DutlinkPower(serial="1a2b3c4d")


def test_an_unplugged_board_is_an_error_and_works_again_after_it_was_plugged_in(board):
    with serve(DutlinkPower()) as power:
        board.is_plugged = False
        with pytest.raises(DriverError, match="no Dutlink board with serial number '1a2b3c4d' is plugged in"):
            power.on()
        board.is_plugged = True
        power.on()
    assert board.is_on


def test_a_board_that_is_pulled_during_a_request_is_an_error(board):
    driver = DutlinkPower()

    def pulled(request):
        board.is_plugged = False

    board.control = pulled
    with serve(driver) as power, pytest.raises(DriverError, match="was unplugged"):
        power.on()


def test_a_silent_board_is_a_timeout(board):
    driver = DutlinkPower()
    board.is_silent = True
    with serve(driver) as power, pytest.raises(DriverError, match="Dutlink board 1a2b3c4d does not answer"):
        power.on()


def test_a_refused_request_is_an_error(board):
    driver = DutlinkPower()
    board.interfaces = board.interfaces[1:]  # another firmware, whose control interface has another number
    with serve(driver) as power, pytest.raises(DriverError, match="refused the request"):
        power.on()


@pytest.mark.parametrize(
    "setting",
    [{"serial": 1}, {"timeout_s": "20"}, {"storage_device": ""}, {"storage_timeout": -1}, {"storage_serial": 5}],
)
def test_a_wrong_setting_is_an_error_before_the_board_is_touched(board, setting):
    with pytest.raises(ValueError, match=f"^{next(iter(setting))} must be"):
        DutlinkStorageMux(**({"storage_device": "x"} | setting))
    assert board.requests == []


def test_the_storage_must_be_named(board):
    with pytest.raises(ValueError, match="storage_device or storage_serial is missing"):
        DutlinkStorageMux()


def test_the_clients_need_no_usb_library():
    modules = "jumpstarter_driver_composite.client, jumpstarter_driver_opendal.client, jumpstarter_driver_power.client"
    code = f"import sys, {modules}; assert 'usb' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_commands_reach_the_parts_of_the_board(board, serial_port, stick, image):
    runner = CliRunner()
    with serve(Dutlink(storage_device=str(stick), storage_leeway=0)) as dutlink:
        group = dutlink.cli()
        for command in (f"storage flash {image}", "power on", "storage off"):
            result = runner.invoke(group, command.split())
            assert result.exit_code == 0, result.output
        status = runner.invoke(group, ["power", "status"])
        reading = runner.invoke(group, ["power", "read"])
    assert stick.read_bytes().startswith(IMAGE)
    assert (board.is_on, board.storage) == (True, "off")
    assert status.output == "on\n"
    assert reading.output == "voltage=12.0 V  current=0.42 A  apparent_power=5.04 VA  power=5.04 W\n"
