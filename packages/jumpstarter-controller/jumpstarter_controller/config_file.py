"""The config of a controller: where it is reached, what it keeps where, and the settings of the lab."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from jumpstarter.common.exceptions import FileNotFoundError as MissingFile
from jumpstarter.config.document import build, read_document
from pydantic import AfterValidator, Field

from .settings import Section, Settings


def _address(value: str) -> str:
    """Return an address or endpoint as it is; an empty one means none."""
    from jumpstarter.common.exceptions import ConfigurationError

    from .listening import split_address

    if value:
        try:
            split_address(value)
        except ConfigurationError:
            raise ValueError(f"{value!r} is not of the form host:port, such as 127.0.0.1:8082") from None
    return value


Address = Annotated[str, AfterValidator(_address)]
"""`host:port`, or nothing."""


class OwnTLS(Section):
    """A certificate that an administrator looks after; read again when the files change."""

    certificate: Path
    """PEM, with what leads to the root."""
    key: Path
    """PEM, without passphrase."""
    ca: Path | None = None
    """What peers have to trust; without it the roots of their systems."""


SHARED = "shared"
NO_ROUTER = "none"


def _router_listen(value: str) -> str:
    return value if value in (SHARED, NO_ROUTER) else _address(value)


class RouterPort(Section):
    """The router inside the controller."""

    listen: Annotated[str, AfterValidator(_router_listen)] = ""
    """A port of its own, `host:port`; empty for the port after that of the controller, `shared` for the same one.

    `none` leaves streams to routers that join, as controllers have to that peers can't choose between.

    On a port of their own streams outlive a longer loss of the network.
    """
    endpoint: Address = ""
    """What peers dial; empty for the host of the controller's endpoint and the port."""


class OtherRouter(Section):
    """A router that shares the key of stream tokens by other means than joining."""

    name: str
    endpoint: Address
    labels: dict[str, str] = Field(default_factory=dict)


class HTTPPort(Section):
    """A port for browsers and programs that speak HTTP."""

    listen: Address = ""
    """`host:port`; empty for none."""
    endpoint: str = ""
    """The URL that people are told; empty for the address."""


class Kubernetes(Section):
    """The cluster of a lab that is kept in one."""

    kubeconfig: Path | None = None
    """None for `$KUBECONFIG` or `~/.kube/config`; in a pod, where there is none of these, its service account."""
    context: str = ""
    """Of the kubeconfig; empty for the current one."""
    namespace: str = ""
    """Of the lab's objects; empty for that of the context or pod."""
    peer_listen: Address = ""
    """Address for the other controllers of the lab, `host:port`; empty for a free port of the host in `listen`."""
    peer_endpoint: Address = ""
    """Where they reach this one; empty for that address, or the one of the pod in `POD_IP`."""
    routers: tuple[str, ...] = ()
    """Routers that get an account, with a token that is kept in its Secret and replaced in time."""


class ControllerConfig(Settings):
    """Everything that can be said in the file; all of it has defaults."""

    api_version: Literal["jumpstarter.dev/v1alpha1"] = "jumpstarter.dev/v1alpha1"
    kind: Literal["ControllerConfig"] = "ControllerConfig"
    store: Literal["sqlite", "kubernetes"] = "sqlite"
    """Where the lab is kept: in its folder, or in a Kubernetes cluster, where several controllers can serve it."""
    kubernetes: Kubernetes = Kubernetes()
    data: Path | None = None
    """Folder of the store, the authority and the keys."""
    listen: Address = "127.0.0.1:8082"
    """Address of the services, `host:port`; `0.0.0.0:8082` for all addresses of this machine."""
    endpoint: Address = ""
    """What peers are told to dial, `host:port`; empty for the address."""
    names: tuple[str, ...] = ()
    """Further hosts that are dialled, for certificates of the lab's own authority."""
    router: RouterPort = RouterPort()
    tls: OwnTLS | None = None
    """None for certificates of the lab's own authority."""
    web: HTTPPort = HTTPPort(listen="127.0.0.1:8086")
    """REST, login and dashboard, over TLS."""
    metrics: HTTPPort = HTTPPort(listen="127.0.0.1:8080")
    """Prometheus, without TLS."""
    routers: tuple[OtherRouter, ...] = ()
    drain: float = Field(default=5.0, ge=0)
    """Seconds that streams get for ending when the controller is told to end."""

    def settings(self) -> Settings:
        """Return the part that is about the lab."""
        return Settings.model_validate({name: getattr(self, name) for name in Settings.model_fields})


def router_address(listen: str, router: str) -> str:
    """Return the address of the router for the keys `listen` and `router.listen`; empty for no port of its own.

    Raises:
        ConfigurationError: `listen` is not of the form host:port.
    """
    if router:
        return "" if router in (SHARED, NO_ROUTER) else router
    from .listening import join_address, split_address

    host, port = split_address(listen, "the address to listen on")
    return join_address(host, port + 1 if port else 0)


def default_folder() -> Path:
    """Return where a lab is kept that was told no place."""
    home = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return Path(home) / "jumpstarter" / "lab"


def read_config(path: Path) -> ControllerConfig:
    """Read a config file.

    Raises:
        FileNotFoundError: there is no such file.
        ConfigurationError: what is wrong in it, with file, line and key.
    """
    try:
        document = read_document(path)
    except FileNotFoundError:
        raise MissingFile(
            f"Controller config '{path}' does not exist; without --config everything has defaults"
        ) from None
    config = build(ControllerConfig, document, document.data if document.data is not None else {})
    return _with_absolute_paths(config, path.absolute().parent)


def _with_absolute_paths(config: ControllerConfig, folder: Path) -> ControllerConfig:
    """Return a config whose paths begin where its file is."""

    def absolute(path: Path) -> Path:
        return folder / path.expanduser()

    changes: dict[str, Any] = {}
    if config.data is not None:
        changes["data"] = absolute(config.data)
    if config.kubernetes.kubeconfig is not None:
        kubeconfig = absolute(config.kubernetes.kubeconfig)
        changes["kubernetes"] = config.kubernetes.model_copy(update={"kubeconfig": kubeconfig})
    if config.tls is not None:
        paths = {name: getattr(config.tls, name) for name in OwnTLS.model_fields}
        changes["tls"] = OwnTLS(**{name: absolute(path) for name, path in paths.items() if path is not None})
    return config.model_copy(update=changes)
