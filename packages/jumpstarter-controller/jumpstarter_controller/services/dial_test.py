"""Clients dial, exporters hear of it: who may, when, through which listener, and how it ends."""

from __future__ import annotations

import base64
import json
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any

import anyio
import grpc
import pytest
from jumpstarter_protocol import client_pb2, jumpstarter_pb2, lab_pb2, router_pb2, router_pb2_grpc

from ..model.records import ExporterStatus, Rule
from ..model.selector import Selector
from ..scripted import (
    PARENT,
    Messages,
    ScriptedExporter,
    delete,
    eventually,
    lease_key,
    lease_of,
    reason,
    refusal,
    scripted_exporter,
)
from ..testing import SERVER, Login, RunningLab, Stubs
from . import switchboard


async def dial(client: Stubs, lease: str) -> Any:
    return await client.controller.Dial(jumpstarter_pb2.DialRequest(lease_name=lease))


def claims(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))


async def leased(client: Stubs, exporter: ScriptedExporter, status: Messages) -> str:
    """Return a lease that the exporter has taken note of."""
    name = await lease_of(client, exporter=exporter.name)
    assert (await status.next()).lease_name == name
    await exporter.report(ExporterStatus.LEASE_READY)
    return name


async def test_D09_exporter_has_its_token_when_the_client_gets_the_answer(lab: RunningLab, alice: Stubs) -> None:
    async with scripted_exporter(lab) as (exporter, status):
        name = await leased(alice, exporter, status)
        listener = exporter.listen(name)
        for _ in range(10):
            answer = await dial(alice, name)
            offer = await listener.next(seconds=1)
            assert offer.router_endpoint == answer.router_endpoint == lab.endpoint
            theirs, ours = claims(offer.router_token), claims(answer.router_token)
            assert theirs["sub"] == ours["sub"]
            assert (theirs["side"], ours["side"]) == ("exporter", "client")
            assert (ours["client"], ours["exporter"], ours["role"]) == ("alice", "board", "owner")
            assert (ours["iss"], ours["aud"]) == ("https://jumpstarter.dev/stream", ["https://jumpstarter.dev/router"])


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (ExporterStatus.LEASE_READY, ""),
        (ExporterStatus.BEFORE_LEASE_HOOK, ""),
        (ExporterStatus.AFTER_LEASE_HOOK, ""),
        (ExporterStatus.UNSPECIFIED, ""),
        (ExporterStatus.OFFLINE, "exporter is offline"),
        (ExporterStatus.BEFORE_LEASE_HOOK_FAILED, "beforeLease"),
        (ExporterStatus.AFTER_LEASE_HOOK_FAILED, "afterLease"),
    ],
)
async def test_D02_status_of_the_exporter_decides(
    lab: RunningLab, alice: Stubs, status: ExporterStatus, words: str
) -> None:
    async with scripted_exporter(lab) as (exporter, stream):
        name = await leased(alice, exporter, stream)
        exporter.listen(name)
        await exporter.report(status)
        if not words:
            assert (await dial(alice, name)).router_token
            return
        code, details = await refusal(dial(alice, name))
        assert (code, words in details, "not ready" in details) == ("FAILED_PRECONDITION", True, False)


async def test_D03_dial_waits_while_the_exporter_is_available(lab: RunningLab, alice: Stubs) -> None:
    async with scripted_exporter(lab) as (exporter, status), anyio.create_task_group() as tasks:
        name = await lease_of(alice)
        await status.next()
        exporter.listen(name)
        answered = anyio.Event()

        async def dial_once() -> None:
            assert (await dial(alice, name)).router_token
            answered.set()

        tasks.start_soon(dial_once)
        with anyio.move_on_after(0.3):
            await answered.wait()
        assert not answered.is_set()
        await exporter.report(ExporterStatus.LEASE_READY)
        with anyio.fail_after(2):
            await answered.wait()


async def test_D03_dial_gives_up_in_the_words_that_clients_retry_on(lab: RunningLab, alice: Stubs) -> None:
    lab.server.switchboard.ready_patience = 0.2
    async with scripted_exporter(lab) as (exporter, status):
        name = await lease_of(alice)
        await status.next()
        exporter.listen(name)
        code, details = await refusal(dial(alice, name))
        assert (code, details) == ("FAILED_PRECONDITION", "exporter is not ready (status: Available)")


