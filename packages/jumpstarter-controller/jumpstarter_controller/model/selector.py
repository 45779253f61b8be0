"""Label selectors: their text, their structured form, and whether they match.

The grammar is that of Kubernetes (labels and selectors), with the limits that leases set.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from typing import Literal, get_args

from pydantic.dataclasses import dataclass

from ..errors import Code, Refused

Operator = Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]

OPERATORS: tuple[str, ...] = get_args(Operator)

MAXIMUM_TEXT = 8192
"""Characters of the longest selector that is parsed."""

_NAME = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_DNS = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_TOKEN = re.compile(r"\s*(?:(?P<sign>==|!=|[=!<>(),])|(?P<word>[^\s=!<>(),]+)|(?P<end>$))")


class InvalidSelector(ValueError):
    """A text is no label selector; the message says where and why."""


@dataclass(frozen=True, order=True)
class Requirement:
    """One condition on one label."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether it holds for these labels."""
        value = labels.get(self.key)
        match self.operator:
            case "In":
                return value is not None and value in self.values
            case "NotIn":
                return value is None or value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case _:
                if value is None or not _is_integer(value):
                    return False
                limit = int(self.values[0])
                return int(value) > limit if self.operator == "Gt" else int(value) < limit

    def __str__(self) -> str:
        match self.operator:
            case "In":
                return f"{self.key} in ({_listed(self.values)})"
            case "NotIn":
                return f"{self.key} notin ({_listed(self.values)})"
            case "Exists":
                return self.key
            case "DoesNotExist":
                return f"!{self.key}"
            case _:
                return f"{self.key}{'>' if self.operator == 'Gt' else '<'}{self.values[0]}"


