"""SSH with Fabric against OpenSSH's own server."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from jumpstarter.common.utils import serve

from jumpstarter_driver_network.adapters import FabricAdapter
from jumpstarter_driver_network.driver import TcpNetwork

pytestmark = pytest.mark.daemon


def test_commands_run_and_files_travel(sshd: Any, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(bytes(range(256)) * 1000)
    with (
        serve(TcpNetwork(host=sshd.host, port=sshd.port)) as client,
        FabricAdapter(client=client, user=sshd.user, connect_kwargs={"key_filename": str(sshd.key)}) as ssh,
    ):
        assert ssh.run("echo hello", hide=True, in_stream=False).stdout == "hello\n"
        assert ssh.run("exit 3", hide=True, in_stream=False, warn=True).exited == 3
        ssh.put(str(tmp_path / "up"), str(tmp_path / "there"))
        ssh.get(str(tmp_path / "there"), str(tmp_path / "down"))

    assert (tmp_path / "down").read_bytes() == (tmp_path / "up").read_bytes()
    assert not ssh.is_connected


def test_wrong_key_is_refused(sshd: Any, tmp_path: Path) -> None:
    import paramiko

    key = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True, timeout=30)
    with (
        serve(TcpNetwork(host=sshd.host, port=sshd.port)) as client,
        FabricAdapter(
            client=client,
            user=sshd.user,
            connect_kwargs={"key_filename": str(key), "allow_agent": False, "look_for_keys": False},
        ) as ssh,
        pytest.raises(paramiko.AuthenticationException),
    ):
        ssh.run("true", hide=True, in_stream=False)