async def test_D04_without_listener_the_client_is_asked_to_come_again(lab: RunningLab, alice: Stubs) -> None:
    lab.server.switchboard.listener_patience = 0.2
    async with scripted_exporter(lab) as (exporter, status):
        name = await leased(alice, exporter, status)
        code, details = await refusal(dial(alice, name))
        assert (code, f"exporter is not listening on lease {name}" in details) == ("UNAVAILABLE", True)
        listener = exporter.listen(name)
        assert (await dial(alice, name)).router_token
        listener.cancel()
        # The end of the stream takes a moment to be noticed.
        await eventually(lambda: not lab.server.switchboard.queues.listening(lease_key(name)))
        assert (await refusal(dial(alice, name)))[0] == "UNAVAILABLE"


async def test_dial_waits_for_a_listener_that_comes_soon(lab: RunningLab, alice: Stubs) -> None:
    async with scripted_exporter(lab) as (exporter, status), anyio.create_task_group() as tasks:
        name = await leased(alice, exporter, status)
        answers: list[Any] = []

        async def dial_once() -> None:
            answers.append(await dial(alice, name))

        for _ in range(20):
            tasks.start_soon(dial_once)
        await anyio.sleep(0.1)
        assert answers == []
        listener = exporter.listen(name)
        got = {claims((await listener.next()).router_token)["sub"] for _ in range(20)}
        await eventually(lambda: len(answers) == 20)
        assert {claims(answer.router_token)["sub"] for answer in answers} == got


async def test_D06_every_dialled_token_reaches_one_live_stream_while_the_exporter_reconnects(
    lab: RunningLab, alice: Stubs
) -> None:
    async with scripted_exporter(lab) as (exporter, status):
        name = await leased(alice, exporter, status)
        got: list[str] = []
        dialled: list[str] = []
        rounds = 200

        async def read(listener: Messages) -> None:
            try:
                while True:
                    got.append(claims((await listener.next()).router_token)["sub"])
            except EOFError:
                return

        async def dial_all() -> None:
            for _ in range(rounds):
                dialled.append(claims((await dial(alice, name)).router_token)["sub"])

        with anyio.fail_after(60):
            async with anyio.create_task_group() as readers:
                readers.start_soon(read, exporter.listen(name))
                async with anyio.create_task_group() as dialling:
                    dialling.start_soon(dial_all)
                    while len(dialled) < rounds:
                        readers.start_soon(read, exporter.listen(name))
                        await anyio.sleep(0.005)
                # The last stream ends when a newer one takes over, and the newer one by itself.
                last = exporter.listen(name)
                await eventually(lambda: len(got) >= rounds)
                assert await last.silent(0.1)
                last.cancel()
                readers.cancel_scope.cancel()
        assert sorted(got) == sorted(dialled)


async def test_D06_token_that_was_lost_with_its_listener_is_sent_again_while_the_client_waits(
    lab: RunningLab, alice: Stubs
) -> None:
    async with scripted_exporter(lab) as (exporter, status):
        name = await leased(alice, exporter, status)
        # Both were sent to a listener that is gone before it does anything; only one client still waits.
        lost = exporter.listen(name)
        given_up, waiting = await dial(alice, name), await dial(alice, name)
        await lost.next()
        await lost.next()
        lost.cancel()
        await eventually(lambda: not lab.server.switchboard.queues.listening(lease_key(name)))
        credentials = grpc.ssl_channel_credentials(lab.ca.encode())
        async with grpc.aio.secure_channel(waiting.router_endpoint, credentials) as channel:
            metadata = (("authorization", f"Bearer {waiting.router_token}"),)
            call = router_pb2_grpc.RouterServiceStub(channel).Stream(metadata=metadata)
            stream = claims(waiting.router_token)["sub"]
            await eventually(lambda: lab.server.relay.client_waits(stream))
            listener = exporter.listen(name)
            assert claims((await listener.next()).router_token)["sub"] == stream
            assert await listener.silent()
            listener.cancel()
            call.cancel()
        assert given_up.router_token != waiting.router_token


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "published"])
async def test_D06_token_for_another_router_is_sent_again_to_exporters_that_come_to_it_but_once(
    lab: RunningLab, alice: Stubs, monkeypatch: pytest.MonkeyPatch, ours: bool
) -> None:
    monkeypatch.setattr(lab.server.switchboard, "_routers", ElsewhereRouters())
    async with scripted_exporter(lab, roles=ours) as (exporter, status):
        name = await leased(alice, exporter, status)
        lost = exporter.listen(name)
        dialled = await dial(alice, name)
        await lost.next()
        lost.cancel()
        await eventually(lambda: not lab.server.switchboard.queues.listening(lease_key(name)))
        listener = exporter.listen(name)
        if ours:
            offer = await listener.next()
            assert offer.router_endpoint == dialled.router_endpoint == ElsewhereRouters.ENDPOINT
            assert claims(offer.router_token)["sub"] == claims(dialled.router_token)["sub"]
        assert await listener.silent()
        listener.cancel()


