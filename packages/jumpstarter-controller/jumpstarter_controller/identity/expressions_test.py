"""Expressions in the settings of login providers."""

import sys

import pytest
from jumpstarter.common.exceptions import ConfigurationError

from .expressions import Expression

CLAIMS = {"sub": "a", "email": "Alice@example.com", "groups": ["dev", "ops"], "level": 5, "exp": 1700000000}


def evaluate(source):
    return Expression(source, "here", ["claims"]).evaluate({"claims": CLAIMS})


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ('"dex:" + claims.sub', "dex:a"),
        ('claims.email.endsWith("@example.com")', True),
        ('claims.email.lowerAscii().split("@")[0]', "alice"),
        ('claims.groups.exists(g, g == "ops")', True),
        ('has(claims.team) ? claims.team : "none"', "none"),
        ("claims.level >= 3 && size(claims.groups) == 2", True),
        ('type(claims.sub) == string && claims.sub.matches("^[a-z]$")', True),
        ('claims["sub"]', "a"),
    ],
)
def test_an_expression_has_the_value_that_its_language_says(source, value):
    assert evaluate(source) == value


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("claims.sub +", "can't be read"),
        ("claims.?sub", "can't be read"),
        ("user.name", "names user; there is claims here"),
        ("claims.groups.exists(g, h == 'x')", "names h"),
        ("claims.sub.shout()", "calls shout, which this server doesn't have"),
        ("(" * 5000, "can't be read"),
    ],
)
def test_an_expression_that_can_not_work_is_refused_at_start_with_its_place(source, words):
    with pytest.raises(ConfigurationError) as caught:
        Expression(source, "authentication.jwt[0].here", ["claims"])

    assert str(caught.value).startswith("authentication.jwt[0].here: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("source", ["claims.team", "claims.sub > 5", "claims.groups[7]", "int(claims.sub)", "1 / 0"])
def test_an_expression_without_value_is_an_error_of_one_kind(source):
    with pytest.raises(ValueError, match="Error: "):
        evaluate(source)


def test_without_the_library_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cel", None)

    with pytest.raises(ConfigurationError, match=r"pip install 'jumpstarter-controller\[cel\]'"):
        Expression("claims.sub", "here", ["claims"])
