"""Runs the console blocks of a page as people would: line by line, in terminals of several users on several machines.

A block is fenced as `console`. Each line that begins with a prompt is typed, `USER@MACHINE$` in the first terminal of
the user, `USER@MACHINE:2$` in the second; a ⚡ before the `$` says that a `jmp shell` is open there. The lines below
are what has to be shown, where `…` stands for any text in a line, and alone for any number of lines. After a block that
the comment `<!-- goes on -->` precedes, the last command is still running. `^B` and `^C` are keys; prompts of
other programs have to be among `PROMPTS`.

The comment `<!-- USER@MACHINE: FILE -->` before a block of any other kind has the user write a file, and
`<!-- carried: USER@MACHINE FILE to USER@MACHINE FILE -->` takes one from one home to another.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shutil
import signal
import struct
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fcntl import ioctl
from pathlib import Path

LIMIT = 60.0
"""Seconds that a command may take."""

_TERMINAL = r"\w+@\w+(?::\d+)?"
_COMMAND = re.compile(rf"({_TERMINAL})(?: ⚡)?\$ (.*)")
PROMPTS = ("demo login: ", "Password: ", "jumpstarter@demo:~# ")
"""What programs ask for input with."""
_KEYS = re.compile(r"(?:\^[A-Z])+")
_PART = re.compile(
    rf"^<!-- carried: (?P<source>{_TERMINAL}) (?P<taken>\S+) to (?P<target>{_TERMINAL}) (?P<put>\S+) -->$"
    r"|(?:^<!-- (?P<note>[^\n]*?) -->\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_FILE = re.compile(rf"({_TERMINAL}): (\S+)")

_MARK = "\x1b]777;{};\x07"
"""What the shells print before each prompt, with the status of the command before; terminals ignore it."""
_MARKS = re.compile(r"\x1b\]777;(\d+);\x07")
_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\x1b[=>]")
_ERASED = re.compile(r"[^\n]*\n[^\n]*?\x1b\[1A\x1b\[2K")
"""A line, such as that of a wait, that a program has taken back."""
_INNER_PROMPT = re.compile(r"[^\n]*➤(?:\x1b\[[0-9;]*m)* (?!.)", re.DOTALL)


class PageError(AssertionError):
    """The page says something else than what happens."""


@dataclass(frozen=True)
class Typed:
    """Something that is typed, and what is shown then."""

    terminal: str
    text: str
    line: int
    """Of the page."""
    prompt: str = ""
    """Of the program that is running; empty for a shell."""
    keys: bool = False
    shown: tuple[str, ...] = ()
    goes_on: bool = False


@dataclass(frozen=True)
class Written:
    """A file that is written."""

    terminal: str
    name: str
    text: str


@dataclass(frozen=True)
class Carried:
    """A file that somebody takes from one machine to another; paths begin at the homes."""

    source: str
    taken: str
    target: str
    put: str


def read_page(text: str) -> list[Typed | Written | Carried]:
    """Return what the page has people do.

    Raises:
        PageError: a console block doesn't begin with a prompt.
    """
    steps: list[Typed | Written | Carried] = []
    for part in _PART.finditer(text):
        note = part["note"] or ""
        if part["source"]:
            steps.append(Carried(part["source"], part["taken"], part["target"], part["put"]))
        elif part["kind"] == "console":
            first = text.count("\n", 0, part.start("text")) + 1
            steps += _read_block(part["text"].splitlines(), first, goes_on=note == "goes on")
        elif file := _FILE.fullmatch(note):
            steps.append(Written(file[1], file[2], part["text"]))
    return steps


def _read_block(lines: Sequence[str], number: int, *, goes_on: bool) -> list[Typed]:
    steps: list[Typed] = []
    shown: list[str] = []

    def finish(*, last: bool = False) -> None:
        if steps:
            steps[-1] = _shows(steps[-1], shown, goes_on and last)
            shown.clear()

    continued = ""
    for at, line in enumerate(lines, number):
        if continued:
            line, continued = continued + line.lstrip(), ""
        if found := _COMMAND.match(line):
            if line.endswith("\\"):
                continued = line[:-1]
                continue
            finish()
            steps.append(Typed(found[1], found[2], at, keys=_KEYS.fullmatch(found[2]) is not None))
        elif not steps:
            raise PageError(f"line {at}: {line!r} has no prompt that says who types it where")
        elif prompt := next((each for each in PROMPTS if line.startswith(each)), None):
            finish()
            steps.append(Typed(steps[-1].terminal, line.removeprefix(prompt), at, prompt=prompt))
        elif _KEYS.fullmatch(line):
            finish()
            steps.append(Typed(steps[-1].terminal, line, at, keys=True))
        elif line.strip():
            shown.append(line)
    finish(last=True)
    return steps


def _shows(step: Typed, shown: Sequence[str], goes_on: bool) -> Typed:
    return Typed(step.terminal, step.text, step.line, step.prompt, step.keys, tuple(shown), goes_on)


def pattern(shown: Sequence[str]) -> str:
    """Return the regular expression for lines of output, `…` being what may be anything.

    Columns of tables are as wide as what stands in them, so several blanks stand for any number.
    """
    parts = []
    for line in shown:
        if line == "…":
            parts.append(r"(?:[^\n]*\n)*?")
            continue
        words = [
            r"[^\n]*?" if part.strip() == "…" else " +" if part.isspace() else re.escape(part)
            for part in re.split(r"( *… *| {2,})", line.rstrip())
        ]
        parts.append("".join(words) + r" *\n")
    return "".join(parts)


@dataclass
class Terminal:
    """A terminal with a shell of one user on one machine."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    folder: Path
    shown: str = ""
    status: int = 0
    _pid: int = field(default=0, init=False)
    _fd: int = field(default=-1, init=False)

    @property
    def user(self) -> str:
        """Who sits at it."""
        return self.name.partition("@")[0]

    def open(self) -> None:
        """Start the shell."""
        settings = {
            "PS1": "",
            "PROMPT_COMMAND": r"printf '\033]777;%s;\007' $?",
            "HISTFILE": "",
            "BASH_SILENCE_DEPRECATION_WARNING": "1",
        }
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            try:
                os.chdir(self.folder)
                os.execvpe(self.command[0], list(self.command), {**self.env, **settings})
            finally:
                os._exit(127)
        ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 118, 0, 0))
        self.wait_until(self.is_at_prompt, "its first prompt")

    def is_at_prompt(self) -> bool:
        """Whether the shell waits for a command; `status` is then that of the last one."""
        if _INNER_PROMPT.search(self.shown):
            self._mark_prompts()
        if (mark := _MARKS.search(self.shown)) is None:
            return False
        self.status = int(mark[1])
        return True

    def _mark_prompts(self) -> None:
        """Have the shell inside `jmp shell`, which has a prompt of its own, mark it as the outer one does."""
        before = _INNER_PROMPT.sub("", _ERASED.sub("", self.shown))
        self.type(" PS1=; PROMPT_COMMAND=\"printf '\\033]777;%s;\\007' \\$?\"\n")
        self.wait_until(lambda: _MARKS.search(self.shown) is not None, "the prompt of its inner shell")
        self.shown = before + _MARK.format(0)

    def wait_until(self, condition: Callable[[], bool], what: str, limit: float = LIMIT) -> None:
        """Read on until something is true.

        Raises:
            PageError: it isn't, in time.
        """
        deadline = time.monotonic() + limit
        while not condition():
            if time.monotonic() > deadline:
                raise PageError(f"{self.name} waits in vain for {what}; it shows:\n{self.text()}")
            self.read(0.05)

    def read(self, seconds: float) -> None:
        """Take what is shown, waiting for it for a time at most."""
        if select.select([self._fd], [], [], seconds)[0]:
            with contextlib.suppress(OSError):
                self.shown += os.read(self._fd, 65536).decode(errors="replace")

    def type(self, text: str) -> None:
        """Type something; what was shown before is forgotten."""
        self.shown = ""
        os.write(self._fd, text.encode())

    def text(self, *, echo: bool = True) -> str:
        """Return what a person sees: without blank lines, and without the line that was typed if that is echoed."""
        text = _CONTROLS.sub("", _ERASED.sub("", self.shown)).replace("\r\n", "\n")
        lines = [line.rpartition("\r")[2].rstrip() for line in text.split("\n")]
        return "".join(f"{line}\n" for line in lines[1 if echo else 0 :] if line)

    def working_folder(self) -> Path:
        """Return where the shell is."""
        return Path(os.readlink(f"/proc/{self._pid}/cwd"))

    def close(self) -> None:
        """Hang up, and end what the shell has left behind."""
        if not self._pid:
            return
        os.close(self._fd)
        # Each command has a process group of its own, and some go on when their terminal is hung up.
        processes = _processes_of(self._pid)
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._pid = 0
        deadline = time.monotonic() + LIMIT
        while any(_session_of(process) for process in processes):
            if time.monotonic() > deadline:
                raise PageError(f"{self.name} has left processes that can't be ended: {processes}")
            time.sleep(0.01)