async def test_D06_token_for_another_router_is_not_sent_again_when_nobody_can_wait_for_it_any_more(
    lab: RunningLab, alice: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab.server.switchboard, "_routers", ElsewhereRouters())
    monkeypatch.setattr(switchboard, "UNMET_LIFE", 0.0)
    async with scripted_exporter(lab, roles=True) as (exporter, status):
        name = await leased(alice, exporter, status)
        lost = exporter.listen(name)
        await dial(alice, name)
        await lost.next()
        lost.cancel()
        await eventually(lambda: not lab.server.switchboard.queues.listening(lease_key(name)))
        assert await exporter.listen(name).silent()


class ElsewhereRouters:
    """A choice of routers of which each is another one than the controller's own."""

    ENDPOINT = "elsewhere.example:443"

    def choose(self, exporter: Any) -> str:
        return self.ENDPOINT

    def cut(self, streams: Any) -> None:
        """Nothing to do: there are no streams."""

    def cut_lease(self, lease: str, client: str = "") -> None:
        """Nothing to do: there are no streams."""


async def test_D08_dials_that_are_refused(lab: RunningLab, alice: Stubs, bob: Stubs) -> None:
    async with scripted_exporter(lab) as (exporter, status):
        name = await leased(alice, exporter, status)
        pending = await lease_of(bob)
        code, details = await refusal(dial(bob, name))
        assert (code, "permission denied" in details, "alice" in details) == ("UNKNOWN", True, True)
        code, details = await refusal(dial(bob, pending))
        assert (code, "lease not active" in details) == ("UNKNOWN", True)
        assert await refusal(dial(bob, "")) == ("UNKNOWN", "empty lease name")
        code, details = await refusal(dial(bob, "missing"))
        assert (code, "not found" in details) == ("UNKNOWN", True)
        await delete(alice, name)
        code, details = await refusal(dial(alice, name))
        assert (code, "lease not active" in details) == ("UNKNOWN", True)


async def test_listening_for_leases_of_others_is_refused(lab: RunningLab, alice: Stubs) -> None:
    async with scripted_exporter(lab) as (exporter, status), scripted_exporter(lab, "other") as (other, _):
        name = await leased(alice, exporter, status)
        for lease, words in ((name, "permission denied"), ("", "empty lease name"), ("missing", "not found")):
            with pytest.raises(grpc.aio.AioRpcError, match=words) as caught:
                await other.listen(lease).next()
            assert caught.value.code() is grpc.StatusCode.UNKNOWN


async def test_listener_of_an_ended_lease_is_kept_until_the_next_one(lab: RunningLab, alice: Stubs) -> None:
    async with scripted_exporter(lab) as (exporter, status):
        first = await leased(alice, exporter, status)
        listener = exporter.listen(first)
        assert await listener.silent(0.1)
        await delete(alice, first)
        assert not (await status.next()).leased
        # Exporters of 0.9 would come again at once, and give up after some tries.
        assert await listener.silent()
        late = exporter.listen(first)
        with pytest.raises(EOFError):
            await listener.next()
        assert await late.silent()
        await exporter.report(ExporterStatus.AVAILABLE)
        second = await leased(alice, exporter, status)
        current = exporter.listen(second)
        with pytest.raises(EOFError):
            await late.next()
        assert (await dial(alice, second)).router_token
        assert (await current.next()).router_token


