"""The outermost frame of every program: runs the command, reports its failure once, and fixes the exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from .collection import ending
from .exceptions import Failure, describe_any
from .lazy import LazyGroup


class Invocation:
    """What options say about the whole run; travels as the context object of click."""

    output: str | None = None
    """Value of `-o`, once it has been parsed."""


EXIT_GRACE = 2.0
"""Seconds that threads may take to end when everything else has."""


def bound_exit(code: int) -> None:
    """See to it that the process ends with `code` even if a thread, in which a driver blocks, does not end by itself.

    Python waits for all threads and can't stop them. By now the devices are released.
    """
    import signal

    with suppress(ValueError):  # raised in other threads than the main one, where no signal is handled
        # Python would show where in its own shutdown Ctrl-C came.
        signal.signal(signal.SIGINT, lambda *_: os._exit(code))
    threading = sys.modules.get("threading")
    if threading is None or threading.active_count() == 1:
        return

    def end() -> None:
        import atexit
        import logging

        logging.getLogger(__name__).debug("threads did not end: %s", threading.enumerate())
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)

    timer = threading.Timer(EXIT_GRACE, end)
    timer.daemon = True
    timer.start()


def exit_code_of(value: object) -> int:
    """Return the exit code for what a command returned: an integer tells it, anything else means success.

    Numbers that a process can't exit with stay failures; negative ones mean a signal, as in `subprocess`.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    if -64 <= value < 0:
        return 128 - value
    return value if 0 <= value <= 255 else 1


def run(command: click.Command, args: Sequence[str] | None, prog_name: str | None, **extra: Any) -> int:
    """Run the command like a program and return its exit code; a failure has been reported on stderr then."""
    invocation = extra.setdefault("obj", Invocation())
    argv = list(sys.argv[1:] if args is None else args)
    try:
        value = click.Command.main(command, args=args, prog_name=prog_name, standalone_mode=False, **extra)
        sys.stdout.flush()
        return exit_code_of(value)
    except OSError as error:
        if error.errno != errno.EPIPE:
            return report(error, invocation, argv)
        # The reader of a pipe has gone, as with `jmp get leases | head -1`; the interpreter must not flush again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except Exception as error:  # noqa: BLE001 - the one place where everything ends
        return report(error, invocation, argv)
    except (KeyboardInterrupt, BaseExceptionGroup) as error:
        return report(error, invocation, argv)


def report(error: BaseException, invocation: object = None, argv: Sequence[str] = ()) -> int:
    """Tell the user on stderr what has failed, and return the exit code for it."""
    failure = describe_any(error)
    if _debugging() and not isinstance(error, click.UsageError | click.Abort):
        import traceback

        traceback.print_exception(_original(error), file=sys.stderr)
    if _wants_object(error, invocation, list(argv)):
        _write_object(failure)
    elif isinstance(error, click.UsageError):
        error.show()
    elif failure.reason == "aborted":
        click.echo("Aborted!", err=True)
    else:
        click.echo(f"Error: {click.style(failure.message, fg='red')}", err=True)
        if failure.hint:
            click.echo(f"Hint: {failure.hint}", err=True)
    return failure.exit_code


def _debugging() -> bool:
    """Whether the log level asks for everything, which includes tracebacks."""
    logging = sys.modules.get("logging")
    return logging is not None and logging.getLogger().level == logging.DEBUG


def _original(error: BaseException) -> BaseException:
    """Return what was raised before it was turned into a message."""
    if isinstance(error, click.ClickException) and error.__context__ is not None:
        return error.__context__
    return error


def _write_object(failure: Failure) -> None:
    import json

    fields = {"reason": failure.reason, "message": failure.message, "hint": failure.hint}
    click.echo(json.dumps(fields, ensure_ascii=False), err=True)


def _wants_object(error: BaseException, invocation: object, argv: list[str]) -> bool:
    output = getattr(invocation, "output", None)
    # A command line may be refused before its -o is looked at; only a command that has the option is searched for it.
    if output is None and isinstance(error, click.UsageError) and _has_output(error.ctx):
        output = _output_in(argv)
    return output in ("json", "yaml")


def _has_output(ctx: click.Context | None) -> bool:
    return ctx is not None and any(param.name == "output" for param in ctx.command.params)


def _output_in(argv: list[str]) -> str | None:
    words = argv[: argv.index("--")] if "--" in argv else argv
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in ("-o", "--output"):
            return following
        if word.startswith("--output="):
            return word.removeprefix("--output=")
        if word.startswith("-o") and len(word) > 2:
            return word[2:]
    return None


class MainGroup(LazyGroup):
    """The root group of a program."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run as a program and exit; with `standalone_mode=False`, return and raise as click does."""
        if standalone_mode:
            try:
                sys.exit(run(self, args, prog_name, complete_var=complete_var, **extra))
            except SystemExit as end:
                # Without arguments of a caller's own this is the end of the process.
                if args is None and isinstance(end.code, int):
                    bound_exit(end.code)
                    ending()
                raise
        return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
