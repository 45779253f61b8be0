"""What admins do: accounts, policies, leases, the audit record."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask
from jumpstarter_protocol import admin_pb2, client_pb2, kubernetes_pb2

from ..model.records import Key, Kind
from ..scripted import PARENT, lease_key, lease_of, reason, refusal, scripted_exporter
from ..testing import NAMESPACE, Login, RunningLab, Stubs


async def create(admin: Stubs, kind: Any, name: str, parent: str = PARENT, **fields: Any) -> Any:
    request = admin_pb2.CreateAccountRequest(kind=kind, parent=parent, id=name, **fields)
    return await admin.admin.CreateAccount(request)


async def usable(login: Login) -> None:
    """Make sure that an account is let in."""
    async with login.stubs() as stubs:
        await stubs.client.ListExporters(client_pb2.ListExportersRequest(parent=f"namespaces/{login.key.namespace}"))


async def test_admin_sees_the_server_it_is_connected_to(lab: RunningLab, admin: Stubs) -> None:
    server = await admin.admin.GetServer(Empty())
    assert (server.namespace, server.admin, server.endpoint) == (NAMESPACE, f"{PARENT}/admins/root", lab.endpoint)
    assert server.ca == lab.ca
    assert "BEGIN CERTIFICATE" in server.ca
    assert server.version


async def test_A01_new_accounts_come_with_all_that_a_config_needs(lab: RunningLab, admin: Stubs) -> None:
    made = await create(admin, admin_pb2.KIND_CLIENT, "carol", labels={"team": "red"})
    assert (made.account.name, dict(made.account.labels)) == (f"{PARENT}/clients/carol", {"team": "red"})
    assert (made.endpoint, made.ca, made.account.enabled) == (lab.endpoint, lab.ca, True)
    login = Login(key=Key(Kind.CLIENT, NAMESPACE, "carol"), token=made.token, endpoint=made.endpoint, ca=made.ca)
    await usable(login)
    made = await create(admin, admin_pb2.KIND_EXPORTER, "board", token_life=Duration(seconds=7200))
    assert made.account.HasField("exporter")
    # A17: the life of a token is the one that was asked for.
    left = made.expires.ToDatetime() - lab.lab.clock.now().replace(tzinfo=None)
    assert timedelta(hours=1, minutes=59) < left <= timedelta(hours=2)
    assert (await create(admin, admin_pb2.KIND_CLIENT, "carol", parent="namespaces/other")).token


async def test_accounts_that_can_not_be_are_refused(admin: Stubs) -> None:
    await create(admin, admin_pb2.KIND_CLIENT, "carol")
    for arguments, code in (
        ((admin_pb2.KIND_CLIENT, "carol"), "ALREADY_EXISTS"),
        ((admin_pb2.KIND_UNSPECIFIED, "dora"), "INVALID_ARGUMENT"),
        ((admin_pb2.KIND_CLIENT, ""), "INVALID_ARGUMENT"),
        ((admin_pb2.KIND_CLIENT, "Not A Name"), "INVALID_ARGUMENT"),
        ((admin_pb2.KIND_CLIENT, "dora", "namespaces/Bad Name"), "INVALID_ARGUMENT"),
        ((admin_pb2.KIND_CLIENT, "dora", "elsewhere"), "INVALID_ARGUMENT"),
    ):
        assert (await refusal(create(admin, *arguments)))[0] == code, arguments
    for fields in ({"labels": {"a b": "c"}}, {"token_life": Duration(seconds=-1)}):
        assert (await refusal(create(admin, admin_pb2.KIND_CLIENT, "dora", **fields)))[0] == "INVALID_ARGUMENT"
    listed = await admin.admin.ListAccounts(admin_pb2.ListAccountsRequest(kind=admin_pb2.KIND_CLIENT, parent=PARENT))
    assert [account.name for account in listed.accounts] == [f"{PARENT}/clients/carol"]


async def test_accounts_are_listed_by_kind_namespace_and_label_in_pages(lab: RunningLab, admin: Stubs) -> None:
    for namespace in (NAMESPACE, "other"):
        for number in range(5):
            await lab.client(f"c{number}", namespace=namespace, labels={"odd": str(number % 2)})

    async def listed(**fields: Any) -> list[str]:
        found: list[str] = []
        token = ""
        while True:
            request = admin_pb2.ListAccountsRequest(kind=admin_pb2.KIND_CLIENT, page_token=token, **fields)
            answer = await admin.admin.ListAccounts(request)
            found += [account.name for account in answer.accounts]
            token = answer.next_page_token
            if not token:
                return found

    here = [f"{PARENT}/clients/c{number}" for number in range(5)]
    there = [name.replace(NAMESPACE, "other") for name in here]
    assert await listed(parent=PARENT, page_size=2) == here
    assert await listed(parent="namespaces/-", page_size=3) == here + there
    assert await listed(parent="namespaces/other", filter="odd=1") == [there[1], there[3]]
    assert await listed(page_size=0) == here


async def test_account_is_updated_by_mask_and_only_as_it_was_read(lab: RunningLab, admin: Stubs) -> None:
    login = await lab.client("alice", labels={"team": "red"})
    name = f"{PARENT}/clients/alice"
    read = await admin.admin.GetAccount(admin_pb2.NameRequest(name=name))

    async def change(version: str = "", paths: Any = ("enabled",), **fields: Any) -> Any:
        account = admin_pb2.Account(name=name, version=version, **fields)
        return await admin.admin.UpdateAccount(
            admin_pb2.UpdateAccountRequest(account=account, update_mask=FieldMask(paths=paths))
        )

    changed = await change(read.version, enabled=False, labels={"ignored": "x"})
    assert (changed.enabled, dict(changed.labels)) == (False, {"team": "red"})
    with pytest.raises(grpc.aio.AioRpcError, match="disabled"):
        await usable(login)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await change(read.version, enabled=True)
    assert (caught.value.code(), reason(caught.value)) == (grpc.StatusCode.ABORTED, "CHANGED_MEANWHILE")
    await change(enabled=True, labels={"team": "blue"}, paths=("enabled", "labels"))
    await usable(login)
    assert dict((await admin.admin.GetAccount(admin_pb2.NameRequest(name=name))).labels) == {"team": "blue"}
    for paths in ((), ("uid",), ("token",)):
        assert (await refusal(change(paths=paths)))[0] == "INVALID_ARGUMENT"


async def test_A16_rotated_token_replaces_the_old_one_after_a_while_or_at_once(lab: RunningLab, admin: Stubs) -> None:
    login = await lab.client("alice")
    name = f"{PARENT}/clients/alice"
    soft = await admin.admin.RotateAccount(admin_pb2.RotateAccountRequest(name=name))
    await usable(login)
    await usable(replace(login, token=soft.token))
    hard = await admin.admin.RotateAccount(admin_pb2.RotateAccountRequest(name=name, revoke_now=True))
    await usable(replace(login, token=hard.token))
    for token in (login.token, soft.token):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await usable(replace(login, token=token))
        assert reason(caught.value) == "TOKEN_REPLACED"
    missing = admin.admin.RotateAccount(admin_pb2.RotateAccountRequest(name=f"{PARENT}/clients/nobody"))
    assert (await refusal(missing))[0] == "NOT_FOUND"


async def test_A20_deleted_account_is_gone_and_its_token_worth_nothing(
    lab: RunningLab, admin: Stubs, alice: Stubs
) -> None:
    async with scripted_exporter(lab) as (exporter, status):
        name = await lease_of(alice)
        await status.next()
        await admin.admin.DeleteAccount(admin_pb2.NameRequest(name=f"{PARENT}/clients/alice"))
        assert not (await status.next()).leased
        assert lab.lab.active_lease(lease_key(name)) is None
        listing = alice.client.ListExporters(client_pb2.ListExportersRequest(parent=PARENT))
        code, details = await refusal(listing)
        assert (code, "not found" in details) == ("UNKNOWN", True)
        # Whoever gets that name next is somebody else.
        await create(admin, admin_pb2.KIND_CLIENT, "alice")
        listing = alice.client.ListExporters(client_pb2.ListExportersRequest(parent=PARENT))
        assert (await refusal(listing))[0] == "PERMISSION_DENIED"
        assert exporter.record.lease == ""
    gone = admin.admin.GetAccount(admin_pb2.NameRequest(name=f"{PARENT}/clients/nobody"))
    assert (await refusal(gone))[0] == "NOT_FOUND"
    own = admin.admin.DeleteAccount(admin_pb2.NameRequest(name=f"{PARENT}/admins/root"))
    assert (await refusal(own))[0] == "FAILED_PRECONDITION"


async def test_policies_are_kept_changed_and_removed(lab: RunningLab, admin: Stubs, alice: Stubs) -> None:
    await lab.exporter("board", labels={"board": "x"})
    rule = admin_pb2.Rule(
        description="reds",
        priority=5,
        clients=[kubernetes_pb2.LabelSelector(match_labels={"team": "red"})],
        maximum_duration=Duration(seconds=60),
        maximum_leases=2,
        idle_timeout=Duration(seconds=30),
    )
    policy = admin_pb2.Policy(
        name=f"{PARENT}/policies/one",
        exporter_selector=kubernetes_pb2.LabelSelector(
            match_expressions=[kubernetes_pb2.LabelSelectorRequirement(key="board", operator="In", values=["x", "y"])]
        ),
        rules=[rule],
    )
    made = await admin.admin.CreatePolicy(admin_pb2.PutPolicyRequest(policy=policy))
    assert (made.rules[0], made.exporter_selector) == (rule, policy.exporter_selector)
    again = admin.admin.CreatePolicy(admin_pb2.PutPolicyRequest(policy=policy))
    assert (await refusal(again))[0] == "ALREADY_EXISTS"
    refused = await lab.lab.lease(lease_key(await lease_of(alice, seconds=30)))
    assert refused is not None
    assert [(item.type, item.reason) for item in refused.conditions][-1] == ("Unsatisfiable", "NoAccess")
    made.rules[0].clients[0].Clear()
    changed = await admin.admin.UpdatePolicy(admin_pb2.PutPolicyRequest(policy=made))
    granted = lab.lab.active_lease(lease_key(await lease_of(alice, seconds=30)))
    assert granted is not None
    assert [(item.type, item.reason) for item in granted.conditions] == [("Pending", "Offline")]
    stale = admin.admin.UpdatePolicy(admin_pb2.PutPolicyRequest(policy=made))
    assert (await refusal(stale))[0] == "ABORTED"
    listed = await admin.admin.ListPolicies(admin_pb2.ListRequest(parent=PARENT))
    assert list(listed.policies) == [changed]
    assert await admin.admin.GetPolicy(admin_pb2.NameRequest(name=policy.name)) == changed
    await admin.admin.DeletePolicy(admin_pb2.NameRequest(name=policy.name))
    missing = admin.admin.GetPolicy(admin_pb2.NameRequest(name=policy.name))
    assert (await refusal(missing))[0] == "NOT_FOUND"


@pytest.mark.parametrize(
    "policy",
    [
        admin_pb2.Policy(name="one"),
        admin_pb2.Policy(name=f"{PARENT}/policies/Not A Name"),
        admin_pb2.Policy(
            name=f"{PARENT}/policies/one",
            exporter_selector=kubernetes_pb2.LabelSelector(
                match_expressions=[kubernetes_pb2.LabelSelectorRequirement(key="a", operator="Like", values=["b"])]
            ),
        ),
        admin_pb2.Policy(name=f"{PARENT}/policies/one", rules=[admin_pb2.Rule(maximum_duration=Duration(seconds=-1))]),
        admin_pb2.Policy(name=f"{PARENT}/policies/one", rules=[admin_pb2.Rule()] * 300),
    ],
)
async def test_policies_that_make_no_sense_are_refused(admin: Stubs, policy: Any) -> None:
    call = admin.admin.CreatePolicy(admin_pb2.PutPolicyRequest(policy=policy))
    assert (await refusal(call))[0] == "INVALID_ARGUMENT"


async def test_admin_lists_and_ends_leases_of_everybody(
    lab: RunningLab, admin: Stubs, alice: Stubs, bob: Stubs
) -> None:
    async with scripted_exporter(lab) as (_, status):
        hers, his = await lease_of(alice), await lease_of(bob)
        assert (await status.next()).leased

        async def listed(**fields: Any) -> list[str]:
            found: list[str] = []
            token = ""
            while True:
                request = admin_pb2.ListLeasesRequest(parent=PARENT, page_token=token, **fields)
                answer = await admin.admin.ListLeases(request)
                found += [state.lease.name.rpartition("/")[2] for state in answer.leases]
                token = answer.next_page_token
                if not token:
                    return found

        assert await listed() == await listed(page_size=1) == sorted([hers, his])
        assert await listed(client="bob", page_size=1) == [his]
        assert await listed(exporter="board") == [hers]
        request = admin_pb2.EndLeaseRequest(name=f"{PARENT}/leases/{hers}", reason="maintenance")
        await admin.admin.EndLease(request)
        assert not (await status.next()).leased
        ended = await lab.lab.lease(lease_key(hers))
        assert ended is not None
        assert "maintenance" in ended.conditions[-1].message
        assert (await refusal(admin.admin.EndLease(request)))[0] == "FAILED_PRECONDITION"
        assert await listed(only_active=False, client="alice") == [hers]


async def test_audit_tells_who_did_what_from_where(lab: RunningLab, admin: Stubs, alice: Stubs) -> None:
    async with scripted_exporter(lab):
        name = await lease_of(alice)
        await create(admin, admin_pb2.KIND_CLIENT, "carol")

        async def entries(**fields: Any) -> list[Any]:
            found: list[Any] = []
            token = ""
            while True:
                request = admin_pb2.ListAuditRequest(parent=PARENT, page_size=2, page_token=token, **fields)
                answer = await admin.admin.ListAudit(request)
                found += list(answer.entries)
                token = answer.next_page_token
                if not token:
                    return found

        found: list[Any] = []
        while not found:
            found = await entries(action="lease.", lease=name)
        assert ("client", "alice", "127.0.0.1") in [(entry.actor_kind, entry.actor, entry.peer) for entry in found]
        made: list[Any] = []
        while not made:
            made = [entry for entry in await entries(action="account.") if entry.actor == "root"]
        everything = await entries()
        assert [entry.id for entry in everything] == sorted({entry.id for entry in everything})
        newest = await entries(newest_first=True)
        assert [entry.id for entry in newest][-3:] == [entry.id for entry in everything][2::-1]
        text = str(everything)
        assert "eyJ" not in text  # no token


async def test_routers_are_listed_the_own_one_and_those_that_are_away(lab: RunningLab, admin: Stubs) -> None:
    await lab.router("far", labels={"site": "b"})
    listed = (await admin.admin.ListRouters(Empty())).routers
    own, far = listed
    assert (own.endpoint, own.online) == (lab.endpoint, True)
    assert (far.name, far.online, dict(far.labels)) == ("far", False, {"site": "b"})