# -- sharing -------------------------------------------------------------------------------------------


async def share(owner: Stubs, lease: str, client: str, role: Any) -> Any:
    request = lab_pb2.ShareLeaseRequest(name=f"{PARENT}/leases/{lease}", client=client, role=role)
    return await owner.lab.ShareLease(request)


async def test_drivers_and_watchers_dial_with_their_role(lab: RunningLab, alice: Stubs, bob: Stubs) -> None:
    async with scripted_exporter(lab, roles=True) as (exporter, status):
        name = await leased(alice, exporter, status)
        listener = exporter.listen(name)
        for role, word in ((lab_pb2.ROLE_WATCHER, "watcher"), (lab_pb2.ROLE_DRIVER, "driver")):
            state = await share(alice, name, "bob", role)
            assert dict(state.shares) == {"bob": role}
            await dial(bob, name)
            told = claims((await listener.next()).router_token)
            assert (told["client"], told["role"]) == ("bob", word)
        await share(alice, name, "bob", lab_pb2.ROLE_UNSPECIFIED)
        assert "permission denied" in (await refusal(dial(bob, name)))[1]


async def test_watchers_of_exporters_that_do_not_know_roles_are_refused_with_advice(
    lab: RunningLab, alice: Stubs, bob: Stubs
) -> None:
    async with scripted_exporter(lab) as (exporter, status):
        name = await leased(alice, exporter, status)
        exporter.listen(name)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await share(alice, name, "bob", lab_pb2.ROLE_WATCHER)
        assert (caught.value.code(), reason(caught.value)) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "ROLES_NOT_ENFORCED",
        )
        await share(alice, name, "bob", lab_pb2.ROLE_DRIVER)
        assert (await dial(bob, name)).router_token


async def test_watcher_is_refused_when_the_exporter_comes_back_without_roles(
    lab: RunningLab, alice: Stubs, bob: Stubs
) -> None:
    async with scripted_exporter(lab, roles=True) as (exporter, status):
        name = await leased(alice, exporter, status)
        exporter.listen(name)
        await share(alice, name, "bob", lab_pb2.ROLE_WATCHER)
        await exporter.register()
        code, details = await refusal(dial(bob, name))
        assert (code, "driver" in details, "not ready" in details) == ("FAILED_PRECONDITION", True, False)


# -- streams that lose their right -----------------------------------------------------------------------


class Stream:
    """One end of a stream through the router."""

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._call = router_pb2_grpc.RouterServiceStub(channel).Stream(metadata=(("authorization", f"Bearer {token}"),))
        self.messages = Messages(self._call)

    async def send(self, data: bytes) -> None:
        await self._call.write(router_pb2.StreamRequest(payload=data))

    async def code(self) -> grpc.StatusCode:
        code: grpc.StatusCode = await self._call.code()
        return code


async def joined(lab: RunningLab, client: Stubs, lease: str, listener: Messages, login: Login, stack: Any) -> Stream:
    """Return the client's end of a stream over which the exporter has said something."""
    answer = await dial(client, lease)
    offer = await listener.next()
    channel = await stack.enter_async_context(login.channel())
    theirs, ours = Stream(channel, offer.router_token), Stream(channel, answer.router_token)
    await theirs.send(b"hello")
    assert (await ours.messages.next()).payload == b"hello"
    return ours


