"""A lab with the rights, configs and routers of an installation: they suffice, all are used, and no secret leaks."""

from __future__ import annotations

import base64
import gzip
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import anyio
import pytest
import yaml
from anyio import to_thread
from anyio.from_thread import BlockingPortal
from jumpstarter.config.router import RouterConfigV1Alpha1
from jumpstarter_kubernetes.cluster import Cluster
from jumpstarter_kubernetes.exceptions import Forbidden, NotFound
from jumpstarter_kubernetes.manifests import KINDS, Values, controller_config, render, router_config
from jumpstarter_kubernetes.resources import CLIENTS, CONFIG_MAPS, EXPORTERS, ROLES, SECRETS
from jumpstarter_protocol import jumpstarter_pb2
from jumpstarter_testbench.kube.fixtures import Kube

from ..clock import SystemClock
from ..config_file import ControllerConfig
from ..identity.certificates import ServerCertificates
from ..model.records import ExporterStatus, Key, Kind, Rule
from ..model.selector import Selector
from ..router import remote
from ..router.certified import Certified
from ..router.remote import RemoteRouter, RemoteSettings
from ..scripted import delete, lease_of, refusal, scripted_exporter
from ..server import Endpoints
from ..store.base import StoreError
from ..store.kubernetes import KubernetesStore
from ..testing import SERVER, RunningLab, running_lab
from .conftest import QUICK, SHORT, become, leading
from .member import Member

T = TypeVar("T")

ACCOUNT = "jumpstarter-controller"
USER = f"system:serviceaccount:default:{ACCOUNT}"
PATIENCE = 60

Right = tuple[str, str, str]
"""API group, resource and verb."""

EVERYTHING = datetime(2999, 1, 1, tzinfo=UTC)


@pytest.fixture
def values() -> Values:
    """An installation in the namespace in which tests have their accounts."""
    return Values(
        namespace="default",
        endpoint="lab.example.com:8082",
        router_endpoint=f"localhost:{free_port()}",
        routers=1,
        image="x",
    )


@pytest.fixture
async def installed(own_kube: Kube, values: Values) -> AsyncIterator[Cluster]:
    """The administrator's connection to a cluster that has the accounts and roles of an installation."""
    async with own_kube.cluster() as cluster:
        for item in render(values):
            if item["kind"] in ("ServiceAccount", "Role", "RoleBinding"):
                await cluster.apply(KINDS[item["apiVersion"], item["kind"]], item, manager="jumpstarter")
        yield cluster


@pytest.fixture
def used(own_kube: Kube, monkeypatch: pytest.MonkeyPatch) -> Iterator[set[Right]]:
    """The rights that controllers make use of."""
    rights, found, refused = own_kube.server.rights, set[Right](), set[Right]()
    check = rights.check

    def noted(user: Any, asked: Any) -> None:
        if user.name == USER:
            refused.add((asked.group, asked.resource, asked.verb))
            check(user, asked)
            refused.discard((asked.group, asked.resource, asked.verb))
            found.add((asked.group, asked.resource, asked.verb))
        else:
            check(user, asked)

    monkeypatch.setattr(rights, "check", noted)
    yield found
    assert not refused


def granted(rules: list[dict[str, Any]]) -> set[Right]:
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@asynccontextmanager
async def controller(own_kube: Kube, installed: Cluster, values: Values, folder: Path) -> AsyncIterator[RunningLab]:
    """Run a controller as its service account, with the config of the installation but for addresses."""
    config = ControllerConfig.model_validate(controller_config(values))
    token = await installed.request_token(ACCOUNT)
    cluster = own_kube.cluster(token=token)
    member = Member(cluster, terms=QUICK, patience=SHORT, routers=config.kubernetes.routers)
    endpoints = Endpoints(listen="127.0.0.1:0", router=config.router.listen != "none", names=config.names)
    options = {"store": KubernetesStore(cluster, own_namespace=True), "member": member, "endpoints": endpoints}
    # Nothing may be written outside of the cluster: the file system of the pods can't be.
    nowhere = folder / "nowhere"
    async with running_lab(nowhere, server=options) as lab:
        await leading(lab)
        yield lab
    assert not nowhere.exists()


