"""Plugs and controllers that are switched by HTTP: Shelly of two generations, Tasmota, PiKVM."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
from typing import Any
from urllib.parse import parse_qsl

from .certificates import Certificate
from .http import Answer, HttpDevice, Request

JSON = {"Content-Type": "application/json"}


def _basic(request: Request, user: str, password: str) -> bool:
    expected = base64.b64encode(f"{user}:{password}".encode()).decode()
    return request.headers.get("authorization") == f"Basic {expected}"


class _Plug(HttpDevice):
    """A relay with a meter."""

    def __init__(self, password: str | None = None, certificate: Certificate | None = None) -> None:
        """Prepare a plug that is off."""
        super().__init__(certificate)
        self.password = password
        self.on = False
        self.stuck = False
        """The relay does not move."""

    def switch(self, on: bool) -> None:
        """Move the relay, if it can."""
        if not self.stuck:
            self.on = on


class ShellyGen1(_Plug):
    """Shelly of the first generation: `/relay/0?turn=on`, `/emeter/0` as the 3EM has it; Basic authentication.

    https://shelly-api-docs.shelly.cloud/gen1/
    """

    def answer(self, request: Request) -> Answer:
        """Answer as the plug does."""
        if self.password is not None and not _basic(request, "admin", self.password):
            return Answer("401 Unauthorized", 401, {"WWW-Authenticate": 'Basic realm="shelly"'})
        if request.path == "/relay/0":
            if (turn := {**request.query, **dict(parse_qsl(request.body.decode()))}.get("turn")) is not None:
                if turn not in ("on", "off", "toggle"):
                    return Answer("Bad turn value!", 400)
                self.switch(not self.on if turn == "toggle" else turn == "on")
            return Answer(
                json.dumps(
                    {
                        "ison": self.on,
                        "has_timer": False,
                        "timer_started": 0,
                        "timer_duration": 0,
                        "timer_remaining": 0,
                        "overpower": False,
                        "is_valid": True,
                        "source": "http",
                    }
                ),
                headers=JSON,
            )
        if request.path == "/emeter/0":
            values = {"power": 27.42, "pf": 0.61, "current": 0.19, "voltage": 236.86, "is_valid": True, "total": 182.5}
            return Answer(json.dumps(values), headers=JSON)
        return Answer("Not Found", 404)


class ShellyGen2(_Plug):
    """Shelly of the second and later generations: `/rpc/Switch.Set`; Digest authentication with SHA-256, user admin.

    https://shelly-api-docs.shelly.cloud/gen2/General/Authentication
    """

    realm = "shellyplugsg3-b0b21c10b478"

    def __init__(self, password: str | None = None, certificate: Certificate | None = None) -> None:
        """Prepare a plug that is off."""
        super().__init__(password, certificate)
        self._nonces: set[str] = set()

    def answer(self, request: Request) -> Answer:
        """Answer as the plug does."""
        if self.password is not None and not self._let_in(request):
            nonce = secrets.token_hex(4)
            self._nonces.add(nonce)
            challenge = f'Digest qop="auth", realm="{self.realm}", nonce="{nonce}", algorithm=SHA-256'
            return Answer("", 401, {"WWW-Authenticate": challenge})
        arguments: dict[str, Any] = dict(request.query)
        if request.method == "POST":
            arguments = json.loads(request.body or b"{}")
        name = request.path.removeprefix("/rpc/")
        if request.path == "/rpc":
            name, arguments = arguments.get("method", ""), arguments.get("params", {})
        if name not in ("Switch.Set", "Switch.GetStatus"):
            return Answer(json.dumps({"code": 404, "message": f"No handler for {name}"}), 404, JSON)
        if str(arguments.get("id")) != "0":
            problem = {"code": -105, "message": f"Argument 'id', value {arguments.get('id')} not found!"}
            return Answer(json.dumps(problem), 500, JSON)
        if name == "Switch.Set":
            was_on = self.on
            self.switch(str(arguments.get("on")).lower() == "true")
            return Answer(json.dumps({"was_on": was_on}), headers=JSON)
        return Answer(
            json.dumps(
                {
                    "id": 0,
                    "source": "HTTP_in",
                    "output": self.on,
                    "apower": 8.9,
                    "voltage": 237.5,
                    "current": 0.06,
                    "aenergy": {"total": 6.532, "by_minute": [45.199, 47.141, 88.397], "minute_ts": 1626935779},
                    "temperature": {"tC": 23.5, "tF": 74.4},
                }
            ),
            headers=JSON,
        )

    def _let_in(self, request: Request) -> bool:
        scheme, _, rest = request.headers.get("authorization", "").partition(" ")
        if scheme != "Digest":
            return False
        fields = {key: quoted or plain for key, quoted, plain in re.findall(r'(\w+)=(?:"([^"]*)"|([^\s,]+))', rest)}

        def digest(text: str) -> str:
            return hashlib.sha256(text.encode()).hexdigest()

        first = digest(f"admin:{self.realm}:{self.password}")
        second = digest(f"{request.method}:{request.target}")
        known = (fields.get("nonce", ""), fields.get("nc", ""), fields.get("cnonce", ""), fields.get("qop", ""))
        return (
            fields.get("username") == "admin"
            and fields.get("uri") == request.target
            and known[0] in self._nonces
            and fields.get("response") == digest(":".join([first, *known, second]))
        )


class TasmotaHttp(_Plug):
    """Tasmota's web requests, `/cm?cmnd=Power%20On`; the password travels in the query.

    https://tasmota.github.io/docs/Commands/#with-web-requests
    """

    def answer(self, request: Request) -> Answer:
        """Answer as the plug does."""
        if request.path != "/cm":
            return Answer("Not found", 404)
        query = request.query
        if self.password is not None and (query.get("user"), query.get("password")) != ("admin", self.password):
            return Answer(json.dumps({"WARNING": "Need user=<username>&password=<password>"}), headers=JSON)
        command, _, argument = query.get("cmnd", "").strip().partition(" ")
        match command.lower(), argument.strip().lower():
            case "power", ("on" | "1" | "off" | "0") as wanted:
                self.switch(wanted in ("on", "1"))
            case "power", "":
                pass
            case "status", "10":
                energy = {
                    "TotalStartTime": "2026-01-01T00:00:00",
                    "Total": 3.185,
                    "Power": 51,
                    "ApparentPower": 66,
                    "Factor": 0.77,
                    "Voltage": 231,
                    "Current": 0.286,
                }
                sensors = {"StatusSNS": {"Time": "2026-02-03T04:05:06", "ENERGY": energy}}
                return Answer(json.dumps(sensors), headers=JSON)
            case _:
                return Answer(json.dumps({"Command": "Unknown"}), headers=JSON)
        return Answer(json.dumps({"POWER": "ON" if self.on else "OFF"}), headers=JSON)


class PiKvm(_Plug):
    """PiKVM's control of a PC's power button: `POST /api/atx/power?action=on`; Basic authentication or headers.

    https://docs.pikvm.org/api/#atx-power-management
    """

    def answer(self, request: Request) -> Answer:
        """Answer as the controller does."""
        headers = request.headers
        by_header = (headers.get("x-kvmd-user"), headers.get("x-kvmd-passwd")) == ("admin", self.password)
        if self.password is not None and not by_header and not _basic(request, "admin", self.password):
            return self._error(401, "UnauthorizedError", "Unauthorized")
        match request.method, request.path:
            case "POST", "/api/atx/power":
                action = request.query.get("action")
                if action not in ("on", "off", "off_hard", "reset_hard"):
                    return self._error(
                        400, "ValidatorError", f"The argument {action!r} is not a valid ATX power action"
                    )
                self.switch(action in ("on", "reset_hard"))
                return Answer(json.dumps({"ok": True, "result": {}}), headers=JSON)
            case "GET", "/api/atx":
                result = {"busy": False, "enabled": True, "leds": {"hdd": False, "power": self.on}}
                return Answer(json.dumps({"ok": True, "result": result}), headers=JSON)
        return self._error(404, "HTTPNotFound", "Not Found")

    @staticmethod
    def _error(status: int, name: str, text: str) -> Answer:
        body = {"ok": False, "result": {"error": name, "error_msg": text}}
        return Answer(json.dumps(body, indent=4), status, JSON)
