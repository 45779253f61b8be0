"""Corellium's REST interface with its virtual devices, and the WebSocket of their consoles."""

from __future__ import annotations

import json
import secrets
import ssl
import threading
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request as Handshake
from websockets.http11 import Response
from websockets.sync.server import Server, ServerConnection, serve

from .certificates import LOOPBACK, Certificate
from .http import Answer, HttpDevice, Request

JSON = {"Content-Type": "application/json; charset=utf-8"}
CONSOLES = {"Primary Compute Non-Secure": "port-1-cons", "System Control Processor": "port-2-cons"}


@dataclass
class Machine:
    """One instance; its state changes by itself, a step per look."""

    id: str
    name: str
    project: str
    flavor: str
    os: str
    osbuild: str
    state: str = "creating"
    coming: list[str] = field(default_factory=lambda: ["booting", "on"])

    def look(self) -> None:
        """Let time pass."""
        if self.coming:
            self.state = self.coming.pop(0)


class CorelliumService(HttpDevice):
    """The service, with one project and two models; a context manager that serves REST and consoles."""

    def __init__(self, token: str = "secret-token", certificate: Certificate | None = None) -> None:
        """Prepare a service without instances."""
        super().__init__(certificate)
        self.token = token
        self.machines: dict[str, Machine] = {}
        self.broken = False
        """Instances that are switched on end in the state error."""
        self.slow = False
        """Instances stay where they are."""
        self.greeting = b"boot: ready\r\n"
        """What a console says first."""
        self.console_tickets: set[str] = set()
        self.open_consoles: list[ServerConnection] = []
        self._console_server: Server = serve(
            self._console, LOOPBACK, 0, ssl=_context(certificate), process_request=self._admit
        )
        self._console_thread = threading.Thread(target=self._console_server.serve_forever, daemon=True)
        self._ws = "ws" if certificate is None else "wss"

    def __enter__(self) -> Self:
        self._console_thread.start()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._console_server.shutdown()
        self._console_thread.join(10)
        super().__exit__(kind, error, trace)

    def answer(self, request: Request) -> Answer:
        """Answer as the service does."""
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return _failure(403, "PermissionDenied", "Invalid or missing authorization token")
        parts = request.path.removeprefix("/api").strip("/").split("/")
        match request.method, parts:
            case "GET", ["v1", "projects"]:
                return _json([_PROJECT])
            case "GET", ["v1", "models"]:
                return _json(_MODELS)
            case "GET", ["v1", "instances"]:
                found = [self._described(each) for each in self.machines.values()]
                self._pass_time()
                return _json(found)
            case "POST", ["v1", "instances"]:
                return self._create(json.loads(request.body))
            case method, ["v1", "instances", name, *rest]:
                machine = self.machines.get(name)
                if machine is None:
                    return _failure(
                        404, "InstanceNotFound", f"No instance associated with this value: {name}", name="instance"
                    )
                return self._of_machine(method, rest, machine, request)
        return _failure(404, "UserError", "Not found")

    def _of_machine(self, method: str, rest: list[str], machine: Machine, request: Request) -> Answer:
        match method, rest:
            case "GET", []:
                return _json(self._described(machine))
            case "PUT", ["state"]:
                wanted = json.loads(request.body).get("state")
                if wanted not in ("on", "off"):
                    return _failure(400, "UserError", f"Invalid state: {wanted}", field="state")
                machine.coming = [] if self.slow else [*(["booting"] if wanted == "on" else []), self._end(wanted)]
                return Answer(b"", 204)
            case "DELETE", []:
                machine.state, machine.coming = "deleting", ["gone"]
                return Answer(b"", 204)
            case "GET", ["console"]:
                if f"port-{request.query.get('type')}" not in CONSOLES.values() or machine.state != "on":
                    return _failure(400, "UserError", "Invalid console type", field="type")
                ticket = secrets.token_hex(8)
                self.console_tickets.add(ticket)
                port = self._console_server.socket.getsockname()[1]
                return _json({"url": f"{self._ws}://{LOOPBACK}:{port}/console?token={ticket}"})
        return _failure(404, "UserError", "Not found")

    def _create(self, body: dict[str, Any]) -> Answer:
        if body.get("project") != _PROJECT["id"]:
            return _failure(404, "UserError", "Project not found", field="project")
        if body.get("flavor") not in [model["flavor"] for model in _MODELS]:
            return _failure(400, "UserError", "Unsupported flavor", field="flavor")
        machine = Machine(
            secrets.token_hex(8), body["name"], body["project"], body["flavor"], body["os"], body["osbuild"]
        )
        machine.coming = [] if self.slow else ["booting", self._end("on")]
        self.machines[machine.id] = machine
        return _json({"id": machine.id, "state": machine.state, "created": "2026-02-03T04:05:06.000Z"})

    def _end(self, wanted: str) -> str:
        return "error" if self.broken and wanted == "on" else wanted

    def _pass_time(self) -> None:
        for machine in list(self.machines.values()):
            machine.look()
            if machine.state == "gone":
                del self.machines[machine.id]

    @staticmethod
    def _described(machine: Machine) -> dict[str, Any]:
        return {
            "id": machine.id,
            "name": machine.name,
            "key": f"key-{machine.id}",
            "flavor": machine.flavor,
            "type": "iot",
            "project": machine.project,
            "state": machine.state,
            "stateChanged": "2026-02-03T04:05:06.000Z",
            "bootOptions": {"bootArgs": "", "additionalTags": []},
            "serviceIp": "10.11.1.1",
            "consoles": [
                {"name": name, "id": key, "port": 2000 + number, "hash": "00", "info": ""}
                for number, (name, key) in enumerate(CONSOLES.items())
            ],
            "panicked": False,
            "os": machine.os,
            "patches": [],
            "createdBy": {"id": "user", "username": "user", "label": "User"},
        }

    def _admit(self, connection: ServerConnection, request: Handshake) -> Response | None:
        ticket = parse_qs(urlsplit(request.path).query).get("token", [""])[0]
        if ticket not in self.console_tickets:
            return connection.respond(HTTPStatus.FORBIDDEN, "no such console\n")
        # An address is good for one connection.
        self.console_tickets.discard(ticket)
        return None

    def _console(self, connection: ServerConnection) -> None:
        self.open_consoles.append(connection)
        try:
            connection.send(self.greeting)
            for message in connection:
                content = message.encode() if isinstance(message, str) else message
                connection.send(content.replace(b"\r", b"\r\n"))
        except ConnectionClosed:
            pass
        finally:
            self.open_consoles.remove(connection)


_PROJECT: dict[str, Any] = {
    "id": "d59db33d-27bd-4b22-878d-49e4758a648e",
    "name": "Default Project",
    "settings": {"version": 1, "internet-access": True},
    "quotas": {"cores": 60},
    "quotasUsed": {"cores": 0},
}

_MODELS: list[dict[str, Any]] = [
    {
        "type": "automotive",
        "name": "rd1ae",
        "flavor": "kronos",
        "description": "",
        "model": "kronos",
        "peripherals": False,
        "quotas": {"cores": 16, "cpus": 16},
    },
    {
        "type": "iot",
        "name": "rpi4b",
        "flavor": "rpi4b",
        "description": "",
        "model": "rpi4b",
        "peripherals": True,
        "quotas": {"cores": 4, "cpus": 4},
        "snapshots": True,
    },
]


def _json(value: Any) -> Answer:
    return Answer(json.dumps(value), headers=JSON)


def _failure(status: int, error_id: str, text: str, **more: str) -> Answer:
    return Answer(json.dumps({"error": text, "errorID": error_id, **more}), status, JSON)


def _context(certificate: Certificate | None) -> ssl.SSLContext | None:
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.file, certificate.key)
    return context