@pytest.mark.parametrize("event", ["release", "transfer", "unshare", "demote", "delete"])
async def test_X06_streams_end_when_their_right_does(lab: RunningLab, alice: Stubs, bob: Stubs, event: str) -> None:
    async with scripted_exporter(lab, roles=True) as (exporter, status), AsyncExitStack() as stack:
        name = await leased(alice, exporter, status)
        listener = exporter.listen(name)
        await share(alice, name, "bob", lab_pb2.ROLE_DRIVER)
        of_alice = await joined(lab, alice, name, listener, exporter.login, stack)
        of_bob = await joined(lab, bob, name, listener, exporter.login, stack)
        unused = (await dial(bob, name)).router_token
        unused_of_owner = (await dial(alice, name)).router_token
        survivors: list[Stream] = []
        match event:
            case "release":
                await delete(alice, name)
            case "transfer":
                await hand_over(lab, alice, name)
            case "unshare":
                await share(alice, name, "bob", lab_pb2.ROLE_UNSPECIFIED)
                survivors = [of_alice]
            case "demote":
                await share(alice, name, "bob", lab_pb2.ROLE_WATCHER)
                survivors = [of_alice]
            case "delete":
                await lab.lab.delete_account(SERVER, (await lab.client("alice")).key)
        with anyio.fail_after(5):
            if of_alice not in survivors:
                with pytest.raises(EOFError):
                    await of_alice.messages.next()
                assert await of_alice.code() is grpc.StatusCode.OK
            if event in ("release", "unshare", "demote", "delete"):
                with pytest.raises(EOFError):
                    await of_bob.messages.next()
        for survivor in survivors:
            assert await survivor.messages.silent(0.2)
        # What was dialled and not opened yet is worth nothing either.
        channel = await stack.enter_async_context(exporter.login.channel())
        for token, owner in ((unused, False), (unused_of_owner, True)):
            if (owner and survivors) or (event == "transfer" and not owner):
                continue
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await Stream(channel, token).messages.next()
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def hand_over(lab: RunningLab, owner: Stubs, lease: str) -> None:
    await lab.client("carol")
    await owner.client.UpdateLease(
        client_pb2.UpdateLeaseRequest(
            lease=client_pb2.Lease(name=f"{PARENT}/leases/{lease}", client=f"{PARENT}/clients/carol")
        )
    )


# -- use ---------------------------------------------------------------------------------------------------


async def test_lease_counts_as_used_while_its_streams_carry_something(lab: RunningLab, alice: Stubs) -> None:
    """Exporters of 0.9 report no use, and their users are not to lose boards that they work with."""
    await lab.policy("all", Rule(clients=(Selector(),), idle_timeout=timedelta(hours=1)))
    async with scripted_exporter(lab) as (exporter, status), AsyncExitStack() as stack:
        name = await leased(alice, exporter, status)
        stream = await joined(lab, alice, name, exporter.listen(name), exporter.login, stack)

        def idle_until() -> datetime:
            lease = lab.lab.active_lease(lease_key(name))
            assert lease is not None
            until = lab.lab.view(lease).idle_until
            assert until is not None
            return until

        await lab.server.switchboard.note_use()
        quiet = idle_until()
        await lab.server.switchboard.note_use()
        assert idle_until() == quiet
        carried = lab.server.relay.counters().bytes_total
        await stream.send(b"work")
        await eventually(lambda: lab.server.relay.counters().bytes_total > carried)
        await lab.server.switchboard.note_use()
        busy = idle_until()
        assert busy > quiet
        # An exporter that reports use knows better.
        await exporter.stubs.lab.ReportUse(lab_pb2.ReportUseRequest(lease_name=name))
        await stream.send(b"more work")
        await lab.server.switchboard.note_use()
        assert idle_until() == busy


async def test_report_that_nothing_is_in_use_puts_off_no_idle_end(lab: RunningLab, alice: Stubs) -> None:
    await lab.policy("all", Rule(clients=(Selector(),), idle_timeout=timedelta(seconds=1)))
    async with scripted_exporter(lab) as (exporter, status):
        name = await leased(alice, exporter, status)
        request = lab_pb2.ReportUseRequest(lease_name=name, in_use=True)
        with anyio.fail_after(15):
            await exporter.stubs.lab.ReportUse(request)
            request.in_use = False
            while lab.lab.active_lease(lease_key(name)) is not None:
                request.sequence += 1
                await exporter.stubs.lab.ReportUse(request)
                await anyio.sleep(0.1)
        ended = await lab.lab.lease(lease_key(name))
        assert ended is not None
        assert ended.conditions[-1].type == "Ready"
