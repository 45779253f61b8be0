"""Buses of an exporter, used by the usual D-Bus programs on the client's side."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from jumpstarter.client.core import DriverError
from jumpstarter.common.utils import serve

from jumpstarter_driver_network.adapters import DbusAdapter
from jumpstarter_driver_network.adapters.dbus import bus_address
from jumpstarter_driver_network.dbus import VARIABLES
from jumpstarter_driver_network.driver import DbusNetwork

pytestmark = pytest.mark.daemon
KINDS = pytest.mark.parametrize("kind", ["system", "session"])


@pytest.fixture
def bus(kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A real bus that the exporter finds by its environment."""
    found = request.getfixturevalue(f"dbus_{kind}")
    monkeypatch.setenv(VARIABLES[kind], found.address)
    return found


def list_names(kind: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Ask the bus of the environment for its names, with the reference implementation's client."""
    command = [
        *("dbus-send", f"--{kind}", "--print-reply", "--reply-timeout=5000", "--dest=org.freedesktop.DBus"),
        *("/org/freedesktop/DBus", "org.freedesktop.DBus.ListNames"),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, **more)


@KINDS
def test_programs_use_the_bus_of_the_exporter(kind: str, bus: Any) -> None:
    before = os.environ[VARIABLES[kind]]
    with serve(DbusNetwork(kind=kind)) as client:  # noqa: SIM117 - the client exists before it is entered
        with client as address:
            assert os.environ[VARIABLES[kind]] == address != before
            done = list_names(kind)

    assert done.returncode == 0, done.stderr
    assert 'string "org.freedesktop.DBus"' in done.stdout
    assert os.environ[VARIABLES[kind]] == before


@KINDS
@pytest.mark.skipif(shutil.which("busctl") is None, reason="busctl is not installed. Install: apt-get install systemd")
def test_busctl_uses_the_bus_of_the_exporter(kind: str, bus: Any) -> None:
    option = {"system": "--system", "session": "--user"}[kind]
    with serve(DbusNetwork(kind=kind)) as client, DbusAdapter(client=client):
        done = subprocess.run(["busctl", option, "list"], capture_output=True, text=True, timeout=20)

    assert done.returncode == 0, done.stderr
    assert "org.freedesktop.DBus" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a program as another user")
@pytest.mark.parametrize("kind", ["session"])
def test_client_with_another_user_id_is_taken_for_the_exporter(kind: str, bus: Any) -> None:
    with serve(DbusNetwork(kind=kind)) as client, bus_address(client=client, transport="tcp") as address:
        env = {**os.environ, VARIABLES[kind]: address}
        done = list_names(kind, env=env, user=65534, cwd="/")

    assert done.returncode == 0, done.stderr


@KINDS
def test_variable_that_was_not_set_is_removed_again(kind: str, bus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(DbusNetwork(kind=kind)) as client:
        monkeypatch.delenv(VARIABLES[kind])
        with DbusAdapter(client=client):
            assert VARIABLES[kind] in os.environ
        assert VARIABLES[kind] not in os.environ


@KINDS
def test_bus_over_tcp_has_the_form_that_programs_know(kind: str, bus: Any) -> None:
    with serve(DbusNetwork(kind=kind)) as client, DbusAdapter(client=client, transport="tcp") as address:
        assert address.startswith("tcp:host=127.0.0.1,port=")
        done = list_names(kind)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["system"])
def test_exporter_falls_back_to_the_next_address(kind: str, bus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLES[kind], f"unix:path=/does/not/exist;{bus.tcp_address}")
    with serve(DbusNetwork(kind=kind)) as client, DbusAdapter(client=client):
        done = list_names(kind)

    assert done.returncode == 0, done.stderr


def test_missing_bus_is_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLES["system"], f"unix:path={tmp_path}/nobody")
    with (
        serve(DbusNetwork(kind="system")) as client,
        pytest.raises(DriverError, match=r"can't connect to the system bus at unix:path=.*nobody: No such file"),
        client.stream(),
    ):
        pass


def test_kind_is_told_by_a_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLES["session"], "tcp:host=127.0.0.1,port=1")
    driver = DbusNetwork(kind="session")

    assert driver.extra_labels()[DbusNetwork.KIND_LABEL] == "session"
    assert (driver.scheme, driver.args) == ("tcp", {"host": "127.0.0.1", "port": "1"})
