"""Commands on a serial console that can't be mistaken: each is found by markers, echo-checked, and has a status.

It serves U-Boot and POSIX shells on any pexpect session, and needs nothing of Jumpstarter:

    console = Console(session, UBOOT)
    console.synchronise()
    print(console.run("printenv ipaddr", check=True).lines)

What is typed is compared with its echo before Enter is pressed, so a character that was lost on the way never becomes
part of another command. Prompts don't count: only the markers of `dialects` tell where output begins and ends.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from .dialects import BEGIN, END, PROBE, UBOOT, Dialect
from .errors import (
    BoardRestarted,
    CommandAborted,
    CommandFailed,
    CommandIncomplete,
    ConsoleClosed,
    ConsoleError,
    ConsoleGarbled,
    ConsoleSilent,
    ConsoleTimeout,
    LineTooLong,
    OutputTooLong,
)
from .text import Cleaner, lines_of, matched

if TYPE_CHECKING:
    from pexpect.spawnbase import SpawnBase

INTERRUPT = "\x03\x03"
"""Ctrl-C, which ends commands and discards a line that was typed, in U-Boot as in shells.

Twice, because U-Boot takes the key after an Escape for a part of the line."""

READ_SIZE = 1 << 16
QUIET = 0.15
"""Seconds without output after which a prompt is complete."""
PROMPT_WAIT = 1.0
"""Seconds that the prompt may take after the end of a command."""
STALLED = 1.0
"""Seconds without output after which a prompt on the last line is worth a question."""
ECHO_WAIT = 3.0
"""Seconds that an echo may pause before what was typed counts as lost."""
PROBE_WAIT = 2.0
"""Seconds that a shell at its prompt takes to answer at most, mostly because of the network between."""
SYNC_WAIT = 10.0
"""Seconds that it may take to find a shell again."""
CHUNK = 8
"""Characters that are typed at a time on a console that has lost some."""
DRAINED = 256
"""Pieces of old output that are thrown away at most."""
BELLS = 4
"""Bells that tell, while a line is typed, that it has become too long."""
MAX_ECHO = 1 << 18
"""Characters that may come while a line is typed."""
MAX_OUTPUT = 16 << 20
"""Characters of output that a command may have."""


@dataclass(frozen=True)
class Result:
    """What a command did."""

    command: str
    status: int
    text: str
    """The output, with `\\n` at the ends of lines and without escape sequences."""

    @property
    def lines(self) -> list[str]:
        """The lines of the output."""
        return lines_of(self.text)


class Console:
    """Runs commands on a console, one at a time."""

    def __init__(self, session: SpawnBase | Any, dialect: Dialect = UBOOT, prompts: Iterable[str] = ()) -> None:
        """Use a pexpect session; nothing is sent before it is needed.

        Args:
            session: what has `send`, `sendline`, `expect` and `read_nonblocking`, for text or for bytes.
            dialect: the language that is spoken at the other end.
            prompts: further prompts that are known; others are learned.
        """
        self.session = session
        self.dialect = dialect
        self.prompts = tuple(prompt.strip() for prompt in (*prompts, *dialect.prompts) if prompt.strip())
        self.prompt = ""
        """The prompt that was seen last; empty if none was."""
        self.redact: set[str] = set()
        """Secrets: errors show `***` in their place."""
        self._cleaner = Cleaner()
        self._tokens = (f"{token_hex(2)}{number:x}" for number in count(1))
        self._ready = False
        self._echoes = True
        self._paced = False

    # -- finding the shell -----------------------------------------------------------------------

    def answers(self, timeout: float) -> bool:
        """Tell whether a shell answers within `timeout` seconds; what was typed before is discarded.

        Raises:
            ConsoleClosed: the connection has ended.
        """
        return self._ask(INTERRUPT, False, timeout)

    def synchronise(self, timeout: float = SYNC_WAIT) -> None:
        """Interrupt what runs, discard what was typed, and wait until the shell answers.

        Raises:
            ConsoleSilent: it doesn't, within `timeout` seconds.
            ConsoleClosed: the connection has ended.
        """
        self._find(timeout)
        self._settle()
        self._ready = True

    def drain(self) -> None:
        """Throw away what has arrived, until nothing comes for a moment.

        Raises:
            ConsoleClosed: the connection has ended.
        """
        from pexpect import EOF, TIMEOUT

        for _ in range(DRAINED):
            try:
                self.session.read_nonblocking(READ_SIZE, QUIET)
            except TIMEOUT:
                return
            except (EOF, OSError) as error:
                raise self._closed(error) from error

    def wait_for(self, pattern: str, timeout: float) -> str:
        """Wait until the console shows something; return the text that matched.

        Args:
            pattern: a regular expression.
            timeout: seconds.

        Raises:
            ConsoleTimeout: it did not come.
            ConsoleClosed: the connection has ended.
        """
        from pexpect import EOF, TIMEOUT

        self._ready = False
        try:
            self.session.expect(pattern, timeout=timeout)
        except TIMEOUT:
            raise ConsoleTimeout(
                f"the console did not show {pattern!r} within {timeout:g} s", self._shown(self._before())
            ) from None
        except (EOF, OSError) as error:
            raise self._closed(error) from error
        found = self.session.after
        return found.decode(errors="replace") if isinstance(found, bytes) else str(found)

    def _find(self, timeout: float) -> None:
        """Ask until the shell answers."""
        deadline, wait, seen = time.monotonic() + timeout, 0.5, ""
        for attempt in count():
            # A terminal throws away what follows an interrupt too closely.
            self._send(INTERRUPT)
            while piece := self._read(min(QUIET, max(deadline - time.monotonic(), 0))):
                seen = (seen + piece)[-READ_SIZE:]
            # A console that loses characters is asked slowly, every other time.
            slowly = self._paced or attempt % 2 == 1
            if self._ask("", slowly, max(min(wait, deadline - time.monotonic()), 0.05)):
                return
            seen += self._take()
            wait = min(2 * wait, 4)
            if time.monotonic() >= deadline:
                raise ConsoleSilent(
                    f"{self.dialect.name} doesn't answer at the console within {timeout:g} s: {_why_silent(seen)}",
                    self._shown(seen),
                )
        raise AssertionError  # count() has no end

    def _ask(self, before: str, slowly: bool, timeout: float) -> bool:
        """Greet the shell, some keys before the question; tell whether it answers."""
        from pexpect import EOF, TIMEOUT

        token = next(self._tokens)
        question = before + self.dialect.greeting(token)
        try:
            if slowly:
                self._typed(question, CHUNK, min(timeout, ECHO_WAIT))
                question = ""
            self.session.sendline(question)
            self.session.expect(rf"{re.escape(PROBE)}{token}\[{token}:0[^0-9a-f]", timeout=timeout)
        except TIMEOUT:
            return False
        except (EOF, OSError) as error:
            raise self._closed(error) from error
        return True

    # -- commands --------------------------------------------------------------------------------

    def run(
        self,
        command: str,
        *,
        timeout: float = 60,
        check: bool = False,
        on_text: Callable[[str], None] | None = None,
    ) -> Result:
        """Run a command and return its output and status.

        Args:
            command: one line.
            timeout: seconds for all of it; after them the command is interrupted.
            check: raise CommandFailed unless the status is 0.
            on_text: called with each piece of the output when it arrives, markers left out.

        Raises:
            ValueError: the command can't be typed, or would not be complete; nothing was sent.
            ConsoleTimeout: it did not end in time; the console can be used again, unless the message says otherwise.
            BoardRestarted: the board restarted, crashed or left the shell meanwhile.
            CommandAborted: the shell gave the command up, because of its syntax for example.
            CommandFailed: its status is not 0.
            ConsoleGarbled: what is typed doesn't arrive.
            ConsoleClosed: the connection has ended.
        """
        self.dialect.compose(command, "0")
        deadline = time.monotonic() + timeout
        if not self._ready:
            self.synchronise(min(timeout, SYNC_WAIT))
        *parts, last = self.dialect.shortened(command)
        for part in parts:
            self._run(part, command, deadline, timeout, None)
        result = self._run(last, command, deadline, timeout, on_text)
        if check and result.status != 0:
            raise CommandFailed(
                f"{self._hidden(command)!r} failed on {self.dialect.name} with status {result.status}",
                self._shown(result.text),
                result.status,
            )
        return result

    def _run(
        self, part: str, command: str, deadline: float, timeout: float, on_text: Callable[[str], None] | None
    ) -> Result:
        token = next(self._tokens)
        line = self.dialect.compose(part, token)
        self._ready = False
        self._type(line)
        run = _Run(self, command, token, deadline, timeout, on_text)
        self._send("\n")
        result = run.wait()
        self._settle()
        self._ready = True
        return result

    def start(self, command: str) -> None:
        """Type a command that does not come back, such as `boot` or `reboot`; what follows is left to the session.

        Raises:
            ValueError: the command can't be typed.
            ConsoleGarbled: it doesn't arrive as it was typed; it was not started.
            ConsoleClosed: the connection has ended.
        """
        self.dialect.compose(command, "0")
        if not self._ready:
            self.synchronise()
        self._ready = False
        self._type(command)
        self._send("\n")

    # -- typing ----------------------------------------------------------------------------------

    def _type(self, line: str) -> None:
        """Type a line, without Enter, and see that its echo is complete; else type it again, more slowly."""
        self._refuse_restart(self._take(), "since the last command")
        if not self._echoes:
            self._send(line)
            return
        arrived, echo = -1, ""
        for size in (CHUNK,) if self._paced else (len(line), CHUNK):
            before, echo = arrived, self._typed(line, size)
            arrived = matched(line, echo)
            if arrived == len(line):
                self._paced = size == CHUNK
                return
            self._refuse_restart(echo, "while a command was typed")
            if not echo and self._echo_is_off():
                self._send(line)
                return
            self._discard()
            if arrived > CHUNK and (echo.count("\a") >= BELLS or arrived == before):
                raise LineTooLong(
                    f"{self.dialect.name} takes {arrived} characters per line, and the command has {len(line)} with "
                    "its markers: shorten it, or put parts of it into variables"
                )
        raise ConsoleGarbled(
            f"what is typed at the console doesn't arrive: of {len(line)} characters {arrived} came back, "
            "even when they were typed slowly. Check the cable and the speed; the setting 'cps' of the serial port's "
            "driver slows it down",
            self._shown("" if self.redact else echo),
        )

    def _typed(self, line: str, size: int, wait: float | None = None) -> str:
        """Type a line in pieces, waiting for the echo of each; return all that came back."""
        echo = ""
        for start in range(0, len(line), size):
            self._send(line[start : start + size])
            until = line[: start + size]
            while matched(until, echo) < len(until):
                piece = self._read(ECHO_WAIT if wait is None else wait)
                echo += piece
                if not piece or echo.count("\a") >= BELLS or len(echo) > MAX_ECHO:
                    return echo
        return echo

    def _echo_is_off(self) -> bool:
        """Find out, when nothing came back, whether the shell answers all the same."""
        self._find(SYNC_WAIT)
        self._settle()
        self._echoes = False
        return True

    def _refuse_restart(self, text: str, when: str) -> None:
        if found := self.dialect.restarted.search(text):
            self._ready = False
            self._give_back(text[found.start() :])
            raise BoardRestarted(
                f"the board has restarted or left {self.dialect.name} {when} (it showed {found.group().strip()!r})",
                self._shown(text),
            )

    def _discard(self) -> None:
        self._send(INTERRUPT)
        self._settle()

    # -- the session -----------------------------------------------------------------------------

    def _send(self, text: str) -> None:
        try:
            self.session.send(text)
        except OSError as error:
            raise self._closed(error) from error

    def _read(self, timeout: float) -> str:
        """Return what arrives next within `timeout` seconds; empty when nothing does."""
        from pexpect import EOF, TIMEOUT

        deadline = time.monotonic() + timeout
        while True:
            try:
                data = self.session.read_nonblocking(READ_SIZE, max(deadline - time.monotonic(), 0))
            except TIMEOUT:
                return ""
            except (EOF, OSError) as error:
                raise self._closed(error) from error
            if text := self._cleaner.feed(data):
                return text

    def _take(self) -> str:
        """Return what has arrived and is left over."""
        text = ""
        if self.session.buffer:
            self.session.expect(r"(?s).*", timeout=0)
            text = self._cleaner.feed(self.session.after)
        while (piece := self._read(0)) and len(text) < MAX_OUTPUT:
            text += piece
        return text

    def _give_back(self, text: str) -> None:
        """Leave text to whoever reads the session next."""
        data = text.encode() if self.session.string_type is bytes else text
        self.session.buffer = data
        # pexpect searches only what it has noted as new as well.
        self.session._before = self.session.buffer_type()
        self.session._before.write(data)

    def _settle(self) -> None:
        """Wait until the prompt is there, and remember it."""
        deadline, text = time.monotonic() + PROMPT_WAIT, self._take()
        while not self.at_prompt(text) and time.monotonic() < deadline:
            piece = self._read(QUIET)
            if not piece and text.rpartition("\n")[2].strip():
                break
            text += piece
        self.prompt = text.rpartition("\n")[2].strip() or self.prompt

    def at_prompt(self, text: str) -> bool:
        """Tell whether text ends with a prompt that is known."""
        last = text.rpartition("\n")[2].strip()
        return bool(last) and (last == self.prompt or last.endswith(self.prompts))

    def _shown(self, text: str) -> list[str]:
        """Return the lines of text for an error: without markers, and without secrets."""
        return [self._hidden(line) for line in lines_of(text) if line.strip() and not _is_marker(line)]

    def _hidden(self, text: str) -> str:
        for secret in self.redact:
            text = text.replace(secret, "***")
        return text

    def _closed(self, error: BaseException) -> ConsoleClosed:
        self._ready = False
        what = f": {error}" if isinstance(error, OSError) else ""
        return ConsoleClosed(
            f"the connection to the console has ended{what}. Was the adapter unplugged, or the port taken over?",
            self._shown(self._before()),
        )

    def _before(self) -> str:
        """Return what the session has seen since its last match."""
        before = getattr(self.session, "before", None)
        return Cleaner().feed(before) if isinstance(before, bytes | str) else ""


def _why_silent(seen: str) -> str:
    if not seen.strip():
        return "nothing arrives. Is the board on, and is it the right port?"
    if seen.count("\ufffd") * 4 > len(seen):
        return "what arrives can't be read. Is the baud rate right?"
    return "it shows something else"


def _is_marker(line: str) -> bool:
    return any(marker in line for marker in (BEGIN, END, PROBE)) or "'jm''p" in line


class _Run:
    """One command that runs: its output so far, and how it ends."""

    def __init__(
        self,
        console: Console,
        command: str,
        token: str,
        deadline: float,
        timeout: float,
        on_text: Callable[[str], None] | None,
    ) -> None:
        self._console, self._dialect = console, console.dialect
        self._command, self._token = command, token
        self._deadline, self._timeout = deadline, timeout
        self._on_text = on_text
        self._text = ""
        self._told = 0
        self._questions: list[str] = []
        self._searched = 0
        self._begin = re.compile(rf"(?:^|\n)[^\n]*?(?<!echo ){re.escape(BEGIN + token)}\n")
        self._end = re.compile(rf"{re.escape(END + token)}:(\d+)\n")

    def wait(self) -> Result:
        """Read until the command has ended."""
        asked_at = -1
        while True:
            piece = self._console._read(min(STALLED, max(self._deadline - time.monotonic(), 0)))
            self._text += piece
            if (found := self._end.search(self._text, self._searched)) is not None:
                return self._result(int(found[1]), found.start(), found.end())
            if piece:
                self._look(piece)
            elif time.monotonic() >= self._deadline:
                self._give_up()
            elif asked_at != len(self._text):
                asked_at = len(self._text)
                if (result := self._stalled()) is not None:
                    return result
                asked_at = len(self._text)

    def _result(self, status: int, end: int, after: int) -> Result:
        begin = self._begin.search(self._text)
        start = begin.end() if begin else self._text.find("\n") + 1
        self._tell(end)
        output = self._text[min(start, end) : end]
        self._console._give_back(self._text[after:])
        self._console._echoes |= "'jm''p" in self._text
        return Result(self._command, status, self._without_questions(output))

    def _look(self, piece: str) -> None:
        """See whether the board has restarted, and hand on what is output."""
        start = max(self._searched - 200, 0)
        if self._begun() is not None and (found := self._dialect.restarted.search(self._text, start)) is not None:
            self._console._give_back(self._text[found.start() :])
            raise BoardRestarted(
                f"the board restarted or left {self._dialect.name} while {self._shown_command()} ran "
                f"(it showed {found.group().strip()!r})",
                self._shown(),
            )
        self._searched = max(len(self._text) - 64, 0)
        self._tell(self._text.rfind("\n") + 1)
        if len(self._text) > MAX_OUTPUT:
            raise self._interrupted(
                OutputTooLong, f"{self._shown_command()} prints more than {MAX_OUTPUT >> 20} MiB; it was interrupted"
            )

    def _begun(self) -> int | None:
        found = self._begin.search(self._text, 0, 4096 + len(self._command))
        return found.end() if found else None

    def _tell(self, end: int) -> None:
        """Hand output up to `end` to whoever follows it."""
        if self._on_text is None or (begin := self._begun()) is None:
            return
        start = max(self._told, begin)
        if end > start:
            self._told = end
            self._on_text(self._without_questions(self._text[start:end]))

    def _without_questions(self, output: str) -> str:
        """Leave out what was asked while the command seemed to have ended, and the answers."""
        if not self._questions:
            return output
        lines = output.splitlines(keepends=True)
        return "".join(line for line in lines if not any(token in line for token in self._questions))

    def _stalled(self) -> Result | None:
        """Nothing has come for a while: find out whether the command has ended without telling."""
        last = self._text.rpartition("\n")[2].strip()
        if last == self._dialect.continuation.strip():
            raise self._interrupted(
                CommandIncomplete, f"{self._dialect.name} waits for the rest of {self._shown_command()}"
            )
        if last.endswith("login:"):
            raise BoardRestarted(
                f"{self._dialect.name} has ended while {self._shown_command()} ran: the console shows a login prompt",
                self._shown(),
            )
        if not self._console.at_prompt(self._text):
            return None
        shown = self._shown()
        probe = next(self._console._tokens)
        self._questions.append(probe)
        self._console._send(self._dialect.probe(probe) + "\n")
        answer = re.compile(rf"{re.escape(PROBE + probe)}\[([0-9a-f:]*)\n")
        deadline = min(time.monotonic() + PROBE_WAIT, self._deadline)
        while (found := answer.search(self._text)) is None:
            piece = self._console._read(max(deadline - time.monotonic(), 0))
            if not piece:
                return None
            self._text += piece
            if self._end.search(self._text, self._searched):
                return None
        token, _, status = found[1].partition(":")
        if token == self._token and status:
            # The marker was torn by something else that was printed, a message of the kernel for example.
            begin = self._begun()
            return self._result(int(status), max(found.start(), begin or 0), found.end())
        error = CommandAborted if token else BoardRestarted
        reason = "gave up" if token else "was restarted, or another shell was started, during"
        raise error(f"{self._dialect.name} {reason} {self._shown_command()}", shown)

    def _give_up(self) -> None:
        raise self._interrupted(
            ConsoleTimeout, f"{self._shown_command()} did not end on {self._dialect.name} within {self._timeout:g} s"
        )

    def _interrupted(self, kind: type[ConsoleError], message: str) -> ConsoleError:
        """Interrupt the command, so that the next one finds a shell; return the error to raise."""
        shown = self._shown()
        try:
            self._console.synchronise(PROBE_WAIT * 2)
        except ConsoleError:
            message += ". It doesn't react to Ctrl-C either"
        return kind(message, shown)

    def _shown(self) -> list[str]:
        return self._console._shown(self._text[self._begun() or self._text.find("\n") + 1 :])

    def _shown_command(self) -> str:
        return repr(self._console._hidden(self._command))
