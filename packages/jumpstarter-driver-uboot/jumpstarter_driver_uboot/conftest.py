"""A board that can be made to misbehave: U-Boot's line editor and shell on a TCP port, with faults of real consoles."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field

import pytest
from pexpect.fdpexpect import fdspawn

BOUND = 20.0
"""Seconds that anything of a test may take on a busy machine."""


class PowerCut(Exception):
    """The supply was switched; the board starts anew, or stays off."""


@dataclass
class Board:
    """What is behind the port; the attributes may be changed while it runs."""

    prompt: str = "=> "
    columns: int = 0
    """Width at which the echo of a line wraps; 0 for none."""
    longest: int = 511
    burst: int = 0
    """Characters that may arrive at once before some are lost; 0 for any number."""
    echoes: bool = True
    stop: str = ""
    """What stops autoboot; empty for any key."""
    early: str = ""
    """What is said before U-Boot starts."""
    boot_wait: float = 0.0
    """Seconds from power-on to the first output of U-Boot."""
    boot_delay: float = 2.0
    commands: dict[str, Callable[[Board], int]] = field(default_factory=dict)
    print_hook: Callable[[str], str] = lambda text: text
    """What becomes of everything that commands print."""
    powered: bool = True
    runs: list[str] = field(default_factory=list)
    """The lines that were run."""
    typed_early: str = ""
    """What was typed before autoboot could be stopped."""

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._wake, self._waker = socket.socketpair()
        self._connection: socket.socket | None = None
        self._pending = b""
        self._ended = False
        self._variables: dict[str, str] = {}
        self.env: dict[str, str] = {"bootdelay": "2"}
        self._status = 0
        self._thread = threading.Thread(target=self._live)
        self.at_prompt = True

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._ended = True
        self._waker.send(b"!")
        self._thread.join(BOUND)
        for each in (self._listener, self._wake, self._waker, self._connection):
            if each is not None:
                each.close()

    def switch(self, on: bool) -> None:
        """Switch the supply."""
        self.powered, self.at_prompt = on, False
        self._waker.send(b"!")

    def unplug(self) -> None:
        """End the connection to the console; the board's own thread closes it when it notices."""
        if (connection := self._connection) is not None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def say(self, text: str) -> None:
        """Send text to whoever is connected."""
        if (connection := self._connection) is not None:
            with suppress(OSError):
                connection.sendall(text.encode())

    def print(self, text: str) -> None:
        """Print as a command does."""
        self.say(self.print_hook(text))

    def key(self, timeout: float | None) -> str:
        """Return the next character that was typed; empty after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._pending:
            wait = None if deadline is None else max(deadline - time.monotonic(), 0)
            sources = [each for each in (self._wake, self._listener, self._connection) if each is not None]
            ready = select.select(sources, [], [], wait)[0]
            if not ready:
                return ""
            if self._wake in ready:
                self._wake.recv(100)
                raise PowerCut
            if self._listener in ready:
                self._connection, _ = self._listener.accept()
                self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            elif self._connection is not None:
                self._receive(self._connection)
        first, self._pending = self._pending[:1], self._pending[1:]
        return first.decode("latin-1")

    def _receive(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(4096)
        except OSError:
            data = b""
        if not data:
            connection.close()
            self._connection = None
        if self.burst:
            data = data[: self.burst] + data[self.burst :: 3]
        self._pending += data

    def _live(self) -> None:
        while not self._ended:
            try:
                if not self.powered:
                    self.key(None)
                elif self.at_prompt or self.boot():
                    self._shell()
            except PowerCut:
                self._pending = b""
                self._variables.clear()

    def boot(self) -> bool:
        """Show what U-Boot shows; tell whether autoboot was stopped, and boot Linux otherwise."""
        self._variables.clear()
        self.say(self.early)
        deadline = time.monotonic() + self.boot_wait
        while (left := deadline - time.monotonic()) > 0:
            self.typed_early += self.key(left)
        self.say("\r\nU-Boot 2023.01 (Jan 01 2023)\r\n\r\nDRAM:  1 GiB\r\nHit any key to stop autoboot:  2 ")
        typed = ""
        deadline = time.monotonic() + self.boot_delay
        while (left := deadline - time.monotonic()) > 0:
            typed += self.key(left)
            if typed and (not self.stop or typed.endswith(self.stop)):
                self.say("\b\b\b 0 \r\n")
                self.at_prompt = True
                return True
        self.say("\b\b\b 0 \r\nStarting kernel ...\r\n\r\n[    0.000000] Linux version 6.1\r\nboard login: ")
        while True:
            self.key(None)

    def reboot(self) -> None:
        """Restart as a watchdog does it."""
        self.at_prompt = False
        raise PowerCut

    def _shell(self) -> None:
        while True:
            self.say(self.prompt)
            line = self._read_line()
            if line:
                self.runs.append(line)
                self._run(line)

    def _read_line(self) -> str:
        line, escaped = "", False
        while True:
            key = self.key(None)
            if key in "\r\n" and not escaped:
                self.say("\r\n")
                return line.encode("latin-1").decode()
            if key == "\x03" and not escaped:
                self.say("<INTERRUPT>\r\n")
                return ""
            if key == "\x1b" and not escaped:
                escaped = True
                continue
            if len(line) >= self.longest:
                self.say("\a")
                continue
            line, escaped = line + key, False
            if self.echoes:
                self.say(key + ("\r\n" if self.columns and (len(self.prompt) + len(line)) % self.columns == 0 else ""))

    def _run(self, line: str) -> None:
        for words in _parsed(line, self._value):
            if len(words) == 1 and words[0].startswith("jmps="):
                self._variables["jmps"] = words[0].removeprefix("jmps=")
            else:
                self._status = self._execute(words)

    def _value(self, name: str) -> str:
        return str(self._status) if name == "?" else self._variables.get(name, self.env.get(name, ""))

    def _execute(self, words: list[str]) -> int:
        match words:
            case ["echo", *rest]:
                self.print(" ".join(rest) + "\r\n")
            case ["setenv", name]:
                self.env.pop(name, None)
            case ["setenv", name, *rest]:
                self.env[name] = " ".join(rest)
            case ["printenv", name] if name in self.env:
                self.print(f"{name}={self.env[name]}\r\n")
            case ["printenv", name]:
                self.print(f'## Error: "{name}" not defined\r\n')
                return 1
            case ["false"]:
                return 1
            case [name, *_] if name in self.commands:
                return self.commands[name](self)
            case [name, *_]:
                self.print(f"Unknown command '{name}' - try 'help'\r\n")
                return 1
        return 0


def _parsed(line: str, value: Callable[[str], str]) -> Iterator[list[str]]:
    """Yield the words of each command, the variables of each looked up when it is its turn."""
    words: list[str] = []
    word: str | None = None
    position = 0
    while position < len(line):
        character = line[position]
        if character == "'":
            end = line.index("'", position + 1)
            word = (word or "") + line[position + 1 : end]
            position = end
        elif character == "\\":
            position += 1
            word = (word or "") + line[position]
        elif character == "$":
            end = position + 1
            while end < len(line) and (line[end].isalnum() or line[end] in "?_"):
                end += 1
            word = (word or "") + value(line[position + 1 : end])
            position = end - 1
        elif character in " ;":
            words += [] if word is None else [word]
            word = None
            if character == ";" and words:
                yield words
                words = []
        else:
            word = (word or "") + character
        position += 1
    words += [] if word is None else [word]
    if words:
        yield words


@pytest.fixture
def scripted() -> Iterator[Board]:
    """A board at its prompt; it starts when somebody connects."""
    board = Board()
    board.start()
    with closing(board):
        yield board


@pytest.fixture
def session(scripted: Board) -> Iterator[fdspawn]:
    """A pexpect session on its console."""
    with socket.create_connection(("127.0.0.1", scripted.port), BOUND) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield fdspawn(connection, timeout=BOUND)
