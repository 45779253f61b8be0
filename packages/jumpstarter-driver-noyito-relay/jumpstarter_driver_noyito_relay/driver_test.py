"""Relay boards on a serial port, against a board that speaks their protocol on a pseudo-terminal."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner
from jumpstarter.client.core import DriverError, DriverMethodNotImplemented
from jumpstarter.common.utils import serve
from jumpstarter_driver_power.common import PowerNotConfirmed
from jumpstarter_testbench import readme
from jumpstarter_testbench.relay_boards import RelayBoard, SerialPlug

from jumpstarter_driver_noyito_relay import board as board_module
from jumpstarter_driver_noyito_relay.board import SerialBoard
from jumpstarter_driver_noyito_relay.client import NoyitoPowerClient, RelayState
from jumpstarter_driver_noyito_relay.driver import NoyitoPowerHID, NoyitoPowerSerial
from jumpstarter_driver_noyito_relay.protocol import RelayBoardError, command, parse_status


@pytest.fixture
def plug(tmp_path: Path) -> Iterator[SerialPlug]:
    """A board with four relays that is plugged in."""
    with SerialPlug(RelayBoard(), tmp_path / "ttyRelay") as plug:
        yield plug


@pytest.fixture
def board(plug: SerialPlug) -> RelayBoard:
    """Its relays and firmware."""
    return plug.board


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices that don't answer, or don't obey, are given up soon."""
    monkeypatch.setattr(board_module, "ANSWER_TIMEOUT", 0.2)
    monkeypatch.setattr(NoyitoPowerSerial.confirm, "__defaults__", (0.2,))


def power(plug: SerialPlug, **config: Any) -> NoyitoPowerSerial:
    return NoyitoPowerSerial(port=str(plug.path), **config)


def test_commands_are_those_of_the_data_sheet() -> None:
    assert command(1, 1) == bytes.fromhex("A00101A2")
    assert command(1, 0) == bytes.fromhex("A00100A1")
    assert command(4, 1) == bytes.fromhex("A00401A5")
    assert command(0x0F, 2) == bytes.fromhex("A00F02B1")


@pytest.mark.parametrize("answer", [b"CH1:ON\r\nCH2:OFF\r\n", b"CH1: ON \r\nCH2: OFF \r\n", b"ch1:onch2:off"])
def test_status_lines_are_understood_in_the_forms_of_different_boards(answer: bytes) -> None:
    assert parse_status(answer) == {1: True, 2: False}


async def test_only_the_configured_channel_is_switched(plug: SerialPlug, board: RelayBoard) -> None:
    relay = power(plug, channel=3)

    await relay.on()
    assert board.closed == {1: False, 2: False, 3: True, 4: False}
    assert await relay.status() == "on"

    await relay.off()
    assert await relay.status() == "off"
    assert board.commands == [(3, 1), (3, 0)]


async def test_all_channels_are_switched_together_without_being_counted(plug: SerialPlug, board: RelayBoard) -> None:
    relays = power(plug, all_channels=True)

    await relays.on()

    assert all(board.closed.values())
    assert await relays.status() == "on"


async def test_some_of_all_channels_being_on_is_partial(plug: SerialPlug, board: RelayBoard) -> None:
    board.closed[2] = True

    assert await power(plug, all_channels=True).status() == "partial"


def test_client_has_the_commands_of_power_and_a_status_of_its_own(plug: SerialPlug, board: RelayBoard) -> None:
    with serve(power(plug, all_channels=True)) as client:
        assert isinstance(client, NoyitoPowerClient)
        client.on()
        assert client.status() is RelayState.ON
        board.closed[1] = False
        assert client.status() is RelayState.PARTIAL
        answer = CliRunner().invoke(client.cli(), ["status"])
        assert (answer.exit_code, answer.output) == (0, "partial\n")
        client.cycle(0)
        assert client.status() == "on"
        with pytest.raises(DriverMethodNotImplemented, match="measure nothing"):
            list(client.read())


def test_relay_that_does_not_obey_is_an_error(plug: SerialPlug, board: RelayBoard, hurried: None) -> None:
    board.stuck = True

    with serve(power(plug)) as client, pytest.raises(DriverError, match="was switched on, but reports off"):
        client.on()


async def test_board_that_does_not_answer_is_an_error_and_nothing_is_switched(
    plug: SerialPlug, board: RelayBoard, hurried: None
) -> None:
    board.silent = True

    with pytest.raises(RelayBoardError, match=r"did not answer the query .* 'reports_status: false'"):
        await power(plug).on()
    assert board.commands == []


async def test_board_that_can_not_answer_is_switched_blindly_when_the_config_says_so(
    plug: SerialPlug, board: RelayBoard
) -> None:
    board.silent = True
    relay = power(plug, reports_status=False)

    await relay.on()
    # The pseudo-terminal hands bytes over in its own time; a query that is answered comes after them.
    board.silent = False
    assert (await power(plug).status(), board.commands) == ("on", [(1, 1)])
    with pytest.raises(NotImplementedError, match="reports_status"):
        await relay.status()


