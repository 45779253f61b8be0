"""The description of the HTTP API in the form of OpenAPI 3.1, made from the descriptors of the rpcs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from google.api import field_behavior_pb2, resource_pb2
from google.protobuf.descriptor import FieldDescriptor

from ..services.access import ACCESS
from .transcoding import WHOLE, Binding

SCALARS: Mapping[int, dict[str, Any]] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_SINT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_SFIXED32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "format": "int64", "minimum": 0},
    FieldDescriptor.TYPE_FIXED32: {"type": "integer", "format": "int64", "minimum": 0},
    FieldDescriptor.TYPE_FLOAT: {"type": "number", "format": "float"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
}
"""JSON form of the scalars of protobuf; the 64-bit integers, which are not listed, are texts there."""

WELL_KNOWN: Mapping[str, dict[str, Any]] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {
        "type": "string",
        "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$",
        "description": "Seconds, such as `3600s`.",
    },
    "google.protobuf.FieldMask": {
        "type": "string",
        "description": "Names of fields, with commas between them.",
    },
    "google.protobuf.Empty": {"type": "object"},
}

ERROR = {
    "type": "object",
    "required": ["code", "message", "details"],
    "properties": {
        "code": {"type": "integer", "description": "A google.rpc.Code."},
        "message": {"type": "string", "description": "For people: what failed, on what, why, and what to do next."},
        "details": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "@type": {"type": "string"},
                    "reason": {"type": "string", "description": "For programs: a stable word, such as NO_ACCESS."},
                    "domain": {"type": "string"},
                    "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
                },
            },
        },
    },
}

_WORD = re.compile(r"(?<!^)(?=[A-Z])")
_VARIABLE = re.compile(r"\{([a-z_.]+)=([^{}]+)\}")


def describe(found: Iterable[Binding], *, version: str, url: str) -> dict[str, Any]:
    """Return the description.

    Args:
        version: of the server.
        url: where people reach it.
    """
    schemas = _Schemas()
    paths: dict[str, dict[str, Any]] = {}
    for binding in found:
        path, parameters = _path(binding)
        paths.setdefault(path, {})[binding.verb.lower()] = _operation(binding, parameters, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Jumpstarter",
            "version": version,
            "summary": "Exporters and leases of a lab.",
            "description": "The same as the gRPC service for clients, with the same tokens.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": url}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": {"Error": ERROR, **schemas.known},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "Of a client."}
            },
        },
    }


def _path(binding: Binding) -> tuple[str, list[dict[str, Any]]]:
    """Return the path with one parameter for each segment that is open."""
    parameters: list[dict[str, Any]] = []

    def expand(found: re.Match[str]) -> str:
        parts = found[2].split("/")
        for index, part in enumerate(parts):
            if part == "*":
                name = _singular(parts[index - 1]) if index else found[1]
                parameters.append({"name": name, "in": "path", "required": True, "schema": {"type": "string"}})
                parts[index] = f"{{{name}}}"
        return "/".join(parts)

    return _VARIABLE.sub(expand, binding.template), parameters


def _singular(collection: str) -> str:
    return collection.removesuffix("s")


def _operation(binding: Binding, parameters: list[dict[str, Any]], schemas: _Schemas) -> dict[str, Any]:
    method = binding.method
    for field in binding.parameters():
        parameters.append({"name": field.json_name, "in": "query", "schema": schemas.of_field(field)})
    operation: dict[str, Any] = {
        "operationId": method.name,
        "tags": [method.containing_service.name],
        "summary": f"{_WORD.sub(' ', method.name).capitalize()}.",
        "parameters": parameters,
        "responses": {
            "200": {
                "description": "Done.",
                "content": {"application/json": {"schema": schemas.of_message(method.output_type)}},
            },
            "default": {
                "description": "Refused.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            },
        },
    }
    rights = ACCESS[binding.rpc].rights
    if rights:
        operation["description"] = f"Rights: {rights}."
    if binding.mask is not None:
        operation["description"] = (
            f"{operation.get('description', '')} Without `{binding.mask.json_name}`, the fields that the body names "
            "are meant."
        ).strip()
    if binding.body:
        operation["requestBody"] = _body(binding, schemas)
    return operation


def _body(binding: Binding, schemas: _Schemas) -> dict[str, Any]:
    if binding.body == WHOLE:
        taken = {variable.field[0] for variable in binding.variables}
        schema = schemas.of_fields(field for field in binding.method.input_type.fields if field.name not in taken)
        return {"content": {"application/json": {"schema": schema}}}
    field = binding.method.input_type.fields_by_name[binding.body]
    return {
        "required": _has(field, field_behavior_pb2.REQUIRED),
        "content": {"application/json": {"schema": schemas.of_message(field.message_type)}},
    }


def _has(field: FieldDescriptor, behavior: int) -> bool:
    return behavior in field.GetOptions().Extensions[field_behavior_pb2.field_behavior]


class _Schemas:
    """Schemas of messages and enums, each made once."""

    def __init__(self) -> None:
        self.known: dict[str, Any] = {}

    def of_message(self, message: Any) -> dict[str, Any]:
        """Return a message's schema, or a reference to it."""
        if message.full_name in WELL_KNOWN:
            return dict(WELL_KNOWN[message.full_name])
        if message.full_name not in self.known:
            # First a place, because messages may hold their own kind.
            self.known[message.full_name] = {}
            self.known[message.full_name] = self.of_fields(message.fields)
        return {"$ref": f"#/components/schemas/{message.full_name}"}

    def of_fields(self, fields: Iterable[FieldDescriptor]) -> dict[str, Any]:
        """Return the schema of an object with these fields."""
        return {"type": "object", "properties": {field.json_name: self.of_field(field) for field in fields}}

    def of_field(self, field: FieldDescriptor) -> dict[str, Any]:
        """Return the schema of a field."""
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            value = self._value(kind.fields_by_name["value"])
            schema: dict[str, Any] = {"type": "object", "additionalProperties": value}
        elif field.is_repeated:
            schema = {"type": "array", "items": self._value(field)}
        else:
            schema = self._value(field)
        options = field.GetOptions()
        if options.deprecated:
            schema["deprecated"] = True
        if _has(field, field_behavior_pb2.OUTPUT_ONLY) or _has(field, field_behavior_pb2.IDENTIFIER):
            schema["readOnly"] = True
        reference = options.Extensions[resource_pb2.resource_reference]
        if reference.type:
            schema.setdefault("description", f"Name of a {reference.type.rpartition('/')[2].lower()}.")
        return schema

    def _value(self, field: FieldDescriptor) -> dict[str, Any]:
        if field.message_type is not None:
            return self.of_message(field.message_type)
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        return dict(SCALARS.get(field.type, {"type": "string", "format": "int64"}))

    def _enum(self, enum: Any) -> dict[str, Any]:
        self.known.setdefault(enum.full_name, {"type": "string", "enum": [value.name for value in enum.values]})
        return {"$ref": f"#/components/schemas/{enum.full_name}"}
