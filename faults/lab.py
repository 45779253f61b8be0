"""A lab of real processes under test: controller, router, exporters and clients, each with ways that can be cut."""

from __future__ import annotations

import base64
import os
import random
import shutil
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, ExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import yaml
from anyio.from_thread import BlockingPortal, start_blocking_portal
from google.protobuf.empty_pb2 import Empty
from jumpstarter_controller.model.records import Rule
from jumpstarter_controller.model.selector import parse
from jumpstarter_controller.testing import NAMESPACE, Login, threaded_lab
from jumpstarter_testing import eventually

from .gate import Gate
from .observer import Observer
from .processes import BIN, JMP, PATIENCE, Process
from .worker import Worker

T = TypeVar("T")

DRIVERS = Path(__file__).parent / "drivers"

BOARDS = ("board-1", "board-2")
CLIENTS = {"alice": {}, "bob": {}, "carol": {}, "dora": {"use": "idle"}, "prover": {}, "observer": {}}
"""Clients and their labels; leases of dora end when they aren't used."""

IDLE = timedelta(seconds=4)
PENDING_GRACE = 8
"""Seconds after which a request is withdrawn whose client has gone."""

RECOVERY = 30.0
"""Seconds within which a board can be leased again, whatever happened."""
NOTICE = 15.0
"""Seconds within which a dead exporter is noticed."""

HOOK = """\
echo "$(date +%s%N) $$ {word} $LEASE_NAME $CLIENT_NAME" >> {folder}/journal
n=0
while [ -e {folder}/hold-{word} ] && [ $n -lt 1200 ]; do sleep 0.05; n=$((n + 1)); done
echo "$(date +%s%N) $$ {word}-done $LEASE_NAME $CLIENT_NAME" >> {folder}/journal
"""


@dataclass(frozen=True)
class Template:
    """The data of a controller that never served anybody, and its accounts."""

    folder: Path
    logins: dict[str, Login]

    @classmethod
    def make(cls, folder: Path) -> Template:
        """Make the accounts, in a controller in this process."""
        logins: dict[str, Login] = {}
        with threaded_lab(folder) as lab:
            for name, labels in CLIENTS.items():
                logins[name] = lab.client(name, labels=labels)
            for name in BOARDS:
                logins[name] = lab.exporter(name, labels={"board": name, "site": "here"})
            logins["router"] = lab.router("router")
            logins["admin"] = lab.admin("root")
            idle = Rule(clients=(parse("use=idle"),), idle_timeout=IDLE)
            free = Rule(clients=(parse("!use"),))
            lab.call(lambda: lab.running.policy("terms", idle, free))
        return cls(folder / "lab", logins)


