"""The command languages of consoles: how a command is typed so that its beginning, end and status can be told.

Around each command, markers are echoed: `jmp[TOKEN` before it and `jmp]TOKEN:STATUS` after it. They are typed in pieces
(`'jm''p[TOKEN'`), so that the echo of what was typed never looks like what it prints. The status also stays in the
variable `jmps`, from which it is read again when the marker itself was lost.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

BEGIN = "jmp["
END = "jmp]"
PROBE = "jmp?"

_NOT_TYPED = re.compile(r"[\x00-\x1f\x7f]")

_RESTARTED = (
    r"^U-Boot (?:SPL|TPL) \d{4}\.\d\d",
    r"^DRAM: +\S",
    r"Hit any key to stop autoboot: +\d",
    r"^### ERROR ### Please RESET the board ###",
    r"---\[ end Kernel panic",
    r"\] reboot: (?:Restarting system|Power down|System halted)",
)


@dataclass(frozen=True)
class Dialect:
    """A command language."""

    name: ClassVar[str]
    prompts: tuple[str, ...] = ()
    """How its prompts end, as far as that is known, without blanks at their ends."""
    continuation: str = ">"
    """The prompt for the rest of a command that is not complete."""
    restarted: re.Pattern[str] = re.compile("|".join(_RESTARTED), re.MULTILINE)
    """What a board shows only when it is no longer where it was."""

    def probe(self, token: str) -> str:
        """Return the line that prints `jmp?TOKEN[` and the mark of the last command: `TOKEN:STATUS`."""
        return f"echo 'jm''p?{token}['$jmps"

    def greeting(self, token: str) -> str:
        """Return the line that does that when there may have been no command yet."""
        return f"jmps={token}:0;{self.probe(token)}"

    def compose(self, command: str, token: str) -> str:
        """Return the line that runs a command between its markers.

        Raises:
            ValueError: the command can't be typed, or would not end on this line.
        """
        raise NotImplementedError

    def quote(self, value: str) -> str:
        """Return a value as one word of the language, whatever is in it.

        Raises:
            ValueError: the value holds what can't be typed.
        """
        raise NotImplementedError

    def shortened(self, command: str) -> list[str]:
        """Return commands that are short enough for one line each, the last of which does what `command` does."""
        return [command]


class UBoot(Dialect):
    """The `hush` shell of U-Boot.

    Facts that were measured on U-Boot 2023.01: a backslash keeps its meaning inside quotes; a single quote begins a
    quoted part even inside double quotes; `#` at the beginning of a word begins a comment; there is no `eval`.
    """

    name = "U-Boot"

    def compose(self, command: str, token: str) -> str:
        body = complete(command)
        return f"echo 'jm''p[{token}';{body};jmps={token}:$?;echo 'jm''p]'$jmps"

    def quote(self, value: str) -> str:
        refuse_controls(value)
        escaped = value.replace("\\", "\\\\").replace("'", "'\\''")
        return f"'{escaped}'"


class PosixShell(Dialect):
    """A shell after POSIX: busybox ash, dash, bash."""

    name = "the shell"

    LINE = 640
    """Characters of a command on one line; the line editor of busybox takes 1022 with the markers and quotes."""
    PART = 400
    """Characters of a command in one part of it; quotes count fourfold."""

    def shortened(self, command: str) -> list[str]:
        if len(self.quote(command)) <= self.LINE:
            return [command]
        parts, part = [], ""
        for character in command:
            part += character
            if len(part) + 3 * part.count("'") >= self.PART:
                parts.append(part)
                part = ""
        parts += [part] if part else []
        assign = [f"jmpc={self.quote(parts[0])}", *(f"jmpc=$jmpc{self.quote(part)}" for part in parts[1:])]
        return [*assign, 'eval "$jmpc"']

    def compose(self, command: str, token: str) -> str:
        if not command.strip():
            raise ValueError("the command is empty")
        return f"echo 'jm''p[{token}';eval {self.quote(command)};jmps={token}:$?;echo 'jm''p]'$jmps"

    def quote(self, value: str) -> str:
        refuse_controls(value)
        escaped = value.replace("'", "'\\''")
        return f"'{escaped}'"


UBOOT = UBoot(
    prompts=("=>", "U-Boot>"),
    restarted=re.compile(
        "|".join((*_RESTARTED, r"^resetting \.\.\.", r"^Starting kernel \.\.\.", r"Linux version \d")), re.MULTILINE
    ),
)
SHELL = PosixShell()


def refuse_controls(text: str) -> None:
    """Raise ValueError if a text holds what would act on the line editor instead of being typed."""
    if found := _NOT_TYPED.search(text):
        raise ValueError(
            f"{text!r} holds the character {found.group()!r}, which can't be typed at a console; "
            "put a ';' between commands, and pass data in a file"
        )


def complete(command: str) -> str:
    """Return a command of U-Boot without its comment.

    Raises:
        ValueError: the command is empty, or its quotes are not closed, which would have U-Boot wait for the rest.
    """
    refuse_controls(command)
    end = len(command)
    single = double = False
    position = 0
    while position < end:
        character = command[position]
        if single:
            single = character != "'"
        elif character == "\\":
            position += 1
            if position == end:
                raise ValueError(f"the command {command!r} ends with a backslash, so U-Boot would wait for the rest")
        elif character == "'":
            single = True
        elif character == '"':
            double = not double
        elif character == "#" and not double and (position == 0 or command[position - 1] in " ;"):
            end = position
        position += 1
    if single or double:
        raise ValueError(
            f"the command {command!r} has a quote that is not closed, so U-Boot would wait for the rest "
            "(in U-Boot, a single quote begins a quoted part even between double quotes: write \\')"
        )
    body = command[:end]
    if not body.strip():
        raise ValueError(f"the command {command!r} is empty")
    return body
