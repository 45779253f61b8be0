"""The virtual devices of the test bench do what tests rely on."""

import os
import subprocess
import time

import pytest

from jumpstarter_testbench.devices import UBOOT_PROMPT
from jumpstarter_testbench.requirements import program

pytestmark = pytest.mark.device


def test_a_board_boots_to_its_login_and_lets_the_user_in(board, guest_files):
    board.console.sendline(guest_files.user)
    board.console.expect_exact("Password: ", timeout=30)
    board.console.sendline(guest_files.password)
    board.console.expect_exact(guest_files.prompt, timeout=30)

    assert board.run("cat /proc/sys/kernel/ostype", guest_files.prompt).endswith("Linux")


def test_what_the_board_writes_to_its_disk_is_in_the_file(ready_board, guest_files, tmp_path):
    ready_board.run("echo written-by-the-board | dd of=/dev/vda conv=fsync 2>/dev/null", guest_files.prompt)

    ready_board.qmp.execute("quit")
    ready_board.process.wait(30)
    raw = tmp_path / "disk.raw"
    convert = [program("qemu-img"), "convert", "-O", "raw", ready_board.disk, raw]
    subprocess.run(convert, check=True, timeout=30)
    assert raw.read_bytes()[:20] == b"written-by-the-board"


def test_a_board_wakes_from_its_saved_state_within_seconds(saved_state, request, guest_files):
    started = time.monotonic()
    machine = request.getfixturevalue("ready_board")
    assert "up" in machine.run("uptime", guest_files.prompt)

    assert time.monotonic() - started < 10


@pytest.mark.parametrize("attempt", [1, 2])
def test_every_board_wakes_in_the_same_state(ready_board, guest_files, attempt):
    assert ready_board.run("ls /tmp", guest_files.prompt) == ""

    ready_board.run("touch /tmp/mark", guest_files.prompt)
    assert ready_board.run("ls /tmp", guest_files.prompt) == "mark"


@pytest.mark.need("ssh")
def test_a_woken_board_lets_its_user_in_over_ssh(ready_board, guest_files, tmp_path):
    answer = tmp_path / "answer"
    answer.write_text(f"#!/bin/sh\necho {guest_files.password}\n")
    answer.chmod(0o700)
    options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=30"]

    finished = subprocess.run(
        [
            *(program("ssh"), "-F", "none", "-p", str(ready_board.ssh_port)),
            *(part for option in options for part in ("-o", option)),
            *(f"{guest_files.user}@127.0.0.1", "hostname"),
        ],
        env={**os.environ, "SSH_ASKPASS": str(answer), "SSH_ASKPASS_REQUIRE": "force"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert finished.stdout == "board\n", finished.stderr


def test_uboot_answers_at_its_prompt(uboot):
    assert "U-Boot 20" in uboot.run("version", UBOOT_PROMPT)


def test_uboot_writes_to_its_disk(uboot):
    uboot.run("mw.b ${loadaddr} 0x5a 0x200", UBOOT_PROMPT)

    assert "1 blocks written: OK" in uboot.run("virtio write ${loadaddr} 0 1", UBOOT_PROMPT)
    assert uboot.disk.read_bytes()[:513] == b"\x5a" * 512 + b"\0"
