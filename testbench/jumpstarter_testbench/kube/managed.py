"""Who owns which fields of an object, and server-side apply.

Fields are sets of paths; an element of a path is `f:name` for a field, `k:{...}` for an item of a list by its keys,
`v:...` for an item of a set, as `metadata.managedFields` has them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from .status import Cause, Refusal

Path = tuple[str, ...]
Object = dict[str, Any]

_LIST_KEYS: dict[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "imagePullSecrets": ("name",),
    "conditions": ("type",),
    "ownerReferences": ("uid",),
}
"""Keys of the lists of built-in kinds that are merged item by item, by the name of the field."""

_PORT_KEYS = (("port", "protocol"), ("containerPort", "protocol"))

_UNOWNED = {("f:apiVersion",), ("f:kind",), ("f:metadata",)}
_META_UNOWNED = ("name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "managedFields")


def keys_of(name: str, value: Any, schema: dict[str, Any] | None) -> tuple[str, ...] | str | None:
    """Return by which keys the items of a list are told apart; `set` for values, None for a list taken as a whole."""
    if not isinstance(value, list):
        return None
    if schema is not None and "x-kubernetes-list-type" in schema:
        kind = schema["x-kubernetes-list-type"]
        if kind == "set":
            return "set"
        return tuple(schema["x-kubernetes-list-map-keys"]) if kind == "map" else None
    if name == "finalizers":
        return "set"
    if schema is None or name == "ownerReferences":
        if name == "ports" and value and all(isinstance(item, dict) for item in value):
            return next((keys for keys in _PORT_KEYS if all(keys[0] in item for item in value)), None)
        return _LIST_KEYS.get(name)
    return None


def _inner(schema: dict[str, Any] | None, name: str) -> dict[str, Any] | None:
    if schema is None:
        return None
    found = (schema.get("properties") or {}).get(name) or schema.get("additionalProperties")
    return found if isinstance(found, dict) else ({} if name != "metadata" else None)


def _key(item: Any, keys: tuple[str, ...]) -> str:
    values = {key: item.get(key, "TCP" if key == "protocol" else None) for key in keys}
    return "k:" + json.dumps(values, sort_keys=True, separators=(",", ":"))


def fields(item: Object, schema: dict[str, Any] | None = None) -> dict[Path, Any]:
    """Return the leaves of an object with their values; a map or list without any is a leaf."""
    found: dict[Path, Any] = {}
    shown = {key: value for key, value in item.items() if key not in ("apiVersion", "kind", "metadata")}
    meta = {key: value for key, value in (item.get("metadata") or {}).items() if key not in _META_UNOWNED}
    _collect(shown, schema, "", (), found)
    if meta:
        _collect(meta, None, "metadata", ("f:metadata",), found)
    return found


def _collect(value: Any, schema: dict[str, Any] | None, name: str, path: Path, found: dict[Path, Any]) -> None:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            _collect(inner, _inner(schema, key), key, (*path, f"f:{key}"), found)
        return
    keys = keys_of(name, value, schema)
    if keys == "set":
        for item in value:
            found[(*path, "v:" + json.dumps(item))] = item
        return
    if isinstance(keys, tuple):
        items = (schema or {}).get("items") if schema is not None else None
        for item in value:
            place = (*path, _key(item, keys))
            found[(*place, ".")] = None
            for key, inner in item.items():
                _collect(inner, _inner(items, key) if items is not None else None, key, (*place, f"f:{key}"), found)
        return
    if path:
        found[path] = value


def encoded(paths: Iterable[Path]) -> Object:
    """Return paths as `fieldsV1`."""
    root: Object = {}
    for path in sorted(paths):
        place = root
        for part in path:
            place = place.setdefault(part, {})
    return root


def decoded(tree: Object, path: Path = ()) -> set[Path]:
    """Return the paths of a `fieldsV1`."""
    found: set[Path] = set()
    for part, inner in tree.items():
        found |= decoded(inner, (*path, part)) if inner else {(*path, part)}
    return found


class Managers:
    """The owners of an object's fields."""

    def __init__(self, item: Object | None) -> None:
        entries = ((item or {}).get("metadata") or {}).get("managedFields") or []
        self.entries: list[tuple[str, str, str, str, set[Path]]] = [
            (
                entry.get("manager", "unknown"),
                entry.get("operation", "Update"),
                entry.get("subresource", ""),
                entry.get("time", ""),
                decoded(entry.get("fieldsV1") or {}),
            )
            for entry in entries
        ]

    def own(self, manager: str, operation: str, subresource: str) -> set[Path]:
        """Return the fields of one manager."""
        return next((e[4] for e in self.entries if e[:3] == (manager, operation, subresource)), set())

    def others(self, manager: str, operation: str, subresource: str) -> list[tuple[str, set[Path]]]:
        """Return the fields of all others."""
        return [(e[0], e[4]) for e in self.entries if e[:3] != (manager, operation, subresource)]

    def put(self, manager: str, operation: str, subresource: str, time: str, paths: set[Path]) -> None:
        """Set the fields of one manager."""
        self.entries = [e for e in self.entries if e[:3] != (manager, operation, subresource)]
        if paths:
            self.entries.append((manager, operation, subresource, time, paths))

    def take(self, paths: set[Path], keep: tuple[str, str, str]) -> None:
        """Take fields away from everybody but one."""
        for entry in self.entries:
            if entry[:3] != keep:
                entry[4].difference_update(paths)
        self.entries = [entry for entry in self.entries if entry[4]]

    def write(self, item: Object) -> None:
        """Note them in an object."""
        item["metadata"]["managedFields"] = [
            {
                "manager": manager,
                "operation": operation,
                "apiVersion": item["apiVersion"],
                "time": time,
                "fieldsType": "FieldsV1",
                "fieldsV1": encoded(paths),
                **({"subresource": subresource} if subresource else {}),
            }
            for manager, operation, subresource, time, paths in self.entries
        ]


