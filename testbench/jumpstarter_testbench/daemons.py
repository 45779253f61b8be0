"""Daemons on loopback, each started for the session by the first test that asks for it."""

from __future__ import annotations

import contextlib
import getpass
import http.client
import os
import random
import shlex
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jumpstarter_testbench.process import accepts, accepts_unix, running, running_on_free_port
from jumpstarter_testbench.requirements import need, need_module, program, unavailable

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class SshServer:
    """OpenSSH's server, which lets `user` in with `key`."""

    port: int
    user: str
    key: Path
    known_hosts: Path
    host: str = LOOPBACK

    def command(self, *arguments: str) -> list[str]:
        """The command line of OpenSSH's client for this server."""
        options = ["-F", "none", "-i", str(self.key), "-o", f"UserKnownHostsFile={self.known_hosts}"]
        options += ["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes"]
        return [program("ssh"), *options, "-p", str(self.port), f"{self.user}@{self.host}", *arguments]


@dataclass(frozen=True, kw_only=True)
class Bus:
    """A D-Bus message bus, on its Unix socket and on a TCP port that leads there."""

    socket: Path
    port: int
    host: str = LOOPBACK

    @property
    def address(self) -> str:
        """The address for clients on this machine."""
        return f"unix:path={self.socket}"

    @property
    def tcp_address(self) -> str:
        """The address over TCP."""
        return f"tcp:host={self.host},port={self.port}"


@dataclass(frozen=True, kw_only=True)
class NetworkServer:
    """A server that an address and a port describe well enough."""

    port: int
    host: str = LOOPBACK

    @property
    def url(self) -> str:
        """The server's root, for those that speak HTTP."""
        return f"http://{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class SnmpAgent:
    """Net-SNMP's agent with a table of power outlets that are 1 (on) or 2 (off)."""

    port: int
    outlets: int
    host: str = LOOPBACK
    community: str = "private"
    user: str = "operator"
    auth_password: str = "auth-password"
    priv_password: str = "priv-password"
    base_oid: str = "1.3.6.1.4.1.8072.9999.9999.1"

    def outlet_oid(self, number: int) -> str:
        """The object that is outlet `number`, counted from 1."""
        return f"{self.base_oid}.{number}"


@dataclass(frozen=True, kw_only=True)
class FileServer:
    """A server of the files in a directory."""

    host: str
    port: int
    directory: Path

    @property
    def url(self) -> str:
        """The server's root, for those that speak HTTP."""
        return f"http://{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class S3Server(NetworkServer):
    """An S3 service (moto) that takes any bucket name and these credentials."""

    access_key: str = "testbench-access"
    secret_key: str = "testbench-secret"
    region: str = "us-east-1"

    def create_bucket(self, name: str) -> None:
        """Make a bucket; names have at least three characters."""
        self._request("PUT", f"/{name}")

    def reset(self) -> None:
        """Forget all buckets and objects."""
        self._request("POST", "/moto-api/reset")

    def _request(self, method: str, path: str) -> None:
        status = http_status(self.host, self.port, method, path)
        if status != 200:
            raise RuntimeError(f"{method} {path}: the S3 service answered {status}")


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """OpenSSH's server with SFTP, for the user who runs the tests."""
    need("sshd", "ssh")
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host", "user"):
        subprocess.run(
            [program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", folder / name],
            check=True,
            timeout=30,
        )
    (folder / "authorized_keys").write_text((folder / "user.pub").read_text())
    if os.geteuid() == 0:  # where sshd confines its unprivileged part; Debian makes it when the service starts
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)

    def command(port: int) -> list[str | Path]:
        config = folder / "sshd_config"
        config.write_text(
            f"Port {port}\n"
            f"ListenAddress {LOOPBACK}\n"
            f'HostKey "{folder / "host"}"\n'
            f'AuthorizedKeysFile "{folder / "authorized_keys"}"\n'
            f'PidFile "{folder / "pid"}"\n'
            "UsePAM no\n"
            "StrictModes no\n"
            "PasswordAuthentication no\n"
            "PermitRootLogin prohibit-password\n"
            "Subsystem sftp internal-sftp\n"
            "MaxStartups 100\n"
        )
        return [program("sshd"), "-D", "-e", "-f", config]

    with running_on_free_port(command, log=folder / "log", ready=lambda port: accepts(LOOPBACK, port)) as port:
        known_hosts = folder / "known_hosts"
        key = " ".join((folder / "host.pub").read_text().split()[:2])
        known_hosts.write_text(f"[{LOOPBACK}]:{port} {key}\n")
        yield SshServer(port=port, user=getpass.getuser(), key=folder / "user", known_hosts=known_hosts)


