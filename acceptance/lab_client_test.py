"""A lab as its users meet it: a real controller and exporter, and the commands of clients at scripts and terminals."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from jumpstarter_controller.model.records import Rule
from jumpstarter_controller.model.selector import Selector
from jumpstarter_controller.server import Endpoints
from jumpstarter_controller.testing import Login, ThreadedLab, threaded_lab
from jumpstarter_testbench.requirements import unavailable
from jumpstarter_testing import eventually

from .programs import BIN, JMP, LIMIT, J, Outcome, Program

pytestmark = pytest.mark.slow

Run = Callable[..., Outcome]
Start = Callable[..., Program]

HELD = "is used by alice until"


class Lab:
    """A controller that can be stopped and started again, with the accounts alice, bob and carol."""

    def __init__(self, folder: Path, run: Run, start: Start) -> None:
        self._folder, self._run, self._start = folder, run, start
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._stack = ExitStack()
        self.running: ThreadedLab
        self.serve()

    def serve(self) -> None:
        """Start the controller, at the place where it was before."""
        endpoints = Endpoints(listen=f"127.0.0.1:{self._port}")
        self.running = self._stack.enter_context(threaded_lab(self._folder, server={"endpoints": endpoints}))

    def stop(self) -> None:
        """Stop the controller."""
        self._stack.close()

    def _write(self, login: Login, kind: str, **members: Any) -> str:
        path = self._folder / f"{login.key.name}.yaml"
        values = {
            "apiVersion": "jumpstarter.dev/v1alpha1",
            "kind": kind,
            "metadata": {"namespace": login.key.namespace, "name": login.key.name},
            "endpoint": login.endpoint,
            "token": login.token,
            "tls": login.tls,
        }
        path.write_text(yaml.safe_dump(values | members))
        return str(path)

    def client(self, name: str) -> dict[str, str]:
        """Return the environment of a client's programs."""
        path = self._folder / f"{name}.yaml"
        if not path.exists():
            drivers = {"allow": ["jumpstarter_driver_*"], "unsafe": False}
            self._write(self.running.client(name), "ClientConfig", drivers=drivers)
        return {"JMP_CLIENT_CONFIG": str(path)}

    def exporter(self, name: str = "bench-1") -> Program:
        """Start an exporter with a power supply that only pretends."""
        login = self.running.exporter(name, labels={"board": "rpi"})
        export = {"power": {"type": "jumpstarter_driver_power.driver.MockPower"}}
        program = self._start(JMP, "run", "--exporter-config", self._write(login, "ExporterConfig", export=export))
        program.wait_for("registered with the controller")
        return program

    def jmp(self, client: str, *words: str, **env: str) -> Outcome:
        """Run `jmp` as a client."""
        return self._run(JMP, *words, env=self.client(client) | env)

    def start(self, client: str, *words: str) -> Program:
        """Start `jmp` as a client."""
        return self._start(JMP, *words, env=self.client(client))

    def lease(self, client: str, *words: str) -> str:
        """Make a lease that has its exporter, and return its name."""
        target = words or ("-n", "bench-1", "--duration", "30m")
        outcome = self.jmp(client, "create", "lease", *target, "--wait", "-o", "name")
        assert outcome.code == 0, outcome
        return outcome.out.strip()

    def active(self) -> list[str]:
        """Return the names of the leases that have not ended."""
        return self.jmp("alice", "get", "leases", "-A", "-o", "name").out.split()

    def policy(self, **members: Any) -> None:
        """Make a policy with one rule, which lets everybody have everything on terms."""
        rule = Rule(clients=(Selector(),), **members)
        self.running.call(lambda: self.running.running.policy("lab", rule))


@pytest.fixture
def lab(tmp_path: Path, run: Run, start: Start) -> Iterator[Lab]:
    folder = tmp_path / "controller"
    folder.mkdir()
    opened = Lab(folder, run, start)
    yield opened
    opened.stop()


