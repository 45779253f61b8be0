"""A lab from its first start on, by the commands that people type: the server, its admin, a client and an exporter."""

from __future__ import annotations

import json
import re
import signal
import socket
import stat
import sys
from base64 import b64decode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jumpstarter_testing import eventually

from .programs import JMP, LIMIT, J, Outcome, Program

pytestmark = pytest.mark.slow

Run = Callable[..., Outcome]
Start = Callable[..., Program]

LOCAL = (
    *("--listen", "127.0.0.1:0"),
    *("--router-listen", "127.0.0.1:0"),
    *("--web-listen", ""),
    *("--metrics-listen", ""),
)


class Lab:
    """A server that was started with `jmp controller run`, and the programs of a person on the same machine."""

    def __init__(self, run: Run, start: Start, home: Path) -> None:
        self._run, self._start, self.home = run, start, home
        self.server: Program

    def serve(self, *options: str) -> Lab:
        """Start the server."""
        self.server = self._start(JMP, "controller", "run", *(options or LOCAL))
        self.server.wait_for("The lab is ready at")
        return self

    @property
    def endpoint(self) -> str:
        """What the server says that peers dial."""
        found = re.search(r"The lab is ready at (\S+),", self.server.out)
        assert found is not None
        return found[1]

    @property
    def folder(self) -> Path:
        """Where the lab is kept."""
        return self.home / ".local" / "share" / "jumpstarter" / "lab"

    def config(self, kind: str, alias: str) -> dict[str, Any]:
        """Return what a config file says."""
        found: dict[str, Any] = yaml.safe_load(self.path(kind, alias).read_text())
        return found

    def path(self, kind: str, alias: str) -> Path:
        return self.home / ".config" / "jumpstarter" / kind / f"{alias}.yaml"

    def jmp(self, *words: str, **env: str) -> str:
        """Run `jmp`, which has to work, and return what it printed."""
        outcome = self._run(JMP, *words, env=env)
        assert outcome.code == 0, outcome
        return outcome.out

    def failure(self, *words: str, **env: str) -> str:
        """Run `jmp`, which has to fail with one message, and return that."""
        return self._run(JMP, *words, env=env).failure()

    def board(self, name: str = "my-board") -> Program:
        """Make an exporter with a power supply that only pretends, and run it."""
        self.jmp("admin", "create", "exporter", name, "--label", "board=demo", "--save")
        path = self.path("exporters", name)
        text = path.read_text()
        assert "export: {}" in text
        power = "export: {power: {type: jumpstarter_driver_power.driver.MockPower}}"
        path.write_text(text.replace("export: {}", power))
        program = self._start(JMP, "run", "--exporter", name)
        program.wait_for("registered with the controller")
        return program


@pytest.fixture
def home(program_env: dict[str, str]) -> Path:
    program_env.pop("XDG_CONFIG_HOME")
    program_env.pop("XDG_DATA_HOME", None)
    return Path(program_env["HOME"])


@pytest.fixture
def lab(run: Run, start: Start, home: Path) -> Iterator[Lab]:
    opened = Lab(run, start, home).serve()
    yield opened
    if opened.server.process.poll() is None:
        assert opened.server.stop(signal.SIGTERM).code == 0


# --- the first start -------------------------------------------------------------------------------------------------


