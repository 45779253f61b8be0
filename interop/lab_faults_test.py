"""In a lab, each release as exporter and as client: what they go through when controller, router or exporter fail."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from lab import Client, Exporter, Lab
from mixes import PAIRS, POWER
from processes import TIMEOUT, Process, until

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

ECHO = """\
import itertools, sys
from jumpstarter.common.utils import env
with env() as client, client.children["web"].stream() as stream:
    for line in itertools.chain(["held"], sys.stdin):
        stream.send(line.strip().encode())
        print("heard", stream.receive().decode(), flush=True)
"""
"""A command in a shell that keeps one stream to a device open and sends through it each line that it is told."""


@pytest.fixture(scope="module")
def echo() -> Generator[int, None, None]:
    """The port of a TCP service that sends everything back."""
    from conftest import Echo, EchoServer

    with EchoServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


class Pair:
    """A client and an exporter of one pair of releases."""

    def __init__(self, lab: Lab, release: Path, exporter: Exporter, client: Client) -> None:
        self.lab, self.release, self.exporter, self.client = lab, release, exporter, client

    def open(self, stack: ExitStack) -> Process:
        """Open a shell with a stream through the router, and wait until it works."""
        command = ("shell", "-n", self.exporter.name, "--duration", "10m", "--", self.release / "python", "-c", ECHO)
        shell = stack.enter_context(self.client.start(self.release, *command))
        return shell

    def works(self) -> None:
        """Show that a new lease can be used."""
        self.exporter.until("AVAILABLE", free=True)
        power = ("--", self.release / "j", "power", "on")
        done = self.client.run(self.release, "shell", "-n", self.exporter.name, "--duration", "1m", *power)
        assert done.code == 0, done


@pytest.fixture(scope="module")
def pairs(lab: Lab, releases: dict[str, Path], echo: int, idle: Future[None]) -> Generator[dict[str, Pair], None, None]:
    """An exporter and a client for every pair of releases."""
    with ExitStack() as stack:
        yield make_pairs(stack, lab, releases, echo)


def make_pairs(stack: ExitStack, lab: Lab, releases: dict[str, Path], echo: int) -> dict[str, Pair]:
    """Run an exporter and make a client for every pair of releases."""
    web = {"type": "jumpstarter_driver_network.driver.TcpNetwork", "config": {"host": "127.0.0.1", "port": echo}}
    found = {}
    for name in PAIRS:
        client, _, release = name.partition("-to-")
        exporter = stack.enter_context(lab.exporter(releases[release], name, {**POWER, "web": web}))
        found[name] = Pair(lab, releases[client], exporter, lab.client(name))
    return found


@pytest.fixture(scope="module")
def idle(
    request: pytest.FixtureRequest,
    releases: dict[str, Path],
    echo: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> Generator[Future[None], None, None]:
    """Peers that do nothing for so long that it takes a lab of its own, beside the other tests."""
    with ThreadPoolExecutor(1) as thread:
        if any(item.name == test_R06_idle_peers_stay_connected.__name__ for item in request.session.items):
            yield thread.submit(stay_connected, Lab(tmp_path_factory.mktemp("idle")), releases, echo)
        else:
            yield Future()


def stay_connected(lab: Lab, releases: dict[str, Path], echo: int) -> None:
    """Show that nobody is thrown out who does nothing."""
    # By default gRPC servers throw out who sends pings without data for a minute.
    with ExitStack() as stack:
        stack.enter_context(lab.running())
        pairs = make_pairs(stack, lab, releases, echo)
        with ExitStack() as opened_here:
            shells = opened(pairs, opened_here)
            before = {name: len(pair.exporter.log) for name, pair in pairs.items()}

            time.sleep(75)

            still_works(shells, "later")
            for pair in pairs.values():
                assert pair.exporter.status == "LEASE_READY"
            for shell in shells.values():
                assert shell.wait() == 0, shell
        for name, pair in pairs.items():
            pair.works()
            assert "UNAVAILABLE" not in pair.exporter.log[before[name] :], name


def opened(pairs: dict[str, Pair], stack: ExitStack) -> dict[str, Process]:
    """Open a shell in every pair at once, and wait until all streams work."""
    shells = {name: pair.open(stack) for name, pair in pairs.items()}
    for shell in shells.values():
        shell.until(lambda shell=shell: "heard held" in shell.output, "the stream works")
    return shells


def still_works(shells: dict[str, Process], word: str) -> None:
    """Show that open streams carry on."""
    for shell in shells.values():
        shell.say(word)
    for name, shell in shells.items():
        shell.until(lambda shell=shell: f"heard {word}" in shell.output, f"the stream of {name} carries {word}")


def for_each(pairs: dict[str, Pair], work: Callable[[str], None]) -> None:
    """Do something with all pairs at once, given their names."""
    with ThreadPoolExecutor(len(pairs)) as threads:
        list(threads.map(work, pairs))


@contextmanager
def held(port: int) -> Generator[None, None, None]:
    """Accept connections on a port and leave them waiting, as somebody does who keeps it for the next controller."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        until(lambda: not listener.bind(("127.0.0.1", port)), "the port is free")
        listener.listen(1024)
        yield


