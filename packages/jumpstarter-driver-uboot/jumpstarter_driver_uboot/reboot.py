"""From power-on to U-Boot's prompt: stopping autoboot, and telling why that didn't work."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import TAIL_LINES, ConsoleClosed
from .text import Cleaner, lines_of

if TYPE_CHECKING:
    from .client import UbootConsoleClient

PAUSE = 0.1
"""Seconds between two tries to stop autoboot."""
ANSWER = 1.0
"""Seconds that U-Boot takes to answer at its prompt at most."""
REOPEN = 10.0
"""Seconds that a port which the board powers may take to come back."""

_BOOTED = re.compile(r"^Starting kernel \.\.\.|Linux version \d|\blogin: \Z", re.MULTILINE)


@dataclass(frozen=True)
class BootSettings:
    """How autoboot is stopped; see `UbootConsole` of the driver."""

    interrupt: str
    interrupt_after: str | None = None
    boot_timeout: float | None = None


def reach_prompt(
    client: UbootConsoleClient,
    settings: BootSettings,
    retries: int,
    limit: float | None,
    reopen: Callable[[float], None],
) -> None:
    """Try to stop autoboot until U-Boot answers at its prompt.

    Args:
        client: in the context of an open console, whose board has just been switched on.
        settings: how autoboot is stopped.
        retries: number of tries; they don't count if `limit` is given.
        limit: seconds until the prompt must be there.
        reopen: opens the console again after its connection has ended, within so many seconds.

    Raises:
        RuntimeError: it did not work.
    """
    from pexpect import EOF, TIMEOUT

    # The blanks around a prompt are left out: what comes before it may have lost its line end.
    known = (client.prompt.strip(), "=>", "U-Boot>")
    prompts = [prompt for index, prompt in enumerate(known) if prompt and prompt not in known[:index]]
    shown, ended = "", ""
    armed = settings.interrupt_after is None
    deadline = None if limit is None else time.monotonic() + limit
    tries = 0
    while tries < retries if deadline is None else time.monotonic() < deadline:
        tries += 1
        try:
            if armed:
                client.p.send(settings.interrupt)
            client.p.expect_exact(prompts, timeout=PAUSE)
            if client.console.answers(ANSWER):
                return
        except TIMEOUT:
            shown = _text(client.p.before)
        except (EOF, OSError, ConsoleClosed) as error:
            ended = f" The connection to the console ended meanwhile ({type(error).__name__})."
            reopen(REOPEN if deadline is None else max(deadline - time.monotonic(), 0))
        armed = armed or (settings.interrupt_after or "") in shown
        if booted := _BOOTED.search(shown):
            raise RuntimeError(
                f"Failed to get U-Boot prompt: the board has booted on (it showed {booted.group().strip()!r}), so "
                f"autoboot was not stopped by {settings.interrupt!r}. Set 'interrupt' of the U-Boot driver to what "
                f"this board wants.{_quoted(shown)}"
            )
    bound = f"{retries} tries" if limit is None else f"{limit:g} s"
    advice = (
        "Is it the right port, and does the board get power?"
        if not shown.strip()
        else "A board that takes longer needs 'boot_timeout', one with another prompt needs 'prompt', in the config of "
        "the U-Boot driver."
    )
    raise RuntimeError(f"Failed to get U-Boot prompt within {bound}. {advice}{ended}{_quoted(shown)}")


def _text(before: Any) -> str:
    """Return what a session has seen since the last match."""
    if isinstance(before, bytes):
        before = before.decode(errors="replace")
    return Cleaner().feed(before) if isinstance(before, str) else ""


def _quoted(shown: str) -> str:
    lines = [line for line in lines_of(shown) if line.strip()][-TAIL_LINES:]
    if not lines:
        return " The console showed nothing."
    return "\nThe last lines of the console:" + "".join(f"\n  | {line}" for line in lines)
