"""What clients see of exporters and leases, page by page, and what they do with their leases."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import grpc
import pytest
from google.protobuf import duration_pb2
from jumpstarter_protocol import client_pb2

from ..identity.tokens import Tokens
from ..model.records import Kind
from ..scripted import PARENT, delete, eventually, lease_key, lease_of, reason, refusal, scripted_exporter
from ..testing import SERVER, RunningLab, Stubs, running_lab


async def leases(client: Stubs, **fields: Any) -> Any:
    return await client.client.ListLeases(client_pb2.ListLeasesRequest(parent=PARENT, **fields))


async def names(client: Stubs, **fields: Any) -> list[str]:
    return [lease.name.rpartition("/")[2] for lease in (await leases(client, **fields)).leases]


async def exporters(client: Stubs, **fields: Any) -> Any:
    return await client.client.ListExporters(client_pb2.ListExportersRequest(parent=PARENT, **fields))


async def get(client: Stubs, name: str) -> Any:
    return await client.client.GetLease(client_pb2.GetLeaseRequest(name=f"{PARENT}/leases/{name}"))


async def update(stubs: Stubs, lease: str, /, **fields: Any) -> Any:
    request = client_pb2.UpdateLeaseRequest(lease=client_pb2.Lease(name=f"{PARENT}/leases/{lease}", **fields))
    return await stubs.client.UpdateLease(request)


# -- lists -------------------------------------------------------------------------------------------------


async def test_C01_lists_hold_exactly_what_the_filters_match(lab: RunningLab, alice: Stubs) -> None:
    await lab.exporter("one", labels={"board": "oidc"})
    await lab.exporter("two", labels={"board": "sa"})
    await lease_of(alice, "first", selector="board=oidc")
    await lease_of(alice, "second", selector="board=sa,!nonexistent")
    for text, found in (
        ("", ["first", "second"]),
        ("board=oidc", ["first"]),
        ("board==sa", ["second"]),
        ("board in (oidc,sa)", ["first", "second"]),
        ("!board", []),
        ("board=oidc,board=sa", []),
        ("board=unknown", []),
        ("board!=oidc", ["second"]),
    ):
        assert await names(alice, filter=text) == found, text
    for text, found in (("board=oidc", ["one"]), ("board", ["one", "two"]), ("!board", [])):
        shown = (await exporters(alice, filter=text)).exporters
        assert [exporter.name.rpartition("/")[2] for exporter in shown] == found, text


async def test_C01_filters_that_are_no_selectors_are_refused(alice: Stubs) -> None:
    assert (await refusal(exporters(alice, filter="a=(")))[0] == "UNKNOWN"
    assert (await refusal(leases(alice, filter="a=(")))[0] == "UNKNOWN"
    assert (await refusal(leases(alice, tag_filter="a=(")))[0] == "INVALID_ARGUMENT"


@pytest.mark.parametrize("size", [1, 3, 5, 10, 11, 100])
async def test_C02_pages_make_up_the_whole_list_without_duplicates(lab: RunningLab, alice: Stubs, size: int) -> None:
    for number in range(10):
        await lab.exporter(f"board-{number}", labels={"board": "x"})
        await lease_of(alice, f"lease-{number}", selector="board=x")
    for ask, field in ((leases, "leases"), (exporters, "exporters")):
        found: list[str] = []
        token, pages = "", 0
        while True:
            answer = await ask(alice, page_size=size, page_token=token)
            items = getattr(answer, field)
            assert len(items) <= size
            found += [item.name for item in items]
            token, pages = answer.next_page_token, pages + 1
            if not token:
                break
        assert (len(found), len(set(found)), found) == (10, 10, sorted(found))
        assert pages == -(-10 // size)
        whole = await ask(alice)
        assert ([item.name for item in getattr(whole, field)], whole.next_page_token) == (found, "")


async def test_C02_items_that_go_between_two_pages_cost_no_others(lab: RunningLab, alice: Stubs) -> None:
    for number in range(6):
        await lab.exporter(f"board-{number}")
    first = await exporters(alice, page_size=3)
    await lab.lab.delete_account(SERVER, (await lab.exporter("board-2")).key)
    rest = await exporters(alice, page_size=3, page_token=first.next_page_token)
    assert [exporter.name[-1] for exporter in rest.exporters] == ["3", "4", "5"]


async def test_bad_pages_are_refused(alice: Stubs) -> None:
    for ask in (leases, exporters):
        assert (await refusal(ask(alice, page_size=-1)))[0] == "INVALID_ARGUMENT"
        for token in ("x", "!!!", "ÄÖ", "A" * 5000):
            code, details = await refusal(ask(alice, page_token=token))
            assert (code, "page_token" in details) == ("INVALID_ARGUMENT", True)


async def test_C03_tags_are_kept_and_found_and_bad_ones_refused(lab: RunningLab, alice: Stubs) -> None:
    await lab.exporter("board")
    await lease_of(alice, "tagged", tags={"team": "red", "run": "7"})
    assert dict((await get(alice, "tagged")).tags) == {"team": "red", "run": "7"}
    assert await names(alice, tag_filter="team=red") == ["tagged"]
    assert await names(alice, tag_filter="team=red,run!=7") == []
    assert await names(alice, filter="metadata.jumpstarter.dev/team=red") == ["tagged"]
    for tags in (
        {f"tag{number}": "x" for number in range(11)},
        {"jumpstarter.dev/x": "y"},
        {"metadata.jumpstarter.dev/x": "y"},
        {"a/b": "y"},
        {"x" * 64: "y"},
        {"x": "y" * 64},
        {"x": "not allowed!"},
    ):
        assert (await refusal(lease_of(alice, tags=tags)))[0] == "INVALID_ARGUMENT", tags
    assert await names(alice) == ["tagged"]


async def test_C04_selectors_come_back_as_they_were_written_and_bad_ones_are_refused(
    lab: RunningLab, alice: Stubs
) -> None:
    await lab.exporter("board", labels={"a": "1", "b": "2"})
    for text in ("b=2,a=1", "a!=1,a!=3", "a in (1,2), b", "!c", "a=="):
        name = await lease_of(alice, selector=text)
        shown = (await get(alice, name)).selector
        assert shown.replace(" ", "") in (text.replace(" ", ""), text.replace(" ", "").replace("==", "="))
    for text in ("a=1,a=2", "a>1", "a=(", "=x"):
        assert (await refusal(lease_of(alice, selector=text)))[0] == "UNKNOWN", text


async def test_C05_C06_hidden_and_deprecated_labels_are_shown_on_demand(tmp_path: Path, one_loop: None) -> None:
    settings = {"hidden_labels": ("secret",), "deprecated_labels": {"old": "use new"}}
    async with running_lab(tmp_path, leases=settings) as lab:
        login = await lab.client()
        await lab.exporter("board", labels={"secret": "1", "old": "2", "new": "3", "jumpstarter.dev/roles": "1"})
        async with login.stubs() as alice:
            shown = (await exporters(alice)).exporters[0]
            assert (dict(shown.labels), dict(shown.deprecated_labels)) == ({"new": "3"}, {"old": "use new"})
            shown = (await exporters(alice, show_hidden_labels=True)).exporters[0]
            assert set(shown.labels) == {"secret", "old", "new", "jumpstarter.dev/roles"}
            assert dict(shown.deprecated_labels) == {"old": "use new"}
            # C06: a selector that uses a deprecated label says so.
            name = await lease_of(alice, selector="old=2")
            assert dict((await get(alice, name)).deprecated_labels) == {"old": "use new"}
            assert dict((await leases(alice)).leases[0].deprecated_labels) == {"old": "use new"}


async def test_C07_context_is_kept_and_told_and_too_much_of_it_refused(lab: RunningLab, alice: Stubs) -> None:
    await lab.exporter("board")
    await lease_of(alice, "told", context={"build": "1234"})
    assert dict((await get(alice, "told")).context) == {"build": "1234"}
    assert dict((await leases(alice)).leases[0].context) == {"build": "1234"}
    await update(alice, "told", context={"build": "5678"}, duration=duration_pb2.Duration(seconds=60))
    assert dict((await get(alice, "told")).context) == {"build": "1234"}
    for context in ({f"key{number}": "x" for number in range(9)}, {"x" * 33: "y"}, {"x": "y" * 65}):
        assert (await refusal(lease_of(alice, context=context)))[0] == "INVALID_ARGUMENT", context


async def test_C08_lease_has_the_name_that_was_asked_for_once(lab: RunningLab, alice: Stubs) -> None:
    await lab.exporter("board")
    assert await lease_of(alice, "mine") == "mine"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await lease_of(alice, "mine")
    assert caught.value.code() is grpc.StatusCode.UNKNOWN
    assert "already exists" in (caught.value.details() or "")
    assert reason(caught.value)


async def test_C09_leases_of_others_are_shown_with_their_owners(lab: RunningLab, alice: Stubs, bob: Stubs) -> None:
    await lab.exporter("board")
    await lease_of(alice, "hers")
    await lease_of(bob, "his")
    owners = {lease.name.rpartition("/")[2]: lease.client for lease in (await leases(bob)).leases}
    assert owners == {"hers": f"{PARENT}/clients/alice", "his": f"{PARENT}/clients/bob"}
    for call in (delete(bob, "hers"), update(bob, "hers", duration=duration_pb2.Duration(seconds=5))):
        code, details = await refusal(call)
        assert (code, "permission denied" in details) == ("UNKNOWN", True)


async def test_C10_lease_tells_how_long_it_lasts(lab: RunningLab, alice: Stubs) -> None:
    async with scripted_exporter(lab):
        name = await lease_of(alice, seconds=86400)
        lease = await get(alice, name)
        assert (lease.duration.seconds, lease.HasField("effective_begin_time")) == (86400, True)
        assert not lease.HasField("effective_end_time")
        assert (lease.exporter, lease.client) == (f"{PARENT}/exporters/board", f"{PARENT}/clients/alice")
        await delete(alice, name)
        ended = await get(alice, name)
        assert ended.HasField("effective_end_time")
        # T12: what is over does not grow.
        held = ended.effective_end_time.ToDatetime() - ended.effective_begin_time.ToDatetime()
        assert ended.effective_duration.ToTimedelta() == held
        assert (ended.exporter, ended.conditions[-1].reason) == (f"{PARENT}/exporters/board", "Released")
        assert await names(alice) == []
        assert await names(alice, only_active=False) == [name]


async def test_L21_ready_is_the_last_condition_of_a_lease_that_had_to_wait(
    lab: RunningLab, alice: Stubs, bob: Stubs
) -> None:
    async with scripted_exporter(lab):
        first = await lease_of(alice)
        second = await lease_of(bob)
        waiting = await get(bob, second)
        assert (waiting.conditions[-1].type, waiting.conditions[-1].reason) == ("Pending", "NotAvailable")
        await delete(alice, first)
        await lab.until(lease_key(second), lambda lease: lease.exporter)
        types = {condition.type: condition.status for condition in (await get(bob, second)).conditions}
        assert (list(types)[-1], types["Ready"]) == ("Ready", "True")


async def test_L19_clients_get_one_exporter_one_after_the_other_oldest_first(lab: RunningLab) -> None:
    async with scripted_exporter(lab), anyio.create_task_group() as tasks:
        logins = [await lab.client(f"client-{number}") for number in range(20)]
        held: list[str] = []
        order: list[str] = []

        async def use(login: Any, name: str) -> None:
            async with login.stubs() as stubs:
                await lab.until(lease_key(name), lambda lease: lease.exporter, patience=60)
                held.append(name)
                assert held == [name]
                order.append(name)
                held.remove(name)
                await delete(stubs, name)

        requested = []
        for login in logins:
            async with login.stubs() as stubs:
                requested.append(await lease_of(stubs))
        for login, name in zip(logins, requested, strict=True):
            tasks.start_soon(use, login, name)
        await eventually(lambda: len(order) == 20, 60)
        assert order == requested


# -- requests that can't be met -----------------------------------------------------------------------------


async def test_L02_request_names_what_it_wants(lab: RunningLab, alice: Stubs) -> None:
    async def create(**fields: Any) -> Any:
        return await alice.client.CreateLease(client_pb2.CreateLeaseRequest(parent=PARENT, **fields))

    code, details = await refusal(create(lease=client_pb2.Lease()))
    assert (code, details) == ("INVALID_ARGUMENT", "one of selector or exporter_name is required")
    assert (await refusal(create()))[0] == "INVALID_ARGUMENT"


async def test_T04_T05_times_that_make_no_sense_are_refused_in_published_words(lab: RunningLab, alice: Stubs) -> None:
    await lab.exporter("board")
    for seconds, words in ((0, "duration must be positive"), (-5, "duration must be positive")):
        code, details = await refusal(lease_of(alice, seconds=seconds))
        assert (code, words in details) == ("UNKNOWN", True)
    request = client_pb2.CreateLeaseRequest(parent=PARENT, lease=client_pb2.Lease(exporter_name="board"))
    code, details = await refusal(alice.client.CreateLease(request))
    assert (code, "duration is required" in details) == ("UNKNOWN", True)
    request.lease.duration.seconds = 10**12
    assert (await refusal(alice.client.CreateLease(request)))[0] == "INVALID_ARGUMENT"


async def test_T13_running_lease_is_extended_and_shortened(lab: RunningLab, alice: Stubs) -> None:
    async with scripted_exporter(lab):
        name = await lease_of(alice, seconds=60)
        longer = await update(alice, name, duration=duration_pb2.Duration(seconds=3600))
        assert longer.duration.seconds == 3600
        await update(alice, name, duration=duration_pb2.Duration(nanos=1_000_000))
        ended = await lab.until(lease_key(name), lambda lease: lease.ended)
        assert ended.conditions[-1].reason == "Expired"


async def test_T18_leases_are_handed_over_to_clients_of_the_namespace_alone(
    lab: RunningLab, alice: Stubs, bob: Stubs
) -> None:
    async with scripted_exporter(lab):
        name, pending = await lease_of(alice), await lease_of(alice)
        await lab.client("dora", namespace="elsewhere")
        for lease, client in (
            (name, f"{PARENT}/clients/nobody"),
            (name, "namespaces/elsewhere/clients/dora"),
            (pending, f"{PARENT}/clients/bob"),
        ):
            assert (await refusal(update(alice, lease, client=client)))[0] == "UNKNOWN", client
        assert (await refusal(update(alice, name, client="bob")))[0] == "INVALID_ARGUMENT"
        await delete(alice, name)
        assert (await refusal(update(alice, name, client=f"{PARENT}/clients/bob")))[0] == "UNKNOWN"


async def test_missing_things_are_said_in_published_words(alice: Stubs) -> None:
    code, details = await refusal(get(alice, "missing"))
    assert (code, details) == ("UNKNOWN", 'leases.jumpstarter.dev "missing" not found')
    request = client_pb2.GetExporterRequest(name=f"{PARENT}/exporters/missing")
    code, details = await refusal(alice.client.GetExporter(request))
    assert (code, details) == ("UNKNOWN", 'exporters.jumpstarter.dev "missing" not found')


# -- tokens --------------------------------------------------------------------------------------------------


async def test_A16_client_rotates_its_token_and_uses_the_new_one(lab: RunningLab) -> None:
    login = await lab.client("alice")
    async with login.stubs() as stubs:
        tokens = {login.token}
        for _ in range(3):
            answer = await stubs.client.RotateToken(client_pb2.RotateTokenRequest(parent=PARENT))
            assert answer.token not in tokens
            assert answer.expiry.ToDatetime() > lab.lab.clock.now().replace(tzinfo=None) + timedelta(days=80)
            tokens.add(answer.token)
            async with replace(login, token=answer.token).stubs() as renewed:
                assert await exporters(renewed) is not None
    assert isinstance(lab.server.authenticator.tokens, Tokens)
    account = lab.lab.account(login.key)
    assert account is not None
    assert account.key.kind is Kind.CLIENT
