"""Who asks, and what they may do: bearer tokens, service accounts, and role-based access control."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .status import Refusal

if TYPE_CHECKING:
    from .storage import Storage

MASTERS = "system:masters"
"""The group that may do everything."""

ISSUER = "https://kubernetes.default.svc.cluster.local"

RBAC = "rbac.authorization.k8s.io"


@dataclass(frozen=True)
class User:
    """Who asks."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""


@dataclass(frozen=True)
class Attributes:
    """What is asked for."""

    verb: str
    group: str
    resource: str
    """Plural, with the subresource after a slash."""
    namespace: str = ""
    name: str = ""
    path: str = ""
    """Of what is no object."""


class Tokens:
    """The bearer tokens that the server knows."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._users: dict[str, User] = {}
        self._key = secrets.token_bytes(32)

    def add(self, user: User, token: str = "") -> str:
        """Have a token stand for a user; return the token."""
        token = token or secrets.token_urlsafe(24)
        self._users[token] = user
        return token

    def revoke(self, token: str) -> None:
        """Know a token no longer."""
        self._users.pop(token, None)

    def issue(self, namespace: str, name: str, audiences: Iterable[str], seconds: int) -> tuple[str, float]:
        """Return a token of a service account, and when it ends."""
        account = self._storage.get(("", "serviceaccounts"), namespace, name)
        expires = time.time() + seconds
        claims = {
            "iss": ISSUER,
            "aud": list(audiences) or [ISSUER],
            "sub": f"system:serviceaccount:{namespace}:{name}",
            "exp": int(expires),
            "uid": account["metadata"]["uid"],
        }
        payload = f"{_text({'alg': 'HS256'})}.{_text(claims)}"
        return f"{payload}.{self._signature(payload)}", expires

    def user(self, token: str, audiences: Iterable[str] = ()) -> tuple[User, list[str]] | None:
        """Return whose token it is, and for which of the audiences; None when it is not accepted."""
        wanted = list(audiences) or [ISSUER]
        if (known := self._users.get(token)) is not None:
            return known, wanted
        payload, _, signature = token.rpartition(".")
        if not payload or not hmac.compare_digest(signature, self._signature(payload)):
            return None
        claims = json.loads(base64.urlsafe_b64decode(payload.partition(".")[2] + "=="))
        common = [audience for audience in wanted if audience in claims["aud"]]
        _, _, namespace, name = claims["sub"].split(":")
        account = self._storage.find(("", "serviceaccounts"), namespace, name)
        if not common or claims["exp"] < time.time() or account is None or account["metadata"]["uid"] != claims["uid"]:
            return None
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
        return User(claims["sub"], groups, claims["uid"]), common

    def _signature(self, payload: str) -> str:
        return base64.urlsafe_b64encode(hmac.digest(self._key, payload.encode(), hashlib.sha256)).decode().rstrip("=")


def _text(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


class Rights:
    """What roles and their bindings allow."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def check(self, user: User, asked: Attributes) -> None:
        """Raise `Refusal` when a user may not do something."""
        if self.allowed(user, asked):
            return
        where = f' in the namespace "{asked.namespace}"' if asked.namespace else " at the cluster scope"
        plural = asked.resource.partition("/")[0]
        full = f"{plural}.{asked.group}" if asked.group else plural
        what = f'User "{user.name}" cannot {asked.verb} resource "{asked.resource}" in API group "{asked.group}"{where}'
        if asked.path:
            raise Refusal(403, "Forbidden", f'forbidden: User "{user.name}" cannot {asked.verb} path "{asked.path}"')
        name = f' "{asked.name}"' if asked.name else ""
        raise Refusal(
            403, "Forbidden", f"{full}{name} is forbidden: {what}", name=asked.name, group=asked.group, kind=plural
        )

    def allowed(self, user: User, asked: Attributes) -> bool:
        """Return whether a user may do something."""
        if MASTERS in user.groups:
            return True
        for binding in self._storage.all((RBAC, "clusterrolebindings")):
            if _binds(binding, user) and self._grants(binding, "", asked):
                return True
        if asked.namespace:
            for binding in self._storage.all((RBAC, "rolebindings"), asked.namespace):
                if _binds(binding, user) and self._grants(binding, asked.namespace, asked):
                    return True
        return False

    def _grants(self, binding: dict[str, Any], namespace: str, asked: Attributes) -> bool:
        reference = binding["roleRef"]
        plural = "clusterroles" if reference["kind"] == "ClusterRole" else "roles"
        place = "" if plural == "clusterroles" else namespace
        role = self._storage.find((RBAC, plural), place, reference["name"])
        return role is not None and any(_fits(rule, asked) for rule in role.get("rules") or ())


def _binds(binding: dict[str, Any], user: User) -> bool:
    for subject in binding.get("subjects") or ():
        match subject["kind"]:
            case "User":
                found = subject["name"] == user.name
            case "Group":
                found = subject["name"] in user.groups
            case _:
                namespace = subject.get("namespace") or binding["metadata"].get("namespace")
                found = user.name == f"system:serviceaccount:{namespace}:{subject['name']}"
        if found:
            return True
    return False


def _fits(rule: dict[str, Any], asked: Attributes) -> bool:
    def among(name: str, value: str) -> bool:
        values = rule.get(name) or ()
        return "*" in values or value in values

    if not among("verbs", asked.verb):
        return False
    if asked.path:
        return any(
            asked.path == url or (url.endswith("*") and asked.path.startswith(url[:-1]))
            for url in rule.get("nonResourceURLs") or ()
        )
    names = rule.get("resourceNames")
    return among("apiGroups", asked.group) and among("resources", asked.resource) and (not names or asked.name in names)
