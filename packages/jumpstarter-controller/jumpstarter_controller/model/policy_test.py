"""Who may have which exporter, and what is said to whom who may not."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ..errors import Code, Refused
from .policy import LONGEST_TEXT, UNRESTRICTED, admit, no_access_text, refuse_length_or_number, span
from .records import Meta, Policy, Rule
from .selector import Selector, parse

HOUR = timedelta(hours=1)
ALICE = {"team": "a"}
BOARD = {"board": "x"}
EVERYBODY = (Selector(),)


def policy(name: str, *rules: Rule, exporters: str = "") -> Policy:
    return Policy(meta=Meta(namespace="lab", name=name), exporters=parse(exporters), rules=rules)


def test_P01_without_policies_everybody_may_have_everything() -> None:
    admission = admit([], ALICE, HOUR)
    assert admission.best(BOARD) is UNRESTRICTED


def test_a_rule_without_clients_is_for_nobody() -> None:
    assert admit([policy("p", Rule())], ALICE, HOUR).best(BOARD) is None


def test_a_rule_is_for_clients_that_match_one_of_its_selectors() -> None:
    rule = Rule(clients=(parse("team=b"), parse("team=a")))
    assert admit([policy("p", rule)], ALICE, HOUR).best(BOARD) is not None
    assert admit([policy("p", rule)], {"team": "c"}, HOUR).best(BOARD) is None


def test_a_policy_is_about_the_exporters_that_match() -> None:
    admission = admit([policy("p", Rule(clients=EVERYBODY), exporters="board=x")], ALICE, HOUR)
    assert admission.best(BOARD) is not None
    assert admission.best({"board": "y"}) is None


def test_P02_the_refusal_lists_the_descriptions_of_rules_for_others_once_and_no_empty_ones() -> None:
    others = (parse("team=z"),)
    rules = [Rule(description=text, clients=others) for text in ("night shift", "", " ", "lab team", "night shift")]
    admission = admit([policy("p", *rules)], ALICE, HOUR)
    text = no_access_text(admission, [BOARD])
    assert "1 exporter matched" in text
    assert "none of them are approved by any policy" in text
    assert text.endswith("Matching policies: night shift; lab team")


def test_P02_the_refusal_has_an_end() -> None:
    rules = [Rule(description=f"{number} {'x' * 100}", clients=(parse("team=z"),)) for number in range(100)]
    assert len(no_access_text(admit([policy("p", *rules)], ALICE, HOUR), [BOARD])) == LONGEST_TEXT


def test_L06_when_nothing_matches_no_policies_are_listed() -> None:
    assert "Matching policies" not in no_access_text(admit([], ALICE, HOUR), [])


def test_P05_a_refusal_for_the_length_names_the_rule_and_what_would_be_allowed() -> None:
    short = policy("short", Rule(description="guests", clients=EVERYBODY, maximum_duration=HOUR / 2))
    longer = policy("longer", Rule(description="staff", clients=EVERYBODY, maximum_duration=2 * HOUR))
    admission = admit([longer, short], ALICE, 5 * HOUR)
    with pytest.raises(
        Refused, match=r"5h is longer .*'longer', rule 'staff' allows at most 2h; ask for 2h or less"
    ) as at:
        refuse_length_or_number(admission, [BOARD], 5 * HOUR)
    assert (at.value.code, at.value.reason) == (Code.FAILED_PRECONDITION, "TOO_LONG")
    assert at.value.metadata == {"policy": "longer/staff", "maximum_duration": "7200s", "duration": "18000s"}


def test_P05_a_hard_limit_of_use_limits_what_is_asked_for_as_well() -> None:
    admission = admit([policy("p", Rule(clients=EVERYBODY, maximum_use=HOUR))], ALICE, 2 * HOUR)
    with pytest.raises(Refused, match=r"allows at most 1h"):
        refuse_length_or_number(admission, [BOARD], 2 * HOUR)


def test_P05_rules_about_other_exporters_are_not_blamed() -> None:
    admission = admit(
        [policy("p", Rule(clients=EVERYBODY, maximum_duration=HOUR), exporters="board=y")], ALICE, 2 * HOUR
    )
    refuse_length_or_number(admission, [BOARD], 2 * HOUR)


def test_P06_of_two_rules_the_better_one_counts() -> None:
    low = policy("a", Rule(clients=EVERYBODY, priority=1))
    high = policy("b", Rule(clients=EVERYBODY, priority=9))
    best = admit([low, high], ALICE, HOUR).best(BOARD)
    assert best is not None
    assert (best.policy, best.rule.priority) == ("b", 9)


def test_P06_a_rule_of_spot_access_counts_only_when_there_is_no_other() -> None:
    spot = policy("a", Rule(clients=EVERYBODY, priority=9, spot_access=True))
    plain = policy("b", Rule(clients=EVERYBODY, priority=1))
    best = admit([spot, plain], ALICE, HOUR).best(BOARD)
    assert best is not None
    assert best.policy == "b"


def test_a_client_has_no_more_leases_through_a_rule_than_it_allows() -> None:
    limited = policy("p", Rule(description="two", clients=EVERYBODY, maximum_leases=2))
    assert admit([limited], ALICE, HOUR, lambda name: 1).best(BOARD) is not None
    admission = admit([limited], ALICE, HOUR, lambda name: 2)
    assert admission.best(BOARD) is None
    with pytest.raises(
        Refused, match=r"'p', rule 'two' allows a client 2 leases at once.*release one first"
    ) as refused:
        refuse_length_or_number(admission, [BOARD], HOUR)
    assert refused.value.code is Code.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("length", "text"),
    [(HOUR, "1h"), (timedelta(days=1, seconds=5), "1d5s"), (timedelta(minutes=90), "1h30m"), (timedelta(0), "0s")],
)
def test_lengths_are_told_in_few_words(length: timedelta, text: str) -> None:
    assert span(length) == text