def note_update(
    old: Object | None, new: Object, manager: str, subresource: str, time: str, schema: dict[str, Any] | None
) -> None:
    """Note that somebody has written an object: what was changed is the writer's now."""
    before, after = fields(old or {}, schema), fields(new, schema)
    changed = {path for path, value in after.items() if path not in before or before[path] != value}
    gone = set(before) - set(after)
    managers = Managers(old)
    managers.take(changed | gone, (manager, "Update", subresource))
    own = (managers.own(manager, "Update", subresource) | changed) - gone
    managers.put(manager, "Update", subresource, time, own)
    managers.write(new)


def applied(
    live: Object | None,
    wanted: Object,
    manager: str,
    subresource: str,
    time: str,
    schema: dict[str, Any] | None,
    *,
    force: bool,
) -> Object:
    """Return an object as it is when a description has been applied to it.

    Raises:
        Refusal: a field that is to be changed belongs to somebody else.
    """
    managers = Managers(live)
    own = manager, "Apply", subresource
    described = fields(wanted, schema)
    present = fields(live or {}, schema)
    causes: list[Cause] = []
    taken: set[Path] = set()
    for other, theirs in managers.others(*own):
        for path in sorted(theirs & set(described)):
            if path in present and present[path] != described[path]:
                taken.add(path)
                where = "." + ".".join(part[2:] for part in path if part != ".")
                causes.append({"reason": "FieldManagerConflict", "message": f'conflict with "{other}"', "field": where})
    if causes and not force:
        lines = "\n".join(f"- {cause['message']}: {cause['field']}" for cause in causes)
        count = "1 conflict" if len(causes) == 1 else f"{len(causes)} conflicts"
        raise Refusal(409, "Conflict", f"Apply failed with {count}: {lines}", causes=causes)
    managers.take(taken, own)
    owned_elsewhere = set().union(*(theirs for _, theirs in managers.others(*own)))
    given_up = managers.own(*own) - set(described) - owned_elsewhere
    merged = _merged(live or {}, wanted, schema, "")
    for path in sorted(given_up, key=len, reverse=True):
        _remove(merged, path)
    if not merged.get("metadata"):
        merged["metadata"] = {}
    managers.put(*own, time, set(described))
    managers.write(merged)
    return merged


def _merged(live: Any, wanted: Any, schema: dict[str, Any] | None, name: str) -> Any:
    if isinstance(live, dict) and isinstance(wanted, dict):
        result = dict(live)
        for key, value in wanted.items():
            inner = None if name == "" and key == "metadata" else _inner(schema, key)
            result[key] = _merged(live[key], value, inner, key) if key in live else value
        return result
    if isinstance(live, list) and isinstance(wanted, list):
        keys = keys_of(name, wanted, schema) or keys_of(name, live, schema)
        if keys == "set":
            return [*live, *(item for item in wanted if item not in live)]
        if isinstance(keys, tuple):
            items = (schema or {}).get("items") if schema is not None else None
            places = {_key(item, keys): item for item in live}
            for item in wanted:
                key = _key(item, keys)
                places[key] = _merged(places[key], item, items, "") if key in places else item
            return list(places.values())
    return wanted


def _remove(item: Any, path: Path) -> None:
    """Remove a field, and the maps that are empty without it."""
    part, rest = path[0], path[1:]
    if isinstance(item, dict) and part.startswith("f:"):
        name = part[2:]
        if name not in item:
            return
        if rest:
            _remove(item[name], rest)
        if not rest or item[name] in ({}, []):
            del item[name]
    elif isinstance(item, list) and part.startswith("k:"):
        wanted = json.loads(part[2:])
        for place in [
            other
            for other in item
            if all(other.get(k, "TCP" if k == "protocol" else None) == v for k, v in wanted.items())
        ]:
            if rest == (".",) or not rest:
                item.remove(place)
            else:
                _remove(place, rest)
    elif isinstance(item, list) and part.startswith("v:"):
        value = json.loads(part[2:])
        if value in item:
            item.remove(value)
