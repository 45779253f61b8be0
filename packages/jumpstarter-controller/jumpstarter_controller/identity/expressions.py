"""Expressions (CEL) in the settings of login providers, checked when the server starts.

The language and its functions are those of the library `common-expression-language`, an optional dependency (extra
`cel`). What Kubernetes has beyond that, such as optional field selection (`claims.?name`), is refused at start.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from jumpstarter.common.exceptions import ConfigurationError

BUILT_IN = frozenset(
    re.findall(
        r"\w+",
        "size string int uint double bool bytes dyn type timestamp duration matches startsWith endsWith contains"
        " getFullYear getMonth getDate getDayOfMonth getDayOfWeek getDayOfYear getHours getMinutes getSeconds"
        " getMilliseconds",
    )
)
"""Functions of the language itself, which the library doesn't list."""

TYPES = frozenset(["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"])
"""Names that stand for types."""

_LOOP_VARIABLE = re.compile(r"\.\s*(?:all|exists|exists_one|map|filter)\s*\(\s*(\w+)\s*,")

INSTALL = "pip install 'jumpstarter-controller[cel]'"


class Expression:
    """One expression, over variables that are named beforehand.

    Args:
        source: the text.
        where: where the text stands in the settings, for messages.
        variables: what it may refer to.

    Raises:
        ConfigurationError: it can't be parsed, or uses a variable or function that there is not.
    """

    def __init__(self, source: str, where: str, variables: Collection[str]) -> None:
        try:
            import cel
            from cel.stdlib import add_stdlib_to_context
        except ImportError:
            raise ConfigurationError(f"{where}: expressions need another library. Install it: {INSTALL}") from None
        self.source = source
        self._where = where
        self._make_context = cel.Context
        self._add_functions = add_stdlib_to_context
        try:
            self._program = cel.compile(source)
        except ValueError as error:
            text = str(error).splitlines()
            raise ConfigurationError(f"{where}: the expression {source!r} can't be read: {text[0]}") from None
        unknown = set(self._program.variables()) - set(variables) - TYPES - set(_LOOP_VARIABLE.findall(source))
        if unknown:
            raise ConfigurationError(
                f"{where}: the expression {source!r} names {', '.join(sorted(unknown))}; there is"
                f" {', '.join(sorted(variables))} here"
            )
        missing = self._missing_functions()
        if missing:
            raise ConfigurationError(
                f"{where}: the expression {source!r} calls {', '.join(sorted(missing))}, which this server doesn't have"
            )

    def evaluate(self, variables: Mapping[str, Any]) -> Any:
        """Return the value.

        Raises:
            ValueError: there is none, for example because a claim that it names isn't there.
        """
        context = self._make_context(dict(variables))
        self._add_functions(context)
        try:
            return self._program.execute(context)
        except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from None

    def _missing_functions(self) -> set[str]:
        context = self._make_context({})
        self._add_functions(context)
        # What isn't a word is an operator.
        called = {name for name in self._program.functions() if name[0].isalpha()}
        return called - BUILT_IN - set(context.functions)
