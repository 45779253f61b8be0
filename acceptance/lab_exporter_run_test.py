"""`jmp run` in a lab: pausing, following its config, ending after a lease, and controllers that come and go."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from jumpstarter_controller.model.records import Exporter, Key, Kind
from jumpstarter_controller.server import Endpoints
from jumpstarter_controller.testing import NAMESPACE, ThreadedLab, threaded_lab
from jumpstarter_testing import eventually

from .programs import JMP, LIMIT, J, Outcome, Program

pytestmark = pytest.mark.slow

Run = Callable[..., Outcome]
Start = Callable[..., Program]

POWER = {"type": "jumpstarter_driver_power.driver.MockPower"}
BOARD = Key(Kind.EXPORTER, NAMESPACE, "board")


class Bench:
    """A controller, the config of an exporter and that of a client."""

    def __init__(self, folder: Path, run: Run, start: Start) -> None:
        self._folder, self._run, self._start = folder, run, start
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._stack = ExitStack()
        self.serve()
        exporter, client = self.lab.exporter(BOARD.name), self.lab.client("alice")
        self.members = {
            "apiVersion": "jumpstarter.dev/v1alpha1",
            "kind": "ExporterConfig",
            "metadata": {"namespace": NAMESPACE, "name": BOARD.name},
            "endpoint": exporter.endpoint,
            "token": exporter.token,
            "tls": exporter.tls,
            "export": {"power": POWER},
        }
        self.config = folder / "board.yaml"
        self.write()
        self._client = folder / "alice.yaml"
        self._client.write_text(
            yaml.safe_dump(
                self.members
                | {
                    "kind": "ClientConfig",
                    "metadata": {"namespace": NAMESPACE, "name": "alice"},
                    "token": client.token,
                    "drivers": {"allow": [], "unsafe": True},
                    "export": None,
                }
            ).replace("export: null\n", "")
        )
        self._client.chmod(0o600)

    def serve(self) -> None:
        """Start the controller, at the place where it was before."""
        self._stack = ExitStack()
        endpoints = Endpoints(listen=f"127.0.0.1:{self._port}")
        self.lab: ThreadedLab = self._stack.enter_context(threaded_lab(self._folder, server={"endpoints": endpoints}))

    def stop(self) -> None:
        """Stop the controller."""
        self._stack.close()

    def write(self, text: str | None = None, **members: Any) -> None:
        """Replace the exporter's config, as editors do."""
        draft = self.config.with_suffix(".new")
        draft.write_text(yaml.safe_dump(self.members | members) if text is None else text)
        draft.chmod(0o600)
        draft.replace(self.config)

    def exporter(self, *options: str) -> Program:
        program = self._start(JMP, "run", "--exporter-config", str(self.config), *options)
        program.wait_for("registered with the controller")
        self.until(lambda record: record.online)
        return program

    def jmp(self, *words: str) -> Outcome:
        return self._run(JMP, *words, env={"JMP_CLIENT_CONFIG": str(self._client)})

    def shell(self, *command: str) -> Outcome:
        return self.jmp("shell", "-n", BOARD.name, "--acquisition-timeout", "10s", "--", *command)

    def start_shell(self, *command: str) -> Program:
        words = ("shell", "-n", BOARD.name, "--", *command)
        return self._start(JMP, *words, env={"JMP_CLIENT_CONFIG": str(self._client)})

    def until(self, condition: Callable[[Exporter], bool]) -> Exporter:
        """Wait until the controller knows something of the exporter."""
        found: Exporter = self.lab.call(lambda: self.lab.running.until(BOARD, condition))
        return found


def said(program: Program, text: str, count: int) -> None:
    """Wait until a program has said something several times."""

    def enough() -> None:
        assert program.err.count(text) >= count, program.err

    eventually(enough, timeout=LIMIT)


@pytest.fixture
def bench(tmp_path: Path, run: Run, start: Start) -> Iterator[Bench]:
    folder = tmp_path / "bench"
    folder.mkdir()
    opened = Bench(folder, run, start)
    yield opened
    opened.stop()


