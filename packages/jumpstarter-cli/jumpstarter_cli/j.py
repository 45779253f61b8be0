"""The program `j`: the commands of the device that the surrounding shell was opened for."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import click
from jumpstarter.utils.env import lazy_env
from jumpstarter_cli_common.entry import report, run
from jumpstarter_cli_common.exceptions import ClickExceptionRed
from jumpstarter_cli_common.logs import setup_logging

PROGRAM = "j"
COMPLETION = "_J_COMPLETE"
"""Variable by which a shell's completion script asks for completions."""


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end the body like an error does, so that everything is closed on the way out."""

    def end(number: int, _frame: Any) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def root_command(client: Any) -> click.Command:
    """Return the command of the root driver client.

    Raises:
        ClickExceptionRed: its class has no commands.
    """
    cli = getattr(client, "cli", None)
    if not callable(cli):
        raise ClickExceptionRed(
            f"The exporter's root driver has no commands (its client is {type(client).__name__}).",
            reason="no-commands",
            hint="Use it from Python: `from jumpstarter.common.utils import env`.",
        )
    command = cli()
    if not isinstance(command, click.Command):
        raise ClickExceptionRed(f"{type(client).__name__}.cli() returned no click command.", reason="no-commands")
    return command


def main(args: Sequence[str] | None = None) -> int:
    """Run `j` and return its exit code."""
    completing = COMPLETION in os.environ
    setup_logging("CRITICAL" if completing else "INFO")
    try:
        with terminable(), lazy_env() as client:
            return run(root_command(client), args, PROGRAM)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the one place where everything ends
        # Completion has nowhere to show an error: the shell is in the middle of a line.
        return 0 if completing else report(error)


def j() -> None:
    """Run `j` and exit."""
    leave(main())


def leave(code: int) -> NoReturn:
    """Exit; where nothing runs any more, without taking all modules apart first, which is a sixth of a short run."""
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    j()
