"""`jmp run`, `jmp shell` and the lease commands against a controller and a router over TLS, all as real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from jumpstarter_testing import eventually

from .conftest import TIMEOUT, J

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]


class LabShell:
    """The programs, with the configs of one exporter and one client of the lab."""

    def __init__(self, lab: Any, run: Run, start: Start, folder: Path) -> None:
        self.lab, self._run, self._start, self._folder = lab, run, start, folder
        connection = {"endpoint": lab.endpoint, "tls": {"ca": lab.certificate.ca}}
        self.exporter_config = self._write(
            "exporter",
            kind="ExporterConfig",
            metadata={"namespace": "lab", "name": "bench-1"},
            token="exporter-token",
            export={"power": {"type": "jumpstarter_driver_power.driver.MockPower"}},
            **connection,
        )
        self.client_config = self.client("alice", **connection)
        self.exporter: subprocess.Popen[str] | None = None

    def client(self, name: str, **members: Any) -> Path:
        return self._write(
            name,
            kind="ClientConfig",
            metadata={"namespace": "lab", "name": name},
            token=f"{name}-token",
            drivers={"allow": ["jumpstarter_driver_*"], "unsafe": False},
            **members,
        )

    def _write(self, name: str, **members: Any) -> Path:
        path = self._folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"apiVersion": "jumpstarter.dev/v1alpha1", **members}))
        return path

    def start_exporter(self) -> subprocess.Popen[str]:
        self.exporter = self._start("run", "--exporter-config", str(self.exporter_config))
        eventually(lambda: self.lab.controller.registered["bench-1"], timeout=30)
        return self.exporter

    def jmp(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        return self._run(*args, JMP_CLIENT_CONFIG=str(self.client_config), **env)

    def start_jmp(self, *args: str) -> subprocess.Popen[str]:
        return self._start(*args, env={"JMP_CLIENT_CONFIG": str(self.client_config)})

    def active(self) -> list[str]:
        return list(self.lab.controller.active())


@pytest.fixture
def lab(threaded_lab: Any, run_jmp: Run, start_jmp: Start, tmp_path: Path) -> Iterator[LabShell]:
    shell = LabShell(threaded_lab, run_jmp, start_jmp, tmp_path)
    yield shell
    if shell.exporter is not None and shell.exporter.poll() is None:
        shell.exporter.send_signal(signal.SIGTERM)
        shell.exporter.wait(TIMEOUT)


# --- a shell with a lease --------------------------------------------------------------------------------------------


def test_a_command_runs_with_a_leased_device_which_is_given_back(lab: LabShell) -> None:
    lab.start_exporter()
    result = lab.jmp("shell", "-n", "bench-1", "--", *J, "power", "read")
    assert (result.returncode, result.stdout.splitlines()[0][:8]) == (0, "voltage="), result.stderr
    assert len(lab.lab.controller.leases) == 1
    assert lab.active() == []


def test_the_exit_code_of_the_command_is_that_of_the_shell(lab: LabShell) -> None:
    lab.start_exporter()
    assert lab.jmp("shell", "-n", "bench-1", "sh", "-c", "exit 7").returncode == 7
    assert lab.active() == []


def test_the_command_knows_its_exporter_and_lease(lab: LabShell) -> None:
    lab.start_exporter()
    result = lab.jmp("shell", "-n", "bench-1", "sh", "-c", "echo $JMP_EXPORTER $JMP_LEASE")
    assert result.stdout.split() == ["bench-1", *lab.lab.controller.leases]


def test_an_exporter_whose_account_was_deleted_ends_with_the_reason(lab: LabShell) -> None:
    exporter = lab.start_exporter()
    eventually(lambda: lab.lab.controller.reported[0], timeout=30)
    said = 'exporter "lab/bench-1" not found; ask an administrator to create it'
    lab.lab.faults.refuse_for("Status", grpc.StatusCode.UNKNOWN, said, "ACCOUNT_UNKNOWN")
    lab.lab.portal.call(lab.lab.controller.boards["bench-1"].notify)
    assert exporter.wait(TIMEOUT) == 1
    assert exporter.stderr is not None
    told = exporter.stderr.read()
    assert f"Error: the controller turns this exporter away: {said}" in told
    assert "Starting the exporter again" not in told


def test_several_shells_in_a_row_get_the_device(lab: LabShell) -> None:
    lab.start_exporter()
    for _ in range(2):
        result = lab.jmp("shell", "-n", "bench-1", *J, "power", "on")
        assert result.returncode == 0, result.stderr


def test_an_existing_lease_is_used_and_kept(lab: LabShell) -> None:
    lab.start_exporter()
    name = lab.jmp("create", "lease", "-n", "bench-1", "--duration", "10m", "-o", "name").stdout.strip()
    assert lab.jmp("shell", "--lease", name, *J, "power", "on").returncode == 0
    assert lab.jmp("shell", *J, "power", "on", JMP_LEASE=name).returncode == 0
    assert lab.active() == [name]


def test_the_only_active_lease_is_used_when_none_is_named(lab: LabShell) -> None:
    lab.start_exporter()
    name = lab.jmp("create", "lease", "-n", "bench-1", "--duration", "10m", "-o", "name").stdout.strip()
    result = lab.jmp("shell", "sh", "-c", "echo $JMP_LEASE")
    assert result.stdout.strip() == name, result.stderr
    assert lab.active() == [name]


def test_without_any_lease_the_shell_says_what_to_give(lab: LabShell) -> None:
    result = lab.jmp("shell", "true")
    assert result.returncode == 2
    assert "no active leases found" in result.stderr


def test_with_several_leases_the_shell_asks_for_a_choice(lab: LabShell) -> None:
    names = [
        lab.jmp("create", "lease", "-n", "nobody", "--duration", "10m", "-o", "name").stdout.strip() for _ in range(2)
    ]
    result = lab.jmp("shell", "true")
    assert result.returncode == 2
    assert all(name in result.stderr for name in names)


def test_a_device_that_is_not_free_in_time_is_told_and_the_request_withdrawn(lab: LabShell) -> None:
    result = lab.jmp("shell", "-n", "nobody", "--acquisition-timeout", "5", "true")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(("Error: ", "Hint: "))
    assert "Traceback" not in result.stderr
    assert lab.active() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_wait_withdraws_the_request(number: signal.Signals, lab: LabShell) -> None:
    shell = lab.start_jmp("shell", "-n", "nobody", "true")
    eventually(lambda: lab.active()[0], timeout=30)
    shell.send_signal(number)
    assert shell.wait(TIMEOUT) == 128 + number
    assert lab.active() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_shell_ends_its_command_and_releases_the_lease(number: signal.Signals, lab: LabShell) -> None:
    lab.start_exporter()
    shell = lab.start_jmp("shell", "-n", "bench-1", "sh", "-c", "echo $$; exec sleep 300")
    assert shell.stdout is not None
    child = int(shell.stdout.readline())
    shell.send_signal(number)
    assert shell.wait(TIMEOUT) == 128 + number
    assert lab.active() == []
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_command_is_told_of_the_end_of_its_lease(lab: LabShell) -> None:
    lab.start_exporter()
    started = time.monotonic()
    shell = lab.start_jmp("shell", "-n", "bench-1", "--duration", "5s", "sh", "-c", "echo up; exec sleep 300")
    assert shell.stdout is not None
    assert shell.stdout.readline() == "up\n"
    (name,) = lab.active()
    lab.lab.portal.call(lab.lab.controller.end, name, "Expired")
    assert shell.wait(TIMEOUT) != 0
    assert time.monotonic() - started < TIMEOUT


def test_wrong_credentials_are_told_in_one_line(lab: LabShell) -> None:
    lab.client_config.write_text(lab.client_config.read_text().replace("alice-token", "guessed"))
    result = lab.jmp("shell", "-n", "bench-1", "true")
    assert result.returncode == 1
    assert "token is not valid" in result.stderr
    assert "guessed" not in result.stderr
    assert "Traceback" not in result.stderr


# --- the commands for leases -----------------------------------------------------------------------------------------


def test_leases_are_created_listed_and_released(lab: LabShell) -> None:
    lab.start_exporter()
    created = json.loads(lab.jmp("create", "lease", "-n", "bench-1", "--duration", "1h", "-o", "json").stdout)
    listed = json.loads(lab.jmp("get", "leases", "-o", "json").stdout)
    assert [lease["name"] for lease in listed["leases"]] == [created["name"]]
    table = lab.jmp("get", "leases")
    assert table.stdout.split()[:3] == ["NAME", "SELECTOR", "EXPIRES"]
    assert created["name"] in table.stdout
    assert lab.jmp("delete", "lease", created["name"], "-o", "name").stdout == f"{created['name']}\n"
    assert lab.jmp("get", "leases", "-o", "name").stdout == ""


def test_exporters_are_listed(lab: LabShell) -> None:
    lab.start_exporter()
    assert lab.jmp("get", "exporters", "-o", "name").stdout == "bench-1\n"
    assert lab.jmp("get", "exporters", "--with", "online").stdout.split()[:3] == ["NAME", "ONLINE", "LABELS"]


def test_a_controller_that_refuses_is_told_as_an_object(lab: LabShell) -> None:
    result = lab.jmp("update", "lease", "nope", "--duration", "1h", "-o", "json")
    assert result.returncode == 1
    failure = json.loads(result.stderr.splitlines()[-1])
    assert "nope" in failure["message"]
    assert set(failure) == {"reason", "message", "hint"}


def test_a_controller_that_is_away_is_told(lab: LabShell, free_tcp_port: int) -> None:
    text = lab.client_config.read_text().replace(lab.lab.endpoint, f"127.0.0.1:{free_tcp_port}")
    lab.client_config.write_text(text)
    result = lab.jmp("get", "leases")
    assert result.returncode == 1
    assert f"127.0.0.1:{free_tcp_port}" in result.stderr
    assert "Traceback" not in result.stderr


# --- the exporter ----------------------------------------------------------------------------------------------------


def test_a_stopped_exporter_unregisters(lab: LabShell) -> None:
    exporter = lab.start_exporter()
    exporter.send_signal(signal.SIGTERM)
    assert exporter.wait(TIMEOUT) == 143
    assert lab.lab.controller.unregistered == ["bench-1"]


def test_an_exporter_that_drains_serves_its_lease_to_the_end(lab: LabShell) -> None:
    exporter = lab.start_exporter()
    shell = lab.start_jmp("shell", "-n", "bench-1", "sh", "-c", "echo up; sleep 2; exit 6")
    assert shell.stdout is not None
    assert shell.stdout.readline() == "up\n"
    exporter.send_signal(signal.SIGHUP)
    assert shell.wait(TIMEOUT) == 6
    assert exporter.wait(TIMEOUT) == 0
