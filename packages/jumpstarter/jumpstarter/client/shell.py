"""Starts a shell, or a command, in which `j` and Python programs reach the exporter of a lease."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from .shell_start import ANSI_GRAY, ANSI_RESET, ANSI_WHITE, ANSI_YELLOW, PROMPT_CWD, interactive_shell

if TYPE_CHECKING:
    from .lease import DirectLease, Lease

__all__ = [
    "ANSI_GRAY",
    "ANSI_RESET",
    "ANSI_WHITE",
    "ANSI_YELLOW",
    "PROMPT_CWD",
    "launch_shell",
    "lease_ending_handler",
]

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""Exit statuses of shells (POSIX, 2.8.2) for commands that can't be started."""


def launch_shell(
    host: str | os.PathLike[str],
    context: str,
    allow: list[str],
    unsafe: bool,
    use_profiles: bool = False,
    *,
    command: Sequence[str] | None = None,
    lease: Lease | DirectLease | None = None,
    insecure: bool = False,
    passphrase: str | None = None,
    motd: str | None = None,
    on_start: Callable[[subprocess.Popen[bytes]], None] | None = None,
) -> int:
    """Run a shell or a command that has its way to an exporter in the environment, and wait for its end.

    When the lease ends meanwhile, the child gets SIGHUP, as from a terminal that is closed.

    Args:
        host: Unix socket or `host:port` of the session.
        context: shown in the prompt: the name of the exporter, or `local`.
        allow: globs of the client classes that may be imported.
        unsafe: import any client class.
        use_profiles: let an interactive shell read its start-up files, which may replace the prompt.
        command: program and arguments; without it `$SHELL`, or else bash, is run.
        lease: whose name and exporter the child is told, and whose end is passed on.
        insecure: a TCP `host` speaks plain text.
        passphrase: what a TCP `host` asks for.
        motd: text to show before an interactive shell.
        on_start: called with the running child, by which a caller can end it.

    Returns:
        The exit status: 128+N after signal N, 127 when there is no such program, 126 when it can't be executed.
    """
    environment = _environment(host, allow, unsafe, lease, insecure, passphrase)
    with ExitStack() as stack:
        if command:
            arguments = list(command)
        else:
            shell = os.environ.get("SHELL") or "bash"
            arguments, start = stack.enter_context(interactive_shell(shell, context, use_profiles))
            environment |= start
            if motd:
                print(_printable(motd), flush=True)
        stack.enter_context(_terminal_restored())
        try:
            process = subprocess.Popen(arguments, env=environment)
        except OSError as error:
            return _not_started(arguments[0], error)
        with _told_of_end(process, lease):
            if on_start is not None:
                on_start(process)
            status = process.wait()
    return 128 - status if status < 0 else status


def _programs_not_found() -> str | None:
    """Return the folder of our own programs when `j` would not be found, as in an environment that is not activated."""
    folder = os.path.dirname(sys.executable)
    if shutil.which("j") is None and os.access(os.path.join(folder, "j"), os.X_OK):
        return folder
    return None


