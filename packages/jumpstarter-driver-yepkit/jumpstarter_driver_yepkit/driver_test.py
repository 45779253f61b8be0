"""The driver against an emulated hub in this process: protocol, errors, sharing, unplugging."""

import subprocess
import sys
import threading

import pytest
from jumpstarter.client.core import DriverError, DriverMethodNotImplemented
from jumpstarter.common.utils import serve
from jumpstarter_driver_power.common import PowerState
from jumpstarter_testbench.usb_emulation import EmulatedBus

from jumpstarter_driver_yepkit import hub as hub_module
from jumpstarter_driver_yepkit.driver import Ykush
from jumpstarter_driver_yepkit.emulation import EmulatedLegacyYkush, EmulatedYkush, EmulatedYkush3, EmulatedYkushXs


def port_of(**settings):
    """A driver whose session starts without switching anything."""
    return Ykush(default="keep", **settings)


@pytest.fixture
def bus(monkeypatch):
    bus = EmulatedBus(EmulatedYkush("YK00001"))
    monkeypatch.setattr("jumpstarter.common.usb.make_backend", bus.backend)
    return bus


@pytest.fixture
def hub(bus):
    yield bus.devices[0]
    assert bus.devices[0].open_handles == 0
    assert bus.devices[0].claimed_by is None


def test_on_and_off_switch_the_port_and_only_it(hub):
    with serve(port_of(port="2")) as power:
        power.on()
        assert hub.ports == {1: False, 2: True, 3: False}
        assert power.status() is PowerState.ON
        power.off()
        assert hub.ports == {1: False, 2: False, 3: False}
        assert power.status() is PowerState.OFF
    assert hub.commands[:2] == [0x12, 0x22]


def test_all_ports_are_switched_by_one_command_and_confirmed_one_by_one(hub):
    with serve(port_of()) as power:
        power.on()
    assert hub.ports == {1: True, 2: True, 3: True}
    assert hub.commands == [0x1A, 0x21, 0x22, 0x23]


def test_the_state_of_ports_that_differ_is_unknown(hub):
    hub.ports[1] = True
    with serve(port_of()) as power:
        assert power.status() is PowerState.UNKNOWN


def test_cycle_ends_with_the_port_switched_on(hub):
    with serve(port_of(port="1")) as power:
        power.cycle(0)
    assert hub.ports[1]
    assert [command for command in hub.commands if command < 0x20] == [0x01, 0x11]


def test_read_is_not_offered(hub):
    with serve(port_of()) as power, pytest.raises(DriverMethodNotImplemented, match="measure neither"):
        next(power.read())


@pytest.mark.parametrize(("default", "expected"), [("on", True), ("off", False), ("keep", True), (False, False)])
def test_a_session_starts_with_the_default(hub, default, expected):
    hub.ports[3] = True
    Ykush(port="3", default=default).reset()
    assert hub.ports[3] is expected


def test_a_session_does_not_start_when_the_hub_does_not_take_the_default(hub):
    hub.stuck = True
    hub.ports[1] = True
    with pytest.raises(RuntimeError, match="port 1 was switched off, but reports on"):
        Ykush(port="1").reset()


@pytest.mark.parametrize("setting", [{"port": "0"}, {"port": "a"}, {"port": True}, {"default": "maybe"}, {"serial": 7}])
def test_a_wrong_setting_is_an_error_before_the_hub_is_touched(hub, setting):
    with pytest.raises(ValueError, match=f"^{next(iter(setting))} must be"):
        Ykush(**setting)
    assert hub.commands == []


def test_a_port_may_be_written_as_a_number(hub):
    assert port_of(port=3).port == "3"


def test_a_hub_that_is_not_there_is_reported_with_those_that_are(hub):
    with pytest.raises(FileNotFoundError, match=r"serial number 'YK9'.*YK00001.*lsusb"):
        port_of(serial="YK9")


def test_no_hub_at_all_is_reported(bus):
    bus.devices.clear()
    with pytest.raises(FileNotFoundError, match="None at all"):
        port_of()


def test_of_several_hubs_none_is_taken_by_chance(bus, hub):
    bus.devices.append(EmulatedYkush("YK00002"))
    with pytest.raises(RuntimeError, match=r"multiple YKUSH hub devices: .*YK00001.*YK00002.*'serial'"):
        port_of()


def test_the_serial_number_chooses_the_hub(bus, hub):
    bus.devices.append(EmulatedYkush("YK00002"))
    with serve(port_of(serial="YK00002", port="1")) as power:
        power.on()
    assert bus.devices[1].ports[1]
    assert hub.commands == []


def test_a_hub_found_without_serial_number_in_the_config_is_kept(bus, hub):
    driver = port_of(port="1")
    hub.is_plugged = False
    bus.devices.append(EmulatedYkush("YK00002"))
    with serve(driver) as power, pytest.raises(DriverError, match="YK00001"):
        power.on()
    assert bus.devices[1].commands == []


