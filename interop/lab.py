"""A lab of our controller as a real process, and exporters and clients of any release in it."""

from __future__ import annotations

import base64
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import yaml
from jumpstarter_protocol import admin_pb2, admin_pb2_grpc, client_pb2_grpc
from jumpstarter_protocol.jumpstarter.v1 import common_pb2
from processes import PATIENCE, Process, environment, free_port

NAMESPACE = "default"
OURS = Path(sys.executable).parent

CHANNEL_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    # The controller goes away and comes back.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]

STATUSES = {name.removeprefix("EXPORTER_STATUS_"): number for name, number in common_pb2.ExporterStatus.items()}


@dataclass
class Lab:
    """A controller with its router; it can be stopped and started again on the same port and data."""

    folder: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the controller's config file."""
    port: int = field(default_factory=free_port)
    process: Process | None = None
    clients: dict[str, Client] = field(default_factory=dict)
    _channels: dict[str, grpc.Channel] = field(default_factory=dict)
    """By the certificates that they trust."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Start the controller and wait until it serves."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "controller.yaml"
        config.write_text(yaml.safe_dump({"web": {"listen": ""}, "metrics": {"listen": ""}, **self.config}))
        log = self.folder / "controller.log"
        before = log.stat().st_size if log.exists() else 0
        command = [OURS / "jmp", "controller", "run", "--config", config, "--data", self.folder / "data"]
        command += ["--listen", f"127.0.0.1:{self.port}"]
        self.process = Process(command, log, environment(self.folder))
        self.process.__enter__()
        admin = self.folder / "data" / "admin.yaml"
        self.process.until(
            lambda: "The lab is ready" in self.process.output[before:] and admin.exists(), "the controller serves"
        )

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the controller by a signal and wait for its end."""
        assert self.process is not None
        self.process.signal(number)
        self.process.wait()
        self.process = None

    @contextmanager
    def running(self) -> Generator[Lab, None, None]:
        """Run the controller while the body runs."""
        self.start()
        try:
            yield self
        finally:
            for channel in self._channels.values():
                channel.close()
            if self.process is not None:
                self.process.__exit__()

    # -- what an admin does ----------------------------------------------------------------------

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def admin_config(self) -> Any:
        """The config of the first admin, which the first start makes."""
        return yaml.safe_load((self.folder / "data" / "admin.yaml").read_text())

    def admin(self, rpc: str, request: Any) -> Any:
        """Call an rpc of the admin service."""
        return self._call(self.admin_config, "Admin", admin_pb2_grpc.AdminServiceStub, rpc, request)

    def as_client(self, client: Client, rpc: str, request: Any) -> Any:
        """Call an rpc of the client service as a client."""
        config = yaml.safe_load(client.config.read_text())
        return self._call(config, "Client", client_pb2_grpc.ClientServiceStub, rpc, request)

    def _call(self, config: Any, kind: str, stub: Callable[[grpc.Channel], Any], rpc: str, request: Any) -> Any:
        metadata = (
            ("authorization", f"Bearer {config['token']}"),
            ("jumpstarter-kind", kind),
            ("jumpstarter-namespace", config["metadata"]["namespace"]),
            ("jumpstarter-name", config["metadata"]["name"]),
        )
        channel = self._channel(config["tls"]["ca"])
        return getattr(stub(channel), rpc)(request, metadata=metadata, timeout=PATIENCE, wait_for_ready=True)

    def _channel(self, ca: str) -> grpc.Channel:
        with self._lock:
            if ca not in self._channels:
                credentials = grpc.ssl_channel_credentials(base64.b64decode(ca))
                self._channels[ca] = grpc.secure_channel(self.endpoint, credentials, CHANNEL_OPTIONS)
            return self._channels[ca]

    def _account(self, kind: Any, name: str, labels: Mapping[str, str]) -> dict[str, Any]:
        parent = f"namespaces/{NAMESPACE}"
        made = self.admin(
            "CreateAccount", admin_pb2.CreateAccountRequest(kind=kind, parent=parent, id=name, labels=dict(labels))
        )
        return {
            "apiVersion": "jumpstarter.dev/v1alpha1",
            "metadata": {"namespace": NAMESPACE, "name": name},
            "endpoint": made.endpoint,
            "tls": {"ca": base64.b64encode(made.ca.encode()).decode(), "insecure": False},
            "token": made.token,
        }

    def client(self, name: str) -> Client:
        """Return a client, which is made the first time."""
        if name not in self.clients:
            home = self.folder / f"client-{name}"
            home.mkdir()
            config = self._account(admin_pb2.KIND_CLIENT, name, {})
            path = home / "client.yaml"
            path.write_text(
                yaml.safe_dump({**config, "kind": "ClientConfig", "drivers": {"allow": [], "unsafe": True}})
            )
            self.clients[name] = Client(name, path)
        return self.clients[name]

    @contextmanager
    def exporter(
        self,
        release: Path,
        name: str,
        export: Mapping[str, Any],
        *,
        labels: Mapping[str, str] | None = None,
        ready: bool = True,
        **config: Any,
    ) -> Generator[Exporter, None, None]:
        """Make an exporter and run it with a release; it can be leased when the body begins.

        Args:
            release: bin folder.
            name: of the exporter.
            export: its drivers.
            labels: what it is chosen by; it always has `name`.
            ready: whether it reports statuses, as it does since 0.8.
            config: further members of its config.
        """
        home = self.folder / f"exporter-{name}"
        home.mkdir()
        account = self._account(admin_pb2.KIND_EXPORTER, name, {"name": name, **(labels or {})})
        path = home / "exporter.yaml"
        path.write_text(yaml.safe_dump({**account, "kind": "ExporterConfig", "export": dict(export), **config}))
        exporter = Exporter(self, name, path, release)
        exporter.start()
        try:
            if ready:
                exporter.until("AVAILABLE")
            else:
                exporter.until_free()
            yield exporter
        finally:
            exporter.stop()


