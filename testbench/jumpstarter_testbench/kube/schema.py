"""Structural schemas of custom resources: defaults, pruning, types, and CEL rules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from .status import Cause

Schema = dict[str, Any]

_EMBEDDED = ("apiVersion", "kind", "metadata")


def prepared(schema: Schema, item: dict[str, Any], *, defaults: bool = True) -> dict[str, Any]:
    """Return an object without the fields that its schema doesn't know, and with the `defaults` that it gives."""
    kept = {key: item[key] for key in _EMBEDDED if key in item}
    rest = {key: value for key, value in item.items() if key not in _EMBEDDED}
    shaped = _shaped(schema, rest, defaults)
    return {**kept, **(shaped if isinstance(shaped, dict) else rest)}


def _shaped(schema: Schema, value: Any, defaults: bool) -> Any:
    if isinstance(value, dict):
        properties, further = schema.get("properties") or {}, schema.get("additionalProperties")
        free = schema.get("x-kubernetes-preserve-unknown-fields")
        result: dict[str, Any] = {}
        for key, item in value.items():
            if key in properties:
                if item is None and not properties[key].get("nullable"):
                    continue
                result[key] = _shaped(properties[key], item, defaults)
            elif isinstance(further, dict):
                result[key] = _shaped(further, item, defaults)
            elif further or free or "properties" not in schema:
                result[key] = item
        for key, inner in properties.items():
            if defaults and key not in result and "default" in inner:
                result[key] = _shaped(inner, _copy(inner["default"]), defaults)
        return result
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        return [_shaped(schema["items"], item, defaults) for item in value]
    return value


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def problems(schema: Schema, item: dict[str, Any], old: dict[str, Any] | None) -> list[Cause]:
    """Return what is wrong with an object, types first: rules are looked at only when the types are right."""
    rest = {key: value for key, value in item.items() if key not in _EMBEDDED}
    before = {key: value for key, value in (old or {}).items() if key not in _EMBEDDED} if old else None
    inner = {**schema, "properties": {k: v for k, v in (schema.get("properties") or {}).items() if k not in _EMBEDDED}}
    inner["required"] = [name for name in schema.get("required") or () if name not in _EMBEDDED]
    found = list(_typed(inner, rest, ""))
    return found or list(_ruled(inner, rest, before, ""))


def _cause(path: str, reason: str, message: str) -> Cause:
    return {"reason": reason, "message": message, "field": path or "<nil>"}


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else "null" if value is None else str(value)


_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}