def test_the_first_start_says_what_to_type_and_that_works(lab: Lab) -> None:
    commands = re.findall(r"^  jmp (.*)$", lab.server.out, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["admin", "admin", "run"]
    for command in commands[:2]:
        lab.jmp(*command.split())
    client = commands[1].split()[3]
    assert lab.config("clients", client)["endpoint"] == lab.endpoint
    assert "my-board" in lab.jmp("get", "exporters")


def test_what_a_lab_keeps_is_for_its_owner_alone(lab: Lab) -> None:
    assert stat.S_IMODE(lab.folder.stat().st_mode) == 0o700
    kept = [*lab.folder.rglob("*"), lab.path("admins", "lab")]
    assert len(kept) >= 3
    assert [path for path in kept if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077] == []


def test_a_lab_that_starts_again_knows_its_accounts(lab: Lab) -> None:
    lab.jmp("admin", "create", "client", "alice", "--unsafe", "--save")
    endpoint = lab.endpoint
    assert lab.server.stop(signal.SIGTERM).code == 0
    lab.serve("--listen", endpoint, *LOCAL[2:])
    assert "What to type next" not in lab.server.out
    assert lab.jmp("admin", "get", "clients", "-o", "name") == "client.jumpstarter.dev/alice\n"
    assert lab.jmp("get", "exporters", "-o", "name") == ""


# --- accounts, by the ids of the scenarios ---------------------------------------------------------------------------


def test_A01_configs_of_new_accounts_work_as_they_are(lab: Lab) -> None:
    lab.jmp("admin", "create", "client", "alice", "--unsafe", "--save")
    lab.board()
    for kind, alias in (("clients", "alice"), ("exporters", "my-board")):
        config = lab.config(kind, alias)
        assert config["endpoint"] == lab.endpoint
        assert config["token"].count(".") == 2
        assert config["tls"]["ca"]
        assert config["tls"]["insecure"] is False
    assert lab.jmp("get", "exporters", "-o", "name") == "my-board\n"
    assert lab.jmp("shell", "--selector", "board=demo", "--", J, "power", "on") == ""


def test_A02_the_environment_alone_makes_a_client(lab: Lab, tmp_path: Path) -> None:
    out = tmp_path / "alice.yaml"
    lab.jmp("admin", "create", "client", "alice", "--unsafe", "--out", str(out))
    lab.board()
    config = yaml.safe_load(out.read_text())
    out.unlink()
    lab.jmp(
        *("shell", "--selector", "board=demo", "--", J, "power", "on"),
        JMP_NAMESPACE="default",
        JMP_NAME="alice",
        JMP_ENDPOINT=config["endpoint"],
        JMP_TOKEN=config["token"],
        JMP_TLS=json.dumps(config["tls"]),
        JMP_DRIVERS_ALLOW="jumpstarter_driver_*",
    )


def test_A09_an_expired_token_is_told_with_what_to_do(lab: Lab, run: Run) -> None:
    lab.jmp("admin", "create", "client", "alice", "--unsafe", "--save", "--token-life", "1s")

    def expired() -> None:
        assert "jmp login" in lab.failure("get", "exporters")

    eventually(expired, timeout=LIMIT)
    assert "Token is expired, logging in again" in run(JMP, "get", "exporters").err
    assert "Status: EXPIRED" in re.sub(r"\x1b\[\d*m", "", lab.jmp("auth", "status"))


def test_A09_the_token_of_an_admin_that_has_expired_is_told_with_what_to_do(lab: Lab, tmp_path: Path) -> None:
    out = str(tmp_path / "late.yaml")
    lab.jmp("admin", "create", "admin", "late", "--out", out, "--token-life", "1s")

    def expired() -> None:
        assert "token is expired" in lab.failure("admin", "status", "--admin-config", out)

    eventually(expired, timeout=LIMIT)
    assert "jmp controller reset-admin" in lab.failure("admin", "status", "--admin-config", out)


def test_A16_each_rotation_gives_a_token_of_its_own_that_works(lab: Lab) -> None:
    lab.jmp("admin", "create", "client", "alice", "--unsafe", "--save")
    tokens = [lab.config("clients", "alice")["token"]]

    def take() -> None:
        tokens.append(lab.config("clients", "alice")["token"])
        assert lab.jmp("get", "exporters", "-o", "name") == ""

    assert "Token rotated" in lab.jmp("admin", "rotate", "client", "-n", "default", "alice", "--save")
    take()
    assert "Token rotated" in lab.jmp("auth", "rotate", "--client", "alice")
    take()
    assert "Token rotated" in lab.jmp("auth", "rotate", "--client", "alice")
    take()
    # Without --save the config keeps the former token, which is accepted for a while.
    assert "Token rotated" in lab.jmp("admin", "rotate", "client", "alice")
    assert lab.jmp("get", "exporters", "-o", "name") == ""
    assert "updated with new token" in lab.jmp("admin", "rotate", "client", "alice", "--save")
    take()
    assert len(set(tokens)) == 5
    assert "nobody not found" in lab.failure("admin", "rotate", "client", "nobody")


def test_A20_deleted_accounts_are_gone_and_refused(lab: Lab) -> None:
    lab.jmp("admin", "create", "client", "alice", "--unsafe", "--save")
    exporter = lab.board()
    lab.jmp("admin", "delete", "client", "--namespace", "default", "alice", "--nointeractive")
    lab.jmp("admin", "delete", "exporter", "--namespace", "default", "my-board", "--delete")
    assert lab.jmp("admin", "get", "clients", "-o", "name") == ""
    assert lab.jmp("admin", "get", "exporters", "-o", "name") == ""
    assert not lab.path("exporters", "my-board").exists()
    assert "not found" in lab.failure("admin", "get", "client", "alice")
    assert "alice" in lab.failure("get", "exporters", "--client", "alice")
    exporter.wait_for('"my-board" not found')
    # One of the same name is another account, which the former token does not belong to.
    lab.jmp("admin", "create", "client", "alice", "--nointeractive")
    lab.failure("get", "exporters", "--client", "alice")


# --- a board, and who may have it ------------------------------------------------------------------------------------


def test_a_policy_from_a_file_decides_who_gets_the_board(lab: Lab, tmp_path: Path) -> None:
    for name, team in (("alice", "a"), ("bob", "b")):
        lab.jmp("admin", "create", "client", name, "-l", f"team={team}", "--unsafe", "--save")
    lab.board()
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "metadata: {name: boards}\nspec:\n  policies:\n    - description: team a only\n"
        "      from: [{clientSelector: {matchLabels: {team: a}}}]\n      maximumDuration: 1h\n"
    )
    lab.jmp("admin", "apply", "-f", str(policy))
    shell = ("shell", "-l", "board=demo", "--duration", "30m")
    lab.jmp(*shell, "--client", "alice", "--", J, "power", "on")
    assert "team a only" in lab.failure(*shell, "--client", "bob", "--", J, "power", "on")
    lab.jmp("admin", "label", "client", "bob", "team=a")
    lab.jmp(*shell, "--client", "bob", "--", J, "power", "on")


