"""USB devices: which one is meant, and what libusb's errors say to a user."""

import errno

import pytest
import usb.core

from jumpstarter.common.usb import UsbDevice, first_match, translated, turn


def device(serial, problem=None):
    return UsbDevice(handle=None, vendor=0x1209, product=1, serial=serial, problem=problem)


def test_the_serial_number_chooses():
    first, second = device("A"), device("B")
    assert first_match([first, second], "B", "thing") is second


def test_without_a_serial_number_only_a_single_device_is_taken():
    assert first_match([device("A")], None, "thing").serial == "A"
    with pytest.raises(RuntimeError, match=r"multiple thing devices: 1209:0001 serial A, 1209:0001 serial B\. Set"):
        first_match([device("A"), device("B")], None, "thing")


def test_twins_are_told_to_be_twins():
    with pytest.raises(RuntimeError, match="give each a serial number of its own"):
        first_match([device("A"), device("A")], "A", "thing")


def test_a_device_that_may_be_the_one_but_can_not_be_asked_is_the_error():
    with pytest.raises(PermissionError, match="not yours"):
        first_match([device("A"), device(None, PermissionError("not yours"))], "B", "thing")


def test_a_missing_device_is_reported_with_those_that_are_there():
    with pytest.raises(FileNotFoundError, match=r"no thing with serial number 'B' is plugged in.*serial A"):
        first_match([device("A")], "B", "thing")


@pytest.mark.parametrize(
    ("number", "kind", "text"),
    [
        (errno.ENODEV, ConnectionError, "was unplugged"),
        (errno.EACCES, PermissionError, "may not be opened by user"),
        (errno.ETIMEDOUT, TimeoutError, "does not answer"),
        (errno.EBUSY, BlockingIOError, "in use by another program"),
        (errno.EPIPE, OSError, "refused the request"),
        (errno.EIO, OSError, "transfer with the thing failed: boom"),
        (None, OSError, "transfer with the thing failed: boom"),
    ],
)
def test_errors_of_libusb_say_what_to_do(number, kind, text):
    with pytest.raises(kind, match=text), translated("the thing"):
        raise usb.core.USBError("boom", -1, number)


def test_users_of_one_device_share_a_lock():
    assert turn(device("A")) is turn(device("A"))
    assert turn(device("A")) is not turn(device("B"))