@pytest.fixture
def bench(lab: Lab) -> Lab:
    """A lab with an exporter."""
    lab.exporter()
    return lab


def one_object(text: str) -> dict[str, Any]:
    parsed = json.loads(text.strip().splitlines()[-1])
    assert isinstance(parsed, dict)
    return parsed


# -- waiting -------------------------------------------------------------------------------------


def test_who_waits_is_told_the_place_and_who_has_the_board_and_gets_it_at_once(bench: Lab) -> None:
    name = bench.lease("alice")
    waiting = bench.start("bob", "create", "lease", "-l", "board=rpi", "--duration", "1h", "--wait", "-o", "json")
    waiting.wait_for(f"next in the queue; bench-1 {HELD}")
    bench.jmp("alice", "delete", "lease", name)
    released = time.monotonic()
    outcome = waiting.end()
    assert time.monotonic() - released < 3
    assert json.loads(outcome.out)["exporter"] == "bench-1", outcome


def test_a_grant_reaches_the_client_within_a_moment(bench: Lab) -> None:
    bench.client("alice")
    bench.client("bob")
    seen: list[float] = []
    names: list[str] = []

    async def race() -> None:
        import anyio
        from jumpstarter.config.client import ClientConfigV1Alpha1

        alice, bob = (
            ClientConfigV1Alpha1.from_file(bench.client(name)["JMP_CLIENT_CONFIG"]) for name in ("alice", "bob")
        )
        held = await alice.create_lease(timedelta(hours=1), exporter_name="bench-1")
        wanted = await bob.create_lease(timedelta(hours=1), exporter_name="bench-1")
        names.append(wanted.name)

        async def wait() -> None:
            await bob.wait_for_lease(wanted.name)
            seen.append(time.monotonic())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            async for change in bob.follow_lease(wanted.name):
                if change.item is not None and change.item.place == 1:
                    break
            await anyio.sleep(0.5)
            await alice.delete_lease(held.name)
            seen.append(time.monotonic())

    bench.running.call(race)
    released, granted = sorted(seen)
    # The wait ends with a look at the exporter's labels and at the lease, over TLS.
    assert granted - released < 1
    assert bench.active() == names


def test_a_wait_outlives_a_restart_of_the_controller(bench: Lab) -> None:
    name = bench.lease("alice")
    waiting = bench.start("bob", "create", "lease", "-n", "bench-1", "--duration", "1h", "--wait", "-o", "name")
    waiting.wait_for("in the queue")
    bench.stop()
    waiting.wait_for("still waiting: ")
    bench.serve()

    def resumed() -> None:
        assert waiting.err.count("in the queue") == 2, waiting.err

    eventually(resumed, timeout=LIMIT)
    bench.jmp("alice", "delete", "lease", name)
    outcome = waiting.end()
    assert (outcome.code, outcome.out.split()) == (0, bench.active()), outcome


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_wait_that_is_stopped_withdraws_the_request(number: int, bench: Lab) -> None:
    name = bench.lease("alice")
    waiting = bench.start("bob", "create", "lease", "-n", "bench-1", "--duration", "1h", "--wait")
    waiting.wait_for("in the queue")
    outcome = waiting.stop(number)
    assert (outcome.code, outcome.out) == (128 + number, ""), outcome
    assert bench.active() == [name]


def test_a_wait_that_takes_too_long_fails_with_what_was_waited_for(bench: Lab) -> None:
    name = bench.lease("alice")
    outcome = bench.jmp("bob", "create", "lease", "-n", "bench-1", "--duration", "1h", "--wait", "--timeout", "5s")
    assert f"bench-1 {HELD}" in outcome.failure()
    assert bench.active() == [name]


def test_an_exporter_that_is_not_there_ends_the_wait(bench: Lab) -> None:
    outcome = bench.jmp("bob", "create", "lease", "-n", "nobody", "--duration", "1h", "--wait")
    assert "nobody" in outcome.failure()
    assert bench.active() == []


# -- looking -------------------------------------------------------------------------------------


