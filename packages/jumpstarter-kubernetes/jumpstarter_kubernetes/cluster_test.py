"""The connection to a cluster under faults: what is repeated, what is told, and what is never done twice."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import anyio
import pytest
from jumpstarter_testbench.kube.fixtures import Kube

from .cluster import Cluster
from .exceptions import ClusterError, Gone, NotFound, TooMany, Unauthorized, Unreachable
from .resources import CLIENTS, SECRETS

ONE: dict[str, Any] = {"metadata": {"name": "one"}}


async def test_a_server_that_is_away_is_named(own_kube: Kube) -> None:
    own_kube.stop()
    async with own_kube.cluster() as cluster:
        with pytest.raises(Unreachable, match=r"can't reach the API server https://127\.0\.0\.1:\d+ to list clients"):
            await cluster.list(CLIENTS)


async def test_a_server_that_is_back_is_used_again(own_kube: Kube) -> None:
    async with own_kube.cluster() as cluster:
        await cluster.create(CLIENTS, ONE)
        own_kube.stop()
        with pytest.raises(Unreachable):
            await cluster.get(CLIENTS, "one")
        own_kube.start()
        assert await cluster.get(CLIENTS, "one")


async def test_a_busy_server_is_asked_again_after_the_time_it_says(
    own_kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jumpstarter_kubernetes.cluster.PATIENCE", 3.0)
    async with own_kube.cluster() as cluster:
        own_kube.server.faults.throttle = 2
        assert await cluster.create(CLIENTS, ONE)

        own_kube.server.faults.throttle = 1000
        with pytest.raises(TooMany, match="too many requests"):
            with anyio.fail_after(60):
                await cluster.get(CLIENTS, "one")
    own_kube.server.faults.throttle = 0


async def test_a_write_whose_answer_is_lost_is_not_done_twice(own_kube: Kube) -> None:
    async with own_kube.cluster() as cluster:
        own_kube.server.faults.lose_answers = 1
        with pytest.raises(Unreachable):
            await cluster.create(CLIENTS, {"metadata": {"generateName": "one-"}})
        assert len((await cluster.list(CLIENTS)).items) == 1


async def test_a_watch_from_long_ago_is_gone(own_kube: Kube) -> None:
    async with own_kube.cluster() as cluster:
        version = (await cluster.list(CLIENTS)).version
        await cluster.create(CLIENTS, ONE)
        own_kube.compact()
        with pytest.raises(Gone, match="too old resource version"):
            async with cluster.watch(CLIENTS, version=version) as events:
                await anext(events)


async def test_a_page_from_long_ago_is_gone(own_kube: Kube) -> None:
    async with own_kube.cluster() as cluster:
        for name in ("a", "b"):
            await cluster.create(CLIENTS, {"metadata": {"name": name}})
        page = await cluster.list(CLIENTS, limit=1)
        await cluster.create(CLIENTS, ONE)
        own_kube.compact()
        with pytest.raises(Gone):
            await cluster.list(CLIENTS, limit=1, more=page.more)


async def test_a_watch_whose_server_goes_ends(own_kube: Kube) -> None:
    async with own_kube.cluster() as cluster:
        version = (await cluster.list(CLIENTS)).version
        with anyio.fail_after(20):
            async with cluster.watch(CLIENTS, version=version) as events:
                own_kube.drop_watches()
                assert [event async for event in events] == []


async def test_a_cancelled_watch_leaves_nothing_behind(own_kube: Kube) -> None:
    async with own_kube.cluster() as cluster:
        version = (await cluster.list(CLIENTS)).version
        with anyio.move_on_after(0.2) as scope:
            async with cluster.watch(CLIENTS, version=version) as events:
                await anext(events)
        assert scope.cancelled_caught
        with anyio.fail_after(20):
            while True:
                if not own_kube.do(lambda: list(own_kube.server.storage._watchers)):
                    break
                await cluster.create(CLIENTS, {"metadata": {"generateName": "a-"}})


async def test_an_error_of_the_body_is_not_taken_for_one_of_the_server(kube: Kube) -> None:
    async with kube.cluster() as cluster:
        version = (await cluster.list(CLIENTS)).version
        with pytest.raises(PermissionError):
            async with cluster.watch(CLIENTS, version=version):
                raise PermissionError("something else")


async def test_new_credentials_are_read_when_the_old_ones_are_refused(own_kube: Kube, tmp_path: Path) -> None:
    first, second = own_kube.token("me", "system:masters"), own_kube.token("me", "system:masters")
    path = own_kube.kubeconfig(tmp_path / "config", token=first)
    async with Cluster.from_config(path) as cluster:
        assert await cluster.list(CLIENTS)
        own_kube.do(lambda: own_kube.server.tokens.revoke(first))
        with pytest.raises(Unauthorized, match="Log in to the cluster again"):
            await cluster.list(CLIENTS)
        shutil.copyfile(own_kube.kubeconfig(tmp_path / "other", token=second), path)
        assert await cluster.list(CLIENTS)


async def test_a_certificate_that_is_not_trusted_is_told(own_kube: Kube) -> None:
    async with Cluster.direct(own_kube.url, token="secret-token") as cluster:
        with pytest.raises(Unreachable, match=r"is not trusted.*certificate-authority") as caught:
            await cluster.list(CLIENTS)
    assert "secret-token" not in str(caught.value)


async def test_something_else_than_a_cluster_is_told() -> None:
    from aiohttp import web

    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="<html>hello</html>")

    application = web.Application()
    application.router.add_get("/api/v1/namespaces/default/secrets", hello)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with Cluster.direct(f"http://127.0.0.1:{runner.addresses[0][1]}") as cluster:
            with pytest.raises(ClusterError, match="Is this the address of a Kubernetes API server"):
                await cluster.list(SECRETS)
            with pytest.raises(NotFound, match="Is this the address of a Kubernetes API server"):
                await cluster.list(CLIENTS)
    finally:
        await runner.cleanup()


async def test_another_namespace_by_the_same_connection(kube: Kube) -> None:
    kube.namespace("at-another-place")
    async with kube.cluster() as cluster:
        other = cluster.at("at-another-place")
        await other.create(CLIENTS, ONE)
        assert cluster.namespace == "default"
        assert (await cluster.get(CLIENTS, "one", namespace="at-another-place"))["metadata"]["name"] == "one"