def _typed(schema: Schema, value: Any, path: str) -> Iterator[Cause]:
    if value is None and schema.get("nullable"):
        return
    if (told := _mistyped(schema, value, path)) is not None:
        yield _cause(path, "FieldValueTypeInvalid", told)
        return
    yield from _bounded(schema, value, path)
    if isinstance(value, dict):
        for name in schema.get("required") or ():
            if name not in value:
                yield _cause(f"{path}.{name}".lstrip("."), "FieldValueRequired", "Required value")
        for key, item in value.items():
            if (inner := _schema_of(schema, key)) is not None:
                yield from _typed(inner, item, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for number, item in enumerate(value):
            yield from _typed(schema["items"], item, f"{path}[{number}]")
        yield from _unique(schema, value, path)


def _schema_of(schema: Schema, key: str) -> Schema | None:
    further = schema.get("additionalProperties")
    found = (schema.get("properties") or {}).get(key) or further
    return found if isinstance(found, dict) else None


def _mistyped(schema: Schema, value: Any, path: str) -> str | None:
    """Return what to say of a value of a wrong type."""
    if schema.get("x-kubernetes-int-or-string"):
        right = isinstance(value, (int, str)) and not isinstance(value, bool)
        return None if right else f"Invalid value: {_shown(value)}: must be an integer or string"
    wanted = schema.get("type")
    if not wanted:
        return None
    right = isinstance(value, _TYPES[wanted]) and not (isinstance(value, bool) and wanted in ("integer", "number"))
    where = path.lstrip(".")
    return (
        None if right else f"Invalid value: {_shown(value)}: {where} in body must be of type {wanted}: {_shown(value)}"
    )


def _bounded(schema: Schema, value: Any, path: str) -> Iterator[Cause]:
    if "enum" in schema and value not in schema["enum"]:
        choice = ", ".join(_shown(item) for item in schema["enum"])
        yield _cause(path, "FieldValueNotSupported", f"Unsupported value: {_shown(value)}: supported values: {choice}")
    if isinstance(value, str):
        yield from _bounded_text(schema, value, path)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        for key, words, outside in (
            ("minimum", "greater than or equal to", lambda limit: value < limit),
            ("maximum", "less than or equal to", lambda limit: value > limit),
        ):
            if key in schema and outside(schema[key]):
                yield _wrong(value, path, f"{path} in body should be {words} {schema[key]}")
    elif isinstance(value, (list, dict)):
        limit = schema.get("maxItems" if isinstance(value, list) else "maxProperties", len(value))
        if len(value) > limit:
            yield _cause(path, "FieldValueTooMany", f"Too many: {len(value)}: must have at most {limit} items")
        if len(value) < schema.get("minItems", 0):
            yield _wrong(value, path, f"{path} in body should have at least {schema['minItems']} items")


def _bounded_text(schema: Schema, value: str, path: str) -> Iterator[Cause]:
    if len(value) > schema.get("maxLength", len(value)):
        yield _cause(path, "FieldValueTooLong", f"Too long: may not be more than {schema['maxLength']} bytes")
    if len(value) < schema.get("minLength", 0):
        yield _wrong(value, path, f"{path} in body should be at least {schema['minLength']} chars long")
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield _wrong(value, path, f"{path} in body should match '{schema['pattern']}'")
    if schema.get("format") == "date-time" and not _TIME.fullmatch(value):
        yield _wrong(value, path, f"{path} in body must be of type date-time: {_shown(value)}")


def _wrong(value: Any, path: str, text: str) -> Cause:
    return _cause(path, "FieldValueInvalid", f"Invalid value: {_shown(value)}: {text}")


_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


def _unique(schema: Schema, value: list[Any], path: str) -> Iterator[Cause]:
    if schema.get("x-kubernetes-list-type") != "map":
        return
    seen = set()
    for number, item in enumerate(value):
        key = tuple(str(item.get(name)) for name in schema.get("x-kubernetes-list-map-keys") or ())
        if key in seen:
            yield _cause(f"{path}[{number}]", "FieldValueDuplicate", f"Duplicate value: {key}")
        seen.add(key)


def _ruled(schema: Schema, value: Any, old: Any, path: str) -> Iterator[Cause]:
    for rule in schema.get("x-kubernetes-validations") or ():
        if (told := _broken(rule, value, old)) is not None:
            yield _cause(path, "FieldValueInvalid", f"Invalid value: {told}")
    if isinstance(value, dict):
        before = old if isinstance(old, dict) else {}
        for key, item in value.items():
            if (inner := _schema_of(schema, key)) is not None:
                yield from _ruled(inner, item, before.get(key), f"{path}.{key}".lstrip("."))
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for number, item in enumerate(value):
            yield from _ruled(schema["items"], item, None, f"{path}[{number}]")


def _broken(rule: dict[str, str], value: Any, old: Any) -> str | None:
    """Return what to say of a rule that a value breaks; a rule about changes holds where there was nothing before."""
    text = rule["rule"]
    about_changes = re.search(r"\boldSelf\b", text) is not None
    if about_changes and old is None:
        return None
    names = {"self": value, **({"oldSelf": old} if about_changes else {})}
    kind = "object" if isinstance(value, dict) else "array" if isinstance(value, list) else "value"
    try:
        holds = bool(_program(text).execute(names))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        return f'"{kind}": rule evaluation error: {error}'
    return None if holds else f'"{kind}": {rule.get("message") or f"failed rule: {text}"}'


@cache
def _program(text: str) -> Any:
    import cel

    return cel.compile(text)
