"""Which published controller goes with a client, as a registry lists them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from . import controller
from .controller import get_latest_compatible_controller_version
from .exceptions import JumpstarterKubernetesError

Serve = Callable[..., Any]


@pytest.fixture
async def registry(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serve]:
    """Serve pages of tags; an answer that is no list of names is served as it is."""
    servers: list[TestServer] = []

    async def serve(*pages: Any) -> None:
        async def answer(request: web.Request) -> web.Response:
            number = int(request.query.get("page", "1"))
            page = pages[number - 1]
            if not isinstance(page, list):
                return page if isinstance(page, web.Response) else web.json_response(page)
            tags = [{"name": name} for name in page]
            return web.json_response({"tags": tags, "has_additional": number < len(pages)})

        application = web.Application()
        application.router.add_get("/tag/", answer)
        server = TestServer(application)
        await server.start_server()
        servers.append(server)
        monkeypatch.setattr(controller, "TAGS_URL", str(server.make_url("/tag/")))

    yield serve
    for server in servers:
        await server.close()


@pytest.mark.parametrize(
    ("client", "found"),
    [
        ("0.8.3", "v0.8.10"),
        ("v0.9.0rc1", "0.9.1"),
        ("7.7.7", "1.0.0"),
        (None, "1.0.0"),
    ],
)
async def test_the_newest_controller_of_the_same_minor_version_is_chosen(
    client: str | None, found: str, registry: Serve
) -> None:
    await registry(
        ["latest", "0.8.9", "v0.8.10", "0.9.1-rc.2", "0.9.1-rc.10"], ["0.9.1", "1.0.0-alpha", "1.0.0", "x.y.z"]
    )
    assert await get_latest_compatible_controller_version(client) == found


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ([], "No valid controller versions"),
        (["latest"], "No valid controller versions"),
        ({"other": 1}, "Unexpected response"),
        ("text", "Unexpected response"),
        (web.Response(status=500), "Failed to fetch controller versions"),
        (web.Response(text="no json", content_type="application/json"), "Failed to fetch controller versions"),
    ],
)
async def test_what_a_registry_does_not_tell_is_an_error(page: Any, message: str, registry: Serve) -> None:
    await registry(page)
    with pytest.raises(JumpstarterKubernetesError, match=message):
        await get_latest_compatible_controller_version("0.9.0")


async def test_a_client_without_version_is_refused() -> None:
    with pytest.raises(JumpstarterKubernetesError, match="Invalid client version 'unknown'"):
        await get_latest_compatible_controller_version("unknown")
