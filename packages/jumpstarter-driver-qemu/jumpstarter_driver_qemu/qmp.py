"""A client of QMP, the protocol by which a running QEMU is controlled.

JSON objects, one per line, over a stream socket: a greeting, then commands and their replies, matched by an id, and
events at any time (QEMU's documentation: interop/qmp-spec). The client is blocking, for use in worker threads.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final

MAX_LINE: Final = 16 << 20
"""Bytes of the longest message that is accepted."""

COMMAND_TIMEOUT: Final = 10.0
"""Seconds that QEMU may take to answer a command unless the caller says otherwise."""


class QmpError(Exception):
    """QEMU refused a command."""

    def __init__(self, command: str, error: Any) -> None:
        description = error.get("desc", error) if isinstance(error, dict) else error
        super().__init__(f"QEMU refused {command}: {description}")
        self.command = command
        self.error_class = error.get("class") if isinstance(error, dict) else None
        """QEMU's class of the error, such as `GenericError` or `CommandNotFound`."""


class QmpClosed(Exception):
    """QEMU is gone, or said something that is no QMP."""


class QmpClient:
    """Talks to one QEMU over a connected socket, which it closes in the end.

    Args:
        connection: the socket.
        on_event: called with the name and the data of each event, in the client's own thread.
        on_closed: called once, in that thread, when QEMU has closed the connection.
    """

    def __init__(
        self,
        connection: socket.socket,
        *,
        on_event: Callable[[str, dict[str, Any]], None] | None = None,
        on_closed: Callable[[], None] | None = None,
    ) -> None:
        self._connection = connection
        self._on_event = on_event or (lambda name, data: None)
        self._on_closed = on_closed or (lambda: None)
        self._lock = threading.Lock()
        self._pending: dict[int, Future[Any]] = {}
        self._last_id = 0
        self._greeting: Future[dict[str, Any]] = Future()
        self._closed: str | None = None
        self._thread = threading.Thread(target=self._read, name="QMP reader", daemon=True)

    def start(self, timeout: float) -> dict[str, Any]:
        """Wait for the greeting and leave the negotiation mode; return what QEMU says of itself.

        Raises:
            QmpClosed: QEMU closed the connection.
            TimeoutError: no greeting within `timeout` seconds.
        """
        self._thread.start()
        try:
            greeting = self._greeting.result(timeout)
        except TimeoutError:
            raise TimeoutError(f"QEMU sent no QMP greeting within {timeout:g} s") from None
        self.execute("qmp_capabilities", timeout=timeout)
        return greeting

    def execute(
        self, command: str, arguments: dict[str, Any] | None = None, *, timeout: float = COMMAND_TIMEOUT
    ) -> Any:
        """Run a command and return what it returns.

        Raises:
            QmpError: QEMU refused it.
            QmpClosed: QEMU is gone.
            TimeoutError: no answer within `timeout` seconds.
        """
        reply: Future[Any] = Future()
        with self._lock:
            if self._closed is not None:
                raise QmpClosed(self._closed)
            self._last_id += 1
            number = self._last_id
            self._pending[number] = reply
            message = {"execute": command, "id": number, **({"arguments": arguments} if arguments else {})}
            try:
                self._connection.sendall(json.dumps(message).encode() + b"\n")
            except OSError as error:
                del self._pending[number]
                raise QmpClosed(f"QEMU is gone: {error.strerror}") from error
        try:
            answer = reply.result(timeout)
        except TimeoutError:
            raise TimeoutError(f"QEMU did not answer {command} within {timeout:g} s") from None
        finally:
            with self._lock:
                self._pending.pop(number, None)
        if "error" in answer:
            raise QmpError(command, answer["error"])
        return answer.get("return")

    def human(self, command_line: str, *, timeout: float = COMMAND_TIMEOUT) -> str:
        """Run a command of the human monitor and return the text that it prints."""
        return str(self.execute("human-monitor-command", {"command-line": command_line}, timeout=timeout))

    def close(self) -> None:
        """Close the connection and end the thread; must not be called from the callbacks."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        if self._thread.ident is not None:
            self._thread.join()
        self._connection.close()

    def _read(self) -> None:
        reason = "QEMU closed the connection"
        buffer = bytearray()
        try:
            while data := self._connection.recv(65536):
                buffer += data
                *lines, rest = buffer.split(b"\n")
                buffer = bytearray(rest)
                for line in lines:
                    if line.strip():
                        self._take(json.loads(line))
                if len(buffer) > MAX_LINE:
                    reason = f"QEMU sent a message of more than {MAX_LINE} bytes"
                    break
        except ConnectionResetError:
            pass  # it ended with a command of ours unread
        except OSError as error:
            reason = f"QEMU is gone: {error.strerror}"
        except ValueError as error:
            reason = f"QEMU sent something that is no QMP: {error}"
        self._fail(reason)
        self._on_closed()

    def _take(self, message: Any) -> None:
        if not isinstance(message, dict):
            raise ValueError(f"expected an object, not {message!r}")
        if "QMP" in message:
            if not self._greeting.done():
                self._greeting.set_result(message["QMP"])
        elif "event" in message:
            self._on_event(str(message["event"]), message.get("data") or {})
        else:
            with self._lock:
                reply = self._pending.pop(message.get("id", -1), None)
            if reply is not None:
                reply.set_result(message)

    def _fail(self, reason: str) -> None:
        with self._lock:
            self._closed = reason
            pending, self._pending = list(self._pending.values()), {}
        if not self._greeting.done():
            self._greeting.set_exception(QmpClosed(reason))
        for reply in pending:
            reply.set_exception(QmpClosed(reason))