@dataclass
class FaultLab:
    """A lab whose processes can be harmed; a context manager, used by one thread."""

    template: Template
    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the controller's config."""
    with_router: bool = True
    """Whether streams go through a router of its own process, which the exporters prefer."""
    data: Path | None = None
    """Folder of the controller's data; None for one in `folder`."""
    trust: str = ""
    """What peers trust instead of the lab's own authority, as `tls.ca` in configs has it."""
    controller_env: dict[str, str] = field(default_factory=dict)
    client_env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stack = ExitStack()
        self.processes: list[Process] = []
        self.controller: Process
        self.router: Process
        self.exporters: dict[str, Process] = {}
        self.gates: dict[str, Gate] = {}
        """To the controller by the name of the peer, and to routers by `streams` and `router`."""
        self.portal: BlockingPortal
        self.observer: Observer
        self.ports = free_ports(3)
        self.home = self.folder / "home"
        self.env = self._environment()

    def __enter__(self) -> FaultLab:
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def _open(self) -> None:
        self.home.mkdir(parents=True)
        if self.data is None:
            self.data = self.folder / "data"
        shutil.copytree(self.template.folder, self.data, dirs_exist_ok=True)
        self.portal = self.stack.enter_context(start_blocking_portal())
        control, streams, router = self.ports
        for name in (*BOARDS, *CLIENTS, "router-control"):
            self._gate(name, control)
        self._gate("streams", streams)
        self._gate("router", router)
        for name in BOARDS:
            (self.folder / name).mkdir()
        self.start_controller()
        if self.with_router:
            self.start_router()
        for name in BOARDS:
            self.start_exporter(name)
        self.observer = Observer(self.config("observer"))
        following = self.portal.start_task_soon(self.observer.run)
        self.stack.callback(following.cancel)
        self.wait_available(*BOARDS)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything."""
        for process in reversed(self.processes):
            process.close()
        self.stack.close()

    def _gate(self, name: str, target: int) -> None:
        gate = Gate(self.portal, target)
        self.gates[name] = self.stack.enter_context(self.portal.wrap_async_context_manager(gate.serving()))

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("JMP_", "JUMPSTARTER_"))}
        return kept | {
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home / ".config"),
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(DRIVERS),
            "PYTHONUNBUFFERED": "1",
            "TERM": "dumb",
        }

    # -- processes -------------------------------------------------------------------------------

    def start(self, name: str, *words: str, **env: str) -> Process:
        """Start `jmp` and remember to end it."""
        process = Process(name, [JMP, *words], self.env | env, self.folder)
        self.processes.append(process)
        return process

    def start_controller(self, **env: str) -> Process:
        """Start the controller, where it was before, and wait until it serves."""
        self.controller = self.launch_controller(**env)
        self.controller.wait_for("The lab is ready")
        return self.controller

    def launch_controller(self, **env: str) -> Process:
        """Start the controller."""
        control, streams, _ = self.ports
        config: dict[str, Any] = {
            "apiVersion": "jumpstarter.dev/v1alpha1",
            "kind": "ControllerConfig",
            "data": str(self.data),
            "listen": f"127.0.0.1:{control}",
            "router": {"listen": f"127.0.0.1:{streams}", "endpoint": f"127.0.0.1:{self.gates['streams'].port}"},
            "web": {"listen": ""},
            "metrics": {"listen": ""},
            "leases": {"pendingGrace": f"{PENDING_GRACE}s"},
        }
        path = write(self.folder / "controller.yaml", config | self.settings)
        return self.start("controller", "controller", "run", "--config", path, **self.controller_env | env)

    def start_router(self, **env: str) -> Process:
        """Start the router and wait until streams go to it."""
        config = self._account("router") | {
            "kind": "RouterConfig",
            "endpoint": f"127.0.0.1:{self.gates['router-control'].port}",
            "listen": f"127.0.0.1:{self.ports[2]}",
            "advertise": f"127.0.0.1:{self.gates['router'].port}",
            "labels": {"site": "here"},
        }
        path = write(self.folder / "router.yaml", config)
        self.router = self.start("router", "router", "run", "--config", path, **env)
        self.router.wait_for("joined the controller")
        self.wait_routed()
        return self.router

    def wait_routed(self, patience: float = PATIENCE) -> None:
        """Wait until streams go to the router, if there is one; those of the controller's own end with it."""
        if not self.with_router:
            return

        async def routers() -> list[Any]:
            async with self._admin() as stubs:
                return list((await stubs.admin.ListRouters(Empty())).routers)

        def joined() -> None:
            found = self.call(routers)
            assert any(item.name == "router" and item.online and not item.draining for item in found), (
                f"the router has not joined: {found}; it said {self.router.text!r}"
            )

        eventually(joined, timeout=patience, interval=0.1)

    def start_exporter(self, name: str) -> Process:
        """Start an exporter and wait until it has registered."""
        self.exporters[name] = self.launch_exporter(name)
        self.exporters[name].wait_for("registered with the controller")
        return self.exporters[name]

    def keep_exporter(self, name: str) -> None:
        """Start an exporter again and again in the background, until it has registered, as a service manager does."""

        def keep() -> None:
            deadline = time.monotonic() + 2 * RECOVERY
            while time.monotonic() < deadline:
                process = self.exporters[name] = self.launch_exporter(name)
                while process.running and time.monotonic() < deadline:
                    if "registered with the controller" in process.text:
                        return
                    time.sleep(0.05)
                time.sleep(0.5)

        threading.Thread(target=keep, daemon=True).start()

    def launch_exporter(self, name: str) -> Process:
        """Start an exporter."""
        folder = self.folder / name
        hooks = {
            f"{word}Lease": {"script": HOOK.format(word=word, folder=folder), "timeout": 90, "onFailure": "warn"}
            for word in ("before", "after")
        }
        config = self._account(name) | {
            "kind": "ExporterConfig",
            "export": {"board": {"type": "board.Board", "config": {"folder": str(folder)}}},
            "hooks": hooks,
            # Here it is killed again and again, of which each time counts alone.
            "failureDetection": {"maxRapidFailures": 1000, "rapidFailureWindow": 1},
        }
        return self.start(name, "run", "--exporter-config", write(self.folder / f"{name}.yaml", config))

    def _account(self, name: str) -> dict[str, Any]:
        login = self.template.logins[name]
        return {
            "apiVersion": "jumpstarter.dev/v1alpha1",
            "metadata": {"namespace": NAMESPACE, "name": login.key.name},
            "endpoint": f"127.0.0.1:{self.gates[name].port if name in self.gates else self.ports[0]}",
            "token": login.token,
            "tls": {"ca": self.trust} if self.trust else login.tls,
        }

    def programs_of(self, name: str) -> dict[str, str]:
        """Return the environment of a client's programs."""
        drivers = {"allow": ["*"], "unsafe": False}
        path = write(self.folder / f"{name}.yaml", self._account(name) | {"kind": "ClientConfig", "drivers": drivers})
        return self.client_env | {"JMP_CLIENT_CONFIG": path}

    def jmp(self, client: str, *words: str, **env: str) -> Process:
        """Start `jmp` as a client."""
        return self.start(client, *words, **self.programs_of(client), **env)

    def shell(self, client: str, *words: str) -> tuple[Process, Worker]:
        """Start a shell of a client in which a worker waits for orders."""
        worker = Worker(self.folder)
        self.stack.callback(worker.close)
        command = ("shell", *words, "--", "python", str(DRIVERS / "worker.py"))
        return self.jmp(client, *command, FAULTS_WORKER=str(worker.path)), worker

    # -- the lab from here -----------------------------------------------------------------------

    def config(self, client: str) -> Any:
        """Return the config of a client for use in this process, past the gates."""
        trust = {"tls": {"ca": self.trust}} if self.trust else {}
        return self.template.logins[client].client_config(endpoint=f"127.0.0.1:{self.ports[0]}", **trust)

    def call(self, work: Callable[[], Coroutine[Any, Any, T]], patience: float = PATIENCE) -> T:
        """Run a coroutine function on the event loop.

        Raises:
            AssertionError: it takes too long.
        """
        import anyio

        async def bounded() -> T:
            with anyio.fail_after(patience):
                return await work()

        try:
            return self.portal.call(bounded)
        except TimeoutError:
            raise AssertionError(f"no answer within {patience:g} s") from None

    def wait_available(self, *names: str, patience: float = PATIENCE) -> None:
        """Wait until exporters are online, available and without a lease."""
        for name in names:
            self.observer.wait(partial(is_free, name), patience, f"{name} is available")

    def lease(self, client: str, board: str, minutes: float = 10) -> str:
        """Request a lease and return its name at once."""
        config = self.config(client)
        lease = self.call(lambda: config.create_lease(timedelta(minutes=minutes), exporter_name=board))
        return str(lease.name)

    def release(self, client: str, name: str) -> None:
        """Give a lease back."""
        config = self.config(client)
        self.call(lambda: config.delete_lease(name))

    def use(self, client: str, name: str, patience: float = RECOVERY) -> None:
        """Use the board of a lease through a router."""
        config = self.config(client)

        async def use() -> None:
            async with (
                BlockingPortal() as portal,
                config.lease_async(None, None, name, timedelta(minutes=10), portal) as lease,
            ):
                with ExitStack() as stack:
                    async with lease.connect_async(stack) as root:
                        await root.children["board"].call_async("use", name)

        self.call(use, patience)

    def journal(self, board: str) -> list[list[str]]:
        """Return what happened to a board: time, process, what, lease."""
        path = self.folder / board / "journal"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def wait_journal(self, board: str, what: str, lease: str, patience: float = PATIENCE) -> None:
        """Wait until something has happened to a board."""

        def written() -> None:
            lines = self.journal(board)
            assert any(line[2:4] == [what, lease] for line in lines), f"no {what} of {lease} at {board}: {lines}"

        eventually(written, timeout=patience, interval=0.02)

    def _admin(self) -> AbstractAsyncContextManager[Any]:
        login = self.template.logins["admin"]
        trusted = base64.b64decode(self.trust).decode() if self.trust else login.ca
        return replace(login, endpoint=f"127.0.0.1:{self.ports[0]}", ca=trusted).stubs()

    def audit(self) -> list[Any]:
        """Return the audit record, the oldest entry first."""
        from jumpstarter_protocol import admin_pb2

        async def read() -> list[Any]:
            async with self._admin() as stubs:
                entries: list[Any] = []
                token = ""
                while True:
                    request = admin_pb2.ListAuditRequest(
                        parent=f"namespaces/{NAMESPACE}", page_size=1000, page_token=token
                    )
                    page = await stubs.admin.ListAudit(request)
                    entries += page.entries
                    token = page.next_page_token
                    if not token:
                        return sorted(entries, key=lambda entry: entry.id)

        return self.call(read)

    def told(self) -> str:
        """Return the last that each program has said, and what happened to the boards."""
        texts = [f"--- {process.path.name}\n{process.text[-3000:]}" for process in self.processes[-12:]]
        texts += [f"--- journal of {name}\n" + "\n".join(map(" ".join, self.journal(name)[-20:])) for name in BOARDS]
        return "\n".join(texts)

    def flag(self, board: str, name: str) -> Path:
        """Return the file by which hooks and calls of a board are held or let go."""
        return self.folder / board / name


def is_free(name: str, seen: Observer) -> bool:
    """Tell whether an exporter could be leased at once."""
    exporter = seen.exporters.get(name)
    return (
        exporter is not None
        and exporter.online
        and not exporter.lease_name
        and str(exporter.status).endswith("AVAILABLE")
    )


def write(path: Path, document: dict[str, Any]) -> str:
    """Write a config, for its owner alone."""
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return str(path)


def free_ports(count: int) -> list[int]:
    """Return TCP ports of loopback that nobody listens on, none of those that the system gives to connections."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found
