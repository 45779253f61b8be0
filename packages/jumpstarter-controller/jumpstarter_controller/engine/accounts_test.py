"""Accounts, policies and the audit record."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import anyio
import pytest

from ..errors import Code, Refused
from ..lab import LeaseChange
from ..model.records import Account, Exporter, Kind, Meta, Policy, Role
from ..model.selector import parse
from ..store.base import Delete
from .simulation import HOUR, NAMESPACE, SECOND, Simulation, last


async def test_an_account_has_an_identity_of_its_own_each_time_it_is_made(lab: Simulation) -> None:
    first = lab.lab.account(lab.key(Kind.CLIENT, "alice"))
    assert first is not None
    await lab.lab.delete_account(lab.admin, first.key)
    assert lab.lab.account(first.key) is None
    await lab.clients("alice")
    second = lab.lab.account(first.key)
    assert second is not None
    assert second.meta.uid not in ("", first.meta.uid)


async def test_a_name_is_taken_once_in_a_namespace(lab: Simulation) -> None:
    with pytest.raises(Refused, match="already exists") as refused:
        await lab.clients("alice")
    assert refused.value.code is Code.ALREADY_EXISTS


@pytest.mark.parametrize("name", ["Alice", "a_b", "", "a/b"])
async def test_names_are_those_of_rfc_1123(lab: Simulation, name: str) -> None:
    with pytest.raises(Refused, match="can't be the name of a client"):
        await lab.clients(name)


async def test_labels_of_accounts_are_checked(lab: Simulation) -> None:
    with pytest.raises(Refused, match="labels of client dave"):
        await lab.clients("dave", team="bad value")


async def test_accounts_are_listed_by_name_and_label(lab: Simulation) -> None:
    await lab.clients("anna", team="a")
    names = [account.meta.name for account in lab.lab.accounts(Kind.CLIENT, NAMESPACE)]
    assert names == ["alice", "anna", "bob", "carol"]
    by_label = lab.lab.accounts(Kind.CLIENT, selector=parse("team=a"))
    assert [account.meta.name for account in by_label] == ["anna"]


async def test_a_change_that_was_overtaken_is_refused(lab: Simulation) -> None:
    account = lab.lab.account(lab.key(Kind.CLIENT, "alice"))
    assert isinstance(account, Account)
    changed = await lab.lab.update_account(lab.admin, replace(account, enabled=False))
    assert lab.lab.account(account.key) == changed
    with pytest.raises(Refused, match="changed by somebody else") as refused:
        await lab.lab.update_account(lab.admin, replace(account, username="x"))
    assert refused.value.code is Code.ABORTED


async def test_an_account_that_is_not_there_can_not_be_changed_or_deleted(lab: Simulation) -> None:
    nobody = Account(kind=Kind.CLIENT, meta=Meta(namespace=NAMESPACE, name="nobody", version="1"))
    with pytest.raises(Refused, match="not found"):
        await lab.lab.update_account(lab.admin, nobody)
    with pytest.raises(Refused, match="not found"):
        await lab.lab.delete_account(lab.admin, nobody.key)


async def test_deleting_an_exporter_ends_its_lease_and_keeps_the_history(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice")
    await lab.lab.delete_account(lab.admin, lab.key(Kind.EXPORTER, "a"))
    now = await lab.now(lease)
    assert (now.ended, now.exporter) == (True, "a")
    assert last(now) == ("Ready", "False", "Released")
    assert "exporter a was deleted" in now.conditions[-1].message


async def test_deleting_a_client_ends_all_of_its_leases_and_its_roles(lab: Simulation) -> None:
    await lab.exporter("a")
    await lab.exporter("b")
    active, others = await lab.lease("alice"), await lab.lease("bob")
    scheduled = await lab.lease("alice", begin_time=lab.clock.now() + HOUR)
    pending = await lab.lease("alice")
    await lab.lab.update_lease(lab.client_actor("bob"), others.key, LeaseChange(shares={"alice": Role.DRIVER}))
    await lab.lab.delete_account(lab.admin, lab.key(Kind.CLIENT, "alice"))
    await lab.settle()
    assert all([(await lab.now(lease)).ended for lease in (active, scheduled, pending)])
    assert lab.board("a").lease == ""
    kept = await lab.now(others)
    assert (kept.ended, kept.shares) == (False, {})


async def test_an_exporter_that_is_disabled_keeps_its_lease_and_gets_no_other(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice")
    await lab.lab.update_account(lab.admin, replace(lab.board("a"), enabled=False))
    assert not (await lab.now(lease)).ended
    await lab.release(lease)
    assert last(await lab.lease("bob")) == ("Unsatisfiable", "True", "AllDisabled")


async def test_what_was_deleted_past_the_server_is_dealt_with(lab: Simulation) -> None:
    await lab.exporter("a")
    await lab.exporter("b")
    orphan, of_alice = await lab.lease("bob"), await lab.lease("alice")
    await lab.store.commit(Delete(lab.key(Kind.EXPORTER, orphan.exporter)))
    await lab.store.commit(Delete(lab.key(Kind.CLIENT, "alice")))
    await lab.settle()
    await lab.advance(timedelta(seconds=6))
    assert (await lab.now(orphan)).ended
    assert (await lab.now(of_alice)).ended
    assert lab.board(of_alice.exporter).lease == ""


async def test_a_lease_that_was_deleted_past_the_server_gives_its_exporter_free(lab: Simulation) -> None:
    await lab.exporter("a")
    lease = await lab.lease("alice")
    await lab.store.commit(Delete(lease.key))
    await lab.settle()
    await lab.advance(timedelta(seconds=6))
    assert lab.board("a").lease == ""


# -- policies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terms", "text"),
    [
        ({"maximum_duration": -HOUR}, "must be positive"),
        ({"idle_timeout": timedelta(0)}, "must be positive"),
        ({"maximum_leases": -1}, "negative"),
        ({"extend_by_use": HOUR}, "without end"),
        ({"description": "x" * 2000}, "longer than"),
    ],
)
async def test_terms_that_make_no_sense_are_refused(lab: Simulation, terms: dict[str, object], text: str) -> None:
    with pytest.raises(Refused, match=text) as refused:
        await lab.policy("p", lab.rule(**terms))
    assert refused.value.code is Code.INVALID_ARGUMENT
    assert lab.lab.policies() == []


async def test_policies_are_added_replaced_and_removed(lab: Simulation) -> None:
    await lab.policy("p", lab.rule(priority=1))
    await lab.policy("p", lab.rule(priority=2))
    (policy,) = lab.lab.policies(NAMESPACE)
    assert policy.rules[0].priority == 2
    with pytest.raises(Refused, match="already exists"):
        await lab.lab.put_policy(lab.admin, Policy(meta=Meta(namespace=NAMESPACE, name="p")), create=True)
    await lab.lab.delete_policy(lab.admin, policy.key)
    assert lab.lab.policies() == []


# -- audit -------------------------------------------------------------------------------------------


async def test_all_changes_are_on_record(lab: Simulation) -> None:
    await lab.exporter("a")
    await lab.policy("p", lab.rule())
    lease = await lab.lease("alice", name="mine")
    owner = lab.client_actor("alice")
    await lab.lab.update_lease(owner, lease.key, LeaseChange(duration=2 * HOUR))
    await lab.lab.update_lease(owner, lease.key, LeaseChange(shares={"carol": Role.WATCHER}))
    await lab.lab.update_lease(owner, lease.key, LeaseChange(client="bob"))
    await lab.lab.drain(lab.exporter_actor("a"), True, "update")
    await lab.cut("a")
    await lab.advance(timedelta(seconds=12))
    await lab.lab.release_lease(lab.admin, lease.key, "needed elsewhere")
    account = lab.lab.account(lab.key(Kind.CLIENT, "carol"))
    assert isinstance(account, Account)
    await lab.lab.update_account(lab.admin, replace(account, enabled=False))
    await lab.lab.delete_account(lab.admin, account.key)
    await lab.lab.delete_policy(lab.admin, lab.key(Kind.POLICY, "p"))
    entries = await lab.audited()
    assert [entry.action for entry in entries] == [
        *["account.create"] * 4,
        "exporter.register",
        "exporter.online",
        "policy.create",
        "lease.create",
        "lease.assign",
        "lease.extend",
        "lease.share",
        "lease.transfer",
        "exporter.drain",
        "exporter.offline",
        "lease.end",
        "account.update",
        "account.delete",
        "policy.delete",
    ]
    by_action = {entry.action: entry for entry in entries}
    end = by_action["lease.end"]
    assert (end.actor_kind, end.actor, end.client, end.exporter, end.lease) == ("admin", "root", "bob", "a", "mine")
    assert end.details["message"] == "needed elsewhere"
    assert by_action["lease.transfer"].details == {"former": "alice"}
    assert by_action["lease.assign"].details["policy"] == "p"
    assert by_action["exporter.offline"].actor_kind == "server"


async def test_audit_entries_are_written_soon_and_when_the_lab_stops() -> None:
    lab = Simulation()
    async with lab.running():
        lab.lab.audit(lab.admin, "test.look", lease="l")
        with anyio.fail_after(5):
            await lab.store.audited.wait()
        lab.lab.audit(lab.admin, "test.look", lease="m")
    assert [entry.lease for entry in await lab.store.audit(action="test.look")] == ["l", "m"]


async def test_audit_entries_wait_for_a_store_that_is_away_but_not_without_bound(
    lab: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jumpstarter_controller.engine.auditing.MAXIMUM_WAITING", 5)
    await lab.audited()
    lab.store.away = True
    for number in range(9):
        lab.lab.audit(lab.admin, "test.note", number=number)
    with pytest.raises(Refused, match="can't keep records"):
        await lab.lab.flush_audit()
    lab.store.mend()
    entries = await lab.audited("test.")
    assert [entry.details["number"] for entry in entries] == [0, 1, 2, 3, 4]
    (dropped,) = await lab.audited("audit.drop")
    assert dropped.details == {"entries": 4}


async def test_secrets_of_records_are_not_on_record(lab: Simulation) -> None:
    await lab.exporter("a")
    assert isinstance(lab.board("a"), Exporter)
    await lab.advance(SECOND)
    for entry in await lab.audited():
        assert "credential" not in entry.details