@dataclass
class Exporter:
    """An exporter of a release as a process."""

    lab: Lab
    name: str
    config: Path
    release: Path
    process: Process | None = None

    def start(self) -> None:
        """Start the process."""
        env = environment(self.config.parent, JMP_DRIVERS_ALLOW="UNSAFE")
        command = [self.release / "jmp", "run", "--exporter-config", self.config]
        self.process = Process(command, self.config.with_suffix(".log"), env)
        self.process.__enter__()

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.__exit__()
            self.process = None

    def kill(self) -> None:
        """End the process and those that it has started without giving them time for anything."""
        assert self.process is not None
        children = descendants(self.process.process.pid)
        self.process.signal(signal.SIGKILL)
        for child in children:
            try:
                signal_process(child)
            except ProcessLookupError:
                pass
        self.process.wait()
        self.process = None

    @property
    def state(self) -> Any:
        """What the controller knows of it, as `jumpstarter.lab.v1.ExporterState`; has `online` as well."""
        name = f"namespaces/{NAMESPACE}/exporters/{self.name}"
        return self.lab.admin("GetAccount", admin_pb2.NameRequest(name=name)).exporter

    @property
    def status(self) -> str:
        """Its status; OFFLINE while its connection is lost."""
        state = self.state
        if not state.online:
            return "OFFLINE"
        return {number: name for name, number in STATUSES.items()}[state.state.exporter.status]

    def until(self, *statuses: str, free: bool | None = None, patience: float = PATIENCE) -> None:
        """Wait until it has one of these statuses, and no lease if `free`, or one if not `free`."""

        def reached() -> bool:
            state = self.state
            if free is not None and bool(state.state.lease) == free:
                return False
            return self.status in statuses

        what = f"exporter {self.name} is {' or '.join(statuses)}"
        assert self.process is not None
        wait = self.process.until if statuses != ("OFFLINE",) else _until_of(self.process)
        wait(reached, what, patience)

    @property
    def log(self) -> str:
        """What it has written to standard error, over all its starts."""
        return self.config.with_suffix(".err").read_text(errors="replace")

    def until_free(self) -> None:
        """Wait until it can be leased, whether it reports statuses or not."""
        self.until("AVAILABLE", "UNSPECIFIED", free=True)


def _until_of(process: Process) -> Any:
    from processes import until

    return lambda condition, what, patience: until(condition, what, patience, about=process)


@dataclass
class Client:
    """A client account, as which programs of any release run."""

    name: str
    config: Path
    count: int = 0

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of its programs."""
        return environment(self.config.parent, **more)

    def start(self, release: Path, *arguments: Any, **env: str) -> Process:
        """Return a program `jmp ...` that is started by entering it; `--client-config` is added where it belongs."""
        self.count += 1
        log = self.config.parent / f"run-{self.count}.log"
        return Process(self._command(release, arguments), log, self.environment(**env))

    def _command(self, release: Path, arguments: tuple[Any, ...]) -> list[Any]:
        words = [str(argument) for argument in arguments]
        depth = 1 if words[0] == "shell" else 2
        return [release / "jmp", *words[:depth], "--client-config", self.config, *words[depth:]]

    def run(self, release: Path, *arguments: Any, patience: float = PATIENCE, **env: str) -> Result:
        """Run `jmp ...` to its end."""
        return self._run(self._command(release, arguments), patience, env)

    def _run(self, parts: list[Any], patience: float, env: Mapping[str, str]) -> Result:
        command = [str(part) for part in parts]
        done = subprocess.run(
            command,
            env=self.environment(**env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=patience,
            check=False,
        )
        return Result(command, done.returncode, done.stdout, done.stderr)

    def run_bare(self, release: Path, *arguments: Any, patience: float = PATIENCE, **env: str) -> Result:
        """Run `jmp ...` without naming the config."""
        return self._run([release / "jmp", *arguments], patience, env)

    def do(self, release: Path, *arguments: Any, patience: float = PATIENCE, **env: str) -> str:
        """Run `jmp ...`, which must succeed, and return its standard output."""
        result = self.run(release, *arguments, patience=patience, **env)
        assert result.code == 0, result
        return result.out.strip()

    def lease(self, release: Path, name: str) -> dict[str, Any]:
        """Return one of its leases as `jmp get leases -o json` shows it."""
        listed = json.loads(self.do(release, "get", "leases", "--all", "-o", "json"))
        return next(lease for lease in listed["leases"] if lease["name"] == name)


@dataclass(frozen=True)
class Result:
    """What a program did."""

    command: list[str]
    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Everything it wrote, without colours and with single spaces, so that wrapped lines read as one."""
        return re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;]*m", "", f"{self.out} {self.err}"))

    def __str__(self) -> str:
        return f"{' '.join(self.command)} ended with {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


def descendants(pid: int) -> list[int]:
    """Return the processes that a process has started, directly or not."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def signal_process(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a process."""
    import os

    os.kill(pid, number)
