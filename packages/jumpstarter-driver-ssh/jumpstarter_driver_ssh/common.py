"""What callers of the SSH client give and get."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

DEFAULT_SSH_COMMAND = "ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
"""Boards get another host key whenever they are flashed, so it is checked only where the config names it."""


@dataclass
class SSHCommandRunResult:
    """What a command on the device came to."""

    return_code: int
    """The command's own exit status; 255 when there was no connection, 127 when there is no ssh program here."""
    stdout: str | bytes
    stderr: str | bytes

    @staticmethod
    def from_completed_process(
        result: subprocess.CompletedProcess[str] | subprocess.CompletedProcess[bytes],
    ) -> SSHCommandRunResult:
        """Make a result of what `subprocess.run` returned; output that was not captured is empty."""
        status = result.returncode if result.returncode >= 0 else 128 - result.returncode
        return SSHCommandRunResult(return_code=status, stdout=result.stdout or "", stderr=result.stderr or "")


@dataclass
class SSHCommandRunOptions:
    """How a command is run."""

    direct: bool = False
    """Connect to the device's own address instead of through the exporter."""
    capture_output: bool = True
    """Return the output; else it goes where that of this process goes, and input comes from there."""
    capture_as_text: bool = True
    """Return text, not bytes."""
    timeout: float | None = None
    """Seconds after which the command is stopped; None for no limit."""
