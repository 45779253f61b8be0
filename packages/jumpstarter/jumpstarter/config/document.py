"""Reading and writing the YAML of configs: where each key stands, what is wrong there, and files that stay whole."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, RootModel, ValidationError
from pydantic_core import ErrorDetails

from jumpstarter.common.exceptions import ConfigurationError

Location = tuple[str | int, ...]
"""Keys and list positions that lead from the top of a document to a value."""

M = TypeVar("M", bound=BaseModel)

SECRET_KEYS = frozenset({"token", "refresh_token", "ca"})
"""Members whose values are never repeated in a message."""

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class InvalidConfigError(ConfigurationError, ValueError):
    """A config holds something that can't work. Also a ValueError, as pydantic's errors are."""

    def __init__(self, message: str, location: Location = ()) -> None:
        super().__init__(message)
        self.location = location
        """Where in the config, as far as that is one place."""


class ConfigSyntaxError(InvalidConfigError, yaml.YAMLError):
    """A config is no YAML."""


@dataclass(frozen=True)
class Document:
    """YAML text as Python values, and the line of each of them."""

    source: str
    """Path of the file, or what else the text came from."""
    data: Any
    node: yaml.Node | None = field(repr=False, default=None)

    def line(self, location: Sequence[str | int]) -> int | None:
        """Return the line (from 1) of the deepest part of `location` that exists, or None for an empty text."""
        if self.node is None:
            return None
        node, mark = self.node, self.node.start_mark
        for step in location:
            entry = _child(node, step)
            if entry is None:
                break
            mark, node = entry
        return int(mark.line) + 1

    def spelling(self, location: Sequence[str | int]) -> str | None:
        """Return the text of a plain value as it is written in lower case, or None if there is no such value."""
        node = self.node
        for step in location:
            entry = None if node is None else _child(node, step)
            if entry is None:
                return None
            node = entry[1]
        return str(node.value).lower() if isinstance(node, yaml.ScalarNode) else None

    def where(self, location: Sequence[str | int] = ()) -> str:
        """Return `source:line` of `location`."""
        line = self.line(location)
        return self.source if line is None else f"{self.source}:{line}"

    @property
    def is_mapping(self) -> bool:
        """Whether the text is a mapping, as every config is."""
        return isinstance(self.data, dict)


def _child(node: yaml.Node, step: str | int) -> tuple[Any, yaml.Node] | None:
    """Mark of the key (or of the item) and node of the value that `step` leads to."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value == str(step):
                return key.start_mark, value
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        value = node.value[step]
        return value.start_mark, value
    return None


