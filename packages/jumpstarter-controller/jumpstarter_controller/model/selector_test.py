"""Label selectors, as leases and filters of lists have them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ..errors import Code, Refused
from .selector import InvalidSelector, Requirement, Selector, parse, parse_for_lease, structured

KEYS = st.sampled_from(["a", "b", "board", "example.com/slot", "in", "notin"])
VALUES = st.sampled_from(["", "1", "2", "30", "x.y_z", "A"])
REQUIREMENTS = st.one_of(
    st.builds(Requirement, KEYS, st.sampled_from(["In", "NotIn"]), st.lists(VALUES, min_size=1, max_size=3).map(tuple)),
    st.builds(Requirement, KEYS, st.sampled_from(["Exists", "DoesNotExist"])),
    st.builds(
        Requirement, KEYS, st.sampled_from(["Gt", "Lt"]), st.sampled_from(["0", "1", "25"]).map(lambda value: (value,))
    ),
)
SELECTORS = st.builds(
    Selector, st.dictionaries(KEYS, VALUES, max_size=3), st.lists(REQUIREMENTS, max_size=4).map(tuple)
)
LABELS = st.dictionaries(KEYS, VALUES, max_size=4)


@pytest.mark.parametrize(
    ("text", "labels", "matches"),
    [
        ("", {}, True),
        ("a=1", {"a": "1"}, True),
        ("a=1", {"a": "2"}, False),
        ("a==1", {"a": "1"}, True),
        ("a=", {"a": ""}, True),
        ("a=", {}, False),
        ("a!=1", {}, True),
        ("a!=1", {"a": "1"}, False),
        ("a in (1,2)", {"a": "2"}, True),
        ("a in (1,2)", {}, False),
        ("a in (,2)", {"a": ""}, True),
        ("a notin (1,2)", {}, True),
        ("a notin (1,2)", {"a": "1"}, False),
        ("a", {"a": "x"}, True),
        ("a", {}, False),
        ("!a", {}, True),
        ("!a", {"a": ""}, False),
        ("a>5", {"a": "6"}, True),
        ("a>5", {"a": "x"}, False),
        ("a<10", {"a": "9"}, True),
        ("a<10", {"a": "10"}, False),
        ("a in (,)", {"a": ""}, True),
        (" a = 1 , b in ( x , y ) , ! c ", {"a": "1", "b": "y"}, True),
        ("in in (in)", {"in": "in"}, True),
        ("a=1,a=2", {"a": "1"}, False),
    ],
)
def test_a_selector_matches_labels_as_its_text_says(text: str, labels: dict[str, str], matches: bool) -> None:
    assert parse(text).matches(labels) is matches


@pytest.mark.parametrize(
    "text",
    ["a=1,", ",a", "a=1 b=2", "a in", "a in (", "a in ()", "a in (1", "=1", "!", "a!", "a=b=c", "a in 1", "a>x", "(a)"],
)
def test_a_text_that_does_not_follow_the_grammar_is_refused_with_the_place(text: str) -> None:
    with pytest.raises(InvalidSelector, match=r"character|no integer"):
        parse(text)


@pytest.mark.parametrize(
    "text", ["-a=1", "a=-1", "a=1_", "A/b/c=1", "Up/b=1", "/a", "a/", f"{'a' * 64}=1", f"a={'b' * 64}", "ä=1"]
)
def test_keys_and_values_that_can_not_be_labels_are_refused(text: str) -> None:
    with pytest.raises(InvalidSelector):
        parse(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("b=2, a=1", "a=1,b=2"),
        ("a==1", "a=1"),
        ("a!=2,a!=1,a!=2", "a notin (1,2)"),
        ("z in (b,a,b),!y,x", "x,!y,z in (a,b)"),
        ("a=1,a=1", "a=1"),
        ("  ", ""),
    ],
)
def test_C04_a_selector_of_a_lease_has_a_canonical_text(text: str, canonical: str) -> None:
    assert str(parse_for_lease(text)) == canonical


@pytest.mark.parametrize("text", ["a=1,a=2", "a>1", "a<1", "a in"])
def test_C04_a_selector_that_no_lease_can_have_is_refused_as_published_servers_do(text: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_for_lease(text)
    assert (refused.value.code, refused.value.reason) == (Code.UNKNOWN, "INVALID_SELECTOR")


def test_comparisons_are_refused_with_the_words_of_published_servers() -> None:
    with pytest.raises(Refused, match=r"unsupported label selector operator"):
        parse_for_lease("a>1")


def test_a_selector_without_end_is_refused_before_it_is_read() -> None:
    with pytest.raises(InvalidSelector, match=r"longer than"):
        parse("a," * 10_000)


@given(SELECTORS)
def test_the_canonical_text_means_the_same(selector: Selector) -> None:
    again = parse(str(selector))
    assert again.means_the_same(selector)
    assert str(again) == str(parse(str(again)))


@given(SELECTORS, LABELS)
def test_the_normal_form_matches_the_same(selector: Selector, labels: dict[str, str]) -> None:
    assert selector.normal().matches(labels) == selector.matches(labels) == parse(str(selector)).matches(labels)


@given(SELECTORS, SELECTORS, LABELS)
def test_both_selectors_together_match_what_each_matches(
    one: Selector, other: Selector, labels: dict[str, str]
) -> None:
    assert (one & other).matches(labels) == (one.matches(labels) and other.matches(labels))


@given(SELECTORS, LABELS)
def test_a_prefix_moves_all_conditions_to_other_keys(selector: Selector, labels: dict[str, str]) -> None:
    moved = {f"p/{key}": value for key, value in labels.items()}
    assert selector.prefixed("p/").matches(moved) == selector.matches(labels)


@given(st.text(alphabet="ab=!,()<> \t1-/.innot", max_size=30))
def test_any_text_is_either_parsed_or_refused(text: str) -> None:
    try:
        selector = parse(text)
    except InvalidSelector:
        return
    assert parse(str(selector)).means_the_same(selector)


def test_means_the_same_sees_through_the_spelling() -> None:
    assert parse("b!=1,a in (x)").means_the_same(parse("a=x,b notin (1)"))
    assert not parse("a").means_the_same(parse("b"))


@pytest.mark.parametrize(
    ("labels", "expressions"),
    [
        ({"bad key": "x"}, []),
        ({"a": "bad value"}, []),
        ({}, [("a", "Near", ["b"])]),
        ({}, [("a", "In", [])]),
        ({}, [("a", "Exists", ["b"])]),
        ({}, [("a", "In", ["bad value"])]),
    ],
)
def test_a_structured_form_is_checked(labels: dict[str, str], expressions: list[tuple[str, str, list[str]]]) -> None:
    with pytest.raises(InvalidSelector):
        structured(labels, expressions)


def test_a_structured_form_becomes_a_selector() -> None:
    selector = structured({"a": "1"}, [("b", "NotIn", ["x"]), ("c", "Exists", [])])
    assert str(selector) == "a=1,b notin (x),c"
