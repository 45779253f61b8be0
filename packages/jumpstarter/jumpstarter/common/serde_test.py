"""Values of driver calls: the wire form is that of JSON as pydantic writes it."""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from google.protobuf import struct_pb2
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from jumpstarter.common.serde import decode_value, encode_value


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Point:
    x: int
    y: float


class Model(BaseModel):
    name: str
    points: list[Point]


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        (None, None),
        (True, True),
        (False, False),
        (0, 0.0),
        (7, 7.0),
        (-1.5, -1.5),
        (Level.HIGH, 3.0),
        ("", ""),
        ("text \u2615", "text \u2615"),
        (b"bytes", "bytes"),
        (bytearray(b"array"), "array"),
        (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (Path("/dev/null"), "/dev/null"),
        (ipaddress.ip_address("127.0.0.1"), "127.0.0.1"),
        (Decimal("1.50"), "1.50"),
        (datetime(2025, 1, 1, tzinfo=UTC), "2025-01-01T00:00:00Z"),
        (date(2025, 1, 1), "2025-01-01"),
        (timedelta(seconds=1.5), "PT1.5S"),
        (Colour.RED, "red"),
        (Point(1, 2.5), {"x": 1.0, "y": 2.5}),
        (Model(name="m", points=[Point(1, 2)]), {"name": "m", "points": [{"x": 1.0, "y": 2.0}]}),
        ({}, {}),
        ([], []),
        ((1, "a"), [1.0, "a"]),
        ({1: "a", None: "b"}, {"1": "a", "None": "b"}),
        ({"k": {Colour.RED: [Level.HIGH]}}, {"k": {"red": [3.0]}}),
        ((item for item in (1, 2)), [1.0, 2.0]),
        ({3}, [3.0]),
        (float("nan"), None),
        (float("inf"), None),
        ({"a": float("-inf"), "b": [float("nan")]}, {"a": None, "b": [None]}),
        (2**53, float(2**53)),
    ],
)
def test_a_value_arrives_in_its_json_form(value: Any, arrives: Any) -> None:
    wire = struct_pb2.Value.FromString(encode_value(value).SerializeToString())

    decoded = decode_value(wire)

    assert decoded == arrives
    assert type(decoded) is type(arrives)


def test_numbers_arrive_as_floats() -> None:
    assert type(decode_value(encode_value(1))) is float
    assert type(decode_value(encode_value([0]))[0]) is float
    assert type(decode_value(encode_value({"zero": 0}))["zero"]) is float


def test_zero_keeps_its_sign() -> None:
    assert str(decode_value(encode_value(-0.0))) == "-0.0"


@pytest.mark.parametrize(
    "value",
    [memoryview(b"x"), range(3), object(), print, b"\xff", "\ud800", 10**400, [object()], {"a": {"b": object()}}],
    ids=["memory", "range", "object", "function", "bytes", "surrogate", "huge", "in a list", "deep in mappings"],
)
def test_a_value_without_json_form_is_refused(value: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (the texts are those of several libraries)
        encode_value(value)


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ValueError, match="contains itself"):
        encode_value(loop)


_json = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(_json)
def test_any_json_value_survives_the_wire(value: Any) -> None:
    wire = struct_pb2.Value.FromString(encode_value(value).SerializeToString())

    assert decode_value(wire) == value
    assert MessageToDict(wire) == value
