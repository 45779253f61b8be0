"""`jmp run`: the standalone exporter, and the supervisor around it."""

from __future__ import annotations

import datetime
import ipaddress
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner
from jumpstarter_testing import eventually

from . import run as run_module
from .conftest import TIMEOUT, J
from .jmp import jmp
from .run import CRASHED, DONE, _judge, _parse_listener_bind, _serve_with_exc_handling

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]

PASSPHRASE = "open sesame"


class Exporter:
    """A running `jmp run`, whose stderr is read line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []

    def wait_for(self, text: str) -> str:
        """Read on until a line contains `text`."""
        assert self.process.stderr is not None
        # A process that says nothing any more must not hold the test for ever.
        limit = threading.Timer(TIMEOUT, self.process.kill)
        limit.start()
        try:
            for line in self.process.stderr:
                self.lines.append(line)
                if text in line:
                    return line
        finally:
            limit.cancel()
        raise AssertionError(f"{text!r} is not in the output: {''.join(self.lines)}")

    def child(self) -> int:
        """Return the process id of the exporter below the supervisor."""
        (pid,) = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(pid)

    def stop(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT)


@pytest.fixture
def serve(start_jmp: Start, exporter_config: Path, free_tcp_port: int) -> Callable[..., tuple[Exporter, str]]:
    """Start a standalone exporter and return it with its address."""

    def start(*args: str, config: Path = exporter_config, **env: str) -> tuple[Exporter, str]:
        address = f"127.0.0.1:{free_tcp_port}"
        options = ["--exporter-config", str(config), "--tls-grpc-listener", address]
        exporter = Exporter(start_jmp("run", *options, *args, env=env))
        exporter.wait_for("serving on")
        return exporter, address

    return start


Serve = Callable[..., tuple[Exporter, str]]

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")


# --- serving directly ------------------------------------------------------------------------------------------------


def test_a_client_uses_an_exporter_directly(serve: Serve, run_jmp: Run) -> None:
    exporter, address = serve("--tls-grpc-insecure")
    result = run_jmp("shell", "--tls-grpc", address, "--tls-grpc-insecure", "--", *J, "power", "read")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("voltage=")
    assert exporter.stop(signal.SIGTERM) == 143


def test_the_exit_code_of_the_command_is_that_of_the_direct_shell(serve: Serve, run_jmp: Run) -> None:
    _, address = serve("--tls-grpc-insecure")
    assert run_jmp("shell", "--tls-grpc", address, "--tls-grpc-insecure", "sh", "-c", "exit 9").returncode == 9


def test_the_right_passphrase_opens(serve: Serve, run_jmp: Run) -> None:
    _, address = serve("--tls-grpc-insecure", "--passphrase", PASSPHRASE)
    options = ["shell", "--tls-grpc", address, "--tls-grpc-insecure"]
    assert run_jmp(*options, "--passphrase", PASSPHRASE, *J, "power", "on").returncode == 0
    assert run_jmp(*options, *J, "power", "on", JMP_GRPC_PASSPHRASE=PASSPHRASE).returncode == 0


@pytest.mark.parametrize("given", [["--passphrase", "guessed"], []])
def test_another_passphrase_does_not(given: list[str], serve: Serve, run_jmp: Run) -> None:
    _, address = serve("--tls-grpc-insecure", JMP_GRPC_PASSPHRASE=PASSPHRASE)
    result = run_jmp("shell", "--tls-grpc", address, "--tls-grpc-insecure", *given, *J, "power", "on")
    assert result.returncode == 1
    assert "Authentication failed: invalid or missing passphrase" in result.stderr
    assert PASSPHRASE not in result.stderr
    assert "guessed" not in result.stderr


def test_an_exporter_that_is_not_there_is_told(run_jmp: Run, free_tcp_port: int) -> None:
    result = run_jmp("shell", "--tls-grpc", f"127.0.0.1:{free_tcp_port}", "--tls-grpc-insecure", "true")
    assert result.returncode == 1
    assert "did not respond" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate of 127.0.0.1 and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    cert = builder.add_extension(alternative, critical=False).sign(key, hashes.SHA256())
    folder = tmp_path_factory.mktemp("tls")
    cert_path, key_path = folder / "cert.pem", folder / "key.pem"
    cert_path.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_path, key_path


def test_tls_keeps_plain_clients_away_and_serves_those_that_verify_nothing(
    serve: Serve, run_jmp: Run, certificate: tuple[Path, Path]
) -> None:
    _, address = serve("--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1]))
    refused = run_jmp("shell", "--tls-grpc", address, "--tls-grpc-insecure", "true")
    assert refused.returncode == 1
    served = run_jmp("shell", "--tls-grpc", address, "true", JUMPSTARTER_GRPC_INSECURE="1")
    assert (served.returncode, served.stderr) == (0, "")


def test_a_key_that_does_not_fit_is_told_before_anything_starts(
    run_jmp: Run, exporter_config: Path, certificate: tuple[Path, Path]
) -> None:
    cert = str(certificate[0])
    options = ["--tls-grpc-listener", "127.0.0.1:1", "--tls-cert", cert, "--tls-key", cert]
    result = run_jmp("run", "--exporter-config", str(exporter_config), *options)
    assert result.returncode == 1
    assert "can't be used" in result.stderr


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1234", ("0.0.0.0", 1234)),
        (":1234", ("0.0.0.0", 1234)),
        ("127.0.0.1:1234", ("127.0.0.1", 1234)),
        ("[::1]:1234", ("::1", 1234)),
        ("host.example:65535", ("host.example", 65535)),
    ],
)
def test_listener_addresses(value: str, expected: tuple[str, int]) -> None:
    assert _parse_listener_bind(value) == expected


@pytest.mark.parametrize("value", ["", "host", "host:", "1:0", "65536", "a:b", "-1"])
def test_wrong_listener_addresses(value: str) -> None:
    with pytest.raises(click.BadParameter, match=r"\[HOST:\]PORT"):
        _parse_listener_bind(value)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--tls-grpc-insecure"], "can only be used with --tls-grpc-listener"),
        (["--passphrase", "x"], "can only be used with --tls-grpc-listener"),
        (["--tls-grpc-listener", "1234"], "needs either --tls-cert and --tls-key, or --tls-grpc-insecure"),
        (["--tls-grpc-listener", "x", "--tls-grpc-insecure"], "[HOST:]PORT"),
        (["--tls-grpc-listener", "1234", "--tls-grpc-insecure", "--passphrase", "schlüssel"], "--passphrase"),
    ],
)
def test_options_that_make_no_sense_together(options: list[str], text: str, exporter_config: Path) -> None:
    result = CliRunner().invoke(jmp, ["run", "--exporter-config", str(exporter_config), *options])
    assert result.exit_code == 2
    assert text in result.stderr


def test_an_open_door_is_warned_of(monkeypatch: pytest.MonkeyPatch, exporter_config: Path) -> None:
    monkeypatch.setattr(run_module, "_serve_with_exc_handling", lambda *_: 0)
    options = ["run", "--exporter-config", str(exporter_config), "--tls-grpc-insecure", "--tls-grpc-listener"]
    assert "Warning: everybody who can reach" in CliRunner().invoke(jmp, [*options, "1234"]).stderr
    assert CliRunner().invoke(jmp, [*options, "127.0.0.1:1234"]).stderr == ""
    assert CliRunner().invoke(jmp, [*options, "1234", "--passphrase", "x"]).stderr == ""


def test_without_controller_or_listener_the_config_is_refused_once(run_jmp: Run, exporter_config: Path) -> None:
    result = run_jmp("run", "--exporter-config", str(exporter_config))
    assert result.returncode == 1
    assert result.stderr.count("endpoint and token not set") == 1
    assert "again" not in result.stderr


def test_a_missing_config_is_a_failure(run_jmp: Run) -> None:
    assert run_jmp("run", "--exporter", "nope").returncode == 1
    assert run_jmp("run").returncode == 2


def test_a_taken_port_is_told_once(serve: Serve, run_jmp: Run, exporter_config: Path) -> None:
    _, address = serve("--tls-grpc-insecure")
    options = ["--tls-grpc-listener", address, "--tls-grpc-insecure"]
    result = run_jmp("run", "--exporter-config", str(exporter_config), *options)
    assert result.returncode == 1
    assert address.partition(":")[2] in result.stderr
    assert "Traceback" not in result.stderr


# --- the supervisor --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 0)])
def test_a_signal_stops_the_exporter_and_is_told(number: signal.Signals, code: int, serve: Serve) -> None:
    exporter, _ = serve("--tls-grpc-insecure")
    assert exporter.stop(number) == code


@linux_only
def test_a_crashed_exporter_is_started_again(serve: Serve, run_jmp: Run) -> None:
    exporter, address = serve("--tls-grpc-insecure")
    first = exporter.child()
    os.kill(first, signal.SIGKILL)
    exporter.wait_for("was ended by SIGKILL")
    exporter.wait_for("serving on")
    assert exporter.child() != first
    assert run_jmp("shell", "--tls-grpc", address, "--tls-grpc-insecure", *J, "power", "on").returncode == 0
    assert exporter.stop(signal.SIGTERM) == 143


@linux_only
def test_the_exporter_does_not_outlive_its_supervisor(serve: Serve) -> None:
    exporter, _ = serve("--tls-grpc-insecure")
    child = exporter.child()
    exporter.process.kill()
    exporter.process.wait(TIMEOUT)
    # Its stderr is the pipe that is read here, so the end of the output is the end of the exporter.
    assert exporter.process.stderr is not None
    exporter.process.stderr.read()
    eventually(lambda: gone(child), timeout=10)


def gone(pid: int) -> None:
    """Fail while there is such a process."""
    assert not Path(f"/proc/{pid}").exists()


@linux_only
def test_helpers_of_a_crashed_exporter_are_ended(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "helper_driver.py").write_text(
        "import subprocess\n"
        "from jumpstarter_driver_power.driver import MockPower\n"
        "class Helper(MockPower):\n"
        "    def __post_init__(self):\n"
        "        super().__post_init__()\n"
        "        process = subprocess.Popen(['sleep', '300'])\n"
        "        self.logger.warning('helper is %d.', process.pid)\n"
    )
    config = tmp_path / "helper.yaml"
    config.write_text("metadata: {namespace: a, name: b}\nexport:\n  power: {type: helper_driver.Helper}\n")
    exporter, _ = serve("--tls-grpc-insecure", config=config, PYTHONPATH=str(tmp_path))
    helper = int(next(line for line in exporter.lines if "helper is" in line).rsplit(" ", 1)[1].rstrip(".\n"))
    os.kill(exporter.child(), signal.SIGKILL)
    exporter.wait_for("serving on")
    status = Path(f"/proc/{helper}/stat")
    # Nobody may be there to collect it, but it doesn't run any more.
    assert not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z"
    assert exporter.stop(signal.SIGTERM) == 143


def test_an_exporter_that_crashes_at_once_is_given_up(run_jmp: Run, tmp_path: Path, free_tcp_port: int) -> None:
    (tmp_path / "crashing_driver.py").write_text(
        "import os\n"
        "from jumpstarter_driver_power.driver import MockPower\n"
        "class Crashing(MockPower):\n"
        "    def __post_init__(self):\n"
        "        os.abort()\n"
    )
    config = tmp_path / "crashing.yaml"
    config.write_text(
        "metadata: {namespace: a, name: b}\n"
        "export:\n  power: {type: crashing_driver.Crashing}\n"
        "failureDetection: {maxRapidFailures: 3, rapidFailureWindow: 30}\n"
    )
    options = ["--tls-grpc-listener", f"127.0.0.1:{free_tcp_port}", "--tls-grpc-insecure"]
    result = run_jmp("run", "--exporter-config", str(config), *options, PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert result.stderr.count("was ended by SIGABRT") == 3
    assert "giving up" in result.stderr


@pytest.mark.parametrize(
    ("status", "stopped", "outcome"),
    [
        (0, None, None),
        (CRASHED, None, None),
        (-signal.SIGSEGV, None, None),
        (DONE, None, 0),
        (1, None, 1),
        (3, None, 3),
        (143, signal.SIGTERM, 143),
        (-signal.SIGKILL, signal.SIGTERM, 143),
        (0, signal.SIGHUP, 0),
        (CRASHED, signal.SIGHUP, 1),
        (-signal.SIGSEGV, signal.SIGHUP, 139),
    ],
)
def test_what_follows_from_the_end_of_a_child(status: int, stopped: int | None, outcome: int | None) -> None:
    assert _judge(status, stopped) == outcome


@pytest.fixture
def supervised(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The supervisor's loop with children of given life times that end in a given way."""
    state = SimpleNamespace(now=0.0, lives=[], forks=0, pauses=[])

    def fork() -> int:
        state.forks += 1
        return 4711

    def parent(_pid: int) -> int | None:
        life, outcome = state.lives.pop(0)
        state.now += life
        return outcome  # type: ignore[no-any-return]

    monkeypatch.setattr(os, "fork", fork)
    monkeypatch.setattr(run_module.time, "monotonic", lambda: state.now)
    monkeypatch.setattr(run_module, "_handle_parent", parent)
    monkeypatch.setattr(run_module, "_pause", state.pauses.append)
    return state