# --- pausing ---------------------------------------------------------------------------------------------------------


def test_a_paused_exporter_finishes_its_lease_and_takes_none_until_it_is_resumed(bench: Bench) -> None:
    exporter = bench.exporter()
    gate = bench.config.with_name("gate")
    holder = bench.start_shell(
        "sh", "-c", f"echo in; until test -e {gate}; do sleep 0.1; done; {J} power on && echo out"
    )
    holder.wait_for("in\n")
    exporter.send(signal.SIGUSR1)
    bench.until(lambda record: record.draining)
    gate.touch()
    assert holder.end().out.splitlines() == ["in", "out"]
    refused = bench.shell(J, "power", "on")
    assert refused.code != 0
    exporter.send(signal.SIGUSR2)
    bench.until(lambda record: not record.draining)
    assert bench.shell(J, "power", "on").code == 0


def test_a_pause_outlives_a_crash_and_a_restart_of_the_controller_but_not_the_exporter(bench: Bench) -> None:
    exporter = bench.exporter()
    exporter.send(signal.SIGUSR1)
    bench.until(lambda record: record.draining)
    os.kill(exporter.child(), signal.SIGKILL)
    said(exporter, "taking no further leases", 2)
    bench.stop()
    bench.serve()
    bench.until(lambda record: record.draining and record.online)
    exporter.stop(signal.SIGTERM)
    bench.exporter()
    bench.until(lambda record: not record.draining)
    assert bench.shell(J, "power", "on").code == 0


# --- following the config --------------------------------------------------------------------------------------------


def test_a_changed_config_is_used_from_the_end_of_the_lease_on(bench: Bench) -> None:
    exporter = bench.exporter()
    gate = bench.config.with_name("gate")
    holder = bench.start_shell(
        "sh", "-c", f"echo in; until test -e {gate}; do sleep 0.1; done; {J} power on && echo out"
    )
    holder.wait_for("in\n")
    bench.write(export={"power": POWER, "second": POWER})
    exporter.wait_for("it is used as soon as there is no lease")
    gate.touch()
    assert holder.end().out.splitlines() == ["in", "out"]
    said(exporter, "registered with the controller", 2)
    bench.until(lambda record: record.online and len(record.devices) == 3)
    assert bench.shell(J, "second", "on").code == 0
    assert exporter.process.poll() is None


@pytest.mark.parametrize(
    ("text", "members", "why"),
    [
        ("export: [", {}, "not valid YAML"),
        (None, {"exprot": {}}, "exprot"),
        (None, {"export": {"power": {"type": "jumpstarter_driver_power.driver.Nonesuch"}}}, "Nonesuch"),
        (None, {"export": {"power": POWER | {"config": {"nonesuch": 1}}}}, "nonesuch"),
    ],
)
def test_a_broken_config_is_refused_in_one_line_and_the_old_one_stays(
    bench: Bench, text: str | None, members: dict[str, Any], why: str
) -> None:
    exporter = bench.exporter()
    bench.write(text, **members)
    exporter.wait_for("the exporter goes on with the config that it has")
    (line,) = [line for line in exporter.err.splitlines() if "goes on with the config" in line]
    assert why in line
    assert bench.shell(J, "power", "on").code == 0
    assert exporter.err.count("registered with the controller") == 1
    bench.write(export={"power": POWER, "second": POWER})
    said(exporter, "registered with the controller", 2)


def test_a_config_is_read_on_request(bench: Bench) -> None:
    exporter = bench.exporter()
    exporter.send(signal.SIGUSR2)
    exporter.wait_for("says nothing new")


# --- options ---------------------------------------------------------------------------------------------------------


def test_R12_an_exporter_for_one_lease_waits_for_it_and_ends_after_it(bench: Bench) -> None:
    exporter = bench.exporter("--exit-on-lease-end")
    assert exporter.process.poll() is None
    assert bench.shell(J, "power", "on").code == 0
    assert exporter.end().code == 0


