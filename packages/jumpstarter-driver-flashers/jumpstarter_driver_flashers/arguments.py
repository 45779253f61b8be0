"""What users may ask of a flash, checked before anything is changed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click
from jumpstarter.common.exceptions import ArgumentError

if TYPE_CHECKING:
    from jumpstarter.common.oci import OciCredentials

__all__ = [
    "Job",
    "Options",
    "check_bearer_token",
    "check_headers",
    "check_sha256",
    "curl_header_args",
    "file_name",
    "jobs_of",
    "oci_credentials",
    "unpacker",
]

MAX_TOKEN = 4096
"""Characters of a bearer token."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 5.6.2
_UNPACKERS = {".gz": "zcat", ".gzip": "zcat", ".xz": "xzcat", ".zst": "zstdcat", ".bz2": "bzcat"}


@dataclass(kw_only=True)
class Job:
    """One image and where it goes."""

    path: str | os.PathLike[str]
    """Local file, `http(s)://` or `oci://` URL, or path of `operator`."""
    operator: Any = None
    partition: str | None = None
    """A target of the manifest, or the label of a partition."""
    block_device: str | None = None
    """A target of the manifest, or a path such as `/dev/mmcblk0`; None: the default."""
    sha256: str | None = None
    """What the file must have."""
    block_map: bytes | None = None

    @property
    def shown(self) -> str:
        """The image for messages, without secrets."""
        return file_name(self.path)


@dataclass(kw_only=True)
class Options:
    """How images are fetched and written."""

    headers: dict[str, str] = field(default_factory=dict)
    insecure_tls: bool = False
    cacert: str | None = None
    """Certificates of authorities to trust, as PEM."""
    credentials: OciCredentials | None = None
    plain_http: bool = False
    direct: bool = False
    """Let the board download URLs itself."""
    verify: bool = False
    """Read everything back."""
    power_off: bool = True
    retries: int = 3


def is_url(path: Any) -> bool:
    """Whether a path is a URL that others than this client can read."""
    return isinstance(path, str) and path.startswith(("http://", "https://", "oci://"))


def check_sha256(text: str | None) -> str | None:
    """Return a SHA-256 in small hexadecimal digits.

    Raises:
        ArgumentError: it is none.
    """
    if text is None:
        return None
    digits = text.strip().lower().removeprefix("sha256:")
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise ArgumentError(f"the check sum {text.strip()!r} is no SHA-256: that has 64 hexadecimal digits")
    return digits


def check_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Return HTTP headers.

    Raises:
        ArgumentError: a name or value can't be one, or a name is there twice.
    """
    checked: dict[str, str] = {}
    for name, value in (headers or {}).items():
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise ArgumentError(f"Invalid header name '{name}': must be an HTTP token")
        if not isinstance(value, str) or re.search(r"[\r\n\0]", value):
            raise ArgumentError(f"Invalid value of the header '{name}': it must be text without line breaks")
        if name.lower() in (known.lower() for known in checked):
            raise ArgumentError(f"Duplicate header '{name}'")
        checked[name] = value.strip()
    return checked


def check_bearer_token(token: str | None) -> str | None:
    """Return a bearer token.

    Raises:
        ClickException: it is empty, or holds what can't be in one.
    """
    if token is None:
        return None
    token = token.strip()
    if not token:
        raise click.ClickException("Bearer token cannot be empty")
    if len(token) > MAX_TOKEN or not re.fullmatch(r"[!-~]+", token):
        raise click.ClickException("Bearer token contains invalid characters")
    return token


def oci_credentials(path: Any, username: str | None, password: str | None) -> OciCredentials:
    """Return the credentials for an image in a registry: those given, else `OCI_USERNAME` and `OCI_PASSWORD`.

    Raises:
        ClickException: half of them is missing.
    """
    from jumpstarter.common.oci import OciCredentials

    if not (isinstance(path, str) and path.startswith("oci://")):
        return OciCredentials()
    user, secret = (username or "").strip(), (password or "").strip()
    if not user and not secret:
        user, secret = (os.environ.get(name, "").strip() for name in ("OCI_USERNAME", "OCI_PASSWORD"))
    if bool(user) != bool(secret):
        raise click.ClickException("OCI authentication requires both a username and a password")
    return OciCredentials.model_validate({"username": user or None, "password": secret or None})


def file_name(path: str | os.PathLike[str]) -> str:
    """Return the name of an image, without directories and query; `oci://host/name:tag` is `name-tag`."""
    text = os.fspath(path)
    if text.startswith("oci://"):
        return text.removeprefix("oci://").partition("@")[0].rpartition("/")[2].replace(":", "-")
    if text.startswith(("http://", "https://")):
        return PurePosixPath(urlsplit(text).path).name or urlsplit(text).netloc
    return PurePosixPath(text.partition("?")[0]).name


def unpacker(name: str) -> str:
    """Return the program that unpacks a file of such a name to its standard output, `cat` for none."""
    return _UNPACKERS.get(PurePosixPath(name.lower()).suffix, "cat")


def curl_header_args(headers: Mapping[str, str]) -> str:
    """Return headers as arguments of curl, quoted for a shell."""
    import shlex

    return " ".join(f"-H {shlex.quote(f'{name}: {value}')}" for name, value in headers.items())


def jobs_of(
    file: str | None, partitions: Sequence[str], target: str | None
) -> list[tuple[str, str | None, str | None]]:
    """Return (file, partition, target) for each image of a command line.

    Raises:
        UsageError: there is no image, FILE is given together with `-t name:file`, or one of these has no colon.
    """
    if file is None and not partitions:
        raise click.UsageError("FILE argument is required, or at least one -t PARTITION:FILE")
    pairs = [spec for spec in partitions if ":" in spec]
    if file is not None:
        if len(partitions) > 1 or pairs:
            raise click.UsageError("FILE can't be combined with -t PARTITION:FILE")
        return [(file, partitions[0] if partitions else None, target)]
    jobs: list[tuple[str, str | None, str | None]] = []
    for spec in partitions:
        name, colon, path = spec.partition(":")
        if not (name and colon and path):
            raise click.UsageError(f"Invalid target spec '{spec}', expected PARTITION:FILE")
        jobs.append((path, name, target))
    return jobs


def read_block_map(path: str | os.PathLike[str], block_map: str | os.PathLike[str] | bool | None) -> bytes | None:
    """Return the text of the block map of an image: the given one, else one that lies beside a local image.

    Args:
        path: the image.
        block_map: path of a block map; None looks for one, False doesn't.

    Raises:
        ArgumentError: it can't be read.
    """
    if block_map is False:
        return None
    if block_map is None or block_map is True:
        if is_url(path):
            return None
        from jumpstarter_driver_opendal.images.ingest import bmap_names

        found = next((each for each in bmap_names(path) if each.is_file()), None)
        if found is None:
            return None
        block_map = found
    try:
        return Path(block_map).read_bytes()
    except OSError as error:
        name = os.fspath(block_map)
        raise ArgumentError(f"can't read the block map {name!r}: {error.strerror or error}") from None
