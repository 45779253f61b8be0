"""The HTTP face of rpcs, read from their `google.api.http` annotations: which request is which call.

The conventions are those of google.api.http and of grpc-gateway: what is not in the path or the body is a query
parameter, names are in lowerCamelCase (the proto's names are understood as well), values in the JSON form of protobuf.
Other than there, what nobody knows is refused instead of ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.api import annotations_pb2
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from ..errors import Code, Refused

VERBS = ("get", "put", "post", "delete", "patch")

WHOLE = "*"
"""Value of `body` for a request message that is the body."""

_VARIABLE = re.compile(r"\{([a-z_.]+)=([^{}]+)\}")

_JSON_ERRORS = (json_format.ParseError, ValueError, TypeError, AttributeError, OverflowError, RecursionError)
"""What the JSON parser of protobuf raises for input that does not fit."""

FIELD_MASK = "google.protobuf.FieldMask"
WELL_KNOWN_TEXT = frozenset({"google.protobuf.Timestamp", "google.protobuf.Duration", FIELD_MASK})
"""Messages whose JSON is a text, so that they may be query parameters."""


@dataclass(frozen=True)
class Variable:
    """A part of a path that goes into a field of the request."""

    field: tuple[str, ...]
    """Path of the field."""
    segments: tuple[str, ...]
    """The pattern; `*` stands for one segment."""


@dataclass(frozen=True)
class Binding:
    """One rpc as an HTTP request."""

    rpc: str
    """Full method name, `/package.Service/Method`."""
    method: Any
    """Descriptor."""
    verb: str
    """In capitals."""
    template: str
    """The path as annotated."""
    body: str
    """Field of the request that is the body; empty for none, `*` for all that is not in the path."""

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The variables of the path, in order."""
        return tuple(
            Variable(tuple(name.split(".")), tuple(pattern.split("/")))
            for name, pattern in _VARIABLE.findall(self.template)
        )

    @property
    def route(self) -> str:
        """The path as aiohttp routes it; the variables are `v0`, `v1`, ..."""
        numbers = iter(range(len(self.variables)))
        return _VARIABLE.sub(
            lambda found: f"{{v{next(numbers)}:{'/'.join(_segment(part) for part in found[2].split('/'))}}}",
            self.template,
        )

    @property
    def mask(self) -> FieldDescriptor | None:
        """The field that says which fields of the body count, for PATCH."""
        if self.verb != "PATCH":
            return None
        return next((field for field in self.method.input_type.fields if _type_name(field) == FIELD_MASK), None)

    def parameters(self) -> Iterator[FieldDescriptor]:
        """Tell the fields of the request that are query parameters."""
        if self.body == WHOLE:
            return
        taken = {variable.field[0] for variable in self.variables} | {self.body}
        for field in self.method.input_type.fields:
            if field.name not in taken and _is_parameter(field):
                yield field

    # -- requests ----------------------------------------------------------------------------------

    def request(self, path: Mapping[str, str], query: Sequence[tuple[str, str]], body: bytes) -> Message:
        """Return the request message.

        Args:
            path: values of the variables, by the names of `route`.
            query: parameters, in order.
            body: ignored where the rpc has none.

        Raises:
            Refused: INVALID_ARGUMENT, says what does not fit.
        """
        message: Any = GetMessageClass(self.method.input_type)()
        self._read_query(message, query)
        if self.body and body.strip():
            self._read_body(message, body)
        # Last, so that nothing else says what it is about.
        for number, variable in enumerate(self.variables):
            target = message
            for name in variable.field[:-1]:
                target = getattr(target, name)
            setattr(target, variable.field[-1], _text(path[f"v{number}"], "path"))
        return message

    def _read_query(self, message: Any, query: Sequence[tuple[str, str]]) -> None:
        known = {name: field for field in self.parameters() for name in (field.json_name, field.name)}
        values: dict[str, Any] = {}
        for name, text in query:
            field = known.get(name)
            if field is None:
                allowed = ", ".join(field.json_name for field in self.parameters()) or "none"
                raise _unfit(f"unknown query parameter {_quoted(name)}; {self.method.name} has {allowed}")
            if field.is_repeated:
                values.setdefault(field.name, []).append(_value(field, text))
            elif field.name in values:
                raise _unfit(f"query parameter {field.json_name} is given more than once")
            else:
                values[field.name] = _value(field, text)
        for name, value in values.items():
            try:
                json_format.ParseDict({name: value}, message)
            except _JSON_ERRORS as error:
                raise _unfit(f"query parameter {known[name].json_name} does not fit: {_told(error)}") from None

    def _read_body(self, message: Any, body: bytes) -> None:
        whole = self.body == WHOLE
        target = message if whole else getattr(message, self.body)
        try:
            text = body.decode()
            said = json.loads(text)
            if not isinstance(said, dict):
                raise TypeError("it is no object")
            # From the text, because this finds names that are given twice.
            json_format.Parse(text, target)
        except UnicodeDecodeError:
            raise _unfit("the body is not UTF-8") from None
        except _JSON_ERRORS as error:
            raise _unfit(f"the body does not fit {self.method.input_type.name}: {_told(error)}") from None
        if whole:
            return
        target.SetInParent()
        mask = self.mask
        if mask is not None:
            self._apply_mask(message, mask, target, said)

    def _apply_mask(self, message: Any, field: FieldDescriptor, target: Any, said: Mapping[str, Any]) -> None:
        """Take out of the body what the mask leaves out; without one all that the body names is meant."""
        mask: FieldMask = getattr(message, field.name)
        known = target.DESCRIPTOR.fields_by_name
        if not mask.paths:
            camel = target.DESCRIPTOR.fields_by_camelcase_name
            mask.paths.extend(sorted({(camel.get(name) or known[name]).name for name in said}))
            return
        unknown = [path for path in mask.paths if path != WHOLE and path.partition(".")[0] not in known]
        if unknown:
            raise _unfit(f"{field.json_name} names {_quoted(unknown[0])}, which {target.DESCRIPTOR.name} does not have")
        wanted = {path.partition(".")[0] for path in mask.paths}
        if WHOLE not in wanted:
            for present, _ in target.ListFields():
                if present.name not in wanted:
                    target.ClearField(present.name)


