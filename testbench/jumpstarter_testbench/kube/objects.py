"""What becomes of an object that is created, changed or deleted: names, versions, schemas, owners, ends."""

from __future__ import annotations

import base64
import binascii
import copy
import random
import re
import string
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from . import managed, patches, schema
from .kinds import BUILT_IN, CRD_ID, KindInfo, from_definition
from .status import Cause, Refusal, invalid
from .storage import Event, Object, Storage

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_NAME = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")

_SYSTEM = ("uid", "creationTimestamp", "generation", "resourceVersion", "managedFields", "deletionTimestamp")
"""What only the server writes."""

NAMESPACES = ("", "namespaces")


def now() -> str:
    """Return the time as objects have it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Objects:
    """Carries out writes as an API server does."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._kinds: dict[tuple[str, str, str], KindInfo] = {(k.group, k.version, k.plural): k for k in BUILT_IN}
        storage.listeners.append(self._changed)

    # -- kinds -------------------------------------------------------------------------------------

    def kind(self, group: str, version: str, plural: str) -> KindInfo:
        """Return a kind.

        Raises:
            Refusal: the server does not know it.
        """
        found = self._kinds.get((group, version, plural))
        if found is None:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        return found

    def kinds(self) -> list[KindInfo]:
        """Return all kinds."""
        return list(self._kinds.values())

    def _changed(self, event: Event) -> None:
        if event.kind != CRD_ID:
            return
        for key in [key for key, kind in self._kinds.items() if kind.crd and self._is_gone(kind.crd)]:
            del self._kinds[key]
        if event.new is not None:
            name = event.new["metadata"]["name"]
            self._kinds = {key: kind for key, kind in self._kinds.items() if kind.crd != name}
            for kind in from_definition(event.new):
                self._kinds[kind.group, kind.version, kind.plural] = kind

    def _is_gone(self, name: str) -> bool:
        return self.storage.find(CRD_ID, "", name) is None

    # -- create ------------------------------------------------------------------------------------

    def create(self, kind: KindInfo, namespace: str, body: Object, manager: str, *, dry_run: bool = False) -> Object:
        """Add an object."""
        item = self._checked_body(kind, namespace, body)
        meta = item["metadata"]
        if meta.get("resourceVersion"):
            raise Refusal(400, "BadRequest", "resourceVersion should not be set on objects to be created")
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = meta["generateName"] + "".join(random.choices(string.ascii_lowercase + string.digits, k=5))
        self._check_namespace(kind, namespace)
        if kind.status:
            item.pop("status", None)
        item = self._admitted(kind, item, None)
        if self.storage.find(kind.id, namespace, meta["name"]) is not None:
            name = meta["name"]
            raise Refusal(
                409,
                "AlreadyExists",
                f'{kind.full_name} "{name}" already exists',
                name=name,
                group=kind.group,
                kind=kind.plural,
            )
        self._found(kind, item)
        managed.note_update(None, item, manager, "", now(), kind.schema)
        return item if dry_run else self._keep(kind, item)

    def _found(self, kind: KindInfo, item: Object) -> None:
        """Give a new object what only the server gives."""
        meta = item["metadata"]
        for name in _SYSTEM:
            meta.pop(name, None)
        meta.update(uid=str(uuid.uuid4()), creationTimestamp=now(), generation=1)
        if kind.id == NAMESPACES:
            item["status"] = {"phase": "Active"}
            item["spec"] = {"finalizers": ["kubernetes"]}
        if kind.id == CRD_ID:
            names = item["spec"]["names"]
            established = [
                {"type": name, "status": "True", "reason": reason, "message": text, "lastTransitionTime": now()}
                for name, reason, text in (
                    ("NamesAccepted", "NoConflicts", "no conflicts found"),
                    ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
                )
            ]
            stored = [version["name"] for version in item["spec"]["versions"] if version.get("storage")]
            item["status"] = {"conditions": established, "acceptedNames": names, "storedVersions": stored}

    # -- update ------------------------------------------------------------------------------------

    def replace(
        self, kind: KindInfo, namespace: str, name: str, body: Object, manager: str, part: str, *, dry_run: bool = False
    ) -> Object:
        """Replace an object or its status."""
        item = self._checked_body(kind, namespace, body)
        if item["metadata"].get("name") != name:
            text = (
                f"the name of the object ({item['metadata'].get('name')}) does not match the name on the URL ({name})"
            )
            raise Refusal(400, "BadRequest", text)
        old = self.storage.get(kind.id, namespace, name)
        if kind.schema is not None and not item["metadata"].get("resourceVersion"):
            cause = {
                "reason": "FieldValueInvalid",
                "message": "Invalid value: 0x0: must be specified for an update",
                "field": "metadata.resourceVersion",
            }
            raise invalid(kind.plural, kind.group, name, [cause])
        return self._updated(kind, old, item, manager, part, dry_run=dry_run)

    def patch(
        self,
        kind: KindInfo,
        namespace: str,
        name: str,
        patch: Any,
        how: str,
        manager: str,
        part: str,
        *,
        dry_run: bool = False,
    ) -> Object:
        """Change parts of an object or of its status."""
        if how == "strategic" and kind.schema is not None:
            text = "the body of the request was in an unknown format - accepted media types include: "
            text += "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
            raise Refusal(415, "UnsupportedMediaType", text)
        old = self.storage.get(kind.id, namespace, name)
        ways: dict[str, Callable[[Any, Any], Any]] = {
            "merge": patches.merged,
            "json": patches.by_operations,
            "strategic": patches.strategic,
        }
        item = ways[how](copy.deepcopy(old), patch)
        if not isinstance(item, dict) or not isinstance(item.get("metadata"), dict):
            raise Refusal(400, "BadRequest", "the patch makes something of the object that is none")
        return self._updated(kind, old, item, manager, part, dry_run=dry_run)

    def _updated(self, kind: KindInfo, old: Object, item: Object, manager: str, part: str, *, dry_run: bool) -> Object:
        name, meta, before = old["metadata"]["name"], item["metadata"], old["metadata"]
        if meta.get("name", name) != name or meta.get("namespace", "") != before.get("namespace", ""):
            cause = {"reason": "FieldValueInvalid", "message": "Invalid value: field is immutable", "field": "metadata"}
            raise invalid(kind.plural, kind.group, name, [cause])
        if meta.get("uid") and meta["uid"] != before["uid"]:
            text = f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {before['uid']}"
            raise self._conflict(kind, name, text)
        if meta.get("resourceVersion") and meta["resourceVersion"] != before["resourceVersion"]:
            raise self._conflict(
                kind,
                name,
                "the object has been modified; please apply your changes to the latest version and try again",
            )
        if part == "status":
            status = {"status": item["status"]} if "status" in item else {}
            item = {**{key: value for key, value in old.items() if key != "status"}, **status, "metadata": dict(before)}
        else:
            if kind.status:
                item = {key: value for key, value in item.items() if key != "status"}
                if "status" in old:
                    item["status"] = old["status"]
            kept = {key: before[key] for key in _SYSTEM if key in before}
            item = {**item, "metadata": {**{k: v for k, v in meta.items() if k not in _SYSTEM}, **kept}}
        item = self._admitted(kind, item, old)
        return self._kept_if_changed(
            kind,
            old,
            item,
            lambda: managed.note_update(old, item, manager, part, now(), kind.schema),
            dry_run=dry_run,
        )

    def _kept_if_changed(
        self, kind: KindInfo, old: Object, item: Object, note: Callable[[], None], *, dry_run: bool
    ) -> Object:
        if _essence(item) == _essence(old):
            return old
        if any(item.get(key) != old.get(key) for key in set(item) | set(old) if key not in ("metadata", "status")):
            item["metadata"]["generation"] = old["metadata"].get("generation", 1) + 1
        note()
        if dry_run:
            return item
        if item["metadata"].get("deletionTimestamp") and not item["metadata"].get("finalizers"):
            return self._gone(kind, item)
        return self._keep(kind, item)

    def apply(
        self,
        kind: KindInfo,
        namespace: str,
        name: str,
        body: Object,
        manager: str,
        part: str,
        *,
        force: bool,
        dry_run: bool = False,
    ) -> tuple[Object, bool]:
        """Have an object be as described; return it, and whether it is new."""
        if not manager:
            raise Refusal(
                422,
                "Invalid",
                'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch',
            )
        item = self._checked_body(kind, namespace, body)
        if item["metadata"].get("managedFields"):
            raise Refusal(400, "BadRequest", "metadata.managedFields must be nil")
        item["metadata"]["name"] = name
        old = self.storage.find(kind.id, namespace, name)
        if part == "status":
            item.pop("spec", None)
        elif kind.status:
            item.pop("status", None)
        wanted = self._pruned(kind, item)
        merged = managed.applied(old, wanted, manager, part, now(), kind.schema, force=force)
        notes = merged["metadata"].get("managedFields")
        merged["metadata"] = {**merged["metadata"], "name": name, **({"namespace": namespace} if namespace else {})}
        if old is None:
            self._check_namespace(kind, namespace)
            result = self._admitted(kind, merged, None)
            self._found(kind, result)
            result["metadata"]["managedFields"] = notes
            return (result if dry_run else self._keep(kind, result)), True
        if item["metadata"].get("resourceVersion") not in (None, "", old["metadata"]["resourceVersion"]):
            raise self._conflict(kind, name, "the object has been modified")
        kept = {key: old["metadata"][key] for key in _SYSTEM if key in old["metadata"]}
        merged["metadata"] = {**{k: v for k, v in merged["metadata"].items() if k not in _SYSTEM}, **kept}
        result = self._admitted(kind, merged, old)
        if _essence(result) == _essence(old) and notes == old["metadata"].get("managedFields"):
            return old, False
        result["metadata"]["managedFields"] = notes
        if any(result.get(key) != old.get(key) for key in set(result) | set(old) if key not in ("metadata", "status")):
            result["metadata"]["generation"] = old["metadata"].get("generation", 1) + 1
        return (result if dry_run else self._keep(kind, result)), False

    # -- delete ------------------------------------------------------------------------------------

    def delete(self, kind: KindInfo, namespace: str, name: str, options: Object, *, dry_run: bool = False) -> Object:
        """Remove an object, or begin to when something has to be finished before."""
        item = self.storage.get(kind.id, namespace, name)
        for key, label in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
            wanted = (options.get("preconditions") or {}).get(key)
            if wanted and wanted != item["metadata"][key]:
                text = f"Precondition failed: {label} in precondition: {wanted}, {label} in object meta: "
                raise self._conflict(kind, name, text + item["metadata"][key])
        if dry_run:
            return item
        if options.get("propagationPolicy") == "Orphan":
            self._orphan(item["metadata"]["uid"])
        if kind.id == NAMESPACES:
            self._empty(name)
        if item["metadata"].get("finalizers"):
            if item["metadata"].get("deletionTimestamp"):
                return item
            meta = {**item["metadata"], "deletionTimestamp": now(), "deletionGracePeriodSeconds": 0}
            return self._keep(kind, {**item, "metadata": meta})
        return self._gone(kind, item)

    def _gone(self, kind: KindInfo, item: Object) -> Object:
        last = self.storage.drop(kind.id, item["metadata"].get("namespace", ""), item["metadata"]["name"])
        if kind.id == CRD_ID:
            identity = last["spec"]["group"], last["spec"]["names"]["plural"]
            for other in self.storage.all(identity):
                self.storage.drop(identity, other["metadata"].get("namespace", ""), other["metadata"]["name"])
        self._collect(last["metadata"]["uid"])
        return last

    def _collect(self, uid: str) -> None:
        """Remove what the deleted object was the last owner of."""
        for identity, item in self.storage.everything():
            owners = item["metadata"].get("ownerReferences") or []
            if not any(owner["uid"] == uid for owner in owners):
                continue
            rest = [owner for owner in owners if owner["uid"] != uid and self._lives(owner["uid"])]
            kind = next(kind for kind in self._kinds.values() if kind.id == identity)
            if rest:
                self._keep(kind, {**item, "metadata": {**item["metadata"], "ownerReferences": rest}})
            else:
                self.delete(kind, item["metadata"].get("namespace", ""), item["metadata"]["name"], {})

    def _lives(self, uid: str) -> bool:
        return any(item["metadata"]["uid"] == uid for _, item in self.storage.everything())

    def _orphan(self, uid: str) -> None:
        for identity, item in self.storage.everything():
            owners = item["metadata"].get("ownerReferences") or []
            if any(owner["uid"] == uid for owner in owners):
                rest = [owner for owner in owners if owner["uid"] != uid]
                self.storage.put(identity, {**item, "metadata": {**item["metadata"], "ownerReferences": rest}})

    def _empty(self, namespace: str) -> None:
        for identity, item in self.storage.everything():
            if item["metadata"].get("namespace") == namespace:
                self.storage.drop(identity, namespace, item["metadata"]["name"])

    # -- rules -------------------------------------------------------------------------------------

    def _checked_body(self, kind: KindInfo, namespace: str, body: Object) -> Object:
        if not isinstance(body, dict):
            raise Refusal(400, "BadRequest", "the object provided is unrecognized (must be of type object)")
        item = copy.deepcopy(body)
        for key, wanted in (("apiVersion", kind.api_version), ("kind", kind.kind)):
            if item.setdefault(key, wanted) != wanted:
                text = f"{key} in the data ({item[key]}) does not match the expected one ({wanted})"
                raise Refusal(400, "BadRequest", text)
        meta = item.setdefault("metadata", {})
        if not isinstance(meta, dict):
            raise Refusal(400, "BadRequest", "metadata is no object")
        if kind.namespaced:
            if meta.setdefault("namespace", namespace) != namespace:
                text = "the namespace of the provided object does not match the namespace sent on the request"
                raise Refusal(400, "BadRequest", text)
        else:
            meta.pop("namespace", None)
        return item

    def _check_namespace(self, kind: KindInfo, namespace: str) -> None:
        if not kind.namespaced:
            return
        place = self.storage.find(NAMESPACES, "", namespace)
        if place is None:
            raise Refusal(404, "NotFound", f'namespaces "{namespace}" not found', name=namespace, kind="namespaces")

    def _pruned(self, kind: KindInfo, item: Object) -> Object:
        if kind.schema is None:
            return item
        return schema.prepared(kind.schema, item, defaults=False)

    def _admitted(self, kind: KindInfo, item: Object, old: Object | None) -> Object:
        """Return an object as it is kept.

        Raises:
            Refusal: it breaks a rule of its kind.
        """
        causes = list(_meta_problems(kind, item["metadata"]))
        if kind.schema is not None:
            item = schema.prepared(kind.schema, item)
            causes += schema.problems(kind.schema, item, old)
        if kind.id == ("", "secrets"):
            item = _secret(item, old)
        if (
            kind.id == CRD_ID
            and item["metadata"]["name"] != f"{item['spec']['names']['plural']}.{item['spec']['group']}"
        ):
            text = 'Invalid value: must be spec.names.plural+"."+spec.group'
            causes.append({"reason": "FieldValueInvalid", "message": text, "field": "metadata.name"})
        if causes:
            raise invalid(kind.kind, kind.group, item["metadata"].get("name", ""), causes)
        return item

    def _conflict(self, kind: KindInfo, name: str, text: str) -> Refusal:
        message = f'Operation cannot be fulfilled on {kind.full_name} "{name}": {text}'
        return Refusal(409, "Conflict", message, name=name, group=kind.group, kind=kind.plural)

    def _keep(self, kind: KindInfo, item: Object) -> Object:
        return self.storage.put(kind.id, item)


