"""The way to a cluster: from a kubeconfig, from inside a pod, or told directly."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import anyio

from .exceptions import KubeconfigError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its own credentials."""

DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True)
class Access:
    """Where an API server is, and how to show who asks."""

    server: str
    """URL without a path's slash at the end."""
    namespace: str = DEFAULT_NAMESPACE
    context: str = ""
    """Name in the kubeconfig."""
    authorization: str = field(default="", repr=False)
    """Value of the header; empty for none."""
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    server_name: str = ""
    """The name that the server's certificate has; empty for the one of the URL."""
    proxy: str = ""


class AccessSource(Protocol):
    """Gives the way to a cluster, again and again: tokens and certificates change."""

    async def read(self) -> Access:
        """Return the way as it is now.

        Raises:
            KubeconfigError: there is none.
        """
        ...


@dataclass(frozen=True)
class Direct:
    """A server whose address, token and authority are known."""

    access: Access

    async def read(self) -> Access:
        """Return it."""
        return self.access


@dataclass(frozen=True)
class InCluster:
    """The cluster that this process runs in, as its service account."""

    folder: Path = SERVICE_ACCOUNT
    namespace: str | None = None

    @staticmethod
    def present(folder: Path = SERVICE_ACCOUNT) -> bool:
        """Return whether this process runs in a pod that may talk to its cluster."""
        return "KUBERNETES_SERVICE_HOST" in os.environ and (folder / "token").exists()

    async def read(self) -> Access:
        """Return address, token and authority of this moment: the token is replaced every hour or so."""
        folder = anyio.Path(self.folder)
        host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        try:
            token = (await (folder / "token").read_text()).strip()
            namespace = self.namespace or (await (folder / "namespace").read_text()).strip()
            context = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        except (OSError, ssl.SSLError) as error:
            raise KubeconfigError(
                f"the service account's credentials in {self.folder} can't be read. "
                "Let the pod mount its service account's token"
            ) from error
        address = f"[{host}]" if ":" in host else host
        return Access(
            server=f"https://{address}:{port}", namespace=namespace, authorization=f"Bearer {token}", tls=context
        )


