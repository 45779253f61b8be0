"""What Jumpstarter relies on in a Kubernetes API server; the stand-in has to do it, and so has a real one.

By default the stand-in is tested. `JMP_KUBE_SERVER` (URL), `JMP_KUBE_TOKEN` (of somebody who may do everything) and
`JMP_KUBE_CA` (a file) have the same tests run against another server, on which Jumpstarter's CRDs have to be.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from jumpstarter_kubernetes.cluster import Cluster, WatchEvent
from jumpstarter_kubernetes.exceptions import (
    AlreadyExists,
    ClusterError,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    Unauthorized,
    Unsupported,
)
from jumpstarter_kubernetes.manifests import crds
from jumpstarter_kubernetes.resources import (
    CLIENTS,
    CONFIG_MAPS,
    COORDINATION_LEASES,
    CRDS,
    EXPORTERS,
    LEASES,
    NAMESPACES,
    SECRETS,
    SERVICE_ACCOUNTS,
    Resource,
)

from .fixtures import Target

ROLES = Resource("rbac.authorization.k8s.io", "v1", "roles", "Role")
BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")

SOON = 20


@pytest.fixture
def cluster(kube_namespace: Cluster) -> Cluster:
    return kube_namespace


def client(name: str = "one", **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels}, "spec": {}}


def lease(name: str = "one", **spec: Any) -> dict[str, Any]:
    wanted = {"clientRef": {"name": "me"}, "duration": "30m0s", "selector": {"matchLabels": {"board": "rpi"}}}
    return {"metadata": {"name": name}, "spec": wanted | spec}


def names(items: list[dict[str, Any]]) -> list[str]:
    return [item["metadata"]["name"] for item in items]


# -- objects ---------------------------------------------------------------------------------------


async def test_the_kinds_are_as_they_are_shipped(cluster: Cluster) -> None:
    for definition in crds():
        present = await cluster.get(CRDS, definition["metadata"]["name"])
        states = {item["type"]: item["status"] for item in present["status"]["conditions"]}
        assert states["Established"] == "True"
        versions = {version["name"] for version in present["spec"]["versions"] if version["served"]}
        assert "v1alpha1" in versions


async def test_a_created_object_has_what_only_the_server_gives(cluster: Cluster) -> None:
    made = await cluster.create(CLIENTS, client(team="red"))

    meta = made["metadata"]
    assert made["apiVersion"] == "jumpstarter.dev/v1alpha1"
    assert made["kind"] == "Client"
    assert meta["namespace"] == cluster.namespace
    assert meta["uid"]
    assert meta["resourceVersion"]
    assert meta["creationTimestamp"].endswith("Z")
    assert meta["generation"] == 1
    assert meta["labels"] == {"team": "red"}
    assert await cluster.get(CLIENTS, "one") == made


async def test_a_name_can_be_made_up(cluster: Cluster) -> None:
    made = await cluster.create(CLIENTS, {"metadata": {"generateName": "some-"}})
    assert made["metadata"]["name"].startswith("some-")
    assert len(made["metadata"]["name"]) > len("some-")


async def test_a_name_is_taken_once(cluster: Cluster) -> None:
    await cluster.create(CLIENTS, client())

    with pytest.raises(AlreadyExists) as caught:
        await cluster.create(CLIENTS, client())
    assert caught.value.status == 409
    assert caught.value.reason == "AlreadyExists"
    assert 'clients.jumpstarter.dev "one" already exists' in str(caught.value)


async def test_what_is_not_there(cluster: Cluster) -> None:
    requests: list[Callable[[], Awaitable[Any]]] = [
        lambda: cluster.get(CLIENTS, "one"),
        lambda: cluster.delete(CLIENTS, "one"),
        lambda: cluster.patch(CLIENTS, "one", {"metadata": {"labels": {"a": "b"}}}),
    ]
    for request in requests:
        with pytest.raises(NotFound, match=r'clients\.jumpstarter\.dev "one" not found'):
            await request()


async def test_an_unknown_kind(cluster: Cluster) -> None:
    unknown = Resource("jumpstarter.dev", "v1alpha1", "nothings", "Nothing")
    with pytest.raises(NotFound, match="does not know that kind of objects"):
        await cluster.list(unknown)


async def test_an_unknown_namespace(cluster: Cluster) -> None:
    with pytest.raises(NotFound, match='namespaces "no-such-namespace" not found'):
        await cluster.create(CLIENTS, client(), namespace="no-such-namespace")
    assert (await cluster.list(CLIENTS, namespace="no-such-namespace")).items == []


@pytest.mark.parametrize("name", ["Upper", "under_score", "-dash", "dot.", "a" * 254])
async def test_names_are_those_of_rfc_1123(cluster: Cluster, name: str) -> None:
    with pytest.raises(Invalid, match=r"metadata\.name"):
        await cluster.create(CLIENTS, client(name))


@pytest.mark.parametrize("labels", [{"a b": "c"}, {"a": "b c"}, {"a": "x" * 64}])
async def test_labels_have_their_rules(cluster: Cluster, labels: dict[str, str]) -> None:
    with pytest.raises(Invalid, match=r"metadata\.labels"):
        await cluster.create(CLIENTS, {"metadata": {"name": "one", "labels": labels}})


async def test_a_dry_run_changes_nothing(cluster: Cluster) -> None:
    made = await cluster.create(CLIENTS, client(), dry_run=True)
    assert made["metadata"]["uid"]
    with pytest.raises(NotFound):
        await cluster.get(CLIENTS, "one")
    with pytest.raises(Invalid):
        await cluster.create(CLIENTS, client("Upper"), dry_run=True)


# -- versions --------------------------------------------------------------------------------------


async def test_every_change_has_another_version(cluster: Cluster) -> None:
    first = await cluster.create(CLIENTS, client())
    second = await cluster.patch(CLIENTS, "one", {"metadata": {"labels": {"a": "b"}}})
    assert second["metadata"]["resourceVersion"] != first["metadata"]["resourceVersion"]


async def test_a_change_that_changes_nothing_is_none(cluster: Cluster) -> None:
    first = await cluster.create(CLIENTS, client(a="b"))
    second = await cluster.patch(CLIENTS, "one", {"metadata": {"labels": {"a": "b"}}})
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_a_stale_replacement_is_refused(cluster: Cluster) -> None:
    first = await cluster.create(CLIENTS, client())
    await cluster.patch(CLIENTS, "one", {"metadata": {"labels": {"a": "b"}}})
    first["spec"]["username"] = "somebody"

    with pytest.raises(Conflict, match="the object has been modified"):
        await cluster.replace(CLIENTS, first)
    assert "username" not in (await cluster.get(CLIENTS, "one"))["spec"]


async def test_of_two_who_replace_the_same_version_one_succeeds(cluster: Cluster) -> None:
    first = await cluster.create(CLIENTS, client())
    done: list[str] = []

    async def change(name: str) -> None:
        try:
            await cluster.replace(CLIENTS, {**first, "spec": {"username": name}})
            done.append(name)
        except Conflict:
            pass

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(change, f"user-{number}")
    assert len(done) == 1
    assert (await cluster.get(CLIENTS, "one"))["spec"]["username"] == done[0]


async def test_a_custom_object_is_not_replaced_without_a_version(cluster: Cluster) -> None:
    made = await cluster.create(CLIENTS, client())
    del made["metadata"]["resourceVersion"]
    with pytest.raises(Invalid, match=r"metadata\.resourceVersion.*must be specified for an update"):
        await cluster.replace(CLIENTS, made)


async def test_a_patch_can_name_the_version_it_is_for(cluster: Cluster) -> None:
    made = await cluster.create(CLIENTS, client())
    version = made["metadata"]["resourceVersion"]
    await cluster.patch(CLIENTS, "one", {"metadata": {"resourceVersion": version, "labels": {"a": "1"}}})

    with pytest.raises(Conflict):
        await cluster.patch(CLIENTS, "one", {"metadata": {"resourceVersion": version, "labels": {"a": "2"}}})
    assert (await cluster.get(CLIENTS, "one"))["metadata"]["labels"] == {"a": "1"}


async def test_the_generation_counts_changes_of_the_spec(cluster: Cluster) -> None:
    await cluster.create(EXPORTERS, client())
    labelled = await cluster.patch(EXPORTERS, "one", {"metadata": {"labels": {"a": "b"}}})
    assert labelled["metadata"]["generation"] == 1
    changed = await cluster.patch(EXPORTERS, "one", {"spec": {"enabled": False}})
    assert changed["metadata"]["generation"] == 2
    told = await cluster.patch(EXPORTERS, "one", {"status": {"statusMessage": "hello"}}, status=True)
    assert told["metadata"]["generation"] == 2


# -- patches ---------------------------------------------------------------------------------------


async def test_a_merge_patch_merges_maps_and_removes_nulls(cluster: Cluster) -> None:
    await cluster.create(CLIENTS, client(a="1", b="2"))
    changed = await cluster.patch(CLIENTS, "one", {"metadata": {"labels": {"a": None, "c": "3"}}})
    assert changed["metadata"]["labels"] == {"b": "2", "c": "3"}


async def test_a_json_patch_does_all_or_nothing(cluster: Cluster) -> None:
    await cluster.create(CLIENTS, client(a="1"))
    operations = [
        {"op": "test", "path": "/metadata/labels/a", "value": "1"},
        {"op": "replace", "path": "/metadata/labels/a", "value": "2"},
        {"op": "add", "path": "/metadata/labels/b~1c", "value": "3"},
    ]
    changed = await cluster.patch(CLIENTS, "one", operations, kind="json")
    assert changed["metadata"]["labels"] == {"a": "2", "b/c": "3"}

    with pytest.raises(Invalid):
        await cluster.patch(CLIENTS, "one", operations, kind="json")
    assert (await cluster.get(CLIENTS, "one"))["metadata"]["labels"] == {"a": "2", "b/c": "3"}


async def test_custom_objects_have_no_strategic_patch(cluster: Cluster) -> None:
    await cluster.create(CLIENTS, client())
    with pytest.raises(Unsupported):
        await cluster.patch(CLIENTS, "one", {"metadata": {"labels": {"a": "b"}}}, kind="strategic")
    await cluster.create(CONFIG_MAPS, {"metadata": {"name": "one"}, "data": {"a": "1"}})
    changed = await cluster.patch(CONFIG_MAPS, "one", {"data": {"b": "2"}}, kind="strategic")
    assert changed["data"] == {"a": "1", "b": "2"}


# -- status ----------------------------------------------------------------------------------------


async def test_status_and_spec_are_written_apart(cluster: Cluster) -> None:
    made = await cluster.create(EXPORTERS, {**client(), "status": {"endpoint": "not:1"}})
    assert "endpoint" not in made.get("status", {})

    told = await cluster.replace(
        EXPORTERS, {**made, "spec": {"enabled": False}, "status": {"endpoint": "lab:1"}}, status=True
    )
    assert told["status"]["endpoint"] == "lab:1"
    assert told["spec"]["enabled"] is True

    changed = await cluster.replace(EXPORTERS, {**told, "spec": {"enabled": False}, "status": {"endpoint": "lab:2"}})
    assert changed["spec"]["enabled"] is False
    assert changed["status"]["endpoint"] == "lab:1"


async def test_a_stale_status_is_refused(cluster: Cluster) -> None:
    made = await cluster.create(EXPORTERS, client())
    await cluster.patch(EXPORTERS, "one", {"status": {"endpoint": "lab:1"}}, status=True)
    with pytest.raises(Conflict):
        await cluster.replace(EXPORTERS, {**made, "status": {"endpoint": "lab:2"}}, status=True)


async def test_a_status_write_does_not_touch_labels_of_its_body(cluster: Cluster) -> None:
    made = await cluster.create(EXPORTERS, client(a="1"))
    meta = {**made["metadata"], "labels": {"a": "2"}}
    told = await cluster.replace(EXPORTERS, {**made, "metadata": meta, "status": {"endpoint": "lab:1"}}, status=True)
    assert told["metadata"]["labels"] == {"a": "1"}


# -- schemas and rules -----------------------------------------------------------------------------


async def test_defaults_are_filled_in_and_unknown_fields_left_out(cluster: Cluster) -> None:
    made = await cluster.create(EXPORTERS, {**client(), "spec": {"unknown": 1}})
    assert made["spec"] == {"enabled": True}


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"duration": 30}, "spec.duration"),
        ({"selector": {"matchLabels": "board=rpi"}}, "spec.selector.matchLabels"),
        ({"beginTime": "tomorrow"}, "spec.beginTime"),
        ({"tags": {f"tag-{number}": "x" for number in range(11)}}, "spec.tags"),
        ({"release": "yes"}, "spec.release"),
    ],
)
async def test_a_schema_is_kept(cluster: Cluster, spec: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        await cluster.create(LEASES, lease(**spec))
    assert caught.value.status == 422
    assert any(cause["field"].startswith(field) for cause in caught.value.details["causes"])


async def test_what_is_required_is_required(cluster: Cluster) -> None:
    body = lease()
    del body["spec"]["clientRef"]
    with pytest.raises(Invalid, match=r"spec\.clientRef.*Required value"):
        await cluster.create(LEASES, body)
    await cluster.create(LEASES, lease())
    with pytest.raises(Invalid, match=r"status\.ended.*Required value"):
        await cluster.patch(LEASES, "one", {"status": {"priority": 1}}, status=True)


async def test_rules_are_kept(cluster: Cluster) -> None:
    with pytest.raises(Invalid, match=r"one of selector or exporterRef\.name is required") as caught:
        await cluster.create(LEASES, lease(selector={}))
    assert caught.value.details["causes"][0]["reason"] == "FieldValueInvalid"
    made = await cluster.create(LEASES, lease(selector={}, exporterRef={"name": "board"}))
    assert made["spec"]["exporterRef"] == {"name": "board"}


async def test_rules_about_changes_are_kept(cluster: Cluster) -> None:
    await cluster.create(LEASES, lease(tags={"run": "1"}))
    with pytest.raises(Invalid, match="tags are immutable"):
        await cluster.patch(LEASES, "one", {"spec": {"tags": {"run": "2"}}})
    changed = await cluster.patch(LEASES, "one", {"spec": {"release": True}})
    assert changed["spec"]["release"] is True


async def test_a_status_has_a_schema_too(cluster: Cluster) -> None:
    await cluster.create(EXPORTERS, client())
    with pytest.raises(Invalid, match=r"status\.exporterStatus"):
        await cluster.patch(EXPORTERS, "one", {"status": {"exporterStatus": "Sleeping"}}, status=True)


# -- lists -----------------------------------------------------------------------------------------


async def test_lists_are_ordered_by_name(cluster: Cluster) -> None:
    for name in ("b", "c", "a"):
        await cluster.create(CLIENTS, client(name))
    assert names((await cluster.list(CLIENTS)).items) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ("team=red", ["a"]),
        ("team==red", ["a"]),
        ("team!=red", ["b", "c"]),
        ("team in (red, blue)", ["a", "b"]),
        ("team notin (red)", ["b", "c"]),
        ("team", ["a", "b"]),
        ("!team", ["c"]),
        ("team,size=big", ["b"]),
    ],
)
async def test_lists_by_label(cluster: Cluster, selector: str, found: list[str]) -> None:
    await cluster.create(CLIENTS, client("a", team="red"))
    await cluster.create(CLIENTS, client("b", team="blue", size="big"))
    await cluster.create(CLIENTS, client("c"))
    assert names((await cluster.list(CLIENTS, labels=selector)).items) == found


async def test_lists_by_field(cluster: Cluster) -> None:
    for name in ("a", "b"):
        await cluster.create(CLIENTS, client(name))
    assert names((await cluster.list(CLIENTS, fields="metadata.name=b")).items) == ["b"]
    with pytest.raises(Invalid, match="field label not supported"):
        await cluster.list(CLIENTS, fields="spec.username=b")


async def test_a_bad_selector_is_refused(cluster: Cluster) -> None:
    with pytest.raises(Invalid):
        await cluster.list(CLIENTS, labels="team in red")


async def test_pages_tell_of_one_moment(cluster: Cluster) -> None:
    for number in range(5):
        await cluster.create(CLIENTS, client(f"client-{number}"))
    first = await cluster.list(CLIENTS, limit=2)
    await cluster.delete(CLIENTS, "client-3")
    second = await cluster.list(CLIENTS, limit=2, more=first.more)
    third = await cluster.list(CLIENTS, limit=2, more=second.more)

    assert names(first.items + second.items + third.items) == [f"client-{number}" for number in range(5)]
    assert third.more == ""
    assert first.version == second.version == third.version


async def test_a_list_of_all_namespaces(cluster: Cluster) -> None:
    await cluster.create(CLIENTS, client("of-this-test"))
    found = await cluster.list(CLIENTS, all_namespaces=True)
    assert (cluster.namespace, "of-this-test") in [
        (item["metadata"]["namespace"], item["metadata"]["name"]) for item in found.items
    ]


# -- watches ---------------------------------------------------------------------------------------


async def collected(
    cluster: Cluster, version: str, count: int, resource: Resource = CLIENTS, **options: Any
) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    with anyio.fail_after(SOON):
        async with cluster.watch(resource, version=version, **options) as events:
            async for event in events:
                if event.type != "BOOKMARK":
                    found.append((event.type, event.object["metadata"]["name"]))
                if len(found) == count:
                    break
    return found


async def test_a_watch_tells_what_happened_since(cluster: Cluster) -> None:
    await cluster.create(CLIENTS, client("before"))
    version = (await cluster.list(CLIENTS)).version
    await cluster.create(CLIENTS, client("one"))
    await cluster.patch(CLIENTS, "one", {"metadata": {"labels": {"a": "b"}}})
    await cluster.delete(CLIENTS, "one")
    await cluster.create(CLIENTS, client("last"))

    assert await collected(cluster, version, 4) == [
        ("ADDED", "one"),
        ("MODIFIED", "one"),
        ("DELETED", "one"),
        ("ADDED", "last"),
    ]


async def test_a_watch_tells_what_happens(cluster: Cluster) -> None:
    version = (await cluster.list(CLIENTS)).version
    with anyio.fail_after(SOON):
        async with cluster.watch(CLIENTS, version=version) as events:
            for number in range(3):
                made = await cluster.create(CLIENTS, client(f"client-{number}"))
                event = await anext(events)
                while event.type == "BOOKMARK":
                    event = await anext(events)
                assert event == WatchEvent("ADDED", made)


async def test_a_deletion_is_told_with_a_version_of_its_own(cluster: Cluster) -> None:
    made = await cluster.create(CLIENTS, client())
    version = made["metadata"]["resourceVersion"]
    await cluster.delete(CLIENTS, "one")
    with anyio.fail_after(SOON):
        async with cluster.watch(CLIENTS, version=version) as events:
            event = await anext(events)
    assert event.type == "DELETED"
    assert event.object["metadata"]["uid"] == made["metadata"]["uid"]
    assert event.object["metadata"]["resourceVersion"] != version


async def test_a_watch_by_label_tells_what_begins_and_ceases_to_match(cluster: Cluster) -> None:
    version = (await cluster.list(CLIENTS)).version
    await cluster.create(CLIENTS, client("one"))
    await cluster.patch(CLIENTS, "one", {"metadata": {"labels": {"team": "red"}}})
    await cluster.patch(CLIENTS, "one", {"metadata": {"labels": {"size": "big"}}})
    await cluster.patch(CLIENTS, "one", {"metadata": {"labels": {"team": "blue"}}})
    await cluster.create(CLIENTS, client("two", team="red"))

    assert await collected(cluster, version, 4, labels="team=red") == [
        ("ADDED", "one"),
        ("MODIFIED", "one"),
        ("DELETED", "one"),
        ("ADDED", "two"),
    ]


async def test_a_watch_from_the_beginning_tells_all_there_is(cluster: Cluster) -> None:
    for name in ("a", "b"):
        await cluster.create(CLIENTS, client(name))
    assert sorted(await collected(cluster, "0", 2)) == [("ADDED", "a"), ("ADDED", "b")]


async def test_a_watch_tells_of_its_namespace_alone(cluster: Cluster) -> None:
    version = (await cluster.list(CLIENTS)).version
    other = await cluster.create(NAMESPACES, {"metadata": {"generateName": "test-other-"}})
    await cluster.create(CLIENTS, client("elsewhere"), namespace=other["metadata"]["name"])
    await cluster.create(CLIENTS, client("here"))
    assert await collected(cluster, version, 1) == [("ADDED", "here")]
    await cluster.delete(NAMESPACES, other["metadata"]["name"])


async def test_a_watch_ends_after_its_time(cluster: Cluster) -> None:
    version = (await cluster.list(CLIENTS)).version
    with anyio.fail_after(SOON):
        async with cluster.watch(CLIENTS, version=version, timeout=1) as events:
            told = [event.type async for event in events]
    assert set(told) <= {"BOOKMARK"}


async def test_bookmarks_tell_how_far_it_is(cluster: Cluster) -> None:
    version = (await cluster.list(CLIENTS)).version
    await cluster.create(CONFIG_MAPS, {"metadata": {"name": "something-else"}})
    made = await cluster.create(CLIENTS, client())
    # A real server sends one about every minute, and before the time of a watch is over.
    with anyio.fail_after(90):
        async with cluster.watch(CLIENTS, version=version, timeout=75) as events:
            async for event in events:
                if event.type == "BOOKMARK":
                    break
    assert event.type == "BOOKMARK"
    assert int(event.object["metadata"]["resourceVersion"]) >= int(made["metadata"]["resourceVersion"])


# -- deletion --------------------------------------------------------------------------------------


async def test_a_deletion_can_name_what_it_is_for(cluster: Cluster) -> None:
    made = await cluster.create(CLIENTS, client())
    with pytest.raises(Conflict, match="UID"):
        await cluster.delete(CLIENTS, "one", uid="00000000-0000-0000-0000-000000000000")
    await cluster.patch(CLIENTS, "one", {"metadata": {"labels": {"a": "b"}}})
    with pytest.raises(Conflict, match="ResourceVersion"):
        await cluster.delete(CLIENTS, "one", version=made["metadata"]["resourceVersion"])
    await cluster.delete(CLIENTS, "one", uid=made["metadata"]["uid"])
    with pytest.raises(NotFound):
        await cluster.get(CLIENTS, "one")


async def test_finalizers_are_waited_for(cluster: Cluster) -> None:
    body = client()
    body["metadata"]["finalizers"] = ["jumpstarter.dev/test"]
    await cluster.create(CLIENTS, body)
    await cluster.delete(CLIENTS, "one")
    assert (await cluster.get(CLIENTS, "one"))["metadata"]["deletionTimestamp"]

    await cluster.patch(CLIENTS, "one", {"metadata": {"finalizers": None}})
    with pytest.raises(NotFound):
        await cluster.get(CLIENTS, "one")


async def gone(cluster: Cluster, resource: Resource, name: str) -> None:
    with anyio.fail_after(SOON):
        while True:
            try:
                await cluster.get(resource, name)
            except NotFound:
                return
            await anyio.sleep(0.2)


async def test_what_an_object_owns_goes_with_it(cluster: Cluster) -> None:
    owner = await cluster.create(CLIENTS, client())
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": "one",
        "uid": owner["metadata"]["uid"],
        "controller": True,
    }
    meta = {"name": "one-client", "ownerReferences": [reference]}
    await cluster.create(SECRETS, {"metadata": meta, "stringData": {"token": "secret"}})
    await cluster.create(SECRETS, {"metadata": {"name": "other"}})

    await cluster.delete(CLIENTS, "one", propagation="Background")
    await gone(cluster, SECRETS, "one-client")
    assert await cluster.get(SECRETS, "other")


# -- secrets ---------------------------------------------------------------------------------------


async def test_secrets_hold_bytes(cluster: Cluster) -> None:
    made = await cluster.create(
        SECRETS, {"metadata": {"name": "one"}, "stringData": {"a": "text"}, "data": {"b": "AAH/"}}
    )
    assert made["type"] == "Opaque"
    assert {key: base64.b64decode(value) for key, value in made["data"].items()} == {"a": b"text", "b": b"\0\1\xff"}
    assert "stringData" not in await cluster.get(SECRETS, "one")
    with pytest.raises(Invalid, match="illegal base64"):
        await cluster.create(SECRETS, {"metadata": {"name": "two"}, "data": {"a": "no base64!"}})


async def test_built_in_kinds_may_be_replaced_whatever_they_are(cluster: Cluster) -> None:
    await cluster.create(CONFIG_MAPS, {"metadata": {"name": "one"}, "data": {"a": "1"}})
    changed = await cluster.replace(CONFIG_MAPS, {"metadata": {"name": "one"}, "data": {"b": "2"}})
    assert changed["data"] == {"b": "2"}


# -- server-side apply -----------------------------------------------------------------------------


async def test_applying_creates_and_changes(cluster: Cluster) -> None:
    first = await cluster.apply(CLIENTS, client(a="1", b="2"), manager="test")
    assert first["metadata"]["labels"] == {"a": "1", "b": "2"}
    second = await cluster.apply(CLIENTS, client(a="2"), manager="test")
    # What was applied before, and is not any more, goes.
    assert second["metadata"]["labels"] == {"a": "2"}


async def test_applying_the_same_again_changes_nothing(cluster: Cluster) -> None:
    first = await cluster.apply(CLIENTS, client(a="1"), manager="test")
    second = await cluster.apply(CLIENTS, client(a="1"), manager="test")
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_applying_leaves_alone_what_belongs_to_others(cluster: Cluster) -> None:
    await cluster.apply(CLIENTS, client(a="1"), manager="test")
    await cluster.patch(CLIENTS, "one", {"metadata": {"labels": {"own": "x"}}, "spec": {"username": "me"}})
    applied = await cluster.apply(CLIENTS, {"metadata": {"name": "one", "labels": {"b": "2"}}}, manager="test")
    assert applied["metadata"]["labels"] == {"own": "x", "b": "2"}
    assert applied["spec"]["username"] == "me"


async def test_applying_what_belongs_to_somebody_else_is_a_conflict(cluster: Cluster) -> None:
    await cluster.apply(CLIENTS, client(a="1"), manager="one")
    with pytest.raises(Conflict, match='conflict with "one"') as caught:
        await cluster.apply(CLIENTS, client(a="2"), manager="two")
    assert [cause["field"] for cause in caught.value.details["causes"]] == [".metadata.labels.a"]

    # The same value is no conflict, and is shared then.
    await cluster.apply(CLIENTS, client(a="1"), manager="two")
    forced = await cluster.apply(CLIENTS, client(a="3"), manager="two", force=True)
    assert forced["metadata"]["labels"] == {"a": "3"}


async def test_what_two_have_applied_goes_with_the_last(cluster: Cluster) -> None:
    await cluster.apply(CLIENTS, client(a="1"), manager="one")
    await cluster.apply(CLIENTS, client(a="1"), manager="two")
    kept = await cluster.apply(CLIENTS, client(), manager="one")
    assert kept["metadata"]["labels"] == {"a": "1"}
    left = await cluster.apply(CLIENTS, client(), manager="two")
    assert not left["metadata"].get("labels")


async def test_a_dry_run_of_applying_tells_what_would_be(cluster: Cluster) -> None:
    await cluster.apply(CLIENTS, client(a="1"), manager="test")
    would = await cluster.apply(CLIENTS, client(a="2"), manager="test", dry_run=True)
    assert would["metadata"]["labels"] == {"a": "2"}
    assert (await cluster.get(CLIENTS, "one"))["metadata"]["labels"] == {"a": "1"}


# -- who may do what -------------------------------------------------------------------------------


async def account(cluster: Cluster, name: str, *rules: dict[str, Any]) -> str:
    """Make a service account that may do what the rules say; return a token of it."""
    await cluster.create(SERVICE_ACCOUNTS, {"metadata": {"name": name}})
    await cluster.create(ROLES, {"metadata": {"name": name}, "rules": list(rules)})
    subject = {"kind": "ServiceAccount", "name": name, "namespace": cluster.namespace}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    await cluster.create(BINDINGS, {"metadata": {"name": name}, "roleRef": reference, "subjects": [subject]})
    return await cluster.request_token(name)


def rule(*verbs: str, resources: tuple[str, ...] = ("leases",), group: str = "jumpstarter.dev") -> dict[str, Any]:
    return {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}


async def may(request: Callable[[], Awaitable[Any]]) -> bool:
    # Caches of a real server need a moment to learn of a role.
    for _ in range(20):
        try:
            await request()
            return True
        except Forbidden:
            await anyio.sleep(0.1)
    return False


async def test_a_role_allows_what_it_names_and_nothing_else(kube_target: Target, cluster: Cluster) -> None:
    token = await account(cluster, "reader", rule("get", "list"), rule("patch", resources=("exporters/status",)))
    await cluster.create(LEASES, lease())
    await cluster.create(EXPORTERS, client())

    async with kube_target.cluster(cluster.namespace, token) as reader:
        assert await may(lambda: reader.get(LEASES, "one"))
        assert await may(lambda: reader.list(LEASES))
        status = {"status": {"endpoint": "a:1"}}
        assert await may(lambda: reader.patch(EXPORTERS, "one", status, status=True))
        refused: list[Callable[[], Awaitable[Any]]] = [
            lambda: reader.create(LEASES, lease("two")),
            lambda: reader.patch(EXPORTERS, "one", {"spec": {"enabled": False}}),
            lambda: reader.get(EXPORTERS, "one"),
            lambda: reader.delete(LEASES, "one"),
            lambda: reader.list(SECRETS),
            lambda: reader.list(LEASES, all_namespaces=True),
            lambda: reader.list(LEASES, namespace="default"),
            lambda: collected(reader, "0", 1, LEASES),
        ]
        for request in refused:
            with pytest.raises(Forbidden, match="cannot") as caught:
                await request()
            assert caught.value.status == 403


async def test_a_right_can_be_for_one_name(kube_target: Target, cluster: Cluster) -> None:
    await cluster.create(SECRETS, {"metadata": {"name": "mine"}})
    await cluster.create(SECRETS, {"metadata": {"name": "other"}})
    one = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": ["mine"]}
    token = await account(cluster, "narrow", one)
    async with kube_target.cluster(cluster.namespace, token) as narrow:
        assert await may(lambda: narrow.get(SECRETS, "mine"))
        with pytest.raises(Forbidden):
            await narrow.get(SECRETS, "other")


async def test_who_is_unknown_is_told_so(kube_target: Target) -> None:
    async with kube_target.cluster("default", "no-such-token") as nobody:
        with pytest.raises(Unauthorized) as caught:
            await nobody.list(LEASES)
    assert caught.value.status == 401
    assert "no-such-token" not in str(caught.value)


async def test_tokens_of_service_accounts_can_be_reviewed(cluster: Cluster) -> None:
    await cluster.create(SERVICE_ACCOUNTS, {"metadata": {"name": "robot"}})
    token = await cluster.request_token("robot", audiences=["lab"])

    review = await cluster.review_token(token, ["lab"])
    assert review["authenticated"] is True
    assert review["user"]["username"] == f"system:serviceaccount:{cluster.namespace}:robot"
    assert "system:serviceaccounts" in review["user"]["groups"]
    assert review["audiences"] == ["lab"]
    assert not (await cluster.review_token(token, ["other"])).get("authenticated")
    assert not (await cluster.review_token("nonsense")).get("authenticated")


async def test_a_token_ends_with_its_account(cluster: Cluster) -> None:
    await cluster.create(SERVICE_ACCOUNTS, {"metadata": {"name": "robot"}})
    token = await cluster.request_token("robot", audiences=["lab"])
    await cluster.delete(SERVICE_ACCOUNTS, "robot")
    with anyio.fail_after(SOON):
        while True:
            if not (await cluster.review_token(token, ["lab"])).get("authenticated"):
                return
            await anyio.sleep(0.5)


# -- election --------------------------------------------------------------------------------------


async def test_of_those_who_want_to_lead_one_does(cluster: Cluster) -> None:
    def body(holder: str) -> dict[str, Any]:
        return {"metadata": {"name": "leader"}, "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15}}

    winners: list[str] = []

    async def run(name: str) -> None:
        try:
            await cluster.create(COORDINATION_LEASES, body(name))
        except AlreadyExists:
            return
        winners.append(name)

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(run, f"replica-{number}")
    assert len(winners) == 1

    held = await cluster.get(COORDINATION_LEASES, "leader")
    assert held["spec"]["holderIdentity"] == winners[0]
    taken = await cluster.replace(COORDINATION_LEASES, {**held, "spec": {**held["spec"], "holderIdentity": "other"}})
    with pytest.raises(Conflict):
        await cluster.replace(COORDINATION_LEASES, {**held, "spec": {**held["spec"], "holderIdentity": "late"}})
    assert taken["spec"]["holderIdentity"] == "other"


# -- how much --------------------------------------------------------------------------------------


async def test_a_large_object_is_kept_and_a_too_large_one_refused(cluster: Cluster) -> None:
    await cluster.create(CONFIG_MAPS, {"metadata": {"name": "large"}, "data": {"a": "x" * 900_000}})
    assert len((await cluster.get(CONFIG_MAPS, "large"))["data"]["a"]) == 900_000
    with pytest.raises(ClusterError):
        await cluster.create(CONFIG_MAPS, {"metadata": {"name": "too-large"}, "data": {"a": "x" * 4_000_000}})
