"""The command-line program probe-rs: running it, its failures, and the words that it prints.

Commands and output are those of probe-rs 0.24 to 0.32, see https://probe.rs/docs/tools/probe-rs/.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final

from jumpstarter.common.guard import GuardedProcess

TOOL: Final = "probe-rs"
INSTALL: Final = "install it from https://probe.rs (cargo install probe-rs-tools --locked), or set 'probe_rs_path'"

GRACE: Final = 2.0
"""Seconds that probe-rs has to let go of the probe when it is interrupted."""

MAX_OUTPUT: Final = 8 << 20
"""Bytes of output that are taken of a command; 1 MiB of memory are below 5."""

MAX_REASON: Final = 4000
"""Characters of an error that are passed on: the last ones."""

_STYLE: Final = re.compile(r"\x1b\[[0-9;]*m")
_ADDRESS: Final = re.compile(r"^\s*(?:0x)?[0-9a-fA-F]{8,16}:")


class ProbeRsError(RuntimeError):
    """probe-rs can't be run, or it failed; the message has what it said."""


class ProbeRsTimeout(ProbeRsError, TimeoutError):
    """probe-rs did not end in time."""


def find(path: str) -> str:
    """Return the program.

    Raises:
        ProbeRsError: there is none.
    """
    found = shutil.which(os.path.expanduser(path or TOOL))
    if found is None:
        raise ProbeRsError(f"the program {path or TOOL!r} is not there, or can't be run: {INSTALL}")
    return found


def run(
    program: str, words: Sequence[str], env: Mapping[str, str], timeout: float, stop: threading.Event | None = None
) -> str:
    """Run a command and return what it prints. It dies with this process, whatever happens to that.

    Args:
        program: path of probe-rs.
        words: sub-command and arguments.
        env: variables beside those of this process.
        timeout: seconds that it may take.
        stop: ends the command when it is set.

    Raises:
        ProbeRsTimeout: it took longer; it was ended.
        ProbeRsError: it failed, or was stopped.
    """
    shown = " ".join([TOOL, *words])
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = GuardedProcess(
            [program, *words],
            grace=GRACE,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
        )
        try:
            deadline = time.monotonic() + timeout
            while not select.select([process], [], [], 0.1)[0]:
                if stop is not None and stop.is_set():
                    raise ProbeRsError(f"'{shown}' was stopped")
                if time.monotonic() >= deadline:
                    raise ProbeRsTimeout(f"'{shown}' did not end within {timeout:g} s{_reason(errors.fileno())}")
                if os.fstat(output.fileno()).st_size > MAX_OUTPUT:
                    raise ProbeRsError(f"'{shown}' prints more than {MAX_OUTPUT >> 20} MiB")
            status = process.popen.wait(GRACE)
        finally:
            process.stop()
        if status != 0:
            end = f"died by signal {-status}" if status < 0 else f"failed with status {status}"
            raise ProbeRsError(f"'{shown}' {end}{_reason(errors.fileno()) or _reason(output.fileno())}")
        return plain(os.pread(output.fileno(), MAX_OUTPUT, 0))


class GdbServer:
    """A GDB server of probe-rs on a port of its own; it dies with this process."""

    def __init__(self, program: str, env: Mapping[str, str]) -> None:
        """Start it; it listens a moment later.

        Args:
            program: path of probe-rs.
            env: variables beside those of this process.
        """
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close())
        self._process = GuardedProcess(
            [program, "gdb", "--gdb-connection-string", f"127.0.0.1:{self.port}"],
            grace=GRACE,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    def runs(self) -> bool:
        """Tell whether it has not ended."""
        return self._process.poll() is None

    def reason(self) -> str:
        """Return what it said, for an error."""
        return _reason(self._log.fileno())

    def close(self) -> None:
        """End it."""
        self._process.stop()
        self._log.close()


def _reason(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    text = plain(os.pread(descriptor, MAX_REASON, max(size - MAX_REASON, 0))).strip()
    return f":\n{text}" if text else ""


def plain(data: bytes) -> str:
    """Return output as text, without the styling that newer versions give it even in files."""
    return _STYLE.sub("", data.decode(errors="replace"))


def words_of(output: str) -> list[str]:
    """Return the words of memory that `probe-rs read` printed, in hexadecimal.

    Up to 0.31 they are on one or several lines, separated by blanks; from 0.32 on each line begins with its address
    and a colon.

    Raises:
        ProbeRsError: the output is something else.
    """
    words = " ".join(_ADDRESS.sub("", line) for line in output.splitlines()).split()
    for word in words:
        if not re.fullmatch(r"(?:0x)?[0-9a-fA-F]{2,16}", word):
            raise ProbeRsError(f"'{TOOL} read' printed what is no word of memory: {output.strip()[:200]!r}")
    return words