_BUS_CONFIG = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>{type}</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
  </policy>
</busconfig>
"""


@contextlib.contextmanager
def _bus(kind: str, folder: Path) -> Iterator[Bus]:
    need("dbus", "socat")
    path, config = folder / "bus", folder / "bus.conf"
    config.write_text(_BUS_CONFIG.format(type=kind, socket=path))
    with (
        running(
            [program("dbus-daemon"), f"--config-file={config}", "--nofork", "--nopidfile"],
            log=folder / "log",
            ready=lambda: accepts_unix(path),
        ),
        running_on_free_port(
            lambda port: [program("socat"), f"TCP-LISTEN:{port},bind={LOOPBACK},fork", f"UNIX-CONNECT:{path}"],
            log=folder / "socat.log",
            ready=lambda port: accepts(LOOPBACK, port),
        ) as port,
    ):
        yield Bus(socket=path, port=port)


@pytest.fixture(scope="session")
def dbus_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """A session bus."""
    with _bus("session", tmp_path_factory.mktemp("dbus-session")) as bus:
        yield bus


@pytest.fixture(scope="session")
def dbus_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """A system bus where everybody may do everything."""
    with _bus("system", tmp_path_factory.mktemp("dbus-system")) as bus:
        yield bus


@pytest.fixture(scope="session")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NetworkServer]:
    """An MQTT broker without passwords."""
    need("mosquitto")
    folder = tmp_path_factory.mktemp("mosquitto")

    def command(port: int) -> list[str | Path]:
        config = folder / "mosquitto.conf"
        # As root it would switch to a user who can't read this directory.
        config.write_text(f"listener {port} {LOOPBACK}\nallow_anonymous true\nuser {getpass.getuser()}\n")
        return [program("mosquitto"), "-c", config]

    with running_on_free_port(command, log=folder / "log", ready=lambda port: accepts(LOOPBACK, port)) as port:
        yield NetworkServer(port=port)


@pytest.fixture(scope="session")
def snmpd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SnmpAgent]:
    """Net-SNMP's agent in front of eight power outlets, all off at first; v2c and v3 with SHA and AES."""
    need("snmpd")
    folder = tmp_path_factory.mktemp("snmpd")
    agent = SnmpAgent(port=0, outlets=8)
    # snmpd splits its directives at blanks, quoted or not, so that the arguments go into a script.
    table = folder / "outlets"
    arguments = [
        sys.executable,
        str(Path(__file__).with_name("snmp_outlets.py")),
        f".{agent.base_oid}",
        str(agent.outlets),
    ]
    table.write_text(f"#!/bin/sh\nexec {shlex.join(arguments)}\n")
    table.chmod(0o755)

    def command(port: int) -> list[str | Path]:
        config = folder / "snmpd.conf"
        config.write_text(
            f"agentaddress udp:{LOOPBACK}:{port}\n"
            f"rwcommunity {agent.community} {LOOPBACK}\n"
            f"createUser {agent.user} SHA {agent.auth_password} AES {agent.priv_password}\n"
            f"rwuser {agent.user} authPriv\n"
            f"pass_persist .{agent.base_oid} {table}\n"
        )
        return [program("snmpd"), "-f", "-Lo", "-C", "-c", config, "-p", folder / "pid"]

    def answers(port: int) -> bool:
        options = ["-v2c", "-c", agent.community, "-t", "1", "-r", "0", "-Oqv"]
        command = [program("snmpget"), *options, f"{LOOPBACK}:{port}", f".{agent.outlet_oid(1)}"]
        return subprocess.run(command, capture_output=True, timeout=10).stdout == b"2\n"

    with running_on_free_port(
        command,
        log=folder / "log",
        ready=answers,
        kind=socket.SOCK_DGRAM,
        env={"SNMP_PERSISTENT_DIR": str(folder / "state")},
    ) as port:
        yield SnmpAgent(port=port, outlets=agent.outlets)