def bindings(*services: Any) -> tuple[Binding, ...]:
    """Return the annotated rpcs of services, given by their descriptors."""
    found = []
    for service in services:
        for method in service.methods:
            options = method.GetOptions()
            if not options.HasExtension(annotations_pb2.http):
                continue
            first = options.Extensions[annotations_pb2.http]
            for rule in (first, *first.additional_bindings):
                verb = rule.WhichOneof("pattern")
                if verb in VERBS:
                    rpc = f"/{service.full_name}/{method.name}"
                    found.append(Binding(rpc, method, verb.upper(), getattr(rule, verb), rule.body))
    return tuple(found)


def to_json(message: Message) -> Any:
    """Return a message in the JSON form of protobuf, with fields that have their default value."""
    return json_format.MessageToDict(message, always_print_fields_with_no_presence=True)


def _segment(pattern: str) -> str:
    return "[^/]+" if pattern == "*" else re.escape(pattern)


def _type_name(field: FieldDescriptor) -> str:
    return field.message_type.full_name if field.message_type is not None else ""


def _is_parameter(field: FieldDescriptor) -> bool:
    return field.message_type is None or _type_name(field) in WELL_KNOWN_TEXT


def _value(field: FieldDescriptor, text: str) -> Any:
    """Return the text of a parameter in the JSON form of its field."""
    text = _text(text, f"query parameter {field.json_name}")
    if field.type == FieldDescriptor.TYPE_BOOL:
        if text in ("true", "false"):
            return text == "true"
        raise _unfit(f"query parameter {field.json_name} is true or false, not {_quoted(text)}")
    return text


def _text(text: str, what: str) -> str:
    """Refuse what is no text: bytes of the URL that are not UTF-8 come as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _unfit(f"{what} is not UTF-8") from None
    return text


def _unfit(message: str) -> Refused:
    return Refused(Code.INVALID_ARGUMENT, "INVALID_REQUEST", message)


def _quoted(text: str) -> str:
    return ascii(text[:100])


def _told(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return ascii(str(error))[1:-1][:300]
