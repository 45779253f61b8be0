"""An SNMP agent in front of units of all families, with a user for each kind of SNMPv3 protection."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from jumpstarter_testbench import snmp_pdus
from jumpstarter_testbench.process import running_on_free_port
from jumpstarter_testbench.requirements import need, program

from jumpstarter_driver_snmp.driver import SNMPServer

AUTH_KEY, PRIV_KEY = "authentication-key", "encryption-key"

USERS = {
    "plain": ("NONE", "NONE"),
    "md5": ("MD5", "NONE"),
    "sha": ("SHA", "NONE"),
    "sha256": ("SHA256", "NONE"),
    "sha512": ("SHA512", "NONE"),
    "md5des": ("MD5", "DES"),
    "shaaes": ("SHA", "AES"),
    "sha224aes": ("SHA224", "AES"),
    "sha384aes": ("SHA384", "AES"),
    "sha256aes256": ("SHA256", "AES256"),
}
"""SNMPv3 users of the agent with their protocols."""

_NET_SNMP = {"SHA224": "SHA-224", "SHA256": "SHA-256", "SHA384": "SHA-384", "SHA512": "SHA-512", "AES256": "AES-256-C"}


def _user_lines() -> Iterator[str]:
    for name, (auth, priv) in USERS.items():
        line = f"createUser {name}"
        if auth != "NONE":
            line += f" {_NET_SNMP.get(auth, auth)} {AUTH_KEY}"
        if priv != "NONE":
            line += f" {_NET_SNMP.get(priv, priv)} {PRIV_KEY}"
        yield line
        yield f"rwuser {name} {'noauth' if auth == 'NONE' else 'auth' if priv == 'NONE' else 'priv'}"


def agent_command(folder: Path, port: int) -> list[str | Path]:
    """Write an agent's config into a folder and return the command that runs it there."""
    lines = [f"agentaddress udp:127.0.0.1:{port}", "rwcommunity private 127.0.0.1", "rocommunity public 127.0.0.1"]
    for family, subtree in snmp_pdus.SUBTREES.items():
        # snmpd splits its directives at blanks, quoted or not, so that the arguments go into a script.
        script = folder / family
        script.write_text(
            f"#!/bin/sh\nexec {shlex.join([sys.executable, '-I', '-S', str(Path(snmp_pdus.__file__)), family])}\n"
        )
        script.chmod(0o755)
        lines.append(f"pass_persist .{subtree} {script}")
    config = folder / "snmpd.conf"
    config.write_text("\n".join([*lines, *_user_lines(), ""]))
    config.chmod(0o600)
    # Without the machine's own configs, but with what this agent remembers.
    remembered = folder / "state" / "snmpd.conf"
    remembered.parent.mkdir(exist_ok=True)
    remembered.touch(mode=0o600)
    return [program("snmpd"), "-f", "-Lo", "-C", "-c", f"{config},{remembered}", "-p", folder / "pid"]


def agent_environment(folder: Path) -> dict[str, str]:
    """Return the environment of an agent; below the folder it keeps how often it was started."""
    return {"SNMP_PERSISTENT_DIR": str(folder / "state")}


def answers(port: int) -> bool:
    """Tell whether an agent answers."""
    command = [program("snmpget"), "-v2c", "-c", "public", "-t", "0.2", "-r", "0", f"127.0.0.1:{port}"]
    return subprocess.run([*command, "1.3.6.1.2.1.105.1.1.1.3.1.1"], capture_output=True, timeout=10).returncode == 0


@pytest.fixture(scope="session")
def pdus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of Net-SNMP's agent with the units of all families; its communities are `private` and `public`."""
    need("snmpd")
    folder = tmp_path_factory.mktemp("pdus")
    with running_on_free_port(
        lambda port: agent_command(folder, port),
        log=folder / "log",
        ready=answers,
        kind=socket.SOCK_DGRAM,
        env=agent_environment(folder),
    ) as port:
        # While a driver of the agent lives, others use the engines that were made for it: that saves half of the time.
        keeper = SNMPServer(host="127.0.0.1", port=port, plug=1, pdu="raritan", community="private")
        yield port
        keeper.close()


def ask_agent(port: int, oid: str) -> str:
    """The value of an object, as Net-SNMP's own client sees it."""
    command = [program("snmpget"), "-v2c", "-c", "public", "-Oqvn", f"127.0.0.1:{port}", oid]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