def read_document(path: Path) -> Document:
    """Read the YAML file at `path`.

    Raises:
        FileNotFoundError: the built-in one; there is no such file.
        InvalidConfigError: it can't be read or is no YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InvalidConfigError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InvalidConfigError(f"{path}: can't read the config ({error.strerror})") from None
    return parse_document(text, str(path))


def parse_document(text: str, source: str) -> Document:
    """Parse YAML text; `source` names it in errors.

    Raises:
        InvalidConfigError: it is no YAML, holds several documents or gives a key twice.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return Document(source, None)
            _refuse_repeated_keys(node, source)
            return Document(source, loader.construct_document(node), node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigSyntaxError(f"{source}{line}: not valid YAML: {what}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigSyntaxError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None


def _refuse_repeated_keys(root: yaml.Node, source: str) -> None:
    """YAML forbids a repeated key, PyYAML lets the last one win; either way one of the two is a mistake."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting.extend(node.value)
        if isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                waiting.append(value)
                if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                    continue
                line = key.start_mark.line + 1
                if (first := lines.get(key.value)) is not None:
                    raise InvalidConfigError(
                        f"{source}:{line}: key '{key.value}' is given twice, first in line {first}; keep one of them"
                    )
                lines[key.value] = line


def build(model: type[M], document: Document, data: Any = None) -> M:
    """Validate what `document` holds.

    Args:
        model: what to build.
        document: where the values came from, for the errors.
        data: the values, when they are not those of the document.

    Raises:
        InvalidConfigError: one message with file, line and key of everything that is wrong.
    """
    values = document.data if data is None else data
    kind = _kind(model)
    if not isinstance(values, dict):
        raise InvalidConfigError(
            f"{document.where()}: {_with_article(kind) if kind else 'this'} must be a mapping (key: value), "
            f"not {_describe(values)}"
        )
    found = values.get("kind", kind)
    if kind and found != kind:
        raise InvalidConfigError(
            f"{document.where(('kind',))}: kind: this is {_describe(found)}, but '{kind}' is needed here", ("kind",)
        )
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise invalid_config(model, document, error) from None


def _with_article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "AEIOU" else f"a {kind}"


def _kind(model: type[BaseModel]) -> str | None:
    member = model.model_fields.get("kind")
    return member.default if member else None


def invalid_config(model: type[BaseModel], document: Document, error: ValidationError) -> InvalidConfigError:
    """Say in one message what pydantic found wrong, and where in the file."""
    lines = []
    location: Location = ()
    for detail in error.errors(include_url=False):
        location = tuple(detail["loc"])
        lines.append(f"{document.where(location)}: {explain(model, detail)}")
    if len(lines) == 1:
        return InvalidConfigError(lines[0], location)
    # The lines differ in more than their file, so each repeats it: editors and terminals make links of them.
    return InvalidConfigError("\n".join([f"{len(lines)} mistakes in the config:", *(f"  {line}" for line in lines)]))


def explain(model: type[BaseModel], detail: ErrorDetails) -> str:
    """Say what is wrong at one place, with the key that is meant."""
    location = tuple(detail["loc"])
    name = dotted(location) or "config"
    match detail["type"]:
        case "extra_forbidden":
            return f"{name}: unknown key{_suggest(str(location[-1]), _keys(model, location[:-1]))}"
        case "missing":
            return f"{name}: missing; add this key{_VARIABLES.get(location[-2:], '')}"
        case "value_error" | "driver_entry":
            message = detail["msg"].removeprefix("Value error, ")
            return f"{name}: {message[:1].lower()}{message[1:]}"
    message = detail["msg"]
    for theirs, ours in _WORDS:
        message = message.replace(theirs, ours)
    shown = "" if SECRET_KEYS.intersection(location) else f", not {_describe(detail['input'])}"
    return f"{name}: {message[:1].lower()}{message[1:]}{shown}"


_VARIABLES: dict[Location, str] = {
    ("metadata", "namespace"): " or set JMP_NAMESPACE",
    ("metadata", "name"): " or set JMP_NAME",
}

_WORDS = (
    ("Input should be", "must be"),
    ("a valid dictionary or instance of", "a mapping for"),
    ("a valid dictionary", "a mapping"),
    ("a valid string", "a text (in quotes if it looks like something else)"),
)


def dotted(location: Sequence[str | int]) -> str:
    """Write a location as `export.power.config`, list positions as `[0]`."""
    text = ""
    for step in location:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text


def _suggest(key: str, known: Sequence[str]) -> str:
    near = get_close_matches(key, known, n=1)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known here: {', '.join(sorted(known))}" if known else ""


def _describe(value: Any) -> str:
    match value:
        case None:
            return "empty (null)"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case bool():
            return f"the boolean {str(value).lower()}"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"'{value}'" if len(value) <= 60 else f"a text of {len(value)} characters"
    return f"{value!r}"


def _keys(model: type[BaseModel], location: Location) -> list[str]:
    """Names of the members that are known at `location` of `model`."""
    kinds: list[Any] = [model]
    for step in location:
        kinds = [inner for kind in kinds for inner in _step_into(kind, step)]
    return sorted({name for kind in kinds for name in _members(kind)})


def _step_into(kind: Any, step: str | int) -> Iterator[Any]:
    for part in _flatten(kind):
        if isinstance(part, type) and issubclass(part, BaseModel):
            for name, member in part.model_fields.items():
                if step in (name, member.alias):
                    yield member.annotation
        elif get_origin(part) is dict:
            yield get_args(part)[1]
        elif get_origin(part) in (list, tuple) and isinstance(step, int):
            yield get_args(part)[0]


def _members(kind: Any) -> Iterator[str]:
    for part in _flatten(kind):
        if isinstance(part, type) and issubclass(part, BaseModel):
            yield from (member.alias or name for name, member in part.model_fields.items() if not member.exclude)


def _flatten(kind: Any) -> Iterator[Any]:
    """Take unions and root models apart."""
    if get_origin(kind) in (Union, UnionType):
        for part in get_args(kind):
            yield from _flatten(part)
    elif isinstance(kind, type) and issubclass(kind, RootModel):
        yield from _flatten(kind.model_fields["root"].annotation)
    else:
        yield kind


def dump(values: dict[str, Any]) -> str:
    """Return `values` as block-style YAML in their own order."""
    return str(yaml.dump(values, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True))


def write_secret(path: Path, text: str) -> None:
    """Replace the file at `path` as a whole, readable by its owner alone; a link to a file stays a link.

    Raises:
        FileAccessError: the place can't be written; an existing file is unchanged.
    """
    from jumpstarter.common.exceptions import FileAccessError

    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        try:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            os.replace(name, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise
        _sync_directory(target.parent)
    except OSError as error:
        raise FileAccessError(f"Can't write the config '{path}': {error.strerror or error}") from None


def _sync_directory(directory: Path) -> None:
    """Make the new name durable; some file systems can't, and the content is safe either way."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
