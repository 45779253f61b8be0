"""Options of µStreamer as people write them in YAML."""

from __future__ import annotations

from typing import Any

import pytest

from .arguments import command_options, device_of


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({}, []),
        ({"device": "/dev/video2", "resolution": "1280x720"}, ["--device", "/dev/video2", "--resolution", "1280x720"]),
        ({"desired-fps": 30, "quality": 85.5}, ["--desired-fps", "30", "--quality", "85.5"]),
        ({"persistent": True, "dv-timings": None, "slowdown": False}, ["--persistent", "--dv-timings"]),
        ({"persistent": "", "d": "/dev/video1"}, ["--persistent", "", "-d", "/dev/video1"]),
        ({"port": 8080, "host": "0.0.0.0"}, []),
    ],
)
def test_values_become_words(args: dict[str, Any], words: list[str]) -> None:
    assert command_options(args) == words


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"--device": "/dev/video0"}, "without the leading dashes"),
        ({"": "x"}, "no option of µStreamer"),
        ({1: "x"}, "no option of µStreamer"),
        ({"unix": "/tmp/x"}, "the driver chooses the socket itself"),
        ({"passwd": "x"}, "needs no login"),
        ({"version": True}, "print something and end"),
        ({"device": ["/dev/video0"]}, "must be text, a number, or true"),
        ({"device": "a\0b"}, "must be text, a number, or true"),
        (["--device", "/dev/video0"], "args must map option names to values"),
    ],
)
def test_what_can_not_work_is_refused(args: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        command_options(args)


@pytest.mark.parametrize(
    ("args", "device"), [({}, None), ({"device": "/dev/a"}, "/dev/a"), ({"d": "/dev/b"}, "/dev/b")]
)
def test_device_is_found_under_both_names(args: dict[str, Any], device: str | None) -> None:
    assert device_of(args) == device
