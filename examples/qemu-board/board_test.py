"""A board from power-on to power-off: it boots, is logged in to, flashed, and looked at.

An ordinary test with Jumpstarter. It runs against whatever board the shell around it has, here the virtual one:

    jmp shell --exporter-config examples/qemu-board/exporter.yaml -- pytest -s examples/qemu-board/board_test.py
"""

from __future__ import annotations

import hashlib
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jumpstarter_driver_network.adapters import TcpPortforwardAdapter
from jumpstarter_testing import JumpstarterTest

FIRMWARE = Path(__file__).resolve().parents[2] / ".cache" / "qemu-board" / "firmware.img"
BOOT_TIMEOUT = 60
COMMAND_TIMEOUT = 30
PROMPT = "jumpstarter@demo:~#"


@pytest.fixture(scope="class")
def console(client: Any, console_log: Any) -> Iterator[Any]:
    """The serial console, open over all power cycles; everything it says is recorded."""
    with client.board.console.pexpect() as session:
        session.logfile_read = console_log
        yield session


def log_in(console: Any) -> None:
    """Wait for the board to boot, and log in."""
    console.expect_exact("demo login: ", timeout=BOOT_TIMEOUT)
    console.sendline("jumpstarter")
    console.expect_exact("assword: ", timeout=COMMAND_TIMEOUT)
    console.sendline("password")
    console.expect_exact(PROMPT, timeout=COMMAND_TIMEOUT)


def run(console: Any, command: str) -> str:
    """Run a command on the board; return what it printed."""
    console.sendline(f"{command}; echo stat''us $?")
    console.expect(r"\n(.*?)status (\d+)\r\n", timeout=COMMAND_TIMEOUT)
    output, status = console.match.group(1).decode().strip(), int(console.match.group(2))
    console.expect_exact(PROMPT, timeout=COMMAND_TIMEOUT)
    assert status == 0, f"{command} failed with exit status {status}: {output}"
    return output


class TestBoard(JumpstarterTest):
    """The tests run in this order, on one board."""

    selector = "example=qemu-board"

    def test_boots_to_a_login(self, client: Any, console: Any, step: Any) -> None:
        with step("switch the board on and wait for its login, watching the console"):
            client.board.power.on()
            log_in(console)

    def test_runs_commands(self, console: Any, step: Any) -> None:
        with step("run commands on the serial console"):
            assert run(console, "hostname") == "demo"
            assert run(console, "uname -m") == "x86_64"

    def test_shows_its_screen(self, client: Any, artifacts: Path, step: Any) -> None:
        with step("take a picture of the screen"):
            picture = client.board.screenshot(artifacts / "screen.png")
        assert picture.startswith(b"\x89PNG")

    def test_takes_an_ssh_session(self, client: Any, step: Any) -> None:
        with step("open an SSH session"), client.board.shell() as shell:
            result = shell.run("cat /proc/uptime", hide=True, in_stream=False)
            print(f"    up for {result.stdout.split()[0]} s")

    def test_serves_a_page_through_a_port_forward(self, client: Any, console: Any, step: Any) -> None:
        with step("start a web server on the board and read its page through a port forward"):
            run(console, "mkdir -p /www; echo 'hello from the board' > /www/index.html; httpd -p 80 -h /www")
            with (
                TcpPortforwardAdapter(client=client.board.web) as (host, port, *_),
                urllib.request.urlopen(f"http://{host}:{port}/", timeout=COMMAND_TIMEOUT) as page,
            ):
                assert page.read() == b"hello from the board\n"

    def test_shuts_down_when_its_button_is_pressed(self, client: Any, step: Any) -> None:
        with step("press the power button and wait until the board is off"):
            client.board.shutdown()
        assert client.board.power.status() == "off"

    def test_finds_the_firmware_that_it_is_flashed_with(self, client: Any, console: Any, step: Any) -> None:
        size = FIRMWARE.stat().st_size
        with step(f"flash {FIRMWARE.name} ({size >> 20} MiB) from here to the board's disk"):
            client.board.flasher.flash(FIRMWARE)
        with step("boot again"):
            client.board.power.on()
            log_in(console)
        with step("have the board hash its disk, and compare"):
            expected = hashlib.sha256(FIRMWARE.read_bytes()).hexdigest()
            assert run(console, "sha256sum /dev/vda").split()[0] == expected
        with step("run the self-test of the firmware"):
            run(console, "mount -r /dev/vda /mnt")
            assert run(console, "sh /mnt/selftest").endswith("on demo: all good")

    def test_switches_off(self, client: Any, step: Any) -> None:
        with step("switch the board off"):
            client.board.power.off()
        assert client.board.state() == "off"