def config(most: int = 3, window: int = 60) -> Any:
    return SimpleNamespace(failure_detection=SimpleNamespace(max_rapid_failures=most, rapid_failure_window=window))


def test_the_outcome_of_a_child_ends_the_loop(supervised: SimpleNamespace) -> None:
    supervised.lives = [(100, None), (5, 143)]
    assert _serve_with_exc_handling(config()) == 143
    assert supervised.forks == 2


def test_too_many_rapid_failures_in_a_row_end_the_loop(supervised: SimpleNamespace) -> None:
    supervised.lives = [(1, None)] * 3
    assert _serve_with_exc_handling(config()) == 1
    assert supervised.forks == 3


def test_a_longer_run_starts_the_count_anew(supervised: SimpleNamespace) -> None:
    supervised.lives = [(1, None), (1, None), (61, None), (1, None), (1, None), (1, None)]
    assert _serve_with_exc_handling(config()) == 1
    assert supervised.forks == 6


def test_pauses_between_crashes_grow_up_to_a_limit(supervised: SimpleNamespace) -> None:
    supervised.lives = [(1, None)] * 12
    _serve_with_exc_handling(config(most=12))
    assert supervised.pauses[:4] == [0.1, 0.2, 0.4, 0.8]
    assert max(supervised.pauses) == 10


# Signals would meet the threads and timers of the test runner, so these tests have a process of their own.
STUBBORN = """\
import os, signal, subprocess, threading
from jumpstarter_cli import run
run.STOP_GRACE = 0.2
with run._signals_held():
    # The program inherits the blocked signals, so nothing but SIGKILL ends it.
    stubborn = subprocess.Popen(["sleep", "300"], start_new_session=True)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    print(run._handle_parent(stubborn.pid))
    stubborn.returncode = 0
"""

PAUSE = """\
import signal, threading
from jumpstarter_cli import run
with run._signals_held():
    print(run._pause(0.01))
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    print(run._pause(30))
"""


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=TIMEOUT, check=True)


def test_an_exporter_that_does_not_stop_is_killed_in_the_end() -> None:
    result = run_script(STUBBORN)
    assert result.stdout == "143\n"
    assert "did not stop within" in result.stderr


def test_a_pause_ends_by_time_or_by_a_signal() -> None:
    assert run_script(PAUSE).stdout == f"None\n{int(signal.SIGTERM)}\n"
