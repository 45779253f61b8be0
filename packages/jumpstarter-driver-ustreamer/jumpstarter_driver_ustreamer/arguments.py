"""Options of µStreamer from an exporter config."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

DEVICE_OPTIONS: Final = ("device", "d")
"""Names of the option that says which camera it is."""

DEFAULT_DEVICE: Final = "/dev/video0"

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")

_OWN: Final = {
    **dict.fromkeys(("unix", "U", "unix-rm", "D", "unix-mode", "M"), "the driver chooses the socket itself"),
    **dict.fromkeys(("user", "passwd"), "the socket can be reached through the exporter only, and needs no login"),
    **dict.fromkeys(("help", "h", "version", "v", "features"), "it makes µStreamer print something and end"),
    "exit-on-parent-death": "the driver sees to that on every version",
}

IGNORED: Final = ("host", "s", "port", "p", "tcp-nodelay")
"""Options that have no effect beside `--unix`."""


def command_options(args: Any) -> list[str]:
    """Return the words of the command line for a mapping of option names to values.

    True and None make an option without a value, False leaves it out, numbers become text.

    Raises:
        ValueError: an option can't be used, or its value; the message says which and why.
    """
    if not isinstance(args, Mapping):
        raise ValueError(f"args must map option names to values, such as {{resolution: 1280x720}}, not {args!r}")
    words: list[str] = []
    for name, value in args.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"args: {name!r} is no option of µStreamer; write it without the leading dashes")
        if name in _OWN:
            raise ValueError(f"args: {name} can't be set: {_OWN[name]}")
        if value is False or name in IGNORED:
            continue
        words.append(f"-{name}" if len(name) == 1 else f"--{name}")
        if value is True or value is None:
            continue
        if not isinstance(value, str | int | float) or "\0" in str(value):
            raise ValueError(f"args: {name} must be text, a number, or true for an option without a value")
        words.append(str(value))
    return words


def device_of(args: Mapping[str, Any]) -> str | None:
    """Return the path of the camera, or None when none is configured."""
    for name in DEVICE_OPTIONS:
        if args.get(name):
            return str(args[name])
    return None
