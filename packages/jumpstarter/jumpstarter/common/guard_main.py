"""Runs one command and ends it, with all its descendants, when the program that asked for it is gone.

Started by `jumpstarter.common.guard` as a program of its own (`python -I -S`), so it imports next to nothing:

    guard_main.py LIFELINE GRACE REMOVE COMMAND [ARGUMENT ...]

LIFELINE is a socket whose other end only the asking program holds. Once it reads as ended, whether that program
closed it or was killed, the process group gets SIGTERM, and SIGKILL after GRACE seconds at the latest. The directory
REMOVE, when it isn't empty, is removed at the end. The exit status is the command's own, a death by signal included.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time


def main(arguments: list[str]) -> int:
    """Run the command; return its exit status, 127 when it can't be started."""
    lifeline, grace, remove, command = int(arguments[0]), float(arguments[1]), arguments[2], arguments[3:]
    os.set_inheritable(lifeline, False)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    defaults = [signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ]
    try:
        child = os.posix_spawnp(command[0], command, os.environ, setsigdef=defaults)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        _clean(remove)
        return 127
    status = _wait(child, [lifeline, wake_read], wake_read, None)
    if status is None:
        os.killpg(0, signal.SIGTERM)
        _wait(child, [wake_read], wake_read, time.monotonic() + grace)
        _clean(remove)
        os.killpg(0, signal.SIGKILL)
        return 1
    _clean(remove)
    if os.WIFSIGNALED(status):
        cause = os.WTERMSIG(status)
        if cause != signal.SIGKILL:
            signal.signal(cause, signal.SIG_DFL)
        os.kill(os.getpid(), cause)
    return os.waitstatus_to_exitcode(status)


def _wait(child: int, descriptors: list[int], wake: int, deadline: float | None) -> int | None:
    """Return the child's wait status, or None when a descriptor other than `wake` ended or the deadline came."""
    while True:
        finished, status = os.waitpid(child, os.WNOHANG)
        if finished:
            return status
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select(descriptors, [], [], left)
        if not ready:
            return None
        if wake in ready:
            os.read(wake, 4096)
        if any(descriptor != wake for descriptor in ready):
            return None


def _clean(directory: str) -> None:
    if directory:
        import shutil

        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
