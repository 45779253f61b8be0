"""What can go wrong on a console; every error carries the last lines that were seen."""

from __future__ import annotations

from collections.abc import Sequence

TAIL_LINES = 15
"""Lines of the console that a message quotes at most."""


class ConsoleError(RuntimeError):
    """A command could not be run on a console, or its outcome is unknown."""

    def __init__(self, message: str, lines: Sequence[str] = ()) -> None:
        """Compose the message of what failed and the last lines of the console.

        Args:
            message: what failed, and what to do about it.
            lines: what the console showed; the last ones are quoted.
        """
        self.tail = list(lines[-TAIL_LINES:])
        shown = "".join(f"\n  | {line}" for line in self.tail)
        last = f"\nThe last lines of the console:{shown}" if shown else "\nThe console showed nothing meanwhile."
        super().__init__(message + last)


class ConsoleTimeout(ConsoleError, TimeoutError):
    """A command did not end in time."""


class ConsoleSilent(ConsoleTimeout):
    """Nobody answers at the console."""


class ConsoleClosed(ConsoleError, ConnectionError):
    """The connection to the console has ended."""


class ConsoleGarbled(ConsoleError):
    """What is typed doesn't arrive as it was typed."""


class LineTooLong(ConsoleGarbled, ValueError):
    """The console takes no lines of that length."""


class OutputTooLong(ConsoleError):
    """A command prints more than is kept."""


class CommandAborted(ConsoleError):
    """The command was given up by the board's own shell, so that its status is unknown."""


class CommandIncomplete(CommandAborted, ValueError):
    """The board's shell waits for the rest of the command, such as the end of an `if`."""


class BoardRestarted(ConsoleError):
    """The board restarted, crashed, or left the shell while a command ran."""


class CommandFailed(ConsoleError):
    """A command ended with another status than 0."""

    def __init__(self, message: str, lines: Sequence[str], status: int) -> None:
        super().__init__(message, lines)
        self.status = status
        self.output = list(lines)