def test_an_exporter_that_listens_is_used_directly(bench: Bench) -> None:
    exporter = bench.exporter("--direct-listen", "127.0.0.1:auto")
    exporter.wait_for("clients can reach the devices directly at 127.0.0.1:")
    script = 'for n in 1 2 3 4 5 6; do j power on || exit 1; done; test -S "$JUMPSTARTER_HOST.streams"'
    assert bench.shell("sh", "-c", script).code == 0


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--direct-listen", "board:http"), "[HOST:]PORT"),
        (("--direct-advertise", "board"), "--direct-listen"),
        (("--direct-listen", "auto", "--tls-grpc-listener", "1234", "--tls-grpc-insecure"), "--tls-grpc-listener"),
    ],
)
def test_options_that_make_no_sense_are_refused(bench: Bench, run: Run, options: tuple[str, ...], why: str) -> None:
    outcome = run(JMP, "run", "--exporter-config", str(bench.config), *options)
    assert outcome.code == 2
    assert why in outcome.err


# --- controllers that come and go ------------------------------------------------------------------------------------


def test_the_exporter_is_back_each_time_the_controller_is(bench: Bench) -> None:
    exporter = bench.exporter()
    for _ in range(3):
        bench.stop()
        bench.serve()
        bench.until(lambda record: record.online)
        assert bench.shell(J, "power", "on").code == 0
    assert exporter.process.poll() is None


class Controller:
    """The controller as a process of its own, with the accounts and the address of the bench."""

    def __init__(self, bench: Bench, start: Start) -> None:
        bench.stop()
        address = bench.members["endpoint"]
        options = ("--data", str(bench.config.parent / "lab"), "--listen", address)
        self.program = start(JMP, "controller", "run", *options, "--web-listen", "", "--metrics-listen", "")
        host, _, port = address.rpartition(":")

        def listens() -> None:
            socket.create_connection((host, int(port)), timeout=1).close()

        eventually(listens, timeout=LIMIT)


@pytest.fixture
def controller(bench: Bench, start: Start) -> Controller:
    return Controller(bench, start)


def test_a_lease_survives_a_controller_that_stands_still_for_20_seconds(
    bench: Bench, controller: Controller, start: Start
) -> None:
    exporter = start(JMP, "run", "--exporter-config", str(bench.config))
    exporter.wait_for("registered with the controller")
    gate = bench.config.with_name("gate")
    work = f"until test -e {gate}; do {J} power on >/dev/null 2>&1; sleep 0.2; done; {J} power on && echo out"
    holder = bench.start_shell("sh", "-c", f"echo in; {work}")
    holder.wait_for("in\n")
    controller.program.send(signal.SIGSTOP)
    try:
        # What is tested is that nobody takes this time for the end.
        threading.Event().wait(20)
    finally:
        controller.program.send(signal.SIGCONT)
    gate.touch()
    assert holder.end().out.splitlines() == ["in", "out"]
    assert bench.shell(J, "power", "on").code == 0
    assert exporter.process.poll() is None


def test_a_controller_that_is_killed_and_started_again_finds_its_exporter_and_the_lease(
    bench: Bench, controller: Controller, start: Start
) -> None:
    exporter = start(JMP, "run", "--exporter-config", str(bench.config), "--direct-listen", "127.0.0.1:auto")
    exporter.wait_for("registered with the controller")
    gate = bench.config.with_name("gate")
    work = f"until test -e {gate}; do sleep 0.1; done; until {J} power on; do sleep 0.5; done; echo out"
    holder = bench.start_shell("sh", "-c", f"echo in; {work}")
    holder.wait_for("in\n")
    controller.program.close()
    Controller(bench, start)
    gate.touch()
    assert holder.end().out.splitlines()[-1] == "out"
    assert bench.shell(J, "power", "on").code == 0
    assert exporter.err.count("registered with the controller") == 1