def test_leases_and_exporters_are_told_in_every_format(bench: Lab) -> None:
    name = bench.lease("alice")
    bench.jmp("bob", "create", "lease", "-n", "bench-1", "--duration", "1h")
    wide = bench.jmp("bob", "get", "leases", "-o", "wide").out.splitlines()
    assert "1 of 1" in wide[1]
    assert "bench-1: alice until" in wide[1]
    held = bench.jmp("bob", "get", "exporters", "-o", "wide").out.splitlines()[1].split()
    assert (held[0], "alice" in held, name in held) == ("bench-1", True, True)
    told = bench.jmp("bob", "get", "lease", name).out
    assert re.search(r"^Client: +alice$", told, re.MULTILINE)
    assert re.search(r"^Ends at: .*\((29|30)m( \d+s)? left\)$", told, re.MULTILINE)
    exporter = json.loads(bench.jmp("bob", "get", "exporter", "bench-1", "-o", "json").out)
    assert (exporter["leased_by"], exporter["waiting"]) == ("alice", 1)
    assert yaml.safe_load(bench.jmp("alice", "get", "lease", name, "-o", "yaml").out)["role"] == "owner"


def test_what_does_not_exist_is_told_with_a_stable_reason(bench: Lab) -> None:
    lost = bench.jmp("bob", "get", "lease", "nope", "-o", "json")
    assert (lost.code, one_object(lost.err)["reason"]) == (1, "lease-not-found")
    assert "get leases" in one_object(lost.err)["hint"]
    assert "nope" in bench.jmp("bob", "get", "exporter", "nope").failure()


def test_changes_are_told_as_they_happen_until_ctrl_c(bench: Lab) -> None:
    watch = bench.start("bob", "get", "leases", "-A", "--watch", "-o", "json")
    exporters = bench.start("bob", "get", "exporters", "--watch")
    exporters.wait_for("bench-1")
    name = bench.lease("alice")
    watch.wait_for(name)
    bench.jmp("alice", "delete", "lease", name)
    watch.wait_for('"deleted"')
    exporters.wait_for("alice")
    outcome = watch.stop(signal.SIGINT)
    assert (outcome.code, outcome.err) == (130, "")
    events = [json.loads(line) for line in outcome.out.splitlines()]
    assert events[0]["event"] == "added"
    assert events[-1]["event"] == "deleted"
    assert {event["lease"]["name"] for event in events} == {name}
    assert exporters.stop(signal.SIGTERM).code == 143


def test_a_list_that_is_watched_outlives_a_restart_of_the_controller(bench: Lab) -> None:
    watch = bench.start("bob", "get", "leases", "-A", "-w")
    watch.wait_for("EVENT")
    bench.stop()
    watch.wait_for("trying again")
    bench.serve()
    watch.wait_for("The controller is back.")
    name = bench.lease("alice", "-l", "board=rpi", "--duration", "5m")
    watch.wait_for(name)
    assert watch.stop(signal.SIGINT).code == 130


# -- changing and sharing ------------------------------------------------------------------------


def test_an_extension_adds_to_the_end(bench: Lab) -> None:
    name = bench.lease("alice")
    before = json.loads(bench.jmp("alice", "get", "lease", name, "-o", "json").out)
    after = json.loads(bench.jmp("alice", "update", "lease", name, "--extend", "1h", "-o", "json").out)
    assert after["duration"] == before["duration"] + 3600


def test_a_driver_uses_the_lease_of_another_and_a_watcher_does_not(bench: Lab) -> None:
    name = bench.lease("alice")
    bench.client("bob")
    bench.client("carol")
    stranger = bench.jmp("bob", "shell", "--lease", name, "--", J, "power", "on")
    assert f"jmp update lease {name} --share bob" in stranger.failure()
    bench.jmp("alice", "update", "lease", name, "--share", "bob", "--share", "carol=watcher")
    driver = bench.jmp("bob", "shell", "--lease", name, "--", J, "power", "read")
    assert (driver.code, driver.out[:8]) == (0, "voltage="), driver
    assert "shared with you as driver" in driver.err
    watcher = bench.jmp("carol", "shell", "--", J, "power", "on")
    assert (watcher.code, "watcher" in watcher.err, "owner" in watcher.err) == (1, True, True), watcher
    assert bench.active() == [name]


