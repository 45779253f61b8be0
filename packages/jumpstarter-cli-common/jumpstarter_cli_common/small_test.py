"""Ages, versions, callbacks, and the bridge to coroutines."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime, timedelta
from importlib.metadata import version as installed_version
from pathlib import Path

import anyio
import click
import pytest
import yaml
from click.testing import CliRunner

from .blocking import blocking
from .callbacks import ClickCallback, ForceClickCallback, SilentWithConfirmCallback
from .signal import signal_handler
from .time import time_since
from .version import JumpstarterVersion, get_cli_path, get_client_version, version, version_msg


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (timedelta(seconds=5), "5s"),
        (timedelta(seconds=60), "1m"),
        (timedelta(seconds=65), "1m5s"),
        (timedelta(hours=1), "1h"),
        (timedelta(hours=1, minutes=5), "1h5m"),
        (timedelta(hours=2, minutes=30), "2h"),
        (timedelta(days=1), "1d"),
        (timedelta(hours=26), "1d2h"),
        (timedelta(days=30), "1mo"),
        (timedelta(days=45), "1mo15d"),
        (timedelta(days=365), "1y"),
        (timedelta(days=400), "1y1mo"),
    ],
)
def test_ages(age: timedelta, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return now

    monkeypatch.setattr("jumpstarter_cli_common.time.datetime", Clock)
    assert time_since((now - age).strftime("%Y-%m-%dT%H:%M:%SZ")) == text


def test_future_times_are_negative_seconds() -> None:
    assert time_since((datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")).startswith("-86")


def test_a_time_with_fractions_is_refused() -> None:
    with pytest.raises(ValueError, match="does not match"):
        time_since("2026-01-01T00:00:00.5Z")


def test_the_version_is_the_one_of_the_installed_core() -> None:
    assert get_client_version() == installed_version("jumpstarter")


def test_the_version_as_text() -> None:
    assert version_msg().startswith(f"Jumpstarter v{get_client_version()} from {get_cli_path()} (Python 3.")
    assert Path(get_cli_path(), "jumpstarter_cli_common").is_dir()


def test_the_version_as_an_object() -> None:
    shown = json.loads(CliRunner().invoke(version, ["-o", "json"]).output)
    assert set(shown) == {"gitVersion", "pythonVersion"}
    assert yaml.safe_load(CliRunner().invoke(version, ["-o", "yaml"]).output) == shown
    assert JumpstarterVersion(gitVersion="1", pythonVersion="3").git_version == "1"


def test_the_version_is_unknown_without_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", ["/nowhere"])
    assert get_client_version() == "unknown"


def test_a_coroutine_function_becomes_a_plain_one() -> None:
    @blocking
    async def add(a: int, b: int) -> int:
        """Add."""
        await anyio.lowlevel.checkpoint()
        return a + b

    assert add(1, b=2) == 3
    assert add.__doc__ == "Add."


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_cancels_the_scope(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(signal_handler, tasks.cancel_scope)
            await anyio.wait_all_tasks_blocked()
            os.kill(os.getpid(), number)
            await anyio.sleep_forever()
    assert f"{number.name} received" in capfd.readouterr().err


def test_callbacks_report_and_ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(click, "confirm", lambda prompt: prompt == "yes?")
    loud = ClickCallback()
    loud.progress("working")
    loud.success("done")
    loud.warning("careful")
    loud.error("failed")
    captured = capsys.readouterr()
    assert [word in captured.out for word in ("working", "done")] == [True, True]
    assert [word in captured.err for word in ("careful", "failed")] == [True, True]
    assert (loud.confirm("yes?"), loud.confirm("no?")) == (True, False)
    assert ForceClickCallback().confirm("no?") is True
    assert ClickCallback(silent=True).confirm("no?") is True
    assert SilentWithConfirmCallback().confirm("no?") is False


def test_silent_callbacks_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for silent in (ClickCallback(silent=True), SilentWithConfirmCallback()):
        silent.progress("a")
        silent.success("a")
        silent.warning("a")
        silent.error("a")
    assert capsys.readouterr() == ("", "")