@dataclass(frozen=True)
class Selector:
    """Labels that have to be equal, and further requirements; all of them have to hold. The empty one matches all."""

    labels: Mapping[str, str] = field(default_factory=dict)
    requirements: tuple[Requirement, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.labels or self.requirements)

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether something with these labels is selected."""
        for key, value in self.labels.items():
            if labels.get(key) != value:
                return False
        return all(requirement.matches(labels) for requirement in self.requirements)

    def __str__(self) -> str:
        """Return the canonical text; the same for all selectors that were written with the same parts."""
        parts = [(key, 0, f"{key}={value}") for key, value in self.labels.items()]
        parts += [(item.key, 1, str(item)) for item in self.requirements]
        return ",".join(text for _, _, text in sorted(parts))

    def __and__(self, other: Selector) -> Selector:
        """Return the selector of what both select."""
        labels = dict(self.labels)
        requirements = dict.fromkeys((*self.requirements, *other.requirements))
        for key, value in other.labels.items():
            if labels.setdefault(key, value) != value:
                requirements[Requirement(key, "In", (value,))] = None
        return Selector(labels, tuple(requirements))

    def prefixed(self, prefix: str) -> Selector:
        """Return the same conditions on labels whose keys have a prefix."""
        return Selector(
            {prefix + key: value for key, value in self.labels.items()},
            tuple(replace(item, key=prefix + item.key) for item in self.requirements),
        )

    def normal(self) -> Selector:
        """Return a selector of the same meaning in which parts that say the same are written the same way, once."""
        wanted = {key: {value} for key, value in self.labels.items()}
        refused: dict[str, set[str]] = {}
        rest: set[Requirement] = set()
        for item in self.requirements:
            if item.operator == "In":
                wanted[item.key] = wanted.get(item.key, set(item.values)) & set(item.values)
            elif item.operator == "NotIn":
                refused.setdefault(item.key, set()).update(item.values)
            else:
                rest.add(item)
        labels = {key: next(iter(values)) for key, values in sorted(wanted.items()) if len(values) == 1}
        # A label that has to have several values at once is one of none: nothing matches.
        several = [Requirement(key, "In", tuple(sorted(values))) for key, values in wanted.items() if len(values) != 1]
        none_of = [Requirement(key, "NotIn", tuple(sorted(values))) for key, values in refused.items()]
        return Selector(labels, tuple(sorted((*several, *none_of, *rest))))

    def means_the_same(self, other: Selector) -> bool:
        """Return whether both are known to select the same, however they were written."""
        return str(self.normal()) == str(other.normal())


def parse(text: str) -> Selector:
    """Return the selector that a text describes, as filters of lists take it.

    Raises:
        InvalidSelector: the text doesn't follow the grammar.
    """
    labels: dict[str, str] = {}
    requirements: list[Requirement] = []
    for item, sign in _Parser(text).parse():
        if sign in ("=", "=="):
            if labels.setdefault(item.key, item.values[0]) != item.values[0]:
                requirements.append(item)
        elif sign == "!=":
            _exclude(requirements, item)
        else:
            requirements.append(item)
    return Selector(labels, tuple(dict.fromkeys(requirements)))


def parse_for_lease(text: str) -> Selector:
    """Return the selector that a text describes, as a lease can have it.

    Raises:
        Refused: UNKNOWN, as published servers answer; the text is none, compares numbers or contradicts itself.
    """
    try:
        selector = parse(text)
        for item in selector.requirements:
            if item.operator in ("Gt", "Lt"):
                sign = "greater" if item.operator == "Gt" else "less"
                raise InvalidSelector(
                    f"unsupported label selector operator: {sign} than, in {str(item)!r}; leases take =, !=, in, "
                    "notin, key and !key"
                )
            if item.operator == "In" and item.key in selector.labels and len(item.values) == 1:
                raise InvalidSelector(
                    f"label selector {text!r} wants {item.key} to be both {selector.labels[item.key]!r} and "
                    f"{item.values[0]!r}, which nothing can be; did you mean {item.key!r} in (...)?"
                )
    except InvalidSelector as error:
        raise Refused(Code.UNKNOWN, "INVALID_SELECTOR", str(error), {"selector": text[:256]}) from None
    return selector


def structured(labels: Mapping[str, str], expressions: Iterable[tuple[str, str, Sequence[str]]] = ()) -> Selector:
    """Return the selector of a structured form (match labels and match expressions), checked.

    Args:
        labels: equalities.
        expressions: key, operator and values of each.

    Raises:
        InvalidSelector: a key, an operator or a value is not allowed.
    """
    for key, value in labels.items():
        check_key(key)
        check_value(value, key)
    requirements: list[Requirement] = []
    for key, operator, values in expressions:
        check_key(key)
        if operator not in ("In", "NotIn", "Exists", "DoesNotExist"):
            raise InvalidSelector(
                f"operator {operator!r} of label {key!r} is none of In, NotIn, Exists and DoesNotExist"
            )
        if bool(values) != (operator in ("In", "NotIn")):
            raise InvalidSelector(
                f"operator {operator} of label {key!r} needs {'at least one value' if not values else 'no values'}"
            )
        for value in values:
            check_value(value, key)
        requirements.append(Requirement(key, operator, tuple(values)))  # type: ignore[arg-type]
    return Selector(dict(labels), tuple(requirements))


def check_key(key: str) -> None:
    """Raise `InvalidSelector` unless this can be the key of a label."""
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > 253 or not _DNS.fullmatch(prefix)):
        raise InvalidSelector(
            f"label key {key[:300]!r} has the prefix {prefix[:260]!r}, which is no DNS name of at most 253 characters"
        )
    if not _NAME.fullmatch(name):
        raise InvalidSelector(
            f"label key {key[:300]!r} is invalid: 1 to 63 letters, digits, '-', '_' and '.' are allowed, with a "
            "letter or digit at both ends"
        )


def check_value(value: str, key: str) -> None:
    """Raise `InvalidSelector` unless this can be the value of a label."""
    if value and not _NAME.fullmatch(value):
        raise InvalidSelector(
            f"value {value[:100]!r} of label {key!r} is invalid: up to 63 letters, digits, '-', '_' and '.' are "
            "allowed, with a letter or digit at both ends"
        )


def _listed(values: Iterable[str]) -> str:
    # No value at all is not allowed, so that the empty value alone needs the comma to be seen.
    return ",".join(sorted(values)) or ","


def _is_integer(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _exclude(requirements: list[Requirement], item: Requirement) -> None:
    """Add a `!=`; all of them on one key are one requirement."""
    for index, other in enumerate(requirements):
        if other.key == item.key and other.operator == "NotIn":
            requirements[index] = replace(other, values=tuple(dict.fromkeys((*other.values, *item.values))))
            return
    requirements.append(item)


class _Parser:
    """Reads requirements one after the other."""

    def __init__(self, text: str) -> None:
        if len(text) > MAXIMUM_TEXT:
            raise InvalidSelector(f"label selector of {len(text)} characters is longer than {MAXIMUM_TEXT}")
        self._text = text
        self._tokens = list(self._scan())
        self._next = 0

    def _scan(self) -> Iterator[tuple[str, str, int]]:
        position = 0
        while True:
            found = _TOKEN.match(self._text, position)
            assert found is not None  # every character is a sign, a space or part of a word
            assert found.lastgroup is not None
            yield found.lastgroup, found[found.lastgroup], found.start(found.lastgroup)
            if found.lastgroup == "end":
                return
            position = found.end()

    def _peek(self) -> tuple[str, str]:
        kind, text, _ = self._tokens[self._next]
        return kind, text

    def _take(self) -> tuple[str, str]:
        token = self._peek()
        if token[0] != "end":
            self._next += 1
        return token

    def _fail(self, expected: str) -> InvalidSelector:
        kind, text, position = self._tokens[self._next]
        found = "the end" if kind == "end" else repr(text[:80])
        return InvalidSelector(
            f"unable to parse label selector {self._text[:300]!r}: found {found} at character {position + 1}, "
            f"expected {expected}"
        )

    def parse(self) -> Iterator[tuple[Requirement, str]]:
        """Yield requirements with the sign that they were written with."""
        if self._peek()[0] == "end":
            return
        while True:
            yield self._requirement()
            if self._peek()[0] == "end":
                return
            if self._peek() != ("sign", ","):
                raise self._fail("',' or the end")
            self._take()

    def _key(self) -> str:
        kind, key = self._peek()
        if kind != "word":
            raise self._fail("the key of a label")
        check_key(key)
        self._take()
        return key

    def _requirement(self) -> tuple[Requirement, str]:
        if self._peek() == ("sign", "!"):
            self._take()
            return Requirement(self._key(), "DoesNotExist"), "!"
        key = self._key()
        kind, text = self._peek()
        if kind == "end" or text == ",":
            return Requirement(key, "Exists"), ""
        if text in ("=", "==", "!="):
            self._take()
            value = self._value(key)
            return Requirement(key, "NotIn" if text == "!=" else "In", (value,)), text
        if text in ("<", ">"):
            self._take()
            value = self._value(key)
            if not _is_integer(value):
                raise InvalidSelector(
                    f"label selector {self._text[:300]!r} compares {key!r} with {value!r}, no integer"
                )
            return Requirement(key, "Gt" if text == ">" else "Lt", (value,)), text
        if kind == "word" and text in ("in", "notin"):
            self._take()
            return Requirement(key, "In" if text == "in" else "NotIn", self._values(key)), text
        raise self._fail("'=', '!=', 'in', 'notin', ',' or the end")

    def _value(self, key: str) -> str:
        if self._peek()[0] != "word":
            return ""
        value = self._take()[1]
        check_value(value, key)
        return value

    def _values(self, key: str) -> tuple[str, ...]:
        if self._peek() != ("sign", "("):
            raise self._fail("'('")
        self._take()
        if self._peek() == ("sign", ")"):
            raise self._fail("a value")
        values = [self._value(key)]
        while self._peek() == ("sign", ","):
            self._take()
            values.append(self._value(key))
        if self._peek() != ("sign", ")"):
            raise self._fail("',' or ')'")
        self._take()
        return tuple(dict.fromkeys(values))
