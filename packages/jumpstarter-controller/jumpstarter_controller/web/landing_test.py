"""What everybody may see: the landing page, what `jmp login` asks for, and health."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from jumpstarter_controller.testing import Login, running_lab
from jumpstarter_controller.web.conftest import WEB, Web, serving

PROVIDER = {
    "issuer": {
        "url": "https://login.example.com/realms/lab",
        "audiences": ["jumpstarter", "other"],
        "audienceMatchPolicy": "MatchAny",
    },
    "claimMappings": {"username": {"claim": "preferred_username", "prefix": "keycloak:"}},
}


async def test_A19_the_landing_page_names_the_product_and_the_command(web: Web) -> None:
    answer = await web.ask("GET", "/")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "Jumpstarter" in answer.text
    assert f"jmp login {web.url}" in answer.text


async def test_A19_login_is_told_controller_router_namespace_and_authority(web: Web) -> None:
    config = (await web.ask("GET", "/v1/auth/config")).json
    assert config["grpcEndpoint"] == web.running.endpoint
    assert config["routerEndpoint"] == web.running.server.router_endpoint
    assert config["namespace"] == "default"
    assert base64.b64decode(config["caBundle"]).decode() == web.running.ca
    assert "oidc" not in config


async def test_A19_login_is_told_the_login_providers(tmp_path: Path) -> None:
    async with serving(tmp_path, jwt=[PROVIDER], namespace="lab") as web:
        config = (await web.ask("GET", "/v1/auth/config")).json
        assert config["namespace"] == "lab"
        assert config["oidc"] == [
            {
                "issuer": "https://login.example.com/realms/lab",
                "clientId": "jumpstarter-cli",
                "audiences": ["jumpstarter", "other"],
            }
        ]


async def test_A19_what_login_is_told_is_what_the_command_takes(web: Web) -> None:
    from jumpstarter_cli.login import fetch_auth_config

    config = await fetch_auth_config(web.url, insecure_tls=True)
    assert config["grpcEndpoint"] == web.running.endpoint


async def test_health_and_readiness_are_told_to_everybody(web: Web) -> None:
    assert (await web.ask("GET", "/healthz")).text == "ok"
    assert (await web.ask("GET", "/readyz")).status == 200
    web.running.server.ready = False
    assert (await web.ask("GET", "/readyz")).status == 503
    assert (await web.ask("GET", "/healthz")).text == "ok"


@pytest.mark.parametrize(
    "path", ["/dashboard", "/dashboard/content", "/dashboard/events", "/openapi.json", "/metrics", "/v1/x", "/static/x"]
)
async def test_everything_else_is_closed_to_strangers(web: Web, path: str) -> None:
    answer = await web.ask("GET", path)
    assert answer.status in (303, 401, 404)
    assert "board" not in answer.text


async def test_answers_tell_browsers_to_trust_nothing(web: Web, alice: Login) -> None:
    for path in ("/", "/login", "/dashboard", "/nothing", "/v1/auth/config"):
        headers = (await web.ask("GET", path, alice)).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Server"] == "jumpstarter"


async def test_the_certificate_is_the_same_as_that_of_the_controller(web: Web) -> None:
    import ssl

    host, port = web.url.removeprefix("https://").split(":")
    from anyio import to_thread

    shown = await to_thread.run_sync(lambda: ssl.get_server_certificate((host, int(port))))
    pair = web.running.server.certificates.current()
    assert shown.strip().encode() in pair.chain


async def test_the_url_that_people_are_told_can_be_set(tmp_path: Path) -> None:
    from dataclasses import replace

    from cryptography import x509

    where = replace(WEB, web_endpoint="https://lab.example.com/")
    async with running_lab(tmp_path, server={"endpoints": where}) as running:
        assert running.server.web_url == "https://lab.example.com"
        certificate = x509.load_pem_x509_certificate(running.server.certificates.current().chain)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert "lab.example.com" in names.get_values_for_type(x509.DNSName)


@pytest.mark.parametrize("wrong", ["lab.example.com", "ftp://lab", "https://"])
async def test_a_url_that_is_none_is_refused_at_start(tmp_path: Path, wrong: str) -> None:
    from dataclasses import replace

    from jumpstarter.common.exceptions import ConfigurationError

    with pytest.raises(ConfigurationError, match="is no URL, such as"):
        async with running_lab(tmp_path, server={"endpoints": replace(WEB, web_endpoint=wrong)}):
            pass


async def test_a_port_that_is_taken_is_refused_at_start_with_what_to_do(web: Web, tmp_path: Path) -> None:
    from dataclasses import replace

    from jumpstarter.common.exceptions import ConfigurationError

    taken = web.url.removeprefix("https://")
    with pytest.raises(ConfigurationError, match=f"can't listen on {taken}: .* choose another port"):
        async with running_lab(tmp_path / "other", server={"endpoints": replace(WEB, web_listen=taken)}):
            pass
    assert (await web.ask("GET", "/healthz")).text == "ok"
