"""Logging in at a real login provider, and using a board of a lab with what it gives."""

from __future__ import annotations

import re
import signal
import urllib.parse
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from jumpstarter_testing import eventually

from .lab_admin_test import Lab, home
from .programs import JMP, LIMIT, J, Outcome, Program

__all__ = ["home"]

pytestmark = [pytest.mark.daemon, pytest.mark.slow]

Run = Callable[..., Outcome]
Start = Callable[..., Program]
Provider = Any
"""An `IdentityProvider` of the test bench."""


class Forms(HTMLParser):
    """The first form of a page: where it goes, and what it sends."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self._open = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "form" and self.action is None:
            self.action, self._open = found.get("action") or "", True
        elif tag in ("input", "button") and self._open and found.get("name"):
            self.fields[str(found["name"])] = found.get("value") or ""

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag != "form"


class Browser:
    """A browser whose person logs in as somebody, and agrees to whatever the pages ask."""

    def __init__(self, provider: Provider, login: str) -> None:
        self._session = requests.Session()
        self._session.verify = str(provider.ca_file)
        self._session.trust_env = False
        self._login = login
        self.visited: list[str] = []

    def open(self, url: str) -> str:
        """Follow an address through all forms, and return the text of the last page."""
        answer = self._session.get(url, timeout=LIMIT)
        for _ in range(10):
            self.visited += [each.url for each in (*answer.history, answer)]
            form = Forms(answer.text)
            if form.action is None:
                return answer.text
            fields = (
                form.fields | {"login": self._login, "password": "password"} if "login" in form.fields else form.fields
            )
            fields.pop("abort", None)
            target = urllib.parse.urljoin(answer.url, form.action)
            answer = self._session.post(target, data=fields, timeout=LIMIT)
        raise AssertionError(f"the pages go on for ever: {self.visited}")


class LoginLab(Lab):
    """A lab that trusts a login provider, with a board."""

    def __init__(self, run: Run, start: Start, home: Path, provider: Provider, folder: Path) -> None:
        super().__init__(run, start, home)
        self.provider = provider
        settings = {
            "listen": "127.0.0.1:0",
            "router": {"listen": "127.0.0.1:0"},
            "web": {"listen": "127.0.0.1:0"},
            "metrics": {"listen": ""},
            "provisioning": True,
            "jwt": [
                {
                    "issuer": {
                        "url": provider.issuer,
                        "certificateAuthority": provider.ca,
                        "audiences": [provider.audience],
                    },
                    "claimMappings": {"username": {"claim": "preferred_username", "prefix": "idp:"}},
                }
            ],
        }
        config = folder / "lab.yaml"
        config.write_text(yaml.safe_dump(settings))
        self.serve("--config", str(config))
        self.bundle = folder / "trusted.pem"
        self.bundle.write_text(provider.ca)
        self._start_program = start
        self.trust: dict[str, str] = {}

    @property
    def web(self) -> str:
        """Host and port of the login endpoint."""
        found = re.search(r"Log-in and dashboard are at https://(\S+)", self.server.out)
        assert found is not None
        return found[1]

    def trust_all(self) -> dict[str, str]:
        """Return an environment in which the lab's authority and the provider's certificate are trusted."""
        from base64 import b64decode

        ca = b64decode(self.config("admins", "lab")["tls"]["ca"]).decode()
        self.bundle.write_text(ca + self.provider.ca)
        # What else programs look at says something else, as where a company has put its own authority.
        return {"SSL_CERT_FILE": str(self.bundle), "REQUESTS_CA_BUNDLE": str(self.folder / "admin.yaml")}

    def use_board(self, **env: str) -> None:
        """Lease the board as whoever is logged in, and use it."""
        self.jmp("shell", "-l", "board=demo", "--", J, "power", "on", **env)


@pytest.fixture
def lab(run: Run, start: Start, home: Path, identity_provider: Provider, tmp_path: Path) -> Iterator[LoginLab]:
    opened = LoginLab(run, start, home, identity_provider, tmp_path)
    opened.board()
    yield opened
    assert opened.server.stop(signal.SIGTERM).code == 0


def test_A19_the_login_endpoint_introduces_itself_and_tells_the_rest(lab: LoginLab) -> None:
    trusted = lab.trust_all()
    page = requests.get(f"https://{lab.web}/", verify=trusted["SSL_CERT_FILE"], timeout=LIMIT).text
    assert "Jumpstarter" in page
    assert "jmp login" in page
    password = ("--username", "alice", "--password", "password")
    out = lab.jmp("login", f"alice@{lab.web}", "--unsafe", "--nointeractive", *password, **trusted)
    assert "'alice' is now the current client" in out
    config = lab.config("clients", "alice")
    assert config["endpoint"] == lab.endpoint
    assert config["tls"] == {"ca": lab.config("admins", "lab")["tls"]["ca"], "insecure": False}
    assert lab.config("clients", "alice")["refresh_token"]
    lab.use_board()
    client = yaml.safe_load(lab.jmp("admin", "get", "client", "alice", "-o", "yaml"))
    assert client["spec"]["username"] == "idp:alice"


def test_a_login_with_the_browser_needs_no_secret_of_ours(lab: LoginLab, start: Start) -> None:
    trusted = lab.trust_all()
    login = start(JMP, "login", f"bob-builder@{lab.web}", "--unsafe", env=trusted)
    login.wait_for("Please open this address in a browser to log in: ")
    found = re.search(r"https://127\S+", login.out)
    assert found is not None
    asked = urllib.parse.parse_qs(urllib.parse.urlsplit(found[0]).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["state"]
    browser = Browser(lab.provider, "Bob.Builder")
    assert "go back to the terminal" in browser.open(found[0])
    (back,) = [url for url in browser.visited if "/callback?" in url]
    assert urllib.parse.parse_qs(urllib.parse.urlsplit(back).query)["state"] == asked["state"]
    outcome = login.end()
    assert (outcome.code, "'bob-builder' is now the current client" in outcome.out) == (0, True), outcome
    lab.use_board()


def test_somebody_who_denies_the_login_is_told_so(lab: LoginLab, start: Start) -> None:
    trusted = lab.trust_all()
    login = start(JMP, "login", f"alice@{lab.web}", "--unsafe", env=trusted)
    login.wait_for("Please open this address in a browser to log in: ")
    found = re.search(r"https://127\S+", login.out)
    assert found is not None
    asked = urllib.parse.parse_qs(urllib.parse.urlsplit(found[0]).query)
    query = urllib.parse.urlencode(
        {"error": "access_denied", "error_description": "not today", "state": asked["state"][0]}
    )
    requests.get(f"{asked['redirect_uri'][0]}?{query}", timeout=LIMIT)
    assert "not today" in login.end().failure()
    assert not lab.path("clients", "alice").exists()


def test_a_login_by_a_code_on_another_device(lab: LoginLab, start: Start) -> None:
    trusted = lab.trust_all()
    login = start(JMP, "login", f"alice@{lab.web}", "--unsafe", "--device-flow", env=trusted)
    login.wait_for("Please open this address in a browser to log in: ")
    found = re.search(r"https://127\S+", login.out)
    assert found is not None
    Browser(lab.provider, "alice").open(found[0])
    outcome = login.end()
    assert (outcome.code, "'alice' is now the current client" in outcome.out) == (0, True), outcome
    lab.use_board()


def test_a_token_of_the_provider_is_looked_at_and_refreshed(lab: LoginLab) -> None:
    trusted = lab.trust_all()
    password = ("--username", "alice", "--password", "password")
    lab.jmp("login", f"alice@{lab.web}", "--unsafe", "--nointeractive", *password, **trusted)
    shown = lab.jmp("auth", "status", "-v")
    assert f"Issuer: {lab.provider.issuer}" in shown
    assert "Subject: alice" in shown
    assert "Refresh token stored: yes" in shown
    former = lab.config("clients", "alice")
    assert "Token refreshed" in lab.jmp("auth", "refresh", **trusted)
    refreshed = lab.config("clients", "alice")
    assert refreshed["token"] != former["token"]
    assert refreshed["refresh_token"] != former["refresh_token"]
    lab.use_board()
    # One of the lab would outlive the account at the provider.
    assert "log in again: jmp login" in lab.failure("auth", "rotate")
    # A second login takes the refresh token, and asks for nothing.
    lab.jmp("login", "--client", "alice", "--nointeractive", **trusted)
    assert lab.config("clients", "alice")["token"] != refreshed["token"]


@pytest.mark.parametrize(("user", "password"), [("alice", "wrong"), ("mallory", "password")])
def test_wrong_credentials_are_told_and_leave_no_config(user: str, password: str, lab: LoginLab) -> None:
    words = ("--username", user, "--password", password)
    text = lab.failure("login", f"alice@{lab.web}", "--unsafe", "--nointeractive", *words, **lab.trust_all())
    assert text.startswith("Login failed: ")
    assert not lab.path("clients", "alice").exists()


def test_a_certificate_that_is_not_known_is_told_with_what_to_do(lab: LoginLab) -> None:
    text = lab.failure("login", f"alice@{lab.web}", "--unsafe", "--nointeractive")
    assert "certificate" in text
    assert "--insecure-tls" in text
    assert "SSL_CERT_FILE" in text


def test_a_user_who_names_another_client_is_refused(lab: LoginLab) -> None:
    trusted = lab.trust_all()
    password = ("--username", "alice", "--password", "password")
    lab.jmp("login", f"mallory@{lab.web}", "--unsafe", "--nointeractive", *password, **trusted)
    text = lab.failure("get", "exporters")
    assert "mallory" in text
    assert "alice" in text


@pytest.fixture
def short_lab(run: Run, start: Start, home: Path, run_identity_provider: Any, tmp_path: Path) -> Iterator[LoginLab]:
    """A lab whose users have tokens that last for some seconds only."""
    with run_identity_provider(life=12) as provider:
        opened = LoginLab(run, start, home, provider, tmp_path)
        opened.board()
        yield opened
        assert opened.server.stop(signal.SIGTERM).code == 0


@pytest.mark.slow
def test_a_shell_outlives_the_token_that_it_began_with(short_lab: LoginLab, start: Start) -> None:
    lab, trusted = short_lab, short_lab.trust_all()
    password = ("--username", "alice", "--password", "password")
    lab.jmp("login", f"alice@{lab.web}", "--unsafe", "--nointeractive", *password, **trusted)
    first = lab.config("clients", "alice")["token"]
    use = f"echo up; sleep 30; {J} power on && echo used"
    shell = start(JMP, "shell", "-l", "board=demo", "--", "sh", "-c", use, env=trusted)
    shell.wait_for("up")
    seen = {first}

    def renewed() -> None:
        seen.add(lab.config("clients", "alice")["token"])
        assert len(seen) >= 3

    eventually(renewed, timeout=60)
    outcome = shell.process.wait(90)
    assert (outcome, shell.out) == (0, "up\nused\n"), shell.err


@pytest.mark.slow
def test_an_expired_token_is_told_and_logged_in_again(short_lab: LoginLab) -> None:
    lab, trusted = short_lab, short_lab.trust_all()
    password = ("--username", "alice", "--password", "password")
    lab.jmp("login", f"alice@{lab.web}", "--unsafe", "--nointeractive", *password, **trusted)
    former = lab.config("clients", "alice")["token"]

    def expired() -> None:
        # The refresh token obtains a new one, with which the command is to be repeated.
        assert "Please try again now" in lab.failure("get", "exporters", **trusted)

    eventually(expired, timeout=60)
    assert lab.config("clients", "alice")["token"] != former
    assert lab.jmp("get", "exporters", "-o", "name") == "my-board\n"
