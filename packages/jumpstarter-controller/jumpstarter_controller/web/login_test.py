"""`jmp login` against a lab and a login provider, both real, and what the token of the provider opens."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from jumpstarter_controller.model.records import Key, Kind
from jumpstarter_controller.web.conftest import Web, serving

HOME = "/v1/namespaces/default"


@pytest.fixture
async def web(tmp_path: Path, identity_provider: Any) -> AsyncIterator[Web]:
    """A lab whose users come from a login provider."""
    provider = {
        "issuer": {
            "url": identity_provider.issuer,
            "audiences": ["jumpstarter"],
            "certificateAuthority": identity_provider.ca,
        },
        "claimMappings": {"username": {"claim": "preferred_username", "prefix": "oidc:"}},
    }
    async with serving(tmp_path, jwt=[provider], provisioning=True) as web:
        yield web


async def jmp(home: Path, *arguments: str) -> str:
    """Run the command with a home of its own, and return what it says."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("JMP_", "XDG_"))}
    env |= {"HOME": str(home), "SSL_CERT_FILE": str(home / "ca.pem")}
    with anyio.fail_after(60):
        finished = await anyio.run_process(
            [sys.executable, "-m", "jumpstarter_cli", *arguments], env=env, check=False, stderr=subprocess.STDOUT
        )
    output = finished.stdout.decode()
    assert finished.returncode == 0, output
    return output


async def test_A19_login_by_the_lab_s_address_makes_a_client_that_can_be_used(
    web: Web, identity_provider: Any, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "ca.pem").write_text(web.running.ca + identity_provider.ca)
    await web.board("board", labels={"board": "demo"})
    command = re.search(r"<code>jmp (login .+?)</code>", (await web.ask("GET", "/")).text)
    assert command is not None
    verb, address = html.unescape(command[1]).split()
    await jmp(home, verb, f"alice@{address}", "--username", "alice", "--password", "password", "--unsafe")
    assert "board" in await jmp(home, "get", "exporters")
    assert web.running.lab.account(Key(Kind.CLIENT, "default", "alice")) is not None


async def test_tokens_of_a_login_provider_open_the_api_and_the_dashboard(web: Web, identity_provider: Any) -> None:
    token = await anyio.to_thread.run_sync(identity_provider.access_token, "Bob.Builder")
    assert (await web.ask("GET", f"{HOME}/exporters", token)).status == 200
    answer, cookies = await web.log_in(token)
    assert answer.status == 303
    assert "bob-builder" in (await web.ask("GET", "/dashboard", headers=cookies)).text