@dataclass(frozen=True)
class Kubeconfig:
    """A context of a kubeconfig file, with all ways of logging in that `kubectl` knows."""

    path: str = ""
    """Files, separated like those of `PATH`; empty for `$KUBECONFIG` or `~/.kube/config`."""
    context: str | None = None
    namespace: str | None = None

    @property
    def files(self) -> list[Path]:
        """The files that are merged."""
        text = self.path or os.environ.get("KUBECONFIG") or "~/.kube/config"
        return [Path(part).expanduser() for part in text.split(os.pathsep) if part]

    async def read(self) -> Access:
        """Read the files, and log in where the context says so."""
        from kubernetes_asyncio.client import Configuration

        where, name, body = await self._found()
        configuration = Configuration()
        await self._fill(configuration, where, name)
        return Access(
            server=str(configuration.host).rstrip("/"),
            namespace=self.namespace or body.get("namespace") or DEFAULT_NAMESPACE,
            context=name,
            authorization=str(configuration.api_key.get("BearerToken") or ""),
            tls=_tls(configuration, where, name),
            server_name=getattr(configuration, "tls_server_name", None) or "",
            proxy=getattr(configuration, "proxy", None) or "",
        )

    async def place(self) -> tuple[str, str]:
        """Return the names of context and namespace, without logging in.

        Raises:
            KubeconfigError: the files don't have what it takes.
        """
        _, name, body = await self._found()
        return name, self.namespace or body.get("namespace") or DEFAULT_NAMESPACE

    async def load_into(self, configuration: Any) -> None:
        """Fill in a `kubernetes_asyncio.client.Configuration`, logging in where the context says so.

        Raises:
            KubeconfigError: the files don't have what it takes, or logging in failed.
        """
        where, name, _ = await self._found()
        await self._fill(configuration, where, name)

    async def _found(self) -> tuple[str, str, dict[str, Any]]:
        """Return the files that are there, and the name and members of the context."""
        documents = [(path, document) for path in self.files if (document := await _document(path)) is not None]
        if not documents:
            names = ", ".join(map(str, self.files))
            raise KubeconfigError(
                f"there is no kubeconfig: {names} does not exist. Give one with --kubeconfig or KUBECONFIG, "
                "or log in to the cluster first"
            )
        where = ", ".join(str(path) for path, _ in documents)
        return where, *self._check(where, [document for _, document in documents])

    def _check(self, where: str, documents: list[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
        """Return name and members of the context.

        Raises:
            KubeconfigError: the files don't have what it takes.
        """
        current = next(
            (str(document["current-context"]) for document in documents if document.get("current-context")), ""
        )
        name = self.context or current
        contexts = _named(documents, "contexts", where)
        if not name:
            raise KubeconfigError(f"{where} has no current-context. Give one with --context: {_choice(contexts)}")
        if name not in contexts:
            raise KubeconfigError(f"{where} has no context {name!r}. There is: {_choice(contexts)}")
        entry = contexts[name].get("context")
        body = entry if isinstance(entry, dict) else {}
        found = {}
        for kind, plural in (("cluster", "clusters"), ("user", "users")):
            wanted = body.get(kind)
            if kind == "user" and not wanted:
                continue
            known = _named(documents, plural, where)
            if wanted not in known:
                raise KubeconfigError(
                    f"the context {name!r} of {where} names the {kind} {wanted!r}, which is not there. "
                    f"There is: {_choice(known)}"
                )
            found[kind] = known[wanted].get(kind)
        cluster = found["cluster"]
        server = cluster.get("server") if isinstance(cluster, dict) else None
        if not isinstance(server, str) or not server.startswith(("http://", "https://")):
            raise KubeconfigError(f"the cluster {body['cluster']!r} of {where} has no server URL")
        return name, body

    async def _fill(self, configuration: Any, where: str, name: str) -> None:
        from kubernetes_asyncio.config import ConfigException, load_kube_config

        try:
            with anyio.fail_after(60):
                await load_kube_config(
                    config_file=os.pathsep.join(map(str, self.files)),
                    context=name,
                    client_configuration=configuration,
                    persist_config=False,
                )
        except TimeoutError:
            raise KubeconfigError(f"logging in as the context {name!r} of {where} says took longer than 60 s") from None
        except (ConfigException, OSError, ValueError, KeyError, TypeError) as error:
            raise KubeconfigError(f"the context {name!r} of {where} can't be used: {error}") from error


def _tls(configuration: Any, where: str, name: str) -> ssl.SSLContext | None:
    if not configuration.host.startswith("https://"):
        return None
    try:
        context = ssl.create_default_context(cafile=configuration.ssl_ca_cert or None)
        if configuration.cert_file:
            context.load_cert_chain(configuration.cert_file, keyfile=configuration.key_file)
    except (OSError, ssl.SSLError) as error:
        raise KubeconfigError(f"the certificates of the context {name!r} of {where} can't be read: {error}") from error
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def _document(path: Path) -> dict[str, Any] | None:
    """Return what a kubeconfig file holds; None when it isn't there."""
    import yaml

    try:
        text = await anyio.Path(path).read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise KubeconfigError(f"the kubeconfig {path} can't be read: {error}") from error
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        # The text of the error shows a part of the file, which may be a secret.
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        why = getattr(error, "problem", None) or "it can't be parsed"
        raise KubeconfigError(f"the kubeconfig {path} is no valid YAML{where}: {why}") from None
    if document is None:
        return None
    if not isinstance(document, dict):
        raise KubeconfigError(f"the kubeconfig {path} does not hold a mapping")
    return document


def _named(documents: list[dict[str, Any]], plural: str, where: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for document in documents:
        entries = document.get(plural) or []
        if not isinstance(entries, list) or not all(isinstance(entry, dict) and "name" in entry for entry in entries):
            raise KubeconfigError(f"{plural} of the kubeconfig {where} is not a list of named entries")
        for entry in entries:
            found.setdefault(str(entry["name"]), entry)
    return found


def _choice(names: dict[str, Any]) -> str:
    return ", ".join(sorted(names)) or "none"
