"""Figures of the router: between two processes, over TLS, against a relay that does nothing but copy."""

from __future__ import annotations

import datetime
import ipaddress
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PARTS = Path(__file__).resolve().parent / "parts"
ROUNDS = 5
SIZE = 512 << 20
FRAME = 256 << 10
PUBLISHED = 34
"""MB/s of one stream through the published router, either way."""


@dataclass(frozen=True)
class Figure:
    """A value and what it should reach at least, or at most with `low`; None for no goal."""

    name: str
    unit: str
    value: float
    goal: float | None = None
    low: bool = False


def certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for loopback and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
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
    chain_path, key_path = folder / "chain.pem", folder / "key.pem"
    chain_path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return chain_path, key_path


Serving = Callable[[list[Any]], AbstractContextManager[Any]]
Measure = Callable[[list[Any]], dict[str, float]]


def figures(folder: Path, serving: Serving, measure: Measure) -> Iterator[Figure]:
    """Measure in turn with the bare relay and ours, so that whatever else the machine does hits both alike."""
    chain, key = certificate(folder)
    cpu: dict[str, list[float]] = {"bare": [], "ours": []}

    def one(relay: str, ends: str, direction: str, streams: int = 1, frame: int = FRAME, size: int = SIZE) -> float:
        with serving([sys.executable, PARTS / "serve_router.py", relay, chain, key]) as router:
            arguments = [router.first_line, chain, ends, direction, streams, frame, size // streams]
            value = measure([sys.executable, PARTS / "measure_router.py", *arguments])["value"]
            router.stdin.close()
            used = json.loads(router.stdout.readlines()[-1])
            if (ends, direction, streams, frame) == ("bare", "up", 1, FRAME):
                cpu[relay].append(used["cpu"])
            return value

    def best(*arguments: Any, **more: Any) -> tuple[float, float]:
        """Return the best of the rounds of the bare relay and of ours."""
        rounds = [(one("bare", *arguments, **more), one("ours", *arguments, **more)) for _ in range(ROUNDS)]
        choose = min if arguments[1] == "trip" else max
        return choose(bare for bare, _ in rounds), choose(ours for _, ours in rounds)

    bare, single = best("bare", "up")
    yield Figure("one stream through the router, frames of 256 KiB", "x bare relay", single / bare, 0.8)
    yield Figure("the same", "MB/s", single / 1e6)
    yield Figure("the same: CPU of the router", "x bare relay", min(cpu["ours"]) / min(cpu["bare"]), 1.1, low=True)
    bare, ours = best("bare", "up", frame=64 << 10, size=SIZE // 4)
    yield Figure("one stream, frames of 64 KiB as 0.9 sends them", "x bare relay", ours / bare, 0.8)
    bare, ours = best("bare", "up", streams=8)
    yield Figure("8 streams together", "x bare relay", ours / bare, 0.8)
    yield Figure("the same", "MB/s", ours / 1e6)
    pairs = [(one("ours", "bare", "up"), one("ours", "bare", "up", streams=8)) for _ in range(ROUNDS)]
    ours = max(many for _, many in pairs) / max(single for single, _ in pairs)
    yield Figure("the same", "x one stream", ours, 1.0)
    bare, ours = best("bare", "trip", frame=64)
    yield Figure("64-byte round trip through the router", "x bare relay", ours / bare, 1.2, low=True)
    for direction, text in (("up", "to the exporter"), ("down", "to the client"), ("both", "each way, both at once")):
        ours = max(one("ours", "ours", direction) for _ in range(ROUNDS)) / 1e6
        goal = 4.0 * PUBLISHED if direction != "both" else None
        yield Figure(f"one stream between our client and exporter, {text}", "MB/s", ours, goal)
    ours = max(one("ours", "ours", "up", streams=8) for _ in range(ROUNDS)) / 1e6
    yield Figure("8 streams between our client and exporter, together", "MB/s", ours, 4.0 * PUBLISHED)
