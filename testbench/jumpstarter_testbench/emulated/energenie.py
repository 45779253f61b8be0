"""An EnerGenie power strip (EG-PMS2-LAN): one session at a time, bound to the address of the caller."""

from __future__ import annotations

from urllib.parse import parse_qsl

from .http import Answer, HttpDevice, Request

LOGIN_PAGE = """<html><head><title>EnerGenie Web:</title></head><body>
<form action=login.html method=post>Password: <input type=password name="pw" size=10 maxlength=15>
<input type=submit value="Enter"></form></body></html>"""

BUSY_PAGE = """<html><head><title>EnerGenie Web:</title></head><body>
<div>You can't login right now: somebody else is logged in.</div></body></html>"""

MAIN_PAGE = """<html><head><title>EnerGenie Web:</title>
<script language="javascript">var sockstates = [{states}];
var sockinfo = "";</script></head><body>
<a href="login.html">Log Out</a></body></html>"""


class EnergenieStrip(HttpDevice):
    """The strip: `outlets` are its sockets, `owner` is who is logged in."""

    def __init__(self, password: str = "1") -> None:
        """Prepare a strip with all outlets off."""
        super().__init__()
        self.password = password
        self.owner: str | None = None
        self.outlets = [False] * 4
        self.stuck: set[int] = set()
        """Numbers of outlets whose relay does not move."""
        self.logins = 0

    def answer(self, request: Request) -> Answer:
        """Answer as the strip does: with status 200, whatever the result is."""
        form = dict(parse_qsl(request.body.decode()))
        match request.method, request.path:
            case "POST", "/login.html":
                return Answer(self._log_in(request.client, form.get("pw", "")))
            case "GET", "/login.html":
                if request.client == self.owner:
                    self.owner = None
                return Answer(LOGIN_PAGE)
            case "POST", "/" if request.client == self.owner:
                for number in range(1, 5):
                    if (value := form.get(f"cte{number}")) in ("0", "1") and number not in self.stuck:
                        self.outlets[number - 1] = value == "1"
                return Answer(self._main_page())
            case "GET", "/energenie.html" if request.client == self.owner:
                return Answer(self._main_page())
            case _, "/" | "/energenie.html":
                return Answer(LOGIN_PAGE)
        return Answer("<html>404</html>", 404)

    def _log_in(self, client: str, password: str) -> str:
        if self.owner not in (None, client):
            return BUSY_PAGE
        if password != self.password:
            return LOGIN_PAGE
        self.owner = client
        self.logins += 1
        return self._main_page()

    def _main_page(self) -> str:
        return MAIN_PAGE.format(states=",".join(str(int(on)) for on in self.outlets))