def _essence(item: Object) -> Object:
    meta = {k: v for k, v in item["metadata"].items() if k not in ("resourceVersion", "managedFields", "generation")}
    return {**item, "metadata": meta}


def _meta_problems(kind: KindInfo, meta: Object) -> list[Cause]:
    found: list[Cause] = []

    def wrong(field: str, value: object, text: str) -> None:
        found.append(
            {
                "reason": "FieldValueInvalid",
                "message": f'Invalid value: "{value}": {text}',
                "field": f"metadata.{field}",
            }
        )

    name = meta.get("name")
    if not name:
        found.append(
            {
                "reason": "FieldValueRequired",
                "message": "Required value: name or generateName is required",
                "field": "metadata.name",
            }
        )
    elif not isinstance(name, str) or len(name) > 253 or not _rightly_named(kind, name):
        wrong(
            "name",
            name,
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or "
            "'.', and must start and end with an alphanumeric character",
        )
    for key, value in (meta.get("labels") or {}).items():
        if not _LABEL_NAME.fullmatch(key):
            wrong("labels", key, "name part must consist of alphanumeric characters, '-', '_' or '.'")
        if not isinstance(value, str) or not _LABEL_VALUE.fullmatch(value):
            wrong(
                "labels",
                value,
                "a valid label must be an empty string or consist of alphanumeric characters, '-', "
                "'_' or '.', and must start and end with an alphanumeric character",
            )
    annotations = meta.get("annotations") or {}
    if sum(len(key) + len(str(value)) for key, value in annotations.items()) > 256 << 10:
        found.append(
            {
                "reason": "FieldValueTooLong",
                "message": "Too long: may not be more than 262144 bytes",
                "field": "metadata.annotations",
            }
        )
    for key in annotations:
        if not _LABEL_NAME.fullmatch(key.lower()):
            wrong("annotations", key, "name part must consist of alphanumeric characters, '-', '_' or '.'")
    return found


def _rightly_named(kind: KindInfo, name: str) -> bool:
    if kind.group == "rbac.authorization.k8s.io":
        return "/" not in name and "%" not in name and name not in (".", "..")
    return _NAME.fullmatch(name) is not None


def _secret(item: Object, old: Object | None) -> Object:
    data = dict(item.get("data") or {})
    for key, text in (item.get("stringData") or {}).items():
        data[key] = base64.b64encode(text.encode()).decode()
    for key, value in data.items():
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, TypeError, ValueError):
            text = f'Secret in version "v1" cannot be handled as a Secret: illegal base64 data in {key}'
            raise Refusal(400, "BadRequest", text) from None
    if old is not None and old.get("immutable") and data != (old.get("data") or {}):
        cause = {
            "reason": "FieldValueForbidden",
            "message": "Forbidden: field is immutable when `immutable` is set",
            "field": "data",
        }
        raise invalid("Secret", "", item["metadata"]["name"], [cause])
    kept = {key: value for key, value in item.items() if key not in ("data", "stringData")}
    return {**kept, "type": item.get("type") or "Opaque", **({"data": data} if data else {})}
