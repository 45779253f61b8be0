"""Images from OCI registries, which the program `fls` fetches and unpacks on the exporter."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from anyio import to_thread
from jumpstarter.common.exceptions import JumpstarterException
from jumpstarter.common.fls import get_fls_binary
from jumpstarter.common.oci import resolve_oci_credentials
from jumpstarter_driver_shell.script import TIMEOUT_STATUS, Item, run_script

SCHEME = "oci://"

NOT_FOUND_STATUS = 127
"""Exit status that stands for a program that isn't there."""


class RegistryError(JumpstarterException, RuntimeError):
    """An image could not be had from a registry."""


def check_url(url: str, username: str | None, password: str | None) -> None:
    """Check what comes from a client.

    Raises:
        ValueError: it is no URL of a registry, or half of the credentials is missing.
    """
    if not isinstance(url, str) or not url.startswith(SCHEME):
        raise ValueError(f"OCI URL must start with {SCHEME}, such as {SCHEME}quay.io/org/image:tag, not {url!r}")
    if bool(username) != bool(password):
        raise ValueError("OCI authentication requires both a username and a password")


async def fetch_image(
    url: str,
    target: Path,
    *,
    username: str | None,
    password: str | None,
    timeout: float,
    version: str | None,
    binary_url: str | None,
    allow_custom: bool,
) -> AsyncGenerator[Item, None]:
    """Write an image to the file `target`; yield what `fls` prints, and its exit status 0 at the end.

    Credentials are those given, else those of the exporter: its environment, or the auth files of container tools.

    Raises:
        RegistryError: `fls` is missing, failed, or took longer than `timeout` seconds.
    """
    credentials = resolve_oci_credentials(url, username, password)
    environment = dict(os.environ)
    if credentials.is_authenticated:
        environment["FLS_REGISTRY_USERNAME"] = credentials.username or ""
        environment["FLS_REGISTRY_PASSWORD"] = credentials.plain_password or ""
    program = await to_thread.run_sync(get_fls_binary, version, binary_url, allow_custom)
    errors = ""
    command = [program, "from-url", url, str(target)]
    async with aclosing(run_script(command, env=environment, cwd=None, timeout=timeout)) as items:
        async for out, err, status in items:
            if status is None:
                errors = (errors + err)[-2000:]
            elif status == TIMEOUT_STATUS:
                raise RegistryError(f"fls flash timed out after {timeout:g} s. Allow more with flash_timeout")
            elif status == NOT_FOUND_STATUS and "No such file" in errors:
                raise RegistryError(
                    f"fls command not found: {program}. Install it on the exporter, or have it fetched with fls_version"
                )
            elif status != 0:
                raise RegistryError(f"fls flash failed with exit status {status}: {errors.strip() or 'no message'}")
            yield out, err, status
