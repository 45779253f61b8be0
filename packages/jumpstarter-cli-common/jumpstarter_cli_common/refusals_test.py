"""Refusals of a controller: told by the reason that it gives."""

from __future__ import annotations

import pytest
from jumpstarter.common.exceptions import ConnectionError

from .exceptions import describe_any
from .refusals import HINTS, reason_word


def refusal(status: str, text: str, reason: str = "") -> ConnectionError:
    error = ConnectionError(text)
    error.status, error.details, error.reason = status, text, reason
    return error


def test_the_reason_of_the_controller_is_the_word_and_chooses_the_hint() -> None:
    text = "policy 'bench' allows 2 leases at once"
    failure = describe_any(refusal("RESOURCE_EXHAUSTED", text, "TOO_MANY_LEASES"))
    assert (failure.reason, failure.message) == ("too-many-leases", text)
    assert failure.hint is not None
    assert "jmp delete lease" in failure.hint


def test_a_message_of_several_lines_is_told_in_one() -> None:
    assert describe_any(refusal("UNKNOWN", "no\n  such thing", "NEW_REASON")).message == "no such thing"


def test_a_reason_that_is_new_has_its_word_and_no_hint() -> None:
    failure = describe_any(refusal("INTERNAL", "broken", "SOMETHING_NEW"))
    assert (failure.reason, failure.hint) == ("something-new", None)


@pytest.mark.parametrize(
    ("status", "word"), [("NOT_FOUND", "not-found"), ("PERMISSION_DENIED", "unauthorized"), ("UNKNOWN", "connection")]
)
def test_a_refusal_without_a_reason_is_told_by_its_status(status: str, word: str) -> None:
    failure = describe_any(refusal(status, "the lease is not there"))
    assert (failure.reason, failure.message) == (word, "the lease is not there")


def test_hints_are_whole_sentences_and_words_are_plain() -> None:
    for reason, hint in HINTS.items():
        assert hint.endswith("."), reason
        assert reason_word(reason).replace("-", "").islower(), reason
