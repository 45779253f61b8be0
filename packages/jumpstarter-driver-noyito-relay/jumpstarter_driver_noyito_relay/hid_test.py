"""Relay boards that are HID devices, as the lab guest's kernel sees them."""

from __future__ import annotations

import pytest
from jumpstarter_testbench.relay_boards import PRODUCT, VENDOR, RelayBoard, hid_function
from jumpstarter_testbench.usb_gadgets import Gadget, modprobe, wait_until

from jumpstarter_driver_noyito_relay.board import HidBoard
from jumpstarter_driver_noyito_relay.driver import NoyitoPowerHID
from jumpstarter_driver_noyito_relay.protocol import RelayBoardError

pytestmark = pytest.mark.lab_guest


def gadget(board: RelayBoard, serial: str = "") -> Gadget:
    modprobe("usbhid", "hid_generic")
    return Gadget(vendor=VENDOR, product=PRODUCT, serial=serial, functions=[hid_function(board)])


def wait_for_node(plugged: Gadget) -> None:
    wait_until(lambda: bool(list(plugged.path.glob("*/*/hidraw/*"))), "hidraw node")


async def test_channels_of_a_hid_board_are_switched_and_confirmed() -> None:
    board = RelayBoard(channels=8)
    with gadget(board) as plugged:
        wait_for_node(plugged)
        relay = NoyitoPowerHID(num_channels=8, channel=8)

        await relay.on()
        assert board.commands == [(8, 1)]
        assert await relay.status() == "on"
        assert await NoyitoPowerHID(num_channels=8, all_channels=True).status() == "partial"
        await relay.off()
        assert not any(board.closed.values())


async def test_boards_are_told_apart_by_serial_number() -> None:
    first, second = RelayBoard(), RelayBoard()
    with gadget(first, "R1") as plugged, gadget(second, "R2") as other:
        wait_for_node(plugged)
        wait_for_node(other)
        with pytest.raises(RelayBoardError, match=r"there are 2 boards .* \['R1', 'R2'\]"):
            await NoyitoPowerHID().on()

        await NoyitoPowerHID(serial="R2").on()

        assert (first.closed[1], second.closed[1]) == (False, True)


async def test_unplugged_hid_board_is_an_error_and_works_again() -> None:
    board = RelayBoard()
    with gadget(board) as plugged:
        relay = NoyitoPowerHID()
        plugged.unplug()
        with pytest.raises(RelayBoardError, match="is not there"):
            await relay.on()

        plugged.plug()
        wait_for_node(plugged)
        await relay.on()

        assert board.closed[1]


def test_hid_board_that_is_silent_is_an_error() -> None:
    board = RelayBoard(silent=True)
    with gadget(board) as plugged:
        wait_for_node(plugged)
        with pytest.raises(RelayBoardError, match="did not answer"):
            HidBoard(VENDOR, PRODUCT, None, 4).states()
