"""The garbage collector while programs start and end."""

from __future__ import annotations

import gc

import pytest

from .collection import ending, loading


def test_nothing_is_collected_while_modules_load_and_as_before_afterwards() -> None:
    assert gc.isenabled()

    with loading():
        during = gc.isenabled()

    assert not during
    assert gc.isenabled()
    gc.unfreeze()


def test_a_collector_that_is_switched_off_stays_off() -> None:
    gc.disable()
    try:
        with loading():
            pass

        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()


def test_a_failing_import_leaves_the_collector_switched_on() -> None:
    with pytest.raises(ImportError), loading():
        raise ImportError

    assert gc.isenabled()
    gc.unfreeze()


def test_what_is_there_at_the_end_is_not_searched() -> None:
    ending()

    assert gc.get_freeze_count() > 0
    gc.unfreeze()
