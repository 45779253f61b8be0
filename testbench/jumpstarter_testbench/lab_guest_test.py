"""What the lab guest offers; these tests run inside it."""

import os
import socket
import struct
import subprocess
import urllib.request
from pathlib import Path

import pytest

from jumpstarter_testbench import lab_guest
from jumpstarter_testbench.process import free_port, running
from jumpstarter_testbench.requirements import program

pytestmark = pytest.mark.lab_guest


def modprobe(*modules):
    for module in modules:
        subprocess.run([program("modprobe"), module], check=True, capture_output=True, timeout=60)


def test_the_test_runs_in_the_guest_with_the_environment_of_the_host():
    assert lab_guest.inside()
    assert "amd64" in os.uname().release
    assert Path(pytest.__file__).is_file()


def test_can_frames_pass_through_a_virtual_bus():
    modprobe("vcan", "can_raw")
    subprocess.run(["ip", "link", "add", "vcan0", "type", "vcan"], check=True)
    subprocess.run(["ip", "link", "set", "vcan0", "up"], check=True)
    frame = struct.pack("=IB3x8s", 0x123, 4, b"\xde\xad\xbe\xef")
    with (
        socket.socket(socket.AF_CAN, socket.SOCK_RAW, socket.CAN_RAW) as sender,
        socket.socket(socket.AF_CAN, socket.SOCK_RAW, socket.CAN_RAW) as receiver,
    ):
        receiver.settimeout(10)
        receiver.bind(("vcan0",))
        sender.bind(("vcan0",))
        sender.send(frame)

        assert receiver.recv(16) == frame


@pytest.mark.need("ustreamer")
def test_a_virtual_camera_delivers_pictures(tmp_path):
    modprobe("vivid")
    wait_for(Path("/dev/video0"))
    port = free_port()

    def online() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/state", timeout=5) as answer:
            return b'"online": true' in answer.read()

    command = [program("ustreamer"), "--device", "/dev/video0", "--host", "127.0.0.1", "--port", str(port)]
    with (
        running(command, log=tmp_path / "log", ready=online, timeout=60),
        urllib.request.urlopen(f"http://127.0.0.1:{port}/snapshot", timeout=30) as answer,
    ):
        assert answer.read().startswith(b"\xff\xd8")


def wait_for(*paths, timeout=30):
    import time

    deadline = time.monotonic() + timeout
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline, f"no {', '.join(map(str, paths))} after {timeout} s"
        time.sleep(0.1)