async def eventually(read: Callable[[], Awaitable[T]]) -> T:
    """Return what a function gives when it gives something; what is not there yet is nothing."""
    with anyio.fail_after(20):
        while True:
            with suppress(NotFound):
                if found := await read():
                    return found
            await anyio.sleep(0.05)


async def kept(cluster: Cluster, secret: str, other_than: str = "") -> str:
    """Return the token in a Secret when it is there."""

    async def read() -> str:
        data = (await cluster.get(SECRETS, secret)).get("data") or {}
        token = base64.b64decode(data.get("token", "")).decode()
        return token if token != other_than else ""

    return await eventually(read)


@asynccontextmanager
async def router(
    lab: RunningLab, values: Values, folder: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[RemoteRouter]:
    """Run a router with the config of the installation, but for the files of the pod and the names of the cluster."""
    (folder / "token").write_text(token)
    (folder / "ca.crt").write_text(lab.ca)
    document = router_config(values, 0) | {"tls": {"ca": str(folder / "ca.crt")}, "tokenFile": str(folder / "token")}
    config = RouterConfigV1Alpha1.model_validate(document)

    async def addresses_of(endpoint: str) -> list[str]:
        assert endpoint == "jumpstarter-controllers.default.svc:8082"
        return [lab.endpoint]

    monkeypatch.setattr(remote, "addresses_of", addresses_of)
    settings = RemoteSettings(
        controller=config.endpoint,
        tls=config.tls,
        metadata=config.metadata,
        token=config.read_token,
        endpoint=config.advertise,
        listen=f"127.0.0.1:{config.advertise.rpartition(':')[2]}",
        every_address=config.every_address,
    )
    certified = Certified(replace(settings, controller=lab.endpoint), SystemClock())
    await certified.obtain()
    joined = RemoteRouter(settings, ServerCertificates(certified))
    async with joined.serving():
        await become(lambda: any(member.alive and not member.draining for member in lab.server.routers.members()))
        yield joined


async def drive(lab: RunningLab) -> str:
    """Lease a board, use it, and give it back; return the token of the client."""
    alice = await lab.client("alice")
    arguments = {"selector": None, "exporter_name": "board", "lease_name": None}
    async with lab.serving_exporter(), BlockingPortal() as portal:
        config = alice.client_config()
        async with config.lease_async(**arguments, duration=timedelta(minutes=5), portal=portal) as lease:
            with ExitStack() as stack:
                async with lease.connect_async(stack) as client:
                    await to_thread.run_sync(client.power.on)
    return alice.token


async def test_a_board_is_driven_through_a_router_whose_account_the_controllers_made(
    own_kube: Kube, installed: Cluster, values: Values, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with anyio.fail_after(PATIENCE):
        async with AsyncExitStack() as stack:
            lab = await stack.enter_async_context(controller(own_kube, installed, values, tmp_path))
            token = await kept(installed, "jumpstarter-router-0")
            relay = (await stack.enter_async_context(router(lab, values, tmp_path, token, monkeypatch))).relay
            await drive(lab)
            assert relay.counters().streams_total > 0


async def test_without_any_router_a_dial_says_so_and_does_not_hang(
    own_kube: Kube, installed: Cluster, values: Values, tmp_path: Path
) -> None:
    with anyio.fail_after(PATIENCE):
        async with controller(own_kube, installed, values, tmp_path) as lab:
            alice = await lab.client("alice")
            async with scripted_exporter(lab) as (exporter, _), alice.stubs() as stubs:
                name = await lease_of(stubs)
                await lab.until(Key(Kind.LEASE, "default", name), lambda record: record.exporter)
                exporter.listen(name)
                await exporter.report(ExporterStatus.LEASE_READY)
                status, told = await refusal(stubs.controller.Dial(jumpstarter_pb2.DialRequest(lease_name=name)))
    assert (status, told.partition(":")[0]) == ("UNKNOWN", "no router available")


async def test_a_router_gets_another_token_when_its_secret_is_deleted(
    own_kube: Kube, installed: Cluster, values: Values, tmp_path: Path
) -> None:
    with anyio.fail_after(PATIENCE):
        async with controller(own_kube, installed, values, tmp_path):
            first = await kept(installed, "jumpstarter-router-0")
            await installed.delete(SECRETS, "jumpstarter-router-0")
            assert await kept(installed, "jumpstarter-router-0", other_than=first)


async def live(own_kube: Kube, installed: Cluster, values: Values, folder: Path) -> set[str]:
    """Have a lab do everything that it ever does in its cluster; return the tokens that were given to clients."""
    tokens: set[str] = set()
    async with controller(own_kube, installed, values, folder) as lab:
        # What the administrator of the cluster makes by hand, and takes away.
        await installed.create(CLIENTS, {"metadata": {"name": "bob"}})
        await installed.create(EXPORTERS, {"metadata": {"name": "bench"}})
        tokens.add(await kept(installed, "bob-client"))
        await installed.delete(SECRETS, "bob-client")
        tokens |= {await kept(installed, "bob-client"), await kept(installed, "bench-exporter")}
        tokens.add(await kept(installed, "jumpstarter-router-0"))
        tokens.add((await lab.admin("root")).token)
        tokens.add((await lab.client("bob")).token)

        policy = await lab.policy("everybody", Rule(clients=(Selector(),)))
        changed = await lab.lab.put_policy(
            SERVER, replace(policy, rules=(Rule(clients=(Selector(),), description="all"),)), create=False
        )
        await lab.lab.delete_policy(SERVER, changed.key)
        tokens.add(await lease(lab))
        tokens.add((await lab.exporter("board")).token)

        store = lab.server.store
        await store.put_secret("another", b"one")
        await store.put_secret("another", b"two", replace=True)
        for key in (Key(Kind.CLIENT, "default", "bob"), Key(Kind.EXPORTER, "default", "bench")):
            await lab.lab.delete_account(SERVER, key)
        await lab.lab.delete_account(SERVER, Key(Kind.ADMIN, "default", "root"))
        # Into the piece that is there already.
        await store.record_audit((await eventually(store.audit))[:1])
    return tokens


async def lease(lab: RunningLab) -> str:
    """Have a lease for a moment; return the token of the client."""
    alice = await lab.client("alice")
    async with scripted_exporter(lab), alice.stubs() as stubs:
        name = await lease_of(stubs)
        key = Key(Kind.LEASE, "default", name)
        await lab.until(key, lambda record: record.exporter)
        await delete(stubs, name)
        await lab.until(key, lambda record: record.ended)
        # Ended leases are asked of the cluster.
        assert await lab.server.store.get(key) is not None
    return alice.token


async def forget(own_kube: Kube, installed: Cluster, values: Values, folder: Path) -> None:
    """Have the next controller come to a cluster with other certificates, and forget what is old."""
    await installed.patch(CONFIG_MAPS, "jumpstarter-service-ca-cert", {"data": {"ca.crt": "of somebody else"}})
    async with controller(own_kube, installed, values, folder) as lab:

        async def published() -> bool:
            kept = await installed.get(CONFIG_MAPS, "jumpstarter-service-ca-cert")
            return bool(kept["data"]["ca.crt"] == lab.ca)

        await eventually(published)
        assert await lab.server.store.collect(Kind.LEASE, EVERYTHING) == 1
        assert await lab.server.store.collect_audit(before=EVERYTHING) > 0


async def test_the_rights_of_the_role_suffice_and_each_of_them_is_used(
    own_kube: Kube, installed: Cluster, values: Values, used: set[Right], tmp_path: Path
) -> None:
    with anyio.fail_after(PATIENCE):
        await live(own_kube, installed, values, tmp_path)
        await forget(own_kube, installed, values, tmp_path)
        role = await installed.get(ROLES, ACCOUNT)
    assert used == granted(role["rules"])


async def take_away(cluster: Cluster, right: Right) -> None:
    role = await cluster.get(ROLES, ACCOUNT)
    left = sorted(granted(role["rules"]) - {right})
    role["rules"] = [{"apiGroups": [each[0]], "resources": [each[1]], "verbs": [each[2]]} for each in left]
    await cluster.replace(ROLES, role)


@pytest.mark.parametrize(
    "right",
    [
        ("jumpstarter.dev", "leases", "list"),
        ("", "secrets", "list"),
        ("", "secrets", "create"),
    ],
    ids=" ".join,
)
async def test_without_one_of_them_the_start_fails_with_a_message_that_names_it(
    own_kube: Kube, installed: Cluster, values: Values, tmp_path: Path, right: Right
) -> None:
    group, resource, verb = right
    await take_away(installed, right)
    with anyio.fail_after(PATIENCE), pytest.raises((StoreError, Forbidden)) as failure:
        async with controller(own_kube, installed, values, tmp_path):
            pass
    assert f'cannot {verb} resource "{resource}" in API group "{group}"' in str(failure.value)


async def test_a_controller_that_may_not_watch_says_so(
    own_kube: Kube, installed: Cluster, values: Values, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await take_away(installed, ("jumpstarter.dev", "clients", "watch"))
    with anyio.fail_after(PATIENCE):
        async with controller(own_kube, installed, values, tmp_path) as lab:
            store = lab.server.store
            assert isinstance(store, KubernetesStore)
            await become(lambda: 'cannot watch resource "clients"' in caplog.text)
            assert not store.following


async def test_who_may_read_all_but_secrets_learns_none(
    own_kube: Kube, installed: Cluster, values: Values, tmp_path: Path
) -> None:
    with anyio.fail_after(PATIENCE):
        tokens = await live(own_kube, installed, values, tmp_path)
        secrets = (await installed.list(SECRETS)).items
    hidden = {base64.b64decode(value) for secret in secrets for value in (secret.get("data") or {}).values()}
    needles = {token.encode() for token in tokens} | {value for value in hidden if len(value) > 8}
    assert len(needles) > 8
    storage = own_kube.server.storage
    shown = own_kube.do(
        lambda: {
            kind: list(storage.all(kind, "default"))
            for kind in (
                *(
                    ("jumpstarter.dev", plural)
                    for plural in ("clients", "exporters", "leases", "exporteraccesspolicies")
                ),
                ("", "configmaps"),
                ("", "events"),
                ("coordination.k8s.io", "leases"),
            )
        }
    )
    assert shown["jumpstarter.dev", "leases"]
    assert shown["", "configmaps"]
    for items in shown.values():
        for item in items:
            texts = [json.dumps(item).encode()]
            for value in (item.get("binaryData") or {}).values():
                texts.append(gzip.decompress(base64.b64decode(value)))
            for text in texts:
                for needle in needles:
                    assert needle not in text
                    assert base64.b64encode(needle) not in text


async def test_a_lease_costs_few_writes(
    own_kube: Kube, installed: Cluster, values: Values, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rights, writes = own_kube.server.rights, list[Right]()
    check = rights.check

    def noted(user: Any, asked: Any) -> None:
        check(user, asked)
        if asked.verb in ("create", "update", "patch", "delete") and asked.group == "jumpstarter.dev":
            writes.append((asked.group, asked.resource, asked.verb))

    monkeypatch.setattr(rights, "check", noted)
    with anyio.fail_after(PATIENCE):
        async with controller(own_kube, installed, values, tmp_path) as lab:
            alice = await lab.client("alice")
            async with scripted_exporter(lab), alice.stubs() as stubs:
                writes.clear()
                name = await lease_of(stubs)
                key = Key(Kind.LEASE, "default", name)
                await lab.until(key, lambda record: record.exporter)
                await delete(stubs, name)
                await lab.until(key, lambda record: record.ended)
    of_leases = [(resource, verb) for _, resource, verb in writes if resource.startswith("leases")]
    # Asked for, granted, ended, marked as ended; docs/kubernetes.md counts with this.
    assert of_leases == [("leases", "create"), *[("leases/status", "patch")] * 2, ("leases", "patch")]
    # Taken and given back, and what the exporter itself reports meanwhile.
    assert len(writes) - len(of_leases) <= 4


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def arguments(values: Values, deployment: str) -> list[str]:
    (item,) = (
        each for each in render(values) if (each["kind"], each["metadata"]["name"]) == ("Deployment", deployment)
    )
    found: list[str] = item["spec"]["template"]["spec"]["containers"][0]["args"]
    return found


async def test_the_programs_run_as_the_pods_run_them(
    own_kube: Kube, installed: Cluster, values: Values, tmp_path: Path
) -> None:
    grpc_port, web_port, peer_port = free_port(), free_port(), free_port()
    config = controller_config(values)
    # One machine instead of pods; everything else is as it is there.
    config |= {"listen": f"127.0.0.1:{grpc_port}", "metrics": {"listen": ""}, "names": ["localhost", *config["names"]]}
    config["web"]["listen"] = f"127.0.0.1:{web_port}"
    config["kubernetes"]["peerListen"] = f"127.0.0.1:{peer_port}"
    (tmp_path / "lab.yaml").write_text(yaml.safe_dump(config))
    kubeconfig = own_kube.kubeconfig(tmp_path / "kubeconfig", token=await installed.request_token(ACCOUNT))
    # Homes of pods can't be written.
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "HOME": "/nonexistent"}

    def command(deployment: str) -> list[str]:
        given = [text.replace("/etc/jumpstarter", str(tmp_path)) for text in arguments(values, deployment)]
        return [sys.executable, "-c", "from jumpstarter_cli.jmp import jmp; jmp()", *given]

    async def ready() -> bool:
        with suppress(aiohttp.ClientError):
            async with http.get(f"https://127.0.0.1:{web_port}/readyz", ssl=False) as answer:
                return answer.status == 200
        return False

    async def listens() -> bool:
        with suppress(OSError):
            async with await anyio.connect_tcp("localhost", int(values.router_endpoint.rpartition(":")[2])):
                return True
        return False

    def ends(process: Any) -> None:
        if process.returncode is None:
            process.kill()

    async with aiohttp.ClientSession() as http, AsyncExitStack() as stack:
        with anyio.fail_after(PATIENCE):
            controllers = await anyio.open_process(command("jumpstarter-controller"), env=environment)
            stack.push_async_callback(controllers.aclose)
            stack.callback(ends, controllers)
            await eventually(ready)
            (tmp_path / "token").write_text(await kept(installed, "jumpstarter-router-0"))
            trusted = await installed.get(CONFIG_MAPS, "jumpstarter-service-ca-cert")
            (tmp_path / "ca.crt").write_text(trusted["data"]["ca.crt"])
            document = yaml.safe_dump(router_config(values, 0)).replace("/etc/jumpstarter", str(tmp_path))
            document = document.replace("jumpstarter-controllers.default.svc:8082", f"localhost:{grpc_port}")
            port = values.router_endpoint.rpartition(":")[2]
            (tmp_path / "router.yaml").write_text(document.replace("0.0.0.0:8083", f"127.0.0.1:{port}"))
            relay = await anyio.open_process(command("jumpstarter-router-0"), env=environment)
            stack.push_async_callback(relay.aclose)
            stack.callback(ends, relay)
            await eventually(listens)
            for process in (relay, controllers):
                process.send_signal(signal.SIGTERM)
                assert await process.wait() == 0
