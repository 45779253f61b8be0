"""One run of a virtual machine: the QEMU process, its monitor, its serial console and its last words."""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from jumpstarter.common.exceptions import JumpstarterException
from jumpstarter.common.guard import GuardedProcess
from jumpstarter_driver_pyserial.mailbox import Mailbox

from .qmp import QmpClient, QmpClosed, QmpError

START_TIMEOUT: Final = 20.0
"""Seconds that QEMU may take until it answers."""

EXIT_TIMEOUT: Final = 10.0
"""Seconds within which QEMU has ended after its monitor has."""

GRACE: Final = 5.0
"""Seconds between SIGTERM and SIGKILL at power-off."""

KEPT_LINES: Final = 50
"""Lines of QEMU's standard error that are kept for error messages."""

MAX_SCREENSHOT: Final = 256 << 20
"""Bytes of the largest picture that is read."""


class MachineError(JumpstarterException, RuntimeError):
    """The machine can't be started, or can't do what it was asked for."""


class Machine:
    """A running virtual machine. Blocking, for use in worker threads; all methods may be called from any thread.

    The process dies with this one, however that ends, and so does the run-time directory.

    Args:
        command: program and arguments of QEMU, without those for the monitor and the console.
        runtime: an empty directory for sockets; it is removed in the end.
        console: takes what the first serial port says.
        logger: gets what QEMU says, and what happens to the machine.
    """

    def __init__(self, command: Sequence[str], *, runtime: Path, console: Mailbox, logger: logging.Logger) -> None:
        self._logger = logger
        self._runtime = runtime
        self._console = console
        self._ended = threading.Event()
        self._started = False
        self._stopping = False
        self._shutdown_reason: str | None = None
        self._errors: deque[str] = deque(maxlen=KEPT_LINES)
        monitor, its_monitor = socket.socketpair()
        serial, its_serial = socket.socketpair()
        self._serial = serial
        # The console is connected before the machine runs (-S), so that nothing of its output is missed.
        arguments = [
            *("-chardev", f"socket,id=monitor,fd={its_monitor.fileno()}"),
            *("-mon", "chardev=monitor,mode=control"),
            *("-chardev", f"socket,id=serial0,fd={its_serial.fileno()}", "-serial", "chardev:serial0", "-S"),
        ]
        try:
            with its_monitor, its_serial:
                self._process = GuardedProcess(
                    [*command, *arguments],
                    grace=GRACE,
                    remove=runtime,
                    pass_fds=(its_monitor.fileno(), its_serial.fileno()),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                )
        except BaseException:
            monitor.close()
            serial.close()
            raise
        self._qmp = QmpClient(monitor, on_event=self._on_event, on_closed=self._ended.set)
        self._threads = [
            threading.Thread(target=self._read_console, name="QEMU console", daemon=True),
            threading.Thread(target=self._read_errors, name="QEMU messages", daemon=True),
            threading.Thread(target=self._watch, name="QEMU watcher", daemon=True),
        ]
        for thread in self._threads[:2]:
            thread.start()

    def start(self) -> None:
        """Let the machine run.

        Raises:
            MachineError: QEMU ended at once or doesn't answer; the message holds what it said.
        """
        try:
            version = self._qmp.start(START_TIMEOUT)["version"]["qemu"]
            self._logger.debug("QEMU %s.%s.%s runs", version["major"], version["minor"], version["micro"])
            self._qmp.execute("cont")
        except (QmpClosed, QmpError, TimeoutError) as error:
            with suppress(subprocess.TimeoutExpired):
                self._process.popen.wait(EXIT_TIMEOUT if isinstance(error, QmpClosed) else 0)
            status = self._process.poll()
            self.stop()
            said = "\n".join(self._errors) or "QEMU said nothing about it."
            what = f"it ended with exit status {status}" if status is not None else str(error)
            raise MachineError(f"QEMU can't start the machine: {what}\n{said}") from None
        self._started = True
        for line in list(self._errors):
            self._logger.warning("QEMU: %s", line)
        self._threads[2].start()

    @property
    def running(self) -> bool:
        """Whether QEMU is there; also true while the machine is paused."""
        return not self._ended.is_set()

    def execute(self, command: str, arguments: dict[str, Any] | None = None, *, timeout: float = 10.0) -> Any:
        """Run a QMP command and return what it returns.

        Raises:
            MachineError: QEMU refused it, or is gone.
            TimeoutError: QEMU doesn't answer.
        """
        try:
            return self._qmp.execute(command, arguments, timeout=timeout)
        except (QmpError, QmpClosed) as error:
            raise MachineError(str(error)) from None

    def state(self) -> str:
        """Return QEMU's word for the state: `running`, `paused`, `shutdown`, `guest-panicked`, ..."""
        return str(self.execute("query-status")["status"])

    def forwarded_ports(self) -> dict[tuple[str, int], int]:
        """Return the host's port by protocol (`tcp`, `udp`) and the guest's port."""
        try:
            text = self._qmp.human("info usernet")
        except (QmpError, QmpClosed) as error:
            raise MachineError(str(error)) from None
        lines = re.findall(r"^\s*(TCP|UDP)\[HOST_FORWARD\]\s+\d+\s+\S+\s+(\d+)\s+\S+\s+(\d+)", text, re.MULTILINE)
        return {(protocol.lower(), int(guest)): int(host) for protocol, host, guest in lines}

    def screenshot(self) -> bytes:
        """Return a picture of the screen as PNG.

        Raises:
            MachineError: the machine has no screen, or QEMU is too old (PNG came with 7.1).
        """
        descriptor, name = tempfile.mkstemp(dir=self._runtime, suffix=".png")
        os.close(descriptor)
        path = Path(name)
        try:
            self.execute("screendump", {"filename": name, "format": "png"}, timeout=30)
            if path.stat().st_size > MAX_SCREENSHOT:
                raise MachineError(f"the picture is larger than {MAX_SCREENSHOT} bytes")
            return path.read_bytes()
        finally:
            path.unlink(missing_ok=True)

    def shutdown(self, timeout: float) -> None:
        """Press the power button and wait until the guest has switched itself off.

        Raises:
            TimeoutError: it didn't within `timeout` seconds; it goes on running.
        """
        self.execute("system_powerdown")
        if not self._ended.wait(timeout):
            raise TimeoutError(
                f"the guest did not switch itself off within {timeout:g} s after its power button was pressed. "
                "It may not react to that button; power off cuts its power instead"
            )
        self.stop()

    def stop(self) -> None:
        """Cut the power and release everything. Does nothing the second time."""
        self._stopping = True
        self._process.stop()
        self._qmp.close()
        with suppress(OSError):
            self._serial.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join()
        self._serial.close()
        if self._process.popen.stderr is not None:
            self._process.popen.stderr.close()
        self._ended.set()

    def write_console(self, data: bytes) -> None:
        """Type into the first serial port; blocks while the guest takes no input.

        Raises:
            OSError: the machine is off.
        """
        self._serial.sendall(data)

    def _on_event(self, name: str, data: dict[str, Any]) -> None:
        if name == "SHUTDOWN":
            self._shutdown_reason = str(data.get("reason", "unknown"))
        if name in ("RESET", "GUEST_PANICKED", "STOP", "RESUME", "WATCHDOG", "BLOCK_IO_ERROR"):
            self._logger.info("machine: %s %s", name, data or "")
        else:
            self._logger.debug("machine: %s %s", name, data or "")

    def _read_console(self) -> None:
        with suppress(OSError):
            while data := self._serial.recv(65536):
                self._console.put(data)

    def _read_errors(self) -> None:
        assert self._process.popen.stderr is not None
        for line in self._process.popen.stderr:
            text = line.decode(errors="replace").rstrip()
            self._errors.append(text)
            # What is said before the start is either the reason for its failure, or logged after it.
            if self._started and not (self._stopping and "terminating on signal" in text):
                self._logger.warning("QEMU: %s", text)

    def _watch(self) -> None:
        """Log an end that nobody asked for."""
        self._ended.wait()
        if self._stopping:
            return
        with suppress(subprocess.TimeoutExpired):
            self._process.popen.wait(EXIT_TIMEOUT)
        status = self._process.poll()
        if self._stopping:
            return
        if self._shutdown_reason == "guest-shutdown" and status == 0:
            self._logger.info("the machine switched itself off")
        else:
            said = "; ".join(self._errors) or "QEMU said nothing about it"
            self._logger.error("QEMU ended by itself with exit status %s: %s", status, said)
