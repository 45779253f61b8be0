"""Serial ports without hardware: a pair of PTYs joined by socat, and a port behind an RFC 2217 server."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jumpstarter_testbench.process import accepts, running, running_on_free_port
from jumpstarter_testbench.requirements import need, program


@dataclass(frozen=True, kw_only=True)
class PtyPair:
    """Two serial ports; what is written to one is read from the other. They know no modem lines."""

    near: Path
    far: Path


@dataclass(frozen=True, kw_only=True)
class Rfc2217Server:
    """A serial port on the network, with its settings and modem lines (RFC 2217)."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """The port's address as pyserial writes it."""
        return f"rfc2217://{self.host}:{self.port}"


@pytest.fixture
def pty_pair(tmp_path: Path) -> Iterator[PtyPair]:
    """Two joined serial ports of the test's own."""
    need("socat")
    pair = PtyPair(near=tmp_path / "tty-near", far=tmp_path / "tty-far")
    with running(
        [program("socat"), *(f"pty,raw,echo=0,link={end}" for end in (pair.near, pair.far))],
        log=tmp_path / "socat.log",
        ready=lambda: pair.near.exists() and pair.far.exists(),
    ):
        yield pair


@pytest.fixture
def rfc2217_loop(tmp_path: Path) -> Iterator[Rfc2217Server]:
    """An RFC 2217 server in front of a port with a loop-back plug: data returns, RTS shows as CTS, DTR as DSR."""
    with _rfc2217("loop://", tmp_path) as server:
        yield server


@pytest.fixture
def rfc2217_pty(pty_pair: PtyPair, tmp_path: Path) -> Iterator[Rfc2217Server]:
    """An RFC 2217 server in front of `pty_pair.near`; the test plays the device at `pty_pair.far`."""
    with _rfc2217(str(pty_pair.near), tmp_path) as server:
        yield server


@contextlib.contextmanager
def _rfc2217(device: str, folder: Path) -> Iterator[Rfc2217Server]:
    with running_on_free_port(
        lambda port: [sys.executable, "-m", "jumpstarter_testbench.rfc2217", device, str(port)],
        log=folder / "rfc2217.log",
        ready=lambda port: accepts("127.0.0.1", port),
    ) as port:
        yield Rfc2217Server(host="127.0.0.1", port=port)