@pytest.mark.parametrize("answer", [b"login: ", bytes(range(128, 200)), b"A" * 10_000])
async def test_device_that_answers_something_else_is_named(
    plug: SerialPlug, board: RelayBoard, hurried: None, answer: bytes
) -> None:
    board.answer = answer

    with pytest.raises(RelayBoardError, match="no status line"):
        await power(plug).status()


async def test_channel_that_the_board_lacks_is_an_error_before_anything_is_switched(
    plug: SerialPlug, board: RelayBoard
) -> None:
    with pytest.raises(RelayBoardError, match="has no channel 7; it reports 1, 2, 3, 4"):
        await power(plug, channel=7).on()
    assert board.commands == []


async def test_board_that_is_missing_is_an_error_and_works_when_plugged_in(plug: SerialPlug, board: RelayBoard) -> None:
    relay = power(plug)
    plug.unplug()
    with pytest.raises(RelayBoardError, match=r"ttyRelay can't be opened: there is no such device\. Check"):
        await relay.on()

    plug.plug()
    await relay.on()

    assert board.closed[1]


async def test_board_that_is_unplugged_in_use_is_an_error_and_works_again(plug: SerialPlug, board: RelayBoard) -> None:
    relay = power(plug)
    plug.unplugs_when_asked = True
    with pytest.raises(RelayBoardError, match=r"broke: .* Plug it in again"):
        await relay.on()
    plug.unplug()

    plug.unplugs_when_asked = False
    plug.plug()
    await relay.on()

    assert board.closed[1]


async def test_file_that_is_no_serial_port_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(RelayBoardError, match="can't be opened"):
        await NoyitoPowerSerial(port=str(tmp_path / "file")).on()


def test_channels_of_one_board_are_switched_at_the_same_time_by_several_drivers(
    plug: SerialPlug, board: RelayBoard
) -> None:
    boards = [SerialBoard(str(plug.path), 4) for _ in range(3)]
    threads = [threading.Thread(target=each.switch, args=([number], True)) for number, each in enumerate(boards, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert boards[0].states() == {1: True, 2: True, 3: True, 4: False}


def test_port_that_another_program_has_is_waited_for(plug: SerialPlug, monkeypatch: pytest.MonkeyPatch) -> None:
    import serial

    with serial.Serial(str(plug.path), exclusive=True):
        monkeypatch.setattr(board_module, "BUSY_TIMEOUT", 0.2)
        with pytest.raises(RelayBoardError, match="another program has it open"):
            SerialBoard(str(plug.path)).states()
    assert SerialBoard(str(plug.path)).states()


def test_nothing_is_open_between_two_calls(plug: SerialPlug) -> None:
    import serial

    relay = power(plug)
    with serve(relay) as client:
        client.on()
        serial.Serial(str(plug.path), exclusive=True).close()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"port": ""}, "port must be a device path"),
        ({"port": "/dev/x", "channel": 0}, "channel must be a whole number from 1 to 14, not 0"),
        ({"port": "/dev/x", "channel": "1"}, "channel must be a whole number"),
        ({"port": "/dev/x", "channel": 5, "num_channels": 4}, "from 1 to 4, not 5"),
        ({"port": "/dev/x", "num_channels": 0}, "num_channels must be"),
        ({"port": "/dev/x", "all_channels": "yes"}, "all_channels must be true or false"),
        ({"port": "/dev/x", "all_channels": True, "reports_status": False}, "all_channels needs num_channels"),
    ],
)
def test_bad_config_of_a_serial_board_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoyitoPowerSerial(**config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_channels": 2}, "num_channels must be 4 or 8"),
        ({"channel": 5}, "from 1 to 4, not 5"),
        ({"vendor_id": 0}, "vendor_id must be"),
        ({"product_id": "2007"}, "product_id must be"),
        ({"serial": 17}, "put it into quotes"),
    ],
)
def test_bad_config_of_a_hid_board_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoyitoPowerHID(**config)


async def test_hid_board_that_is_missing_is_an_error() -> None:
    with pytest.raises(RelayBoardError, match="140b:07d7 is not there"):
        await NoyitoPowerHID().on()


async def test_confirmation_is_asked_of_the_board(plug: SerialPlug, board: RelayBoard, hurried: None) -> None:
    board.closed[1] = board.stuck = True

    with pytest.raises(PowerNotConfirmed):
        await power(plug).off()


async def test_cancelled_call_leaves_the_port_to_others(
    plug: SerialPlug, board: RelayBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board_module, "ANSWER_TIMEOUT", 0.5)
    board.silent = True
    relay = power(plug)
    with anyio.move_on_after(0.1) as scope, suppress(RelayBoardError):
        await relay.on()
    assert scope.cancel_called

    board.silent = False
    relay.close()
    await power(plug).on()

    assert board.commands == [(1, 1)]


def test_configs_of_the_readme_make_their_drivers() -> None:
    drivers = {name: entry.instantiate() for name, entry in readme.exports(__file__).items()}

    assert {name: type(driver) for name, driver in drivers.items()} == {
        "power": NoyitoPowerSerial,
        "lamps": NoyitoPowerSerial,
        "rack": NoyitoPowerHID,
    }
