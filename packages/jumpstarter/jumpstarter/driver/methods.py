"""Finding a driver's exported method by the name that came over the wire, and adapting its arguments."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .decorators import MARKER_MAGIC, MARKER_WATCH

_MISSING = object()


class MethodNotExported(Exception):
    """The driver has no such method, or it is not exported for this kind of call."""


@dataclass(slots=True)
class ExportedMethod:
    """What is known of one exported function before it is called."""

    function: Any
    is_coroutine: bool
    is_async_generator: bool
    integers: frozenset[int] = field(default_factory=frozenset)
    """Positions of arguments, the driver not counted, that are annotated as `int`."""
    variadic_integers: int | None = None
    """Position from which further arguments are integers, when `*args: int` is declared."""

    def adapt(self, arguments: list[Any]) -> list[Any]:
        """Turn whole numbers into `int` where the method asks for one; numbers travel as floats."""
        if not self.integers and self.variadic_integers is None:
            return arguments
        for position, value in enumerate(arguments):
            if type(value) is float and self._is_integer(position) and value.is_integer():
                arguments[position] = int(value)
        return arguments

    def _is_integer(self, position: int) -> bool:
        return position in self.integers or (self.variadic_integers is not None and position >= self.variadic_integers)


_tables: dict[type, dict[tuple[str, str], tuple[Any, ExportedMethod]]] = {}


def find_method(driver: object, name: str, marker: str) -> tuple[Callable[..., Any], ExportedMethod]:
    """Return the bound method of `driver` that is exported under `marker`, and what is known of it.

    The name comes from a client, so nothing is evaluated before it is known to be exported: a
    property of that name is never run.

    Raises:
        MethodNotExported: the message names the method and the reason.
    """
    cls = type(driver)
    raw = _lookup(driver, cls, name)
    if raw is _MISSING:
        raise MethodNotExported(f"driver {cls.__name__} has no method {name!r}")
    if _mark(raw, marker) != MARKER_MAGIC:
        raise MethodNotExported(f"method {name!r} of driver {cls.__name__} is not exported: missing marker {marker}")
    table = _tables.setdefault(cls, {})
    entry = table.get((name, marker))
    # The attribute may have been replaced since, by a test for example.
    if entry is None or entry[0] is not raw:
        entry = (raw, _describe(raw))
        table[name, marker] = entry
    return getattr(driver, name), entry[1]


def is_harmless(driver: object, name: str, marker: str) -> bool:
    """Tell whether `driver` has a method exported under `marker` that clients may use who only look on."""
    raw = _lookup(driver, type(driver), name)
    return _mark(raw, marker) == MARKER_MAGIC and _mark(raw, MARKER_WATCH) == MARKER_MAGIC


def _mark(raw: Any, marker: str) -> Any:
    if isinstance(raw, property):
        return None
    return getattr(raw, marker, None)


def _lookup(driver: object, cls: type, name: str) -> Any:
    for base in cls.__mro__:
        if name in base.__dict__:
            return base.__dict__[name]
    instance = getattr(driver, "__dict__", {})
    if name in instance:
        return instance[name]
    if hasattr(cls, "__getattr__") and not name.startswith("_"):
        return getattr(driver, name, _MISSING)
    return _MISSING


def _describe(raw: Any) -> ExportedMethod:
    function = raw.__func__ if isinstance(raw, staticmethod | classmethod) else raw
    plain = inspect.unwrap(function) if callable(function) else function
    integers, variadic = _integer_positions(plain, bound=not isinstance(raw, staticmethod))
    return ExportedMethod(
        function=function,
        is_coroutine=inspect.iscoroutinefunction(function),
        is_async_generator=inspect.isasyncgenfunction(function),
        integers=integers,
        variadic_integers=variadic,
    )


def _integer_positions(function: Any, *, bound: bool) -> tuple[frozenset[int], int | None]:
    try:
        parameters = list(inspect.signature(function).parameters.values())
        hints = typing.get_type_hints(function)
    except Exception:  # noqa: BLE001 (annotations are other people's code; without them nothing is adapted)
        return frozenset(), None
    if bound and not inspect.ismethod(function):
        parameters = parameters[1:]
    integers: set[int] = set()
    for position, parameter in enumerate(parameters):
        if not _wants_integer(hints.get(parameter.name)):
            continue
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            return frozenset(integers), position
        integers.add(position)
    return frozenset(integers), None


def _wants_integer(hint: Any) -> bool:
    """Tell whether a hint is `int` or an optional `int`, and not also a float or text."""
    return hint is int or set(typing.get_args(hint)) == {int, type(None)}


def accepts(method: Callable[..., Any], arguments: Sequence[Any]) -> str | None:
    """Return None when `method` can be called with `arguments`, else what is wrong with their number."""
    try:
        inspect.signature(method).bind(*arguments)
    except TypeError as error:
        return str(error)
    except ValueError:
        return None
    return None