def test_an_admin_ends_the_lease_of_somebody_else_and_the_record_tells(lab: Lab, start: Start) -> None:
    lab.jmp("admin", "create", "client", "alice", "--unsafe", "--save")
    lab.board()
    shell = start(JMP, "shell", "-l", "board=demo", "--", "sh", "-c", "echo up; exec sleep 300")
    shell.wait_for("up")
    (lease,) = lab.jmp("admin", "get", "leases", "-o", "name").split()
    name = lease.rpartition("/")[2]
    lab.jmp("admin", "end", "lease", name, "--reason", "the rack is moved")
    assert shell.end().code != 0
    assert lab.jmp("admin", "get", "leases", "-o", "name") == ""

    def recorded() -> None:
        found = json.loads(lab.jmp("admin", "audit", "--lease", name, "--since", "1h", "-o", "json"))["items"]
        ends = [entry for entry in found if entry["action"] == "lease.end"]
        assert [entry["actor"]["kind"] for entry in ends] == ["admin"]

    eventually(recorded, timeout=LIMIT)


def test_a_disabled_exporter_is_not_given_any_more(lab: Lab) -> None:
    lab.jmp("admin", "create", "client", "alice", "--unsafe", "--save")
    lab.board()
    lab.jmp("admin", "disable", "exporter", "my-board")
    text = lab.failure("shell", "-n", "my-board", "--", J, "power", "on")
    assert "disabled" in text
    lab.jmp("admin", "enable", "exporter", "my-board")
    lab.jmp("shell", "-n", "my-board", "--", J, "power", "on")


# --- a server that can't start, and one that is told things ----------------------------------------------------------


def test_a_second_server_for_the_same_folder_is_told_of_the_first(lab: Lab) -> None:
    text = lab.failure("controller", "run", *LOCAL)
    assert f"in use by the process {lab.server.process.pid}" in text
    assert lab.jmp("admin", "status", "-o", "name") == f"{lab.endpoint}\n"


def test_the_admin_is_not_reset_under_a_running_server(lab: Lab) -> None:
    assert f"in use by the process {lab.server.process.pid}" in lab.failure("controller", "reset-admin")