def test_a_role_that_was_taken_away_is_gone(bench: Lab) -> None:
    name = bench.lease("alice")
    bench.client("bob")
    bench.jmp("alice", "update", "lease", name, "--share", "bob")
    shell = bench.start("bob", "shell", "--lease", name, "--", "sh", "-c", "echo up; exec sleep 300")
    shell.wait_for("up\n")
    bench.jmp("alice", "update", "lease", name, "--unshare", "bob")
    shell.wait_for("is not shared with you any more")
    assert bench.jmp("bob", "shell", "--lease", name, "--", "true").code == 1


def test_a_stranger_changes_nothing(bench: Lab) -> None:
    name = bench.lease("alice")
    for words in (["--extend", "1h"], ["--share", "bob"], ["--to-client", "bob"]):
        outcome = bench.jmp("bob", "update", "lease", name, *words, "-o", "json")
        assert (outcome.code, one_object(outcome.err)["reason"]) == (1, "not-your-lease"), outcome


@pytest.mark.parametrize(
    ("rule", "reason"),
    [({"maximum_duration": timedelta(minutes=10)}, "too-long"), ({"maximum_leases": 1}, "too-many-leases")],
)
def test_a_rule_that_is_broken_is_named(rule: dict[str, Any], reason: str, bench: Lab) -> None:
    bench.policy(**rule)
    bench.lease("alice", "-n", "bench-1", "--duration", "5m")
    outcome = bench.jmp("alice", "create", "lease", "-n", "bench-1", "--duration", "20m", "-o", "json")
    told = one_object(outcome.err)
    assert (outcome.code, told["reason"]) == (1, reason), outcome
    assert "lab" in told["message"]
    assert told["hint"]


# -- a shell at a terminal -----------------------------------------------------------------------


