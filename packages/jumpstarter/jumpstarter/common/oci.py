"""Credentials for images in OCI registries, found where container tools keep them."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError, field_validator, model_validator

__all__ = ["OciCredentials", "parse_oci_registry", "read_auth_file_credentials", "resolve_oci_credentials"]

logger = logging.getLogger(__name__)

DOCKER_HUB = "docker.io"
_DOCKER_HUB_NAMES = {"docker.io", "index.docker.io", "registry-1.docker.io"}


class OciCredentials(BaseModel):
    """User name and password for a registry, or neither; blank ones count as missing."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    username: str | None = None
    password: SecretStr | None = None

    @field_validator("username", "password", mode="before")
    @classmethod
    def _blank_is_none(cls, value: Any) -> Any:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        return None if isinstance(text, str) and not text.strip() else value

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise ValueError("OCI authentication needs both username and password, or neither")
        return self

    @property
    def plain_password(self) -> str | None:
        """The password itself, not to be shown."""
        return None if self.password is None else self.password.get_secret_value()

    @property
    def is_authenticated(self) -> bool:
        """Tell whether there are credentials."""
        return self.username is not None


def parse_oci_registry(url: str) -> str:
    """Return the registry of an image, such as `quay.io` for `oci://quay.io/org/image:tag`.

    A bare image name belongs to the first of the `unqualified-search-registries` of containers' registries.conf, and
    without these to `docker.io`.
    """
    return _parse_registries_for_url(url)[0]


def resolve_oci_credentials(url: str, username: str | None = None, password: str | None = None) -> OciCredentials:
    """Return the credentials for an image: the given ones, else `OCI_USERNAME` and `OCI_PASSWORD`, else auth files.

    Raises:
        ValueError: there is a user name without a password, or the other way round.
    """
    sources = (
        ("arguments", username, password),
        ("OCI_USERNAME and OCI_PASSWORD", os.environ.get("OCI_USERNAME"), os.environ.get("OCI_PASSWORD")),
    )
    for name, user, secret in sources:
        user, secret = (user or "").strip() or None, secret if (secret or "").strip() else None
        if (user is None) != (secret is None):
            missing = "password" if secret is None else "username"
            raise ValueError(f"OCI authentication needs both username and password: {name} lack the {missing}")
        if user is not None and secret is not None:
            return OciCredentials(username=user, password=SecretStr(secret))
    return read_auth_file_credentials(url)


def read_auth_file_credentials(url: str) -> OciCredentials:
    """Return the credentials for an image from the auth files of podman, skopeo and docker; empty if there are none.

    The first file that knows the registry decides. Within it the longest matching path wins, as in
    containers-auth.json(5). Files that can't be read are reported in the log and passed over.
    """
    names = [name for registry in _parse_registries_for_url(url) for name in _names_in_auth_file(url, registry)]
    for path in _get_auth_file_paths():
        auths = _read_auths(path)
        for name in names:
            if name in auths and (credentials := _credentials(auths[name], path, name)).is_authenticated:
                return credentials
    return OciCredentials()


def _split(url: str) -> tuple[str | None, str]:
    """Return registry and path of an image; the registry is None for a bare name."""
    reference = url.split("://", 1)[-1].lstrip("/")
    first, slash, rest = reference.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first, rest
    return None, reference


def _parse_registries_for_url(url: str) -> list[str]:
    """Return the registries that an image may belong to, in the order in which they are tried."""
    registry, _ = _split(url)
    if registry is not None:
        return [_normalize_registry(registry)]
    return _get_unqualified_search_registries() or [DOCKER_HUB]


def _normalize_registry(registry: str) -> str:
    """Return the name of a registry without scheme, path and upper case; Docker Hub has several."""
    name = registry.split("://", 1)[-1].partition("/")[0].lower()
    return DOCKER_HUB if name in _DOCKER_HUB_NAMES else name


def _names_in_auth_file(url: str, registry: str) -> Iterator[str]:
    """Yield the keys under which an auth file may know an image, the most special one first."""
    path = _split(url)[1].partition("@")[0].partition(":")[0]
    parts = [part for part in path.split("/") if part]
    for length in range(len(parts), -1, -1):
        yield "/".join([registry, *parts[:length]])


def _get_auth_file_paths() -> list[Path]:
    """Return the auth files that exist for this user, in order of precedence."""
    environment = os.environ
    home = Path.home()
    places = [
        environment.get("REGISTRY_AUTH_FILE"),
        f"{runtime}/containers/auth.json" if (runtime := environment.get("XDG_RUNTIME_DIR")) else None,
        str(home / ".config/containers/auth.json"),
        f"{docker}/config.json" if (docker := environment.get("DOCKER_CONFIG")) else None,
        str(home / ".docker/config.json"),
    ]
    return [Path(place) for place in dict.fromkeys(places) if place and Path(place).is_file()]


def _read_auths(path: Path) -> dict[str, Any]:
    """Return the `auths` of a file by registry, or registry and path."""
    try:
        auths = json.loads(path.read_text(encoding="utf-8")).get("auths") or {}
        return {_normalize_key(key): value for key, value in auths.items()}
    except (OSError, ValueError, AttributeError) as error:
        logger.warning("can't read registry credentials from %s: %s", path, error)
        return {}


def _normalize_key(key: str) -> str:
    bare = key.split("://", 1)[-1].rstrip("/")
    registry, slash, path = bare.partition("/")
    normal = _normalize_registry(registry)
    # Docker Hub's key is https://index.docker.io/v1/, and other old ones end in a version as well.
    return normal if not slash or path in ("v1", "v2") else f"{normal}/{path}"


def _credentials(entry: Any, path: Path, name: str) -> OciCredentials:
    try:
        if auth := entry.get("auth"):
            user, _, secret = base64.b64decode(auth, validate=True).decode().partition(":")
        else:
            user, secret = entry.get("username"), entry.get("password")
        return OciCredentials(username=user, password=SecretStr(secret.strip("\0")) if secret else None)
    except (AttributeError, TypeError, binascii.Error, UnicodeDecodeError, ValidationError):
        logger.warning("the credentials for %s in %s can't be used; log in to it again", name, path)
        return OciCredentials()


def _get_registries_conf_paths() -> list[Path]:
    """Return the registries.conf files that exist, the one that decides first (containers-registries.conf(5))."""
    if place := os.environ.get("CONTAINERS_REGISTRIES_CONF"):
        places = [Path(place)]
    else:
        homes = [Path.home() / ".config/containers", Path("/etc/containers")]
        places = [
            path
            for home in homes
            for path in (*sorted(home.glob("registries.conf.d/*.conf"), reverse=True), home / "registries.conf")
        ]
    return [path for path in places if path.is_file()]


def _get_unqualified_search_registries() -> list[str]:
    """Return the registries in which bare image names are looked up."""
    for path in _get_registries_conf_paths():
        try:
            registries = tomllib.loads(path.read_text(encoding="utf-8")).get("unqualified-search-registries")
        except (OSError, ValueError) as error:
            logger.warning("can't read search registries from %s: %s", path, error)
            continue
        if isinstance(registries, list) and registries:
            return [_normalize_registry(str(registry)) for registry in registries]
    return []
