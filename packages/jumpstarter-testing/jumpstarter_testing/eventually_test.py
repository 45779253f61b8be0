import threading
import time

import pytest

from jumpstarter_testing import eventually


def test_returns_what_the_first_successful_attempt_returned():
    attempts = []

    def ready() -> str:
        attempts.append(1)
        assert len(attempts) == 3
        return "ready"

    assert eventually(ready, interval=0) == "ready"
    assert len(attempts) == 3


def test_a_condition_that_never_holds_raises_the_last_error():
    attempts = []

    def never() -> None:
        attempts.append(1)
        raise AssertionError(f"attempt {len(attempts)}")

    with pytest.raises(AssertionError) as caught:
        eventually(never, timeout=0.05, interval=0.01)

    assert str(caught.value) == f"attempt {len(attempts)}"
    assert len(attempts) > 1


def test_a_timeout_of_zero_makes_one_attempt():
    attempts = []

    def never() -> None:
        attempts.append(1)
        raise LookupError("no")

    with pytest.raises(LookupError):
        eventually(never, timeout=0)

    assert attempts == [1]


def test_a_long_interval_does_not_stretch_the_timeout():
    started = time.monotonic()

    with pytest.raises(ZeroDivisionError):
        eventually(lambda: 1 / 0, timeout=0.1, interval=60)

    assert time.monotonic() - started < 5


def test_a_condition_that_comes_true_during_the_last_pause_is_seen():
    flag = threading.Event()
    timer = threading.Timer(0.05, flag.set)
    timer.start()

    def is_set() -> bool:
        assert flag.is_set()
        return True

    assert eventually(is_set, timeout=0.5, interval=60)
    timer.join()


def test_skip_inside_the_condition_ends_the_wait_at_once():
    attempts = []

    def skips() -> None:
        attempts.append(1)
        pytest.skip("not here")

    with pytest.raises(pytest.skip.Exception):
        eventually(skips)

    assert attempts == [1]


@pytest.mark.parametrize("limits", [{"timeout": -1}, {"interval": -0.1}])
def test_negative_times_are_refused(limits):
    with pytest.raises(ValueError, match="must not be negative"):
        eventually(lambda: None, **limits)
