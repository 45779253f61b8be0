"""What is looked at before a lab starts, so that mistakes are told before anything is made or served."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from jumpstarter.common.exceptions import ConfigurationError

if TYPE_CHECKING:
    from .config_file import ControllerConfig


def check(config: ControllerConfig, folder: Path | None, *, serves: bool = True) -> None:
    """Look whether a lab can start; leaves nothing behind.

    Args:
        folder: that it is going to use; None when it isn't.
        serves: whether it is going to listen.

    Raises:
        ConfigurationError: it can't; says why and what to do.
        StoreError: another process has the folder.
    """
    addresses = _addresses(config)
    _check_endpoints(config)
    _check_providers(config)
    _check_certificate(config)
    if folder is not None:
        _check_folder(folder)
    if serves:
        from .listening import open_listener

        for key, address in addresses.items():
            try:
                open_listener(address).close()
            except ConfigurationError as error:
                raise ConfigurationError(f"{key}: {error}") from None


def _addresses(config: ControllerConfig) -> dict[str, str]:
    """Return what is listened on, by the key that says so."""
    from .config_file import router_address
    from .listening import split_address

    split_address(config.listen, "listen")  # the router's port follows from it
    given = {
        "listen": config.listen,
        "router.listen": router_address(config.listen, config.router.listen),
        "web.listen": config.web.listen,
        "metrics.listen": config.metrics.listen,
    }
    found = {key: address for key, address in given.items() if address}
    ports: dict[int, str] = {}
    for key, address in found.items():
        _, port = split_address(address, key)
        if port and port in ports:
            raise ConfigurationError(f"{key}: the port {port} is that of {ports[port]} too; give each one of its own")
        ports[port] = key
    return found


def _check_endpoints(config: ControllerConfig) -> None:
    from .listening import split_address

    for key, endpoint in (("endpoint", config.endpoint), ("router.endpoint", config.router.endpoint)):
        if endpoint and split_address(endpoint, key)[1] == 0:
            raise ConfigurationError(f"{key} {endpoint!r} needs the port that peers dial")
    for router in config.routers:
        split_address(router.endpoint, f"the endpoint of router {router.name}")


def _check_providers(config: ControllerConfig) -> None:
    from .clock import SystemClock
    from .identity.oidc import Providers

    try:
        Providers(config.jwt, SystemClock())
    except ConfigurationError as error:
        # Its paths are those of Kubernetes, where this is a part of another file.
        lines = error.message.replace("authentication.jwt[", "jwt[").splitlines()
        text = lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} mistakes in login providers:", *lines])
        raise ConfigurationError(text) from None


def _check_certificate(config: ControllerConfig) -> None:
    if config.tls is None:
        return
    from .clock import SystemClock
    from .identity.certificates import Files

    Files(config.tls.certificate, config.tls.key, [], SystemClock(), ca=config.tls.ca)


def _check_folder(folder: Path) -> None:
    """Look whether the folder is ours alone, and can be written or made."""
    from .server import STORE_FILE
    from .store.sqlite_files import locked

    if folder.is_dir():
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise ConfigurationError(
                f"the folder {folder} can't be written; see to its owner and mode, or choose another one with --data"
            )
        store = folder / STORE_FILE
        if store.with_name(f"{STORE_FILE}.lock").exists():
            with locked(store):
                return
        return
    parent = folder
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        raise ConfigurationError(f"the folder {folder} can't be made: {parent} is a file; choose another with --data")
    # Root may write anywhere but where nobody can.
    if not os.access(parent, os.W_OK | os.X_OK) or not _takes_folders(parent):
        raise ConfigurationError(
            f"the folder {folder} can't be made: {parent} can't be written; choose another with --data"
        )


def _takes_folders(parent: Path) -> bool:
    import tempfile

    try:
        os.rmdir(tempfile.mkdtemp(prefix=".jumpstarter-", dir=parent))
    except OSError:
        return False
    return True


@contextmanager
def told_to_users() -> Iterator[None]:
    """Turn what the store can't do into a message of a command."""
    from jumpstarter_cli_common.exceptions import ClickExceptionRed

    from .store.base import StoreError

    try:
        yield
    except StoreError as error:
        raise ClickExceptionRed(str(error), reason="store") from error
