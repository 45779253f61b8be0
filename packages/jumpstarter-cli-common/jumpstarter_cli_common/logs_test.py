"""Log lines of the commands."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from .logs import SourcePrefixFormatter, set_format, setup_logging


@pytest.fixture
def record() -> logging.LogRecord:
    try:
        raise RuntimeError("the relay is stuck")
    except RuntimeError:
        return logging.LogRecord("driver.Relay", logging.ERROR, __file__, 1, "on failed", None, sys.exc_info())


@pytest.fixture
def root_level() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    before = root.level
    yield root
    root.setLevel(before)


def test_an_exception_is_told_with_its_place_and_without_a_traceback(
    record: logging.LogRecord, root_level: logging.Logger
) -> None:
    root_level.setLevel(logging.INFO)
    first, second = SourcePrefixFormatter().format(record).splitlines()
    assert first == "[driver.Relay] ERROR: on failed"
    assert second.startswith(f"  raised at {__file__}:")


def test_the_traceback_is_shown_at_log_level_debug(record: logging.LogRecord, root_level: logging.Logger) -> None:
    SourcePrefixFormatter().format(record)
    root_level.setLevel(logging.DEBUG)
    text = SourcePrefixFormatter().format(record)
    assert "Traceback (most recent call last)" in text
    assert text.endswith("RuntimeError: the relay is stuck")


def test_lines_can_be_objects(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    setup_logging("INFO")
    set_format("json")
    try:
        raise ValueError("odd")
    except ValueError:
        logging.getLogger("some.part").exception("it is %s", "\N{SNOWMAN}\n")
    set_format("text")
    logging.getLogger("some.part").info("plain")
    first, second = capsys.readouterr().err.splitlines()
    line = json.loads(first)
    assert (line["level"], line["logger"], line["message"]) == ("error", "some.part", "it is \N{SNOWMAN}\n")
    assert "ValueError: odd" in line["exception"]
    assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0)
    assert second == "[some.part] plain"
