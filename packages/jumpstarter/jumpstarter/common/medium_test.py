"""Media that are held: files stand in, everything that isn't meant is refused with its descriptor closed."""

import os

import pytest

from jumpstarter.common.medium import Disk, WrongMedium, hold, holds_medium


def accept(disk):
    assert disk is None


def test_a_file_stands_in_for_a_medium(tmp_path):
    path = tmp_path / "card"
    path.write_bytes(b"content")
    medium = hold(path, accept, writing=True)
    try:
        assert medium.path == path
        medium.check_stored()
        assert not medium.is_gone()
    finally:
        medium.close()


def test_what_is_neither_disk_nor_file_is_refused_and_not_left_open():
    before = os.listdir("/proc/self/fd")
    with pytest.raises(WrongMedium, match="/dev/null can't be used: it is neither a block device nor a file"):
        hold("/dev/null", accept, writing=True)
    assert set(os.listdir("/proc/self/fd")) <= set(before)


def test_a_medium_that_the_check_refuses_is_not_left_open(tmp_path):
    def refuse(disk):
        raise WrongMedium("not this one")

    path = tmp_path / "card"
    path.touch()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(WrongMedium, match="not this one"):
        hold(path, refuse, writing=False)
    assert set(os.listdir("/proc/self/fd")) <= set(before)


def test_a_missing_medium_is_told_from_one_that_is_there(tmp_path):
    (tmp_path / "card").touch()
    assert holds_medium(tmp_path / "card")
    assert not holds_medium(tmp_path / "missing")


def test_a_disk_says_what_it_is(tmp_path):
    for name, value in (("idVendor", "0781"), ("idProduct", "5567"), ("serial", "S1")):
        (tmp_path / name).write_text(f"{value}\n")
    assert str(Disk(name="sda", usb=tmp_path)) == "/dev/sda (0781:5567, serial S1)"
    assert str(Disk(name="nvme0n1", usb=None)) == "/dev/nvme0n1 (not on USB)"