def test_R07_idle_exporters_outlast_a_controller_that_is_away_while_its_port_is_held(
    lab: Lab, pairs: dict[str, Pair]
) -> None:
    # `jmp run` of 0.9 ends when its port refuses for ten seconds: it gives up five times, 2 seconds each.
    lab.stop()
    with held(lab.port):
        time.sleep(10)  # what is tested is that they outlast this
    lab.start()

    for_each(pairs, lambda name: pairs[name].works())
    for pair in pairs.values():
        assert "rapid failure" not in str(pair.exporter.process)


def test_X08_leases_and_sessions_go_on_when_the_controller_starts_again(lab: Lab, pairs: dict[str, Pair]) -> None:
    with ExitStack() as stack:
        shells = opened(pairs, stack)
        before = {name: pair.exporter.state.state.lease for name, pair in pairs.items()}
        lab.stop(signal.SIGKILL)
        lab.start()

        def goes_on(name: str) -> None:
            pair = pairs[name]
            pair.exporter.until("LEASE_READY", free=False)
            assert pair.exporter.state.state.lease == before[name]
            power = ("--", pair.release / "j", "power", "on")
            used = pair.client.run(pair.release, "shell", "--lease", before[name], *power)
            assert used.code == 0, f"{name}: {used}"

        for_each(pairs, goes_on)
        # The router went with the controller, and the streams with it; nothing hangs because of that.
        for shell in shells.values():
            shell.wait()
            assert "Traceback" not in shell.output, shell
    for_each(pairs, lambda name: pairs[name].works())


def test_R13_a_killed_exporter_takes_up_its_lease_when_it_is_back(lab: Lab, pairs: dict[str, Pair]) -> None:
    def put_through(name: str) -> None:
        pair = pairs[name]
        wanted = ("-n", name, "--duration", "10m", "--lease-id", f"r13-{name}")
        pair.client.do(pair.release, "create", "lease", *wanted, "-o", "name")
        pair.exporter.until("LEASE_READY", free=False)
        pair.exporter.kill()
        pair.exporter.start()

        power = ("--", pair.release / "j", "power", "on")
        until(lambda: pair.exporter.status == "LEASE_READY", f"{name} has its lease again")
        used = pair.client.run(pair.release, "shell", "--lease", f"r13-{name}", *power)
        assert used.code == 0, f"{name}: {used}"
        pair.client.do(pair.release, "delete", "leases", f"r13-{name}")
        pair.works()

    for_each(pairs, put_through)


@pytest.mark.slow
def test_R06_idle_peers_stay_connected(idle: Future[None]) -> None:
    idle.result()
