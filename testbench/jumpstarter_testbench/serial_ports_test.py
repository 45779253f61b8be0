"""The serial ports of the test bench carry what tests rely on."""

import pytest
import serial

pytestmark = pytest.mark.daemon


def test_what_goes_into_one_end_of_a_pty_pair_comes_out_of_the_other(pty_pair):
    with (
        serial.Serial(str(pty_pair.near), timeout=5) as near,
        serial.Serial(str(pty_pair.far), timeout=5) as far,
    ):
        near.write(b"to far\r\n")
        far.write(b"\x00\xffto near")

        assert far.read(8) == b"to far\r\n"
        assert near.read(9) == b"\x00\xffto near"


def test_a_pty_pair_outlives_a_reader_that_goes_away(pty_pair):
    with serial.Serial(str(pty_pair.far), timeout=5):
        pass
    with (
        serial.Serial(str(pty_pair.near), timeout=5) as near,
        serial.Serial(str(pty_pair.far), timeout=5) as far,
    ):
        near.write(b"again")

        assert far.read(5) == b"again"


def test_rfc2217_carries_data_and_modem_lines(rfc2217_loop):
    with serial.serial_for_url(rfc2217_loop.url, timeout=5) as port:
        port.write(b"\xff\x00echo")
        assert port.read(6) == b"\xff\x00echo"

        port.rts = False
        assert _becomes(lambda: port.cts, False)
        port.rts = True
        assert _becomes(lambda: port.cts, True)


def test_rfc2217_serves_the_next_client_after_one_has_left(rfc2217_loop):
    for attempt in (b"first", b"second"):
        with serial.serial_for_url(rfc2217_loop.url, timeout=5) as port:
            port.write(attempt)
            assert port.read(len(attempt)) == attempt


def test_rfc2217_reaches_the_device_behind_a_pty(rfc2217_pty, pty_pair):
    with (
        serial.serial_for_url(rfc2217_pty.url, timeout=5, baudrate=9600) as port,
        serial.Serial(str(pty_pair.far), timeout=5) as device,
    ):
        device.write(b"login: ")
        assert port.read(7) == b"login: "

        port.write(b"root\r")
        assert device.read(5) == b"root\r"


def _becomes(read, wanted, timeout=5):
    import time

    deadline = time.monotonic() + timeout
    while read() is not wanted:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
