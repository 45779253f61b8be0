"""Hooks: their surroundings, their lines in the session's log, and what their failure leads to."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import grpc
import pytest
from google.protobuf import empty_pb2
from jumpstarter_protocol import jumpstarter_pb2_grpc

from jumpstarter.common.enums import ExporterStatus, LogSource
from jumpstarter.config.exporter import HookConfigV1Alpha1
from jumpstarter.driver import Driver, export
from jumpstarter.exporter import Session
from jumpstarter.exporter.hooks import (
    DRAIN_MAX_EMPTY_POLLS,
    DRAIN_TIMEOUT_SECONDS,
    MAX_DRAIN_BYTES,
    HookExecutionError,
    HookExecutor,
)
from jumpstarter.exporter.lease_context import LeaseContext

LIMIT = 20


class Lamp(Driver):
    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    def light(self) -> str:
        return "on"


def hooks(before: dict[str, Any] | None = None, after: dict[str, Any] | None = None) -> HookExecutor:
    return HookExecutor(config=HookConfigV1Alpha1.model_validate({"beforeLease": before, "afterLease": after}))


def lease(**changes: Any) -> LeaseContext:
    return LeaseContext("lease-1", anyio.Event(), **changes)


@asynccontextmanager
async def session_log() -> AsyncIterator[tuple[LeaseContext, Any]]:
    """A lease with a session, and what reads the log of the latter as a client does."""
    with Session(root_device=Lamp()) as session:
        context = lease(session=session)
        logging.getLogger("jumpstarter").setLevel(logging.INFO)
        async with (
            session.serve_unix_async() as path,
            grpc.aio.insecure_channel(f"unix://{path}") as channel,
        ):
            yield context, jumpstarter_pb2_grpc.ExporterServiceStub(channel).LogStream(empty_pb2.Empty())


async def lines_of(call: Any, last: str) -> list[Any]:
    records = []
    with anyio.fail_after(LIMIT):
        async for record in call:
            records.append(record)
            if last in record.message:
                return records
    raise AssertionError("the log ended")


async def test_without_a_script_nothing_runs():
    executor = hooks({"script": "  \n "}, None)
    assert not executor.has_hook("before_lease")
    assert not executor.has_hook("after_lease")
    assert await executor.execute_before_lease_hook(lease()) is None
    assert await executor.execute_after_lease_hook(lease()) is None


async def test_lines_reach_the_clients_of_the_session_with_the_source_of_their_hook():
    executor = hooks({"script": "echo prepared"}, {"script": "echo tidied"})
    async with session_log() as (context, call):
        await executor.execute_before_lease_hook(context)
        await executor.execute_after_lease_hook(context)
        records = await lines_of(call, "afterLease hook succeeded")
    sources = {record.message: record.source for record in records}
    assert sources["prepared"] == LogSource.BEFORE_LEASE_HOOK
    assert sources["tidied"] == LogSource.AFTER_LEASE_HOOK


async def test_lines_of_one_sessions_hook_do_not_reach_another_session():
    async with session_log() as (_, other_call), session_log() as (context, call):
        await hooks({"script": "echo mine"}).execute_before_lease_hook(context)
        await lines_of(call, "mine")
        logging.getLogger("jumpstarter.test").info("for everybody")
        records = await lines_of(other_call, "for everybody")
    assert "mine" not in [record.message for record in records]


async def test_the_environment_tells_the_script_whom_it_serves(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PS1", "prompt")
    monkeypatch.setenv("KEPT", "kept")
    names = "JUMPSTARTER_HOST JMP_DRIVERS_ALLOW LEASE_NAME CLIENT_NAME TERM DEBIAN_FRONTEND GIT_TERMINAL_PROMPT KEPT"
    script = "; ".join(f'echo "{name}=${name}"' for name in names.split()) + "; env | grep -c ^PS1="
    async with session_log() as (context, call):
        context.client_name = "alice"
        context.hook_socket_path = "/run/hook"
        await hooks({"script": script}).execute_before_lease_hook(context)
        records = await lines_of(call, "hook failed")
    assert [record.message for record in records][1:-1] == [
        "JUMPSTARTER_HOST=/run/hook",
        "JMP_DRIVERS_ALLOW=UNSAFE",
        "LEASE_NAME=lease-1",
        "CLIENT_NAME=alice",
        "TERM=dumb",
        "DEBIAN_FRONTEND=noninteractive",
        "GIT_TERMINAL_PROMPT=0",
        "KEPT=kept",
        "0",
    ]


async def test_a_failure_that_asks_for_a_warning_is_returned():
    executor = hooks({"script": "exit 4", "onFailure": "warn"})
    assert await executor.execute_before_lease_hook(lease()) == "the beforeLease hook failed with exit code 4"


@pytest.mark.parametrize(("on_failure", "exits"), [("endLease", False), ("exit", True)])
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"script": "exit 5"}, "exit code 5"),
        ({"script": "sleep 60", "timeout": 1}, "timed out after 1 seconds"),
        ({"script": "echo", "exec": "no-such-shell"}, "'no-such-shell' is not installed"),
    ],
    ids=["status", "timeout", "interpreter"],
)
async def test_any_other_failure_is_an_error_that_says_what_must_end(
    settings: dict[str, Any], reason: str, on_failure: str, exits: bool
):
    executor = hooks(after={**settings, "onFailure": on_failure})
    with pytest.raises(HookExecutionError, match=reason) as caught:
        await executor.execute_after_lease_hook(lease())
    assert caught.value.hook_type == "after_lease"
    assert caught.value.should_end_lease()
    assert caught.value.should_shutdown_exporter() is exits


async def test_a_hook_uses_the_drivers_while_clients_may_not():
    async def light(path: Any, uuid: str) -> grpc.StatusCode:
        from jumpstarter_protocol import jumpstarter_pb2

        async with grpc.aio.insecure_channel(f"unix://{path}") as channel:
            stub = jumpstarter_pb2_grpc.ExporterServiceStub(channel)
            call = stub.DriverCall(jumpstarter_pb2.DriverCallRequest(uuid=uuid, method="light"))
            return await call.code()

    with Session(root_device=Lamp()) as session:
        session.lease_context = lease(session=session)
        uuid = str(session.root_device.uuid)
        async with session.serve_unix_with_hook_socket_async() as (main, hook):
            for status in (ExporterStatus.BEFORE_LEASE_HOOK, ExporterStatus.AFTER_LEASE_HOOK):
                session.update_status(status)
                assert await light(main, uuid) is grpc.StatusCode.FAILED_PRECONDITION
                assert await light(hook, uuid) is grpc.StatusCode.OK
            session.update_status(ExporterStatus.AVAILABLE)
            assert await light(hook, uuid) is grpc.StatusCode.FAILED_PRECONDITION


class Told:
    """What a whole run of a hook tells the exporter."""

    def __init__(self) -> None:
        self.statuses: list[tuple[str, str]] = []
        self.shutdowns: list[dict[str, Any]] = []
        self.releases = 0

    async def report(self, status: ExporterStatus, message: str) -> None:
        self.statuses.append((status.name, message))

    def shutdown(self, **how: Any) -> None:
        self.shutdowns.append(how)

    async def release(self) -> None:
        self.releases += 1


@pytest.mark.parametrize(
    ("script", "on_failure", "statuses", "shutdowns", "releases"),
    [
        ("true", "exit", ["BEFORE_LEASE_HOOK", "LEASE_READY"], 0, 0),
        ("false", "warn", ["BEFORE_LEASE_HOOK", "LEASE_READY"], 0, 0),
        ("false", "endLease", ["BEFORE_LEASE_HOOK", "BEFORE_LEASE_HOOK_FAILED"], 0, 1),
        ("false", "exit", ["BEFORE_LEASE_HOOK", "BEFORE_LEASE_HOOK_FAILED"], 1, 0),
    ],
)
async def test_a_whole_run_before_a_lease_reports_each_state_and_lets_clients_in(
    script: str, on_failure: str, statuses: list[str], shutdowns: int, releases: int
):
    told, context = Told(), lease()
    executor = hooks({"script": script, "onFailure": on_failure})
    await executor.run_before_lease_hook(context, told.report, told.shutdown, told.release)
    assert [name for name, _ in told.statuses] == statuses
    assert (len(told.shutdowns), told.releases) == (shutdowns, releases)
    assert context.drivers_ready()
    warned = script == "false" and on_failure == "warn"
    assert told.statuses[-1][1].startswith("[HOOK_WARNING] ") is warned


@pytest.mark.parametrize(
    ("script", "on_failure", "last", "shutdowns", "releases"),
    [
        ("true", "exit", "AVAILABLE", 0, 1),
        ("false", "warn", "AVAILABLE", 0, 1),
        ("false", "endLease", "AFTER_LEASE_HOOK_FAILED", 0, 1),
        ("false", "exit", "AFTER_LEASE_HOOK_FAILED", 1, 0),
    ],
)
async def test_a_whole_run_after_a_lease_reports_each_state_and_gives_the_lease_back(
    script: str, on_failure: str, last: str, shutdowns: int, releases: int
):
    told, context = Told(), lease()
    executor = hooks(after={"script": script, "onFailure": on_failure})
    await executor.run_after_lease_hook(context, told.report, told.shutdown, told.release)
    assert [name for name, _ in told.statuses] == ["AFTER_LEASE_HOOK", last]
    assert (len(told.shutdowns), told.releases) == (shutdowns, releases)
    assert context.after_lease_hook_done.is_set()


def test_a_lease_needs_a_name():
    with pytest.raises(AssertionError, match="non-empty lease_name"):
        LeaseContext("", anyio.Event())


def test_the_last_read_of_the_terminal_is_bounded():
    assert (MAX_DRAIN_BYTES, DRAIN_TIMEOUT_SECONDS, DRAIN_MAX_EMPTY_POLLS) == (262144, 2.0, 10)
