"""Text of a terminal without what only a screen needs, and commands that fit one line."""

from __future__ import annotations

import pytest

from .common import DhcpInfo
from .dialects import SHELL, UBOOT, complete
from .text import Cleaner, lines_of, matched


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_pieces_don_t_matter(size):
    raw = "a\x1b[6nb\x1b[1;31mc\x1b[0m\r\r\n\x1b]0;t\x07ü€\x1b(B.\x1b=x\r\n".encode()
    cleaner = Cleaner()
    assert "".join(cleaner.feed(raw[i : i + size]) for i in range(0, len(raw), size)) == "abc\nü€.x\n"


def test_lines_are_those_that_a_terminal_shows():
    assert lines_of("Loading: *\x08##\ncount 2 \x08\x08\x083\n 10%\r 20%\r\x07\nlast") == [
        "Loading: ##",
        "count3",
        "",
        "last",
    ]
    assert lines_of("a\n\nb\n") == ["a", "", "b"]
    assert lines_of("") == []


def test_bytes_that_are_no_text_are_replaced():
    assert Cleaner().feed(b"\xff\xfea") == "\ufffd\ufffda"


def test_an_echo_may_have_more_in_between_but_nothing_less():
    assert matched("setenv", "set\n[ 1.0] usb\nenv") == 6
    assert matched("setenv", "stenv") < 6
    assert matched("", "") == 0


@pytest.mark.parametrize(
    ("command", "body"),
    [
        ("echo a; echo b;", "echo a; echo b;"),
        ("echo a#b 'c # d' # comment", "echo a#b 'c # d' "),
        ("echo it\\'s", "echo it\\'s"),
        ("echo '\\'", "echo '\\'"),
        ('echo "a; b"', 'echo "a; b"'),
    ],
)
def test_commands_of_u_boot_that_are_complete(command, body):
    assert complete(command) == body


def test_short_commands_stay_as_they_are():
    assert SHELL.shortened("echo a") == ["echo a"]
    assert UBOOT.shortened("x" * 5000) == ["x" * 5000]
    assert all(len(part) < 1000 for part in SHELL.shortened("'" * 3000))


@pytest.mark.parametrize(("mask", "length"), [("255.255.255.0", "24"), ("255.255.240.0", "20"), ("nonsense", "24")])
def test_the_prefix_of_a_mask(mask, length):
    info = DhcpInfo(ip_address="10.0.0.7", gateway="10.0.0.1", netmask=mask)
    assert info.cidr == length
    assert info.interface == f"10.0.0.7/{length}"