def test_a_second_hub_without_permission_does_not_hide_the_first(bus, hub):
    bus.devices.append(EmulatedYkush("YK00002"))
    bus.devices[1].is_forbidden = True
    port_of(serial="YK00001")


def test_missing_permission_is_explained_by_a_udev_rule(hub):
    hub.is_forbidden = True
    with pytest.raises(PermissionError, match=r'ATTR\{idVendor\}=="04d8".*udevadm'):
        port_of(serial="YK00001")
    hub.is_forbidden = False


def test_a_refused_command_is_an_error(hub):
    hub.refuses.add(0x11)
    with serve(port_of(port="1")) as power, pytest.raises(DriverError, match=r"refused to switch port 1 on.*ff 00"):
        power.on()


def test_a_port_that_does_not_switch_is_an_error(hub, monkeypatch):
    hub.stuck = True
    driver = port_of(port="1")
    monkeypatch.setattr(driver, "confirm", lambda state: type(driver).confirm(driver, state, 0.1))
    with serve(driver) as power, pytest.raises(DriverError, match="switched on, but reports off"):
        power.on()


@pytest.mark.parametrize("answer", [bytes(64), b"\x01\x12".ljust(64, b"\0"), b"\x01\x51".ljust(64, b"\0"), b"\x01"])
def test_an_answer_that_makes_no_sense_is_an_error(hub, answer):
    hub.garbage.append(answer)
    with (
        serve(port_of(port="1")) as power,
        pytest.raises(DriverError, match=r"did not tell the state|answered 1 bytes"),
    ):
        power.status()


def test_a_silent_hub_is_a_timeout(hub, monkeypatch):
    driver = port_of(port="1")
    hub.is_silent = True
    with serve(driver) as power, pytest.raises(DriverError, match="does not answer"):
        power.on()


def test_an_answer_that_nobody_fetched_is_not_taken_for_the_next_one(hub):
    hub.packets.append(b"\x01\x13".ljust(64, b"\0"))
    with serve(port_of(port="3")) as power:
        assert power.status() is PowerState.OFF


def test_an_unplugged_hub_is_an_error_and_works_again_after_it_was_plugged_in(hub):
    with serve(port_of(serial="YK00001", port="1")) as power:
        hub.is_plugged = False
        with pytest.raises(DriverError, match=r"no YKUSH hub with serial number 'YK00001' is plugged in"):
            power.on()
        hub.is_plugged = True
        power.on()
    assert hub.ports[1]


def test_a_hub_that_is_pulled_between_command_and_answer_is_an_error(hub):
    driver = port_of(port="1")

    def pulled(data):
        hub.is_plugged = False
        return []

    hub.report = pulled
    with serve(driver) as power, pytest.raises(DriverError, match="was unplugged"):
        power.on()


def test_the_kernels_driver_gets_the_hub_back(hub):
    hub.kernel_driver = True
    with serve(port_of(port="1")) as power:
        power.on()
        assert hub.kernel_driver


def test_a_hub_that_another_program_keeps_is_reported(hub, monkeypatch):
    driver = port_of(port="1")
    monkeypatch.setattr(hub_module, "CLAIM_TIMEOUT", 0.1)
    hub.claimed_by = "somebody"
    with serve(driver) as power, pytest.raises(DriverError, match="in use by another program"):
        power.on()
    hub.claimed_by = None


def test_drivers_of_one_hub_take_turns(hub):
    drivers = [port_of(port=str(port)) for port in (1, 2, 3)]
    failures = []

    def use(driver):
        try:
            for _ in range(20):
                driver._command(PowerState.ON)
                assert driver._state() == "on"
                driver._command(PowerState.OFF)
                assert driver._state() == "off"
        except Exception as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=use, args=[driver]) for driver in drivers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


def test_the_fifth_volt_output_of_a_ykush3_is_port_4(bus):
    bus.devices[:] = [EmulatedYkush3("Y3")]
    with serve(port_of(port="4")) as power:
        power.on()
        assert power.status() is PowerState.ON
    assert bus.devices[0].commands == [0x14, 0x24, 0x24]


def test_port_4_of_a_plain_ykush_is_refused(hub):
    with pytest.raises(ValueError, match="has no port '4'"):
        port_of(port="4")


def test_a_ykushxs_has_one_port_which_is_all_as_well(bus):
    bus.devices[:] = [EmulatedYkushXs("XS")]
    with serve(port_of()) as power:
        power.on()
    assert bus.devices[0].commands == [0x11, 0x21]


def test_a_legacy_board_is_sent_short_reports(bus):
    bus.devices[:] = [EmulatedLegacyYkush("L")]
    with serve(port_of(port="2")) as power:
        power.on()
    assert bus.devices[0].ports[2]


def test_missing_libusb_is_explained(monkeypatch):
    import usb.core

    monkeypatch.setattr("usb.backend.libusb1.get_backend", lambda: None)
    with pytest.raises(usb.core.NoBackendError, match=r"apt-get install libusb-1\.0-0"):
        port_of()


def test_the_client_needs_no_usb_library():
    code = "import sys, jumpstarter_driver_power.client; assert 'usb' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
