"""Every rpc asks who calls: walked over all methods of all services, with every kind of caller that has no business."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass
from jumpstarter_protocol import client_pb2, lab_pb2

from ..model.records import Kind
from ..scripted import reason
from ..testing import SERVER, Login, RunningLab
from .access import ACCESS
from .assembly import DESCRIPTORS

METHODS = [(service, method) for service in DESCRIPTORS for method in service.methods]
NAMES = [f"/{service.full_name}/{method.name}" for service, method in METHODS]
NOT_SERVED = "/jumpstarter.v1.ControllerService/AuditStream"
OTHER = "elsewhere"


@dataclass
class Callers:
    """Accounts of all kinds, and a connection."""

    lab: RunningLab
    logins: dict[Kind, Login]
    channel: grpc.aio.Channel


@pytest.fixture
async def callers(lab: RunningLab) -> AsyncIterator[Callers]:
    kinds = (Kind.CLIENT, Kind.EXPORTER, Kind.ADMIN, Kind.ROUTER)
    logins = {kind: await lab.account(kind, "someone") for kind in kinds}
    async with logins[Kind.CLIENT].channel() as channel:
        yield Callers(lab, logins, channel)


async def call(channel: grpc.aio.Channel, name: str, metadata: Any, namespace: str = "default") -> grpc.aio.AioRpcError:
    """Call a method with a request that names a namespace where there is a field for it; return the refusal."""
    _, method = METHODS[NAMES.index(name)]
    request_class, response_class = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
    request = request_class()
    access = ACCESS[name]
    if access.field:
        target = request
        *parts, last = access.field.split(".")
        for part in parts:
            target = getattr(target, part)
        tail = f"/{access.collection}/thing" if access.collection else ""
        setattr(target, last, f"namespaces/{namespace}{tail}")
    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    multi = getattr(channel, kind)(name, request_class.SerializeToString, response_class.FromString)
    given = iter([request]) if method.client_streaming else request
    running = multi(given, metadata=metadata, timeout=10)
    try:
        answer = await (anext(aiter(running)) if method.server_streaming else running)
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError(f"{name} was served: {answer}")


async def test_every_rpc_refuses_callers_without_a_token(callers: Callers) -> None:
    for name in NAMES:
        error = await call(callers.channel, name, None)
        wanted = grpc.StatusCode.UNIMPLEMENTED if name == NOT_SERVED else grpc.StatusCode.UNAUTHENTICATED
        assert error.code() is wanted, name


@pytest.mark.parametrize("name", sorted(set(NAMES) - {NOT_SERVED}))
async def test_every_rpc_refuses_everybody_it_is_not_for(
    callers: Callers, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    access, channel = ACCESS[name], callers.channel
    for kind, login in callers.logins.items():
        said = dict(login.metadata)
        if kind not in access.kinds:
            # A06 of kinds: one that is not meant, with its own metadata and pretending to be one that is.
            error = await call(channel, name, login.metadata)
            assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "KIND_MISMATCH"), kind
            pretended = dict(callers.logins[access.kinds[0]].metadata)["jumpstarter-kind"]
            error = await call(channel, name, tuple({**said, "jumpstarter-kind": pretended}.items()))
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED, kind
            continue
        # A token of somebody else, of a deleted account, one that is damaged, one that is over.
        other = await callers.lab.account(kind, "other")
        stranger = tuple({**said, "authorization": f"Bearer {other.token}"}.items())
        error = await call(channel, name, stranger)
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "someone" in (error.details() or "")
        damaged = login.token[:-8] + ("A" * 8 if login.token[-8:] != "A" * 8 else "B" * 8)
        with caplog.at_level(logging.DEBUG):
            caplog.clear()
            error = await call(channel, name, tuple({**said, "authorization": f"Bearer {damaged}"}.items()))
        assert (error.code(), reason(error)) == (grpc.StatusCode.UNKNOWN, "TOKEN_INVALID")
        # A08: one line with the peer, and nowhere the token.
        lines = [record for record in caplog.records if "authentication failed" in record.getMessage()]
        assert len(lines) == 1
        assert "127.0.0.1" in lines[0].getMessage()
        assert damaged[:40] not in caplog.text
        over = await callers.lab.account(kind, "over", life=timedelta(seconds=-1))
        error = await call(channel, name, over.metadata)
        assert error.code() is grpc.StatusCode.UNKNOWN
        assert "token is expired" in (error.details() or "")
        # Another namespace: the account of that name there is another one.
        elsewhere = tuple({**said, "jumpstarter-namespace": OTHER}.items())
        assert (await call(channel, name, elsewhere)).code() in (
            grpc.StatusCode.UNKNOWN,
            grpc.StatusCode.PERMISSION_DENIED,
        )
        if access.field:
            error = await call(channel, name, login.metadata, namespace=OTHER)
            assert (error.code(), reason(error)) == (grpc.StatusCode.PERMISSION_DENIED, "NAMESPACE_MISMATCH")


async def test_A05_token_of_a_client_registers_no_exporter(callers: Callers) -> None:
    client = callers.logins[Kind.CLIENT]
    forged = tuple({**dict(client.metadata), "jumpstarter-kind": "Exporter"}.items())
    error = await call(callers.channel, "/jumpstarter.v1.ControllerService/Register", forged)
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_A07_authorization_has_to_be_one_bearer_token(callers: Callers) -> None:
    client = callers.logins[Kind.CLIENT]
    rest = client.metadata[1:]
    name = "/jumpstarter.client.v1.ClientService/ListExporters"
    for given, status in (
        ((), grpc.StatusCode.UNAUTHENTICATED),
        ((client.metadata[0], client.metadata[0]), grpc.StatusCode.INVALID_ARGUMENT),
        ((("authorization", f"Basic {client.token}"),), grpc.StatusCode.INVALID_ARGUMENT),
    ):
        assert (await call(callers.channel, name, (*given, *rest))).code() is status


async def test_open_streams_end_when_their_account_is_disabled(lab: RunningLab) -> None:
    login = await lab.client("alice")
    async with login.stubs() as stubs:
        running = stubs.lab.WatchExporters(lab_pb2.WatchExportersRequest(parent="namespaces/default"))
        assert (await running.read()).type == lab_pb2.EVENT_TYPE_CURRENT
        account: Any = lab.lab.account(login.key)
        await lab.lab.update_account(SERVER, replace(account, enabled=False))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.read()
        assert (caught.value.code(), reason(caught.value)) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "ACCOUNT_DISABLED",
        )


async def test_unknown_services_and_methods_are_not_implemented(callers: Callers) -> None:
    metadata = callers.logins[Kind.CLIENT].metadata
    for name in ("/jumpstarter.v1.ControllerService/GetServiceEndpoints", "/jumpstarter.v1.Unknown/Method"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await callers.channel.unary_unary(name)(b"", metadata=metadata)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("size", [1, 100, 70_000, 5 << 20])
async def test_malformed_and_oversized_requests_are_refused_and_hurt_nobody(callers: Callers, size: int) -> None:
    client = callers.logins[Kind.CLIENT]
    name = "/jumpstarter.client.v1.ClientService/ListExporters"
    with pytest.raises(grpc.aio.AioRpcError):
        await callers.channel.unary_unary(name)(b"\xff" * size, metadata=client.metadata)
    async with client.stubs() as stubs:
        assert await stubs.client.ListExporters(client_pb2.ListExportersRequest(parent="namespaces/default"))