def _session_of(process: int) -> int:
    """Return the session of a process; 0 for one that has ended."""
    with contextlib.suppress(OSError):
        # The name of the program is in parentheses, and may hold anything.
        state, _, _, session, *_ = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return 0 if state in "ZX" else int(session)
    return 0


def _processes_of(session: int) -> list[int]:
    """Return the processes of a session, its leader among them."""
    every = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    return [process for process in every if _session_of(process) == session]


class Stage:
    """The machines and users of a page."""

    def __init__(
        self,
        folder: Path,
        machines: Mapping[str, Sequence[str]],
        env: Mapping[str, str],
        replace: Mapping[str, str] | None = None,
        prepare: Callable[[Path], None] | None = None,
    ) -> None:
        """Prepare a stage; terminals are opened when they are needed.

        Args:
            folder: for the homes of the users.
            machines: by name, the command in front of a command that is to run there.
            env: the environment of all terminals; HOME is added.
            replace: what is typed and shown on this stage for texts of the page, such as addresses.
            prepare: called with each new home.
        """
        self._folder, self._machines, self._env = folder, machines, env
        self._replace, self._prepare = dict(replace or {}), prepare
        self._terminals: dict[str, Terminal] = {}

    def perform(self, page: str, *, report: Callable[[str], None] = print) -> None:
        """Do everything that a page says, and see that it shows what the page shows.

        Raises:
            PageError: it doesn't.
        """
        steps = read_page(page)
        try:
            for step, following in zip(steps, [*steps[1:], None], strict=True):
                if isinstance(step, Written):
                    self._write(step)
                    continue
                if isinstance(step, Carried):
                    self._carry(step)
                    continue
                started = time.monotonic()
                terminal = self._type(step)
                self._look(terminal, step, following)
                report(f"{step.terminal}$ {step.text}  [{time.monotonic() - started:.1f} s]\n{terminal.text()}")
        finally:
            for terminal in reversed(self._terminals.values()):
                terminal.close()

    def home(self, terminal: str) -> Path:
        """Return the home of the user of a terminal, who has one on each machine."""
        home = self._folder / terminal.partition(":")[0]
        if not home.exists():
            home.mkdir(parents=True)
            if self._prepare is not None:
                self._prepare(home)
        return home

    def _here(self, text: str, terminal: Terminal) -> str:
        for said, meant in self._replace.items():
            text = text.replace(said, meant)
        return text.replace(f"/home/{terminal.user}", terminal.env["HOME"])

    def _write(self, step: Written) -> None:
        terminal = self._terminals.get(step.terminal)
        if terminal is None:
            raise PageError(f"{step.terminal} writes {step.name} before anything is typed there")
        (terminal.working_folder() / step.name).write_text(self._here(step.text, terminal))

    def _carry(self, step: Carried) -> None:
        put = self.home(step.target) / step.put
        put.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.home(step.source) / step.taken, put)

    def _type(self, step: Typed) -> Terminal:
        terminal = self._terminals.get(step.terminal)
        if terminal is None:
            terminal = self._open(step.terminal)
        if not step.prompt and not step.keys:
            terminal.wait_until(terminal.is_at_prompt, f"the prompt at which {step.text!r} is typed")
        if step.keys:
            terminal.type("".join(chr(ord(key) - 64) for key in step.text[1::2]))
        else:
            terminal.type(f"{self._here(step.text, terminal)}\n")
        return terminal

    def _look(self, terminal: Terminal, step: Typed, following: Typed | Written | Carried | None) -> None:
        """Wait for the end of a command, or until it asks for what comes next, and compare what it shows."""
        if not isinstance(following, Typed) or following.terminal != step.terminal:
            following = None
        if step.goes_on or (following is not None and following.keys):
            terminal.wait_until(lambda: self._matches(terminal, step, whole=False), self._expected(terminal, step))
        elif following is not None and following.prompt:
            ending = following.prompt.rstrip()
            terminal.wait_until(lambda: terminal.text().rstrip().endswith(ending), f"{ending!r}")
            self._compare(terminal, step, ending)
        else:
            terminal.wait_until(terminal.is_at_prompt, f"the end of {step.text!r} (line {step.line})")
            self._compare(terminal, step)
            refused = any(line.startswith("Error: ") for line in step.shown)
            if not step.keys and not step.prompt and (terminal.status != 0) != refused:
                raise PageError(
                    f"line {step.line}: {step.text!r} ends with status {terminal.status}:\n{terminal.text()}"
                )

    def _open(self, name: str) -> Terminal:
        machine = name.partition("@")[2].partition(":")[0]
        home, user = self.home(name), name.partition("@")[0]
        command = [*self._machines[machine], "bash", "--noediting", "--norc", "--noprofile"]
        terminal = Terminal(name, command, {**self._env, "HOME": str(home), "USER": user, "LOGNAME": user}, home)
        self._terminals[name] = terminal
        terminal.open()
        return terminal

    def _expected(self, terminal: Terminal, step: Typed) -> str:
        return "what line {} shows:\n{}".format(step.line, "\n".join(self._here(line, terminal) for line in step.shown))

    def _matches(self, terminal: Terminal, step: Typed, *, whole: bool, ending: str = "") -> bool:
        compare = re.fullmatch if whole else re.match
        expected = pattern([self._here(line, terminal) for line in step.shown]) + (
            re.escape(ending) + r"\s*" if ending else ""
        )
        return compare(expected, terminal.text(echo=not step.keys)) is not None

    def _compare(self, terminal: Terminal, step: Typed, ending: str = "") -> None:
        if not self._matches(terminal, step, whole=True, ending=ending):
            shown = terminal.text(echo=not step.keys)
            raise PageError(f"{step.text!r} doesn't show {self._expected(terminal, step)}\nbut:\n{shown}")
