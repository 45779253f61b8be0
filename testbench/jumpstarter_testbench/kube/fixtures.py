"""Fixtures of the stand-in API server: the server in a thread of its own, and a namespace for each test."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import yaml

from .rights import MASTERS, User

if TYPE_CHECKING:
    from jumpstarter_kubernetes.cluster import Cluster

    from .server import KubeServer

T = TypeVar("T")

SERVER, TOKEN, CA = "JMP_KUBE_SERVER", "JMP_KUBE_TOKEN", "JMP_KUBE_CA"
"""Environment variables that have the tests of the semantics run against another server: URL, token, CA file."""


class Kube:
    """A running server, for tests that block and for tests that don't."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self._options = options
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kube", daemon=True)
        self.server: KubeServer
        self.ca: bytes = b""
        self.admin = ""

    def open(self) -> Kube:
        """Start it."""
        from jumpstarter_kubernetes.manifests import crds

        from .server import KubeServer

        self.folder.mkdir(parents=True, exist_ok=True)
        context, self.ca = _certificate(self.folder)
        self._thread.start()

        async def start() -> KubeServer:
            server = KubeServer(tls=context, **self._options)
            server.install(*crds())
            await server.start()
            return server

        self.server = self.run(start())
        self.admin = self.token("admin", MASTERS)
        return self

    def run(self, work: Coroutine[Any, Any, T], timeout: float = 30) -> T:
        """Run a coroutine on the server's event loop, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    def do(self, work: Callable[[], T]) -> T:
        """Call a function on the server's event loop, where its state may be touched."""

        async def call() -> T:
            return work()

        return self.run(call())

    def close(self) -> None:
        """End it."""
        self.run(self.server.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # -- using it ----------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """What clients dial."""
        return self.server.url

    def token(self, user: str, *groups: str) -> str:
        """Make a token of a user."""
        return self.do(lambda: self.server.tokens.add(User(user, (*groups, "system:authenticated"))))

    def cluster(self, namespace: str = "default", token: str = "") -> Cluster:
        """Return a connection, to be opened; of the administrator when no token is given."""
        from jumpstarter_kubernetes.cluster import Cluster

        return Cluster.direct(self.url, token=token or self.admin, ca=self.ca, namespace=namespace)

    def kubeconfig(self, path: Path, *, namespace: str = "default", token: str = "", context: str = "test") -> Path:
        """Write a kubeconfig, for its owner alone."""
        import base64

        cluster = {"server": self.url, "certificate-authority-data": base64.b64encode(self.ca).decode()}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": context,
            "contexts": [{"name": context, "context": {"cluster": "kube", "user": "user", "namespace": namespace}}],
            "clusters": [{"name": "kube", "cluster": cluster}],
            "users": [{"name": "user", "user": {"token": token or self.admin}}],
        }
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(document))
        return path

    def namespace(self, name: str) -> str:
        """Make a namespace."""
        self.do(lambda: self.server.install({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
        return name

    # -- faults ------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Be away."""
        self.run(self.server.stop())

    def start(self) -> None:
        """Be back, at the same address and with the same objects."""
        self.run(self.server.start())

    def drop_watches(self) -> None:
        """End all watches."""
        self.do(self.server.storage.drop_watchers)

    def compact(self) -> None:
        """Forget what has happened."""
        self.do(self.server.storage.compact)


def _certificate(folder: Path) -> tuple[ssl.SSLContext, bytes]:
    """Return a server context for loopback, and the PEM that clients trust."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kube-testbench")])
    present = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(present - datetime.timedelta(hours=1))
        .not_valid_after(present + datetime.timedelta(days=7))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    path = folder / "server.pem"
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + pem
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context, pem


@pytest.fixture(scope="session")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kube]:
    """A stand-in API server with the kinds of a lab; tests share it, each in a namespace of its own."""
    server = Kube(tmp_path_factory.mktemp("kube")).open()
    yield server
    server.close()


@pytest.fixture
def own_kube(tmp_path: Path) -> Iterator[Kube]:
    """A stand-in API server of the test's own, which may be stopped and made to fail."""
    server = Kube(tmp_path / "kube").open()
    yield server
    server.close()


@dataclass(frozen=True)
class Target:
    """The server whose semantics are tested."""

    url: str
    token: str
    ca: bytes | None

    def cluster(self, namespace: str, token: str = "") -> Cluster:
        """Return a connection, to be opened."""
        from jumpstarter_kubernetes.cluster import Cluster

        return Cluster.direct(self.url, token=token or self.token, ca=self.ca, namespace=namespace)


@pytest.fixture(scope="session")
def kube_target(request: pytest.FixtureRequest) -> Target:
    """The server that the environment names, or else the stand-in."""
    if url := os.environ.get(SERVER):
        path = os.environ.get(CA)
        return Target(url, os.environ.get(TOKEN, ""), Path(path).read_bytes() if path else None)
    standin: Kube = request.getfixturevalue("kube")
    return Target(standin.url, standin.admin, standin.ca)


@pytest.fixture
async def kube_namespace(kube_target: Target) -> AsyncIterator[Cluster]:
    """A connection whose namespace is the test's own."""
    from jumpstarter_kubernetes.resources import NAMESPACES

    async with kube_target.cluster("default") as cluster:
        made = await cluster.create(NAMESPACES, {"metadata": {"generateName": "test-"}})
        name = made["metadata"]["name"]
        yield cluster.at(name)
        await cluster.delete(NAMESPACES, name)