class Screen:
    """A shell in a real terminal emulator, of which this reads the screen."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self._tmux = ["tmux", "-S", str(folder / "tmux"), "-f", "/dev/null"]
        command = ["env", "-i", *(f"{name}={value}" for name, value in env.items()), "bash", "--norc"]
        subprocess.run(
            [*self._tmux, "new-session", "-d", "-s", "s", "-x", "100", "-y", "30", *command], check=True, timeout=LIMIT
        )

    def type(self, text: str, *keys: str) -> None:
        subprocess.run([*self._tmux, "send-keys", "-t", "s", "-l", text], check=True, timeout=LIMIT)
        if keys:
            subprocess.run([*self._tmux, "send-keys", "-t", "s", *keys], check=True, timeout=LIMIT)

    @property
    def lines(self) -> list[str]:
        shown = subprocess.run(
            [*self._tmux, "capture-pane", "-p", "-t", "s"], check=True, timeout=LIMIT, capture_output=True, text=True
        )
        return [line.rstrip() for line in shown.stdout.rstrip().splitlines()]

    def wait_for(self, pattern: str) -> list[str]:
        found: list[list[str]] = []

        def shown() -> None:
            lines = self.lines
            assert any(re.search(pattern, line) for line in lines), lines
            found.append(lines)

        eventually(shown, timeout=LIMIT, interval=0.05)
        return found[-1]

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], check=False, timeout=LIMIT)


@pytest.fixture
def screen(tmp_path: Path, program_env: dict[str, str]) -> Iterator[Callable[..., Screen]]:
    """Open a terminal with a shell."""
    if shutil.which("tmux") is None:
        unavailable("not installed: tmux. Install: apt-get install tmux")
    opened: list[Screen] = []

    def open_screen(env: dict[str, str]) -> Screen:
        folder = tmp_path / f"screen-{len(opened)}"
        folder.mkdir()
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        values = program_env | env | {"TERM": "screen", "PATH": path, "PS1": "$ ", "HISTFILE": ""}
        opened.append(Screen(folder, values))
        return opened[-1]

    yield open_screen
    for one in opened:
        one.close()


def test_messages_stand_above_the_prompt_and_leave_what_is_typed(bench: Lab, screen: Callable[..., Screen]) -> None:
    alice = screen(bench.client("alice"))
    alice.type("jmp shell -n bench-1 --duration 20m", "Enter")
    alice.wait_for("bench-1 ➤$")
    alice.type("echo half typ")
    alice.wait_for("half typ$")
    name = bench.active()[0]
    bench.jmp("alice", "update", "lease", name, "--duration", "4m")
    lines = alice.wait_for(r"[Ll]ease of bench-1 ends in 3m \d+s, at .*; to keep it: jmp update lease --extend 30m$")
    assert lines[-1].endswith("➤ echo half typ")
    alice.type("ed", "Enter")
    alice.wait_for("^half typed$")
    alice.type("jmp update lease --extend 30m -o name", "Enter")
    alice.wait_for(r"lease of bench-1 was extended and ends at .* now \(3\dm left\)$")
    bench.jmp("alice", "delete", "lease", name)
    lines = alice.wait_for("lease of bench-1 has ended: ")
    assert alice.wait_for(r"^\$$"), lines


def test_the_wait_is_one_line_that_is_kept_current(bench: Lab, screen: Callable[..., Screen]) -> None:
    name = bench.lease("alice")
    bob = screen(bench.client("bob"))
    bob.type("jmp shell -l board=rpi -- echo got it", "Enter")
    lines = bob.wait_for(rf"Next in the queue; bench-1 {HELD} \d\d:\d\d \(29m left\)")
    assert len(lines) == 2
    bob.wait_for(r"\(0:00:0[3-9]\)")
    assert len(bob.lines) == 2
    bench.jmp("alice", "delete", "lease", name)
    bob.wait_for("^got it$")
    assert bob.wait_for(r"^\$$")[-2:] == ["got it", "$"]


def test_a_watched_table_is_drawn_over_itself(bench: Lab, screen: Callable[..., Screen]) -> None:
    bob = screen(bench.client("bob") | {"COLUMNS": ""})
    bob.type("jmp get leases -A --watch", "Enter")
    bob.wait_for("No resources found")
    first = bench.lease("alice")
    bob.wait_for(first[:30])
    bench.jmp("alice", "delete", "lease", first)
    lines = bob.wait_for("No resources found")
    assert [line.split()[0] for line in lines[-2:]] == ["NAME", "No"]
    assert sum("NAME" in line for line in lines) == 1
    bob.type("", "C-c")
    bob.wait_for(r"\^C$")
    bob.type("echo code $?", "Enter")
    bob.wait_for("^code 130$")


def test_a_lease_that_is_not_used_is_told_before_it_ends(bench: Lab) -> None:
    bench.policy(idle_timeout=timedelta(seconds=8))
    shell = bench.start("alice", "shell", "-n", "bench-1", "--", "sh", "-c", "echo up; exec sleep 300")
    shell.wait_for("was not used for ")
    assert "unless it is used" in shell.err
    outcome = shell.end()
    assert "has ended" in outcome.err
    assert outcome.code == 128 + signal.SIGHUP


def test_use_that_extends_the_lease_is_told(bench: Lab) -> None:
    bench.policy(extend_by_use=timedelta(minutes=2), maximum_use=timedelta(hours=1))
    command = f"{J} power on; echo used; exec sleep 300"
    shell = bench.start("alice", "shell", "-n", "bench-1", "--duration", "60s", "--", "sh", "-c", command)
    shell.wait_for("used\n")
    shell.wait_for("lease of bench-1 was extended and ends at ")
    assert " is its limit" in shell.err
    (name,) = bench.active()
    told = bench.jmp("alice", "get", "lease", name).out
    assert "it can't be extended beyond" in told
    assert "Granted by:" in told