def test_an_admin_who_lost_the_config_gets_a_new_one_from_the_stopped_server(lab: Lab) -> None:
    endpoint = lab.endpoint
    lab.path("admins", "lab").unlink()
    assert "No admin config is chosen" in lab.failure("admin", "status")
    lab.server.stop(signal.SIGTERM)
    lab.jmp("controller", "reset-admin")
    lab.serve("--listen", endpoint, *LOCAL[2:])
    config = lab.config("admins", "lab")
    assert endpoint in lab.jmp("admin", "status")
    lab.jmp("admin", "config", "import", str(lab.folder / "admin.yaml"), "--alias", "again")
    assert config["token"] == lab.config("admins", "again")["token"]
    assert endpoint in lab.jmp("admin", "status", "--admin", "again")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--listen", "lab"), "listen 'lab' is not of the form host:port"),
        (("--listen", "192.0.2.7:8082"), "this machine has no such address"),
        (("--listen", "no.such.host.invalid:8082"), "the host is unknown"),
        (("--endpoint", "lab.example.com"), "endpoint 'lab.example.com' is not of the form host:port"),
        (("--data", "/proc/lab"), "the folder /proc/lab can't be made"),
        (("--config", "/no/such.yaml"), "'/no/such.yaml' does not exist"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_made(
    options: tuple[str, ...], said: str, run: Run, home: Path
) -> None:
    given = [word for pair in zip(LOCAL[::2], LOCAL[1::2], strict=True) if pair[0] not in options for word in pair]
    assert said in run(JMP, "controller", "run", *given, *options).failure()
    assert list(home.iterdir()) == []


def test_a_port_that_is_taken_is_told(run: Run, home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        text = run(JMP, "controller", "run", "--listen", address, *LOCAL[2:]).failure()
    assert f"can't listen on {address}" in text
    assert "another program listens there already" in text
    assert list(home.iterdir()) == []


def write_certificate(certificate: Path, key: Path, days: float) -> None:
    """Make a certificate for loopback that ends in so many days."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "lab")])
    private = ec.generate_private_key(ec.SECP256R1())
    ends = datetime.now(UTC) + timedelta(days=days)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ends - timedelta(days=30))
        .not_valid_after(ends)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("text", "is no PEM file with a certificate"),
        ("other key", "the key does not belong to the first certificate"),
        ("expired", "has expired at"),
    ],
)
def test_a_certificate_that_can_not_be_used_is_told(
    wrong: str, said: str, run: Run, home: Path, tmp_path: Path
) -> None:
    certificate, key = tmp_path / "lab.crt", tmp_path / "lab.key"
    write_certificate(certificate, key, days=-1 if wrong == "expired" else 1)
    if wrong == "text":
        certificate.write_text("-----BEGIN NOTHING-----\n")
    if wrong == "other key":
        write_certificate(tmp_path / "other.crt", key, days=1)
    text = run(JMP, "controller", "run", *LOCAL, "--tls-cert", str(certificate), "--tls-key", str(key)).failure()
    assert said in text
    assert str(certificate) in text
    assert list(home.iterdir()) == []


def test_a_certificate_of_ones_own_is_shown_and_trusted(run: Run, start: Start, home: Path, tmp_path: Path) -> None:
    certificate, key = tmp_path / "lab.crt", tmp_path / "lab.key"
    write_certificate(certificate, key, days=1)
    lab = Lab(run, start, home).serve(*LOCAL, "--tls-cert", str(certificate), "--tls-key", str(key))
    lab.jmp("admin", "create", "client", "alice", "--unsafe", "--save")
    assert b64decode(lab.config("clients", "alice")["tls"]["ca"]) == certificate.read_bytes()
    assert lab.jmp("get", "exporters", "-o", "name") == ""
    assert lab.server.stop(signal.SIGTERM).code == 0


def test_all_mistakes_of_a_config_are_told_with_their_lines(run: Run, home: Path, tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text("listen: lab\nleases:\n  maxtags: 3\n")
    text = run(JMP, "controller", "run", "--config", str(path)).failure()
    assert f"{path}:1: listen:" in text
    assert f"{path}:3: leases.maxtags: unknown key; did you mean 'maxTags'?" in text
    assert list(home.iterdir()) == []


def test_the_example_of_a_config_can_be_used(run: Run, start: Start, home: Path, tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(run(JMP, "controller", "config", "--example").out)
    shown = yaml.safe_load(run(JMP, "controller", "config", "--config", str(path)).out)
    assert shown["listen"] == "127.0.0.1:8082"
    lab = Lab(run, start, home).serve("--config", str(path), *LOCAL)
    assert lab.server.stop(signal.SIGINT).code == 0


def test_a_hangup_looks_at_the_config_and_changes_nothing(run: Run, start: Start, home: Path, tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.touch()
    lab = Lab(run, start, home).serve("--config", str(path), *LOCAL)
    lab.server.send(signal.SIGHUP)
    lab.server.wait_for("certificates are read again when they change")
    path.write_text("exprot: 3\n")
    lab.server.send(signal.SIGHUP)
    lab.server.wait_for(f"{path}:1: exprot: unknown key")
    assert lab.endpoint in lab.jmp("admin", "status")
    assert lab.server.stop(signal.SIGTERM).code == 0


def test_log_lines_can_be_objects(run: Run, start: Start, home: Path) -> None:
    lab = Lab(run, start, home).serve(*LOCAL, "--log-format", "json")
    outcome = lab.server.stop(signal.SIGTERM)
    lines = [json.loads(line) for line in outcome.err.splitlines() if line.startswith("{")]
    assert [line["level"] for line in lines if lab.endpoint in line["message"]] == ["info"]
    assert {"time", "level", "logger", "message"} <= lines[0].keys()


@pytest.mark.skipif(sys.platform != "linux", reason="systemd is for Linux")
def test_a_service_manager_is_told_when_the_lab_is_ready_and_when_it_ends(
    run: Run, start: Start, home: Path, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(LIMIT)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
        server = start(JMP, "controller", "run", *LOCAL, env=env)
        assert manager.recv(1000).startswith(b"READY=1\nSTATUS=Serving the lab at 127.0.0.1:")
        assert manager.recv(1000) == b"WATCHDOG=1"
        server.send(signal.SIGHUP)
        told = b""
        while b"RELOADING" not in told:
            told = manager.recv(1000)
        assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", told)
        server.send(signal.SIGTERM)
        while told != b"STOPPING=1":
            told = manager.recv(1000)
        assert server.end().code == 0