def _environment(
    host: str | os.PathLike[str],
    allow: list[str],
    unsafe: bool,
    lease: Lease | DirectLease | None,
    insecure: bool,
    passphrase: str | None,
) -> dict[str, str]:
    from jumpstarter.common.env import (
        JMP_DRIVERS_ALLOW,
        JMP_EXPORTER,
        JMP_EXPORTER_LABELS,
        JMP_GRPC_INSECURE,
        JMP_GRPC_PASSPHRASE,
        JMP_LEASE,
        JUMPSTARTER_HOST,
    )

    environment = dict(os.environ)
    # What an outer shell says of its exporter is not true of this one.
    for name in (JMP_EXPORTER, JMP_EXPORTER_LABELS, JMP_LEASE):
        environment.pop(name, None)
    environment[JUMPSTARTER_HOST] = os.fspath(host)
    environment[JMP_DRIVERS_ALLOW] = "UNSAFE" if unsafe else ",".join(allow)
    environment["_JMP_SUPPRESS_DRIVER_WARNINGS"] = "1"
    if (programs := _programs_not_found()) is not None:
        environment["PATH"] = os.pathsep.join(filter(None, (environment.get("PATH"), programs)))
    if insecure:
        environment[JMP_GRPC_INSECURE] = "1"
    if passphrase:
        environment[JMP_GRPC_PASSPHRASE] = passphrase
    if lease is None:
        return environment
    environment[JMP_EXPORTER] = lease.exporter_name
    if lease.exporter_labels:
        environment[JMP_EXPORTER_LABELS] = ",".join(
            f"{key}={lease.exporter_labels[key]}" for key in sorted(lease.exporter_labels)
        )
    if lease.name and not _is_direct(lease):
        environment[JMP_LEASE] = lease.name
    return environment


def _is_direct(lease: Any) -> bool:
    from .lease import DirectLease

    return isinstance(lease, DirectLease)


def _printable(text: str) -> str:
    """Return text of an exporter without what could control the terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)


# -- starting and ending -------------------------------------------------------------------------


def _not_started(program: str, error: OSError) -> int:
    if isinstance(error, FileNotFoundError):
        if os.path.sep in program and os.path.exists(program):
            reason = "its interpreter, named in the first line, does not exist"
        else:
            reason = "no such program; check the spelling and PATH"
        status = NOT_FOUND
    else:
        reason = f"{error.strerror}; is it a program, and may you execute it?"
        status = NOT_EXECUTABLE
    print(f"can't run '{program}': {reason}", file=sys.stderr)
    return status


@contextmanager
def _told_of_end(process: subprocess.Popen[bytes], lease: Any) -> Generator[None, None, None]:
    """Let the child know of the end of the lease."""
    if lease is None:
        yield
        return
    before = lease.lease_ending_callback
    lease.lease_ending_callback = partial(lease_ending_handler, process)
    try:
        yield
    finally:
        lease.lease_ending_callback = before


def lease_ending_handler(process: subprocess.Popen[bytes], lease: Any, remaining: timedelta) -> None:
    """Pass the end of a lease on to a shell: a line when it comes near, SIGHUP when it has come.

    Args:
        process: the shell.
        lease: the lease.
        remaining: time that is left.
    """
    if remaining > timedelta(0):
        minutes, seconds = divmod(int(remaining.total_seconds()), 60)
        notice = getattr(lease, "ending_notice", None)
        if not isinstance(notice, str) or not notice:
            notice = (
                f"Lease {lease.name} ends in {minutes} min {seconds:02} s; to keep it: "
                f"jmp update lease {lease.name} --duration ..."
            )
        # The terminal may be in raw mode, where a new line does not return to the first column.
        print(f"\r\n{notice[:1].upper()}{notice[1:]}\r", file=sys.stderr, flush=True)
    elif process.poll() is None:
        process.send_signal(signal.SIGHUP)


@contextmanager
def _terminal_restored() -> Generator[None, None, None]:
    """Take the terminal back, in the mode it was in, from a child that ended without giving it back."""
    try:
        import termios

        descriptor = sys.__stdin__.fileno() if sys.__stdin__ is not None else 0
        mode = termios.tcgetattr(descriptor)
        in_foreground = os.tcgetpgrp(descriptor) == os.getpgrp()
    except (ImportError, OSError, ValueError, termios.error):
        yield
        return
    try:
        yield
    finally:
        if in_foreground:
            # Whoever sets the terminal from the background is stopped by SIGTTOU, unless it is blocked.
            old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
            try:
                os.tcsetpgrp(descriptor, os.getpgrp())
                termios.tcsetattr(descriptor, termios.TCSADRAIN, mode)
            except (OSError, termios.error):
                pass  # the terminal is gone
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, old)
