"""Channels of NVIDIA boards, with a program in the place of `nv_tcu_demuxer` that makes real pseudo-terminals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jumpstarter.client.core import DriverError
from jumpstarter.common.utils import serve
from jumpstarter_driver_composite.driver import Composite
from jumpstarter_testbench.process import python_program

from jumpstarter_driver_pyserial.nvdemux.driver import NVDemuxSerial
from jumpstarter_driver_pyserial.nvdemux.manager import DemuxerManager, _has_glob_chars, _resolve_device

DEMUXER = """
# Takes the place of nv_tcu_demuxer: every channel sends back what it is sent, in front of it its own name. It ends
# when the device does.
import os, pty, select, sys, time, tty
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if arguments["-m"] != "T264":
    sys.exit("unknown chip " + arguments["-m"])
channels = {}
for name in ("CCPLEX: 0", "BPMP: 1"):
    master, slave = pty.openpty()
    tty.setraw(slave)
    channels[master] = name
    print(os.ttyname(slave) + "\\t" + name, flush=True)
while os.path.exists(arguments["-d"]):
    for master in select.select(list(channels), [], [], 0.02)[0]:
        os.write(master, channels[master].encode() + b" " + os.read(master, 100))
"""

BOUND = 10.0


@pytest.fixture
def demuxer(tmp_path: Path) -> Path:
    """The program."""
    return python_program(tmp_path / "nv_tcu_demuxer", DEMUXER)


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """The combined port of the board; only that it exists matters."""
    device = tmp_path / "usb-NVIDIA_Tegra_1-if01"
    device.touch()
    return device


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Leave no manager behind."""
    yield
    DemuxerManager.reset_instance()


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until something is so, for a bounded time."""
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def echo(client: Any, word: bytes, expected: bytes) -> None:
    """Send a word and wait for what comes back."""
    with client.stream() as stream:
        stream.send(word)
        data = b""
        while len(data) < len(expected):
            data += stream.receive()
        assert data == expected


def test_channels_are_split_by_one_program(demuxer: Path, device: Path) -> None:
    settings: dict[str, Any] = {"demuxer_path": str(demuxer), "device": f"{device.parent}/usb-NVIDIA_*-if01"}
    children = {
        "ccplex": NVDemuxSerial(**settings, poll_interval=0.05),
        "bpmp": NVDemuxSerial(**settings, poll_interval=0.05, target="BPMP: 1"),
    }
    with serve(Composite(children=children)) as client:
        echo(client.ccplex, b"x", b"CCPLEX: 0 x")
        echo(client.bpmp, b"y", b"BPMP: 1 y")


def test_program_runs_again_when_the_device_reappears(demuxer: Path, device: Path) -> None:
    driver = NVDemuxSerial(demuxer_path=str(demuxer), device=str(device), poll_interval=0.05)
    with serve(driver) as client:
        echo(client, b"x", b"CCPLEX: 0 x")
        device.unlink()
        eventually(lambda: not DemuxerManager.get_instance().is_ready("CCPLEX: 0"))
        device.touch()
        echo(client, b"y", b"CCPLEX: 0 y")


def test_missing_device_is_reported_after_the_time(demuxer: Path, tmp_path: Path) -> None:
    driver = NVDemuxSerial(demuxer_path=str(demuxer), device=f"{tmp_path}/none*", timeout=0.1)
    with serve(driver) as client, pytest.raises(DriverError, match=r"CCPLEX: 0 was not there after 0\.1 s"):
        echo(client, b"x", b"")


@pytest.mark.parametrize(
    ("settings", "reason"), [({"chip": "T999"}, "unknown chip T999"), ({"demuxer_path": "/none"}, "No such file")]
)
def test_program_that_fails_is_quoted_in_the_log(
    demuxer: Path, device: Path, settings: dict[str, str], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"demuxer_path": str(demuxer), "device": str(device), **settings}
    with serve(NVDemuxSerial(**config, poll_interval=0.05)):
        eventually(lambda: reason in caplog.text)


def test_drivers_must_agree_and_differ_in_their_target(demuxer: Path, device: Path) -> None:
    first = NVDemuxSerial(demuxer_path=str(demuxer), device=str(device))
    try:
        with pytest.raises(ValueError, match="the same target 'CCPLEX: 0'"):
            NVDemuxSerial(demuxer_path=str(demuxer), device=str(device))
        with pytest.raises(ValueError, match="demuxer_path, device and chip must be the same"):
            NVDemuxSerial(demuxer_path=str(demuxer), device=str(device), chip="T234", target="BPMP: 1")
    finally:
        first.close()


def test_last_driver_ends_the_program(demuxer: Path, device: Path) -> None:
    driver = NVDemuxSerial(demuxer_path=str(demuxer), device=str(device), poll_interval=0.05)
    manager = DemuxerManager.get_instance()
    eventually(lambda: manager.is_ready("CCPLEX: 0"))
    assert manager._process is not None
    pid = manager._process.popen.pid
    driver.close()
    assert not Path(f"/proc/{pid}").exists()
    assert manager.get_pts_path(str(driver.uuid)) is None


def test_patterns_name_the_first_device(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).touch()
    assert _has_glob_chars("/dev/x*")
    assert not _has_glob_chars("/dev/x")
    assert _resolve_device(f"{tmp_path}/[ab]") == f"{tmp_path}/a"
    assert _resolve_device(f"{tmp_path}/b") == f"{tmp_path}/b"
    assert _resolve_device(f"{tmp_path}/c*") is None
