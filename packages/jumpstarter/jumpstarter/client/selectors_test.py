"""Label selectors: parsing, the part that a controller can match, and comparison."""

from __future__ import annotations

import pytest

from jumpstarter.client.selectors import (
    _follows,
    extract_match_labels_filter,
    parse_label_selector,
    same_selector,
    selector_contains,
)


@pytest.mark.parametrize(
    ("selector", "equal", "others"),
    [
        ("", {}, []),
        ("a=1", {"a": "1"}, []),
        ("a==1, b = 2", {"a": "1", "b": "2"}, []),
        ("example.com/board=rpi-4", {"example.com/board": "rpi-4"}, []),
        ("a=", {"a": ""}, []),
        ("a!=1", {}, [("a", "!=", ["1"])]),
        ("a in (1, 2),b notin (3)", {}, [("a", "in", ["1", "2"]), ("b", "notin", ["3"])]),
        ("a in(1)", {}, [("a", "in", ["1"])]),
        ("a,!b", {}, [("a", "exists", []), ("b", "!exists", [])]),
        ("a=1,$$$,b", {"a": "1"}, [("b", "exists", [])]),
        ("a>1", {}, []),
    ],
)
def test_selector_is_taken_apart(selector: str, equal: dict[str, str], others: list[object]) -> None:
    assert parse_label_selector(selector) == (equal, others)


@pytest.mark.parametrize(("selector", "expected"), [("a=1,b in (2),c==3", "a=1,c=3"), ("b in (2)", None), ("", None)])
def test_part_that_asks_for_equality(selector: str, expected: str | None) -> None:
    assert extract_match_labels_filter(selector) == expected


@pytest.mark.parametrize(
    ("selector", "requirements", "expected"),
    [
        ("a=1,b=2", "a=1", True),
        ("a=1", "a=1,b=2", False),
        ("a=1", "a=2", False),
        ("a=1", "", True),
        ("a in (1,2)", "a in (2,1)", True),
        ("a in (1)", "a in (1,2)", False),
        ("a=1", "a in (1,2)", True),
        ("a=3", "a in (1,2)", False),
        ("a=1", "a", True),
        ("b=1", "a", False),
        ("a=1", "a!=2", True),
        ("a=2", "a!=2", False),
        ("b=1", "a!=2", False),
        ("a!=2", "a notin (2)", True),
        ("a=1", "!b", False),
        ("!b", "!b", True),
    ],
)
def test_requirements_that_a_selector_meets(selector: str, requirements: str, expected: bool) -> None:
    assert selector_contains(selector, requirements) is expected


def test_unknown_operator_is_an_error() -> None:
    with pytest.raises(ValueError, match="gt"):
        _follows(("a", "gt", ["1"]), {"a": "1"})


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("a=1,b=2", "b=2, a == 1", True),
        ("a in (1)", "a=1", True),
        ("a in (1,2)", "a in (2,1)", True),
        (None, "<none>", True),
        ("", None, True),
        ("a=1", "a=1,b", False),
        ("a=1", "a=2", False),
    ],
)
def test_selectors_that_ask_for_the_same(one: str | None, other: str | None, expected: bool) -> None:
    assert same_selector(one, other) is expected
