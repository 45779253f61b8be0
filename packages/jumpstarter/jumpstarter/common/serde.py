"""Conversion between Python values and `google.protobuf.Value`, the arguments and results of driver calls.

The wire form is that of JSON: numbers travel as doubles (exact up to 2**53), NaN and infinities as
null, `bytes` as UTF-8 text. Integers therefore arrive as `float`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from google.protobuf import struct_pb2

if TYPE_CHECKING:
    from pydantic import TypeAdapter

MAX_DEPTH = 100
"""Deepest nesting that is encoded; protobuf parsers refuse messages nested deeper than 100 levels."""

_NUMBERS = frozenset({float, int})
_SCALARS = (str, bool, int, float)


def encode_value(value: Any) -> struct_pb2.Value:
    """Return `value` as a protobuf value.

    Containers, dataclasses, pydantic models, enums, dates, UUIDs, paths and the like take the form
    that pydantic gives them in JSON.

    Raises:
        ValueError: the value, or one inside it, has no JSON form.
    """
    out = struct_pb2.Value()
    write_value(out, value)
    return out


def decode_value(value: struct_pb2.Value) -> Any:
    """Return the Python form of a protobuf value: None, bool, float, str, list or dict."""
    # A number other than zero is the common case, and asking for it directly is the fastest test.
    if number := value.number_value:
        return number
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "number_value":
            return 0.0 if math.copysign(1, value.number_value) > 0 else -0.0
        case "struct_value":
            fields = value.struct_value.fields
            # Iterating over keys avoids the items view, which is written in Python and twice as slow.
            return {key: (item := fields[key]).number_value or decode_value(item) for key in fields}
        case "list_value":
            return [item.number_value or decode_value(item) for item in value.list_value.values]
        case _:
            return None


def write_value(out: struct_pb2.Value, value: Any, depth: int = 0) -> None:
    """Write `value` into the empty protobuf value `out`; see `encode_value`."""
    kind = type(value)
    if kind is str:
        out.string_value = value
    elif kind is bool:
        out.bool_value = value
    elif kind is float or kind is int:
        _write_number(out, value)
    elif value is None:
        out.null_value = struct_pb2.NULL_VALUE
    elif kind is dict:
        _write_mapping(out, value, depth + 1)
    elif kind is list or kind is tuple:
        _write_sequence(out, value, depth + 1)
    else:
        _write_other(out, value, depth)


def _write_number(out: struct_pb2.Value, value: float) -> None:
    try:
        number = float(value)
    except OverflowError:
        raise ValueError("integer is too large for a driver call: numbers travel as 64-bit floats") from None
    if math.isfinite(number):
        out.number_value = number
    else:
        out.null_value = struct_pb2.NULL_VALUE


def _write_mapping(out: struct_pb2.Value, value: dict[Any, Any], depth: int) -> None:
    _check_depth(depth)
    out.struct_value.SetInParent()
    if not {str}.issuperset(map(type, value)):
        # Keys of other types have pydantic's text form; it converts the whole mapping.
        return _write_json_form(out, value, depth)
    fields = out.struct_value.fields
    if _all_numbers(value.values()):
        for key, item in value.items():
            fields[key].number_value = item
    else:
        for key, item in value.items():
            write_value(fields[key], item, depth)
    return None


def _write_sequence(out: struct_pb2.Value, value: list[Any] | tuple[Any, ...], depth: int) -> None:
    _check_depth(depth)
    out.list_value.SetInParent()
    add = out.list_value.values.add
    if _all_numbers(value):
        for item in value:
            add().number_value = item
    else:
        for item in value:
            write_value(add(), item, depth)


def _all_numbers(values: Collection[Any]) -> bool:
    """Tell whether all are finite numbers, which need no further look; series of samples are the bulk of most data."""
    try:
        return _NUMBERS.issuperset(map(type, values)) and all(map(math.isfinite, values))
    except OverflowError:
        return False


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"value is nested more than {MAX_DEPTH} levels deep, or contains itself")


def _write_other(out: struct_pb2.Value, value: Any, depth: int) -> None:
    if isinstance(value, memoryview | range):
        raise ValueError(f"a {type(value).__name__} cannot be sent in a driver call")
    _write_json_form(out, value, depth)


def _write_json_form(out: struct_pb2.Value, value: Any, depth: int) -> None:
    plain = _adapter().dump_python(value, mode="json")
    kind = type(plain)
    if kind in _SCALARS or plain is None or kind is dict or kind is list:
        out.Clear()
        write_value(out, plain, depth)
    else:
        raise ValueError(f"a {type(value).__name__} cannot be sent in a driver call")


_adapters: list[TypeAdapter[Any]] = []


def _adapter() -> TypeAdapter[Any]:
    # pydantic takes longer to import than most programs take to run; plain values do without it.
    if not _adapters:
        from pydantic import TypeAdapter

        _adapters.append(TypeAdapter(Any))
    return _adapters[0]


def __getattr__(name: str) -> Any:
    if name == "adapter":
        return _adapter()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
