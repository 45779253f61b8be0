"""Command lines of OpenSSH's client (ssh(1)): taking them apart, and telling harmless ones from others."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import PurePath
from typing import Final

WITH_VALUE: Final = frozenset("BbcDEeFIiJLlmOoPpQRSWw")
"""Letters of the options that take a value."""

_LOCAL_LETTERS: Final = frozenset("EFI")
"""Options that write a local file, read commands from one, or load a library."""

_LOCAL_OPTIONS: Final = frozenset(
    {
        "include",
        "knownhostscommand",
        "localcommand",
        "permitlocalcommand",
        "pkcs11provider",
        "proxycommand",
        "securitykeyprovider",
        "xauthlocation",
    }
)
"""Names for `-o` by which ssh runs or loads something on the machine that it runs on."""

_SSHPASS_WITH_VALUE: Final = frozenset({"-p", "-f", "-d", "-P"})


class UnsafeCommand(ValueError):
    """An exporter wants this machine to run something else than an SSH client."""


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the options that stand in front, and the remote command after them."""
    words = list(arguments)
    position = 0
    while position < len(words):
        word = words[position]
        if word == "--":
            return words[:position], words[position + 1 :]
        if not word.startswith("-") or word == "-":
            break
        position += 2 if _takes_next(word) else 1
    return words[:position], words[position:]


def _takes_next(word: str) -> bool:
    """Whether the value of an option is the next word: its letter is the last one of this word."""
    for index, letter in enumerate(word[1:], start=1):
        if letter in WITH_VALUE:
            return index == len(word) - 1
    return False


def values_of(options: Sequence[str]) -> list[tuple[str, str | None]]:
    """Return options as letters with their values, None for those without one."""
    found: list[tuple[str, str | None]] = []
    words = iter(options)
    for word in words:
        for index, letter in enumerate(word[1:], start=1):
            if letter in WITH_VALUE:
                found.append((letter, word[index + 1 :] or next(words, "")))
                break
            found.append((letter, None))
    return found


def names_user(options: Sequence[str]) -> bool:
    """Whether options say who logs in."""
    return any(
        letter == "l" or (letter == "o" and option_name(value or "") == "user") for letter, value in values_of(options)
    )


def option_name(assignment: str) -> str:
    """Return the name in `Name=value` or `Name value`, in small letters."""
    return assignment.strip().replace("=", " ").split(" ", 1)[0].lower()


def checked_command(command: str) -> list[str]:
    """Return the words of a command that came from an exporter.

    It has to be `ssh`, or `sshpass` with `ssh`, and must not have ssh run or load anything else on this machine.

    Raises:
        UnsafeCommand: it isn't; the message says what is wrong.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UnsafeCommand(f"the ssh_command of the exporter can't be read: {error}") from None
    start = _start_of_ssh(words)
    if start >= len(words) or PurePath(words[start]).name != "ssh":
        raise UnsafeCommand(f"the ssh_command of the exporter is no ssh: {command!r}")
    options, rest = split_arguments(words[start + 1 :])
    if rest:
        raise UnsafeCommand(f"the ssh_command of the exporter must have options only, not {rest[0]!r}")
    for letter, value in values_of(options):
        name = option_name(value or "") if letter == "o" else ""
        if letter in _LOCAL_LETTERS or name in _LOCAL_OPTIONS:
            shown = f"-o {value}" if letter == "o" else f"-{letter}"
            raise UnsafeCommand(f"the ssh_command of the exporter would act on this machine: {shown}")
    return words


def _start_of_ssh(words: Sequence[str]) -> int:
    """Return where `ssh` must stand: in front, or behind sshpass and its options."""
    if not words or PurePath(words[0]).name != "sshpass":
        return 0
    position = 1
    while position < len(words) and words[position].startswith("-"):
        position += 2 if words[position] in _SSHPASS_WITH_VALUE else 1
    return position
