"""Merge patches (RFC 7386), JSON patches (RFC 6902), and strategic merge patches of the built-in kinds."""

from __future__ import annotations

import copy
from typing import Any

from .managed import keys_of
from .status import Refusal


def merged(target: Any, patch: Any) -> Any:
    """Return what a merge patch makes of something."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def strategic(target: Any, patch: Any, name: str = "") -> Any:
    """Return what a strategic merge patch makes of something: lists of named items are merged item by item."""
    if isinstance(patch, dict):
        if patch.get("$patch") == "replace":
            return {key: value for key, value in patch.items() if key != "$patch"}
        result = dict(target) if isinstance(target, dict) else {}
        for key, value in patch.items():
            if value is None:
                result.pop(key, None)
            else:
                result[key] = strategic(result.get(key), value, key)
        return result
    keys = keys_of(name, patch, None)
    if isinstance(patch, list) and isinstance(target, list) and isinstance(keys, tuple):
        items = [copy.copy(item) for item in target]
        for item in patch:
            same = [place for place in items if all(place.get(key) == item.get(key) for key in keys)]
            if item.get("$patch") == "delete":
                items = [place for place in items if place not in same]
            elif same:
                items[items.index(same[0])] = strategic(same[0], item)
            else:
                items.append(item)
        return items
    return patch


def by_operations(target: Any, operations: Any) -> Any:
    """Return what a JSON patch makes of something.

    Raises:
        Refusal: it is no JSON patch, or can't be carried out.
    """
    if not isinstance(operations, list):
        raise Refusal(400, "BadRequest", "error decoding patch: a JSON patch is a list of operations")
    result = copy.deepcopy(target)
    for operation in operations:
        try:
            result = _operated(result, operation)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            text = f"the server rejected our request due to an error in our request: {error}"
            raise Refusal(422, "Invalid", text) from None
    return result


def _operated(root: Any, operation: dict[str, Any]) -> Any:
    kind, path = operation["op"], _parts(operation["path"])
    if kind == "test":
        if _at(root, path) != operation.get("value"):
            raise ValueError(f"test failed at {operation['path']}")
        return root
    if kind in ("move", "copy"):
        source = _parts(operation["from"])
        value = copy.deepcopy(_at(root, source))
        if kind == "move":
            root = _operated(root, {"op": "remove", "path": operation["from"]})
        return _operated(root, {"op": "add", "path": operation["path"], "value": value})
    if not path:
        return operation["value"]
    place, last = _at(root, path[:-1]), path[-1]
    if isinstance(place, list):
        number = len(place) if last == "-" else int(last)
        if kind == "add":
            place.insert(number, operation["value"])
        elif kind == "remove":
            del place[number]
        else:
            place[number] = operation["value"]
        return root
    if kind == "remove":
        del place[last]
    elif kind == "replace" and last not in place:
        raise KeyError(f"replace operation does not apply: doc is missing key: {operation['path']}")
    else:
        place[last] = operation["value"]
    return root


def _parts(pointer: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def _at(value: Any, path: list[str]) -> Any:
    for part in path:
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value
