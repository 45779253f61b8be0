"""The driver against an emulated hub as a USB device of a real kernel, in the lab guest: libusb, usbhid, unplugging."""

import os
import signal
import subprocess
import sys

import pytest
from jumpstarter.client.core import DriverError
from jumpstarter.common.utils import serve
from jumpstarter_driver_power.common import PowerState
from jumpstarter_testbench.usb_gadgets import modprobe, wait_until

from jumpstarter_driver_yepkit.driver import Ykush
from jumpstarter_driver_yepkit.emulation import EmulatedYkush, EmulatedYkush3

pytestmark = [pytest.mark.lab_guest, pytest.mark.need("libusb")]


@pytest.fixture
def hub():
    return EmulatedYkush("YK77777")


@pytest.fixture
def gadget(hub):
    with hub.gadget() as gadget:
        yield gadget


def kernel_driver(gadget):
    links = list(gadget.path.glob("*:1.0/driver"))
    return links[0].resolve().name if links else None


def opened_by(pid, node):
    folder = f"/proc/{pid}/fd"
    return any(os.path.realpath(f"{folder}/{name}") == str(node) for name in os.listdir(folder))


def test_a_port_is_switched_and_nothing_stays_open(gadget, hub):
    with serve(Ykush(serial="YK77777", port="2", default="off")) as power:
        power.on()
        assert hub.ports == {1: False, 2: True, 3: False}
        assert power.status() is PowerState.ON
        power.cycle(0)
        power.off()
        assert power.status() is PowerState.OFF

        assert not opened_by("self", gadget.node)


def test_the_kernels_driver_which_binds_to_a_ykush3_gets_it_back():
    modprobe("usbhid", "hid_generic")
    hub = EmulatedYkush3("YK33333")
    with hub.gadget() as gadget, serve(Ykush(serial="YK33333", port="4", default="keep")) as power:
        wait_until(lambda: kernel_driver(gadget) == "usbhid", "usbhid at the hub")
        power.on()
        assert hub.ports[4]
        wait_until(lambda: kernel_driver(gadget) == "usbhid", "usbhid at the hub again")


def test_an_unplugged_hub_is_an_error_and_works_again_after_it_was_plugged_in(gadget, hub):
    with serve(Ykush(serial="YK77777", port="1", default="keep")) as power:
        power.on()
        gadget.unplug()
        with pytest.raises(DriverError, match="no YKUSH hub with serial number 'YK77777' is plugged in"):
            power.off()
        assert hub.ports[1]
        gadget.plug()
        power.off()
    assert not hub.ports[1]


def test_of_two_hubs_the_one_with_the_serial_number_is_switched(gadget, hub):
    other = EmulatedYkush("YK88888")
    with other.gadget():
        with pytest.raises(RuntimeError, match=r"YK77777.*YK88888|YK88888.*YK77777"):
            Ykush(default="keep")
        with serve(Ykush(serial="YK88888", port="3", default="keep")) as power:
            power.on()
    assert other.ports[3]
    assert hub.commands == []


HOLD = """
import sys
from jumpstarter_driver_yepkit.hub import opened
with opened("YK77777") as hub:
    hub._handle.write(hub._out, bytes([0x21]).ljust(64, b"\\0"), 2000)  # and nobody fetches the answer
    print("claimed", flush=True)
    sys.stdin.read()
"""


def test_a_killed_program_leaves_neither_a_claim_nor_an_answer_that_confuses_the_next(gadget, hub):
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"claimed\n"
        holder.send_signal(signal.SIGKILL)
        holder.wait(30)
    with serve(Ykush(serial="YK77777", port="3", default="keep")) as power:
        power.on()
        assert power.status() is PowerState.ON
    assert hub.ports[3]
