"""Getting `fls`, the program that writes images from registries and web servers to block devices."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import threading
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

__all__ = ["download_fls", "get_fls_binary", "get_fls_github_url"]

RELEASES = "https://github.com/jumpstarter-dev/fls/releases/download"
"""Where the project publishes its static binaries, named `fls-<architecture>-linux-musl`."""

ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
"""Names that machines give themselves, and those of the binaries."""

MAX_SIZE = 256 << 20
"""Bytes above which a download is no fls binary (one has about 10 MB)."""

DEFAULT_NAME = "fls"


def get_fls_github_url(version: str, arch: str | None = None) -> str:
    """Return the URL of a released binary.

    Args:
        version: version of fls, such as `0.3.0`.
        arch: architecture of the machine that it will run on; default is this one's.

    Raises:
        ValueError: the version has characters that no version has.
    """
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z.+_-]*", version):
        raise ValueError(f"{version!r} is not a version of fls, such as 0.3.0")
    machine = arch or platform.machine()
    return f"{RELEASES}/{version}/fls-{ARCHITECTURES.get(machine.lower(), machine)}-linux-musl"


def download_fls(url: str, timeout: float = 30) -> str:
    """Download a binary and return its path, a temporary file with mode 0755 that the caller removes. Blocks.

    Args:
        url: http or https URL.
        timeout: seconds after which a server that sends nothing is given up.

    Raises:
        RuntimeError: the download failed; the text tells why.
    """
    failure = f"Failed to download FLS from {url.partition('?')[0]}"
    if urlsplit(url).scheme not in ("http", "https"):
        raise RuntimeError(f"{failure}: not an http or https URL")
    handle, path = tempfile.mkstemp(prefix="fls-")
    try:
        with os.fdopen(handle, "wb") as file:
            with urlopen(url, timeout=timeout) as response:
                _copy(response, file, response.headers.get("Content-Length"))
            os.fchmod(file.fileno(), 0o755)
    except HTTPError as error:
        reason = f"the server answered {error.code} {error.reason}"
    except URLError as error:
        reason = str(error.reason)
    except (OSError, ValueError) as error:
        reason = str(error) or type(error).__name__
    except BaseException:
        os.unlink(path)
        raise
    else:
        return path
    os.unlink(path)
    raise RuntimeError(f"{failure}: {reason}")


def _copy(source: IO[bytes], target: IO[bytes], length: str | None) -> None:
    size = 0
    while chunk := source.read(1 << 20):
        size += len(chunk)
        if size > MAX_SIZE:
            raise ValueError(f"it is larger than {MAX_SIZE >> 20} MiB")
        target.write(chunk)
    if length is not None and size != int(length):
        raise ValueError(f"the connection ended after {size} of {length} bytes")
    if size == 0:
        raise ValueError("the file is empty")


_downloaded: dict[str, str] = {}
_lock = threading.Lock()


def get_fls_binary(
    fls_version: str | None = None, fls_binary_url: str | None = None, allow_custom_binaries: bool = False
) -> str:
    """Return the program to run: a path, or the name `fls` that the search path resolves. May download it and block.

    A downloaded binary is used again for as long as the process lives.

    Args:
        fls_version: released version to download.
        fls_binary_url: URL of a binary of one's own, which wins over the version.
        allow_custom_binaries: permit `fls_binary_url`; a program from a client's URL runs with the exporter's rights.

    Raises:
        RuntimeError: a custom binary isn't permitted, or the download failed.
    """
    if fls_binary_url:
        if not allow_custom_binaries:
            raise RuntimeError(
                "a custom FLS binary is not allowed; set fls_allow_custom_binaries in the driver's config to permit it"
            )
        url = fls_binary_url
    elif fls_version:
        url = get_fls_github_url(fls_version)
    else:
        return DEFAULT_NAME
    with _lock:
        path = _downloaded.get(url)
        if path is None or shutil.which(path) is None:
            path = _downloaded[url] = download_fls(url)
        return path
