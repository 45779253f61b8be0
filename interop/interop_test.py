"""Ours and the published release, each as exporter and as client, over every way they meet without a controller."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import peer
from processes import PATIENCE, TIMEOUT

HERE = Path(__file__).parent
PROBE = HERE / "probe"
DIGEST = "57228e227f5ad559b2d411a035982d3554ccc504dea69bf9565e36800da8fac6"
ENCODINGS = ("None", "gzip", "xz", "bz2", "zstd")

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

CALLS = {
    "echo": [None, True, 7.0, -1.5, "text \u2615", [1.0, [2.0, {"k": None}]], {"a": {"b": ["c"]}}, "", [], {}],
    "async_echo": [1.0, "two", None],
    "children": {"plain": "plain", "stdlib": "stdlib 4"},
    "greeting": "hello",
    "ValueError": [["DriverError", "DriverInvalidArgument"], True],
    "NotImplementedError": [["DriverError", "DriverMethodNotImplemented"], True],
    "TimeoutError": [["DriverError"], True],
    "RuntimeError": [["DriverError"], True],
    "no method": [["DriverError", "DriverMethodNotImplemented"], False],
    "not exported": [["DriverError", "DriverMethodNotImplemented"], False],
}
STREAMING_CALLS = {
    "items": [{"number": float(number)} for number in range(100)],
    "blocking_items": 124750.0,
    "failure": [["DriverError", "DriverInvalidArgument"], True],
    "before the failure": [0.0, 1.0, 2.0],
    "no generator": [["DriverError"], False],
}
STREAMS = {
    "blocking": "ping",
    "half-closed here": [3000003, True, True],
    "half-closed there": ["hello", 5.0],
    "broken": [True],
}
RESOURCES = {
    "upload": {encoding: [2500000.0, DIGEST] for encoding in ENCODINGS},
    "download": dict.fromkeys(ENCODINGS, True),
}


@pytest.fixture(scope="session")
def releases() -> dict[str, Path]:
    """The bin folders of both releases."""
    return {"ours": Path(sys.executable).parent, "published": peer.install()}


@pytest.fixture(params=["ours", "published"])
def exporter(request: pytest.FixtureRequest, releases: dict[str, Path]) -> Path:
    """The bin folder of the release that serves."""
    return releases[request.param]


@pytest.fixture(params=["ours", "published"])
def client(request: pytest.FixtureRequest, releases: dict[str, Path], exporter: Path) -> Path:
    """The bin folder of the release that drives; the published one alone with itself says nothing of ours."""
    chosen = releases[request.param]
    if exporter == chosen == releases["published"]:
        pytest.skip("both ends are the published release")
    return chosen


def environment(**more: str) -> dict[str, str]:
    """Our environment without Jumpstarter's own variables."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JMP_", "JUMPSTARTER_", "PYTHON", "VIRTUAL_ENV"))}
    return kept | {"PYTHONPATH": str(PROBE), "JMP_DRIVERS_ALLOW": "UNSAFE", "TERM": "dumb"} | more


@contextmanager
def running(command: list[Any], log: Path, **env: str) -> Iterator[subprocess.Popen[str]]:
    """A process while the body runs, stopped by the end of its input or, failing that, by a signal."""
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(**env),
            text=True,
        )
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)


def wait_until(condition: Any, process: subprocess.Popen[str], log: Path) -> None:
    """Poll until a condition holds; fail with the log when the process ends first."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the exporter did not start:\n{log.read_text()}")
        time.sleep(0.05)


def drive(command: list[Any], **env: str) -> dict[str, Any]:
    """Run a driving command and return what it saw."""
    result = subprocess.run(
        [str(part) for part in command], env=environment(**env), capture_output=True, text=True, timeout=PATIENCE
    )
    assert result.returncode == 0, result.stderr[-4000:] + result.stdout[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


def test_over_the_unix_socket(exporter: Path, client: Path, tmp_path: Path) -> None:
    path, log = tmp_path / "s", tmp_path / "log"
    with running([exporter / "python", PROBE / "serve_probe.py", path], log) as process:
        wait_until(path.exists, process, log)

        seen = drive([client / "python", PROBE / "drive_probe.py"], JUMPSTARTER_HOST=str(path))

    assert seen["calls"] == CALLS
    assert seen["streaming_calls"] == STREAMING_CALLS
    assert seen["streams"] == STREAMS
    assert seen["resources"] == RESOURCES
    assert seen["logs"] == {"arrived": True}
    assert seen["status"] == {"status": "AVAILABLE", "end_session": False}


@pytest.mark.parametrize("transport", ["tls", "plain"])
def test_over_the_direct_listener(exporter: Path, client: Path, tmp_path: Path, transport: str) -> None:
    certificate, key = certificate_for_loopback(tmp_path)
    config, log, port = tmp_path / "exporter.yaml", tmp_path / "log", free_port()
    config.write_text(
        "apiVersion: jumpstarter.dev/v1alpha1\nkind: ExporterConfig\nmetadata: {namespace: lab, name: probe}\n"
        "export:\n  probe: {type: interop_probe.Probe, config: {greeting: hello}}\n"
    )
    serving: list[Any] = (
        ["--tls-cert", certificate, "--tls-key", key] if transport == "tls" else ["--tls-grpc-insecure"]
    )
    dialling: list[Any] = [] if transport == "tls" else ["--tls-grpc-insecure"]
    listen = ["run", "--exporter-config", config, "--tls-grpc-listener", f"127.0.0.1:{port}", "--passphrase", "sesame"]
    connect = ["shell", "--tls-grpc", f"127.0.0.1:{port}", "--passphrase", "sesame", *dialling]
    script = [client / "python", PROBE / "drive_probe.py", "--no-status"]
    with running([exporter / "jmp", *listen, *serving], log) as process:
        wait_until(lambda: accepts(port), process, log)

        seen = drive([client / "jmp", *connect, "--", *script], GRPC_DEFAULT_SSL_ROOTS_FILE_PATH=str(certificate))
        refused = subprocess.run(
            [str(part) for part in [client / "jmp", *connect, "--passphrase", "wrong", "--", "j", "--help"]],
            env=environment(GRPC_DEFAULT_SSL_ROOTS_FILE_PATH=str(certificate)),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    assert seen["calls"] == CALLS
    assert seen["streaming_calls"] == STREAMING_CALLS
    assert seen["streams"] == STREAMS
    assert seen["resources"] == RESOURCES
    assert seen["logs"] == {"arrived": True}
    assert refused.returncode != 0


def certificate_for_loopback(folder: Path) -> tuple[Path, Path]:
    """Write a self-signed certificate for 127.0.0.1 and its key; return their paths."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "interop")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = folder / "cert.pem", folder / "key.pem"
    cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_path, key_path


def free_port() -> int:
    """Return a TCP port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def accepts(port: int) -> bool:
    """Tell whether something listens on a port of loopback."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