def own_loopback_address() -> str:
    """An address of the loopback network that most likely nobody else uses, for protocols with a fixed port."""
    return f"127.{random.randint(1, 254)}.{random.randint(0, 254)}.{random.randint(2, 254)}"


@pytest.fixture(scope="session")
def tftpd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileServer]:
    """tftpd-hpa on an address of its own, serving a directory and taking uploads into it."""
    need("tftpd")
    if os.geteuid() != 0:
        unavailable("tftpd-hpa confines itself with chroot, which needs root")
    folder = tmp_path_factory.mktemp("tftpd")
    directory = folder / "files"
    directory.mkdir()
    directory.chmod(0o777)
    host = own_loopback_address()
    with running_on_free_port(
        lambda port: [
            *(program("in.tftpd"), "--foreground", "--secure", "--create", "--permissive", "--umask", "022"),
            *("--user", "nobody", "--address", f"{host}:{port}", directory),
        ],
        log=folder / "log",
        ready=lambda port: tftp_answers(host, port),
        host=host,
        kind=socket.SOCK_DGRAM,
    ) as port:
        yield FileServer(host=host, port=port, directory=directory)


def tftp_answers(host: str, port: int) -> bool:
    """Tell whether a TFTP server answers a read request (RFC 1350), be it with an error."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.3)
        client.sendto(struct.pack("!H", 1) + b"no-such-file\0octet\0", (host, port))
        opcode: int = struct.unpack("!H", client.recv(2048)[:2])[0]
        return opcode in (3, 5)


@pytest.fixture(scope="session")
def ustreamer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NetworkServer]:
    """µStreamer without a camera: it serves its "no signal" picture."""
    need("ustreamer")
    folder = tmp_path_factory.mktemp("ustreamer")
    with running_on_free_port(
        lambda port: [program("ustreamer"), "--host", LOOPBACK, "--port", str(port), "--device", folder / "no-camera"],
        log=folder / "log",
        ready=lambda port: http_status(LOOPBACK, port, "GET", "/state") == 200,
    ) as port:
        yield NetworkServer(port=port)


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NetworkServer]:
    """Redis that keeps nothing on disk."""
    need("redis")
    folder = tmp_path_factory.mktemp("redis")
    with running_on_free_port(
        lambda port: [
            *(program("redis-server"), "--port", str(port), "--bind", LOOPBACK),
            *("--save", "", "--appendonly", "no", "--dir", folder),
        ],
        log=folder / "log",
        ready=lambda port: accepts(LOOPBACK, port),
    ) as port:
        yield NetworkServer(port=port)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 service in memory."""
    need_module("moto", "moto[server]")
    folder = tmp_path_factory.mktemp("s3")
    with running_on_free_port(
        lambda port: [sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", str(port)],
        log=folder / "log",
        ready=lambda port: http_status(LOOPBACK, port, "GET", "/moto-api/") == 200,
        timeout=30,
    ) as port:
        yield S3Server(port=port)


@pytest.fixture(scope="session")
def webdav(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileServer]:
    """A WebDAV server that lets everybody read and write a directory."""
    need_module("wsgidav", "wsgidav")
    folder = tmp_path_factory.mktemp("webdav")
    directory = folder / "files"
    directory.mkdir()
    with running_on_free_port(
        lambda port: [
            *(sys.executable, "-m", "wsgidav.server.server_cli", "--host", LOOPBACK, "--port", str(port)),
            *("--root", directory, "--auth", "anonymous", "--server", "cheroot", "--no-config"),
        ],
        log=folder / "log",
        ready=lambda port: http_status(LOOPBACK, port, "OPTIONS", "/") == 200,
        timeout=30,
    ) as port:
        yield FileServer(host=LOOPBACK, port=port, directory=directory)


def http_status(host: str, port: int, method: str, path: str) -> int:
    """The status that an HTTP server answers with.

    Raises:
        OSError: nobody listens there, or the answer is not HTTP.
    """
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request(method, path)
        return connection.getresponse().status
    except http.client.HTTPException as error:
        raise ConnectionError(f"{method} {path}: {error!r}") from error
    finally:
        connection.close()
