"""A whole lab with the real client and the real exporter: lease, dial, drive, hand over, release, connect again."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from anyio.abc import TaskStatus
from anyio.from_thread import BlockingPortal
from jumpstarter.client.exceptions import LeaseError
from jumpstarter.common.exceptions import ConnectionError
from jumpstarter.config.serving import exporter_for

from .model.records import ExporterStatus
from .scripted import lease_key
from .server import Endpoints
from .testing import Login, RunningLab, running_lab

PATIENCE = 60


@pytest.fixture
async def lab(tmp_path: Path, one_loop: None) -> AsyncIterator[RunningLab]:
    async with running_lab(tmp_path) as running:
        yield running


@pytest.fixture
async def portal(one_loop: None) -> AsyncIterator[BlockingPortal]:
    """The way of blocking methods of clients to the event loop."""
    async with BlockingPortal() as portal:
        yield portal


def leased(login: Login, portal: BlockingPortal, **changes: Any) -> AbstractAsyncContextManager[Any]:
    """Hold a lease of the exporter `board`, or another one, as `jmp shell` does."""
    arguments = {"selector": None, "exporter_name": "board", "lease_name": None, "duration": timedelta(minutes=5)}
    return login.client_config().lease_async(**(arguments | changes), portal=portal)


@asynccontextmanager
async def connected(lease: Any) -> AsyncIterator[Any]:
    """Connect to the exporter of a lease."""
    with ExitStack() as stack:
        async with lease.connect_async(stack) as client:
            yield client


async def power(client: Any, method: str) -> None:
    await to_thread.run_sync(getattr(client.power, method))


async def test_D01_client_leases_dials_and_drives(lab: RunningLab, portal: BlockingPortal) -> None:
    alice = await lab.client("alice")
    with anyio.fail_after(PATIENCE):
        async with lab.serving_exporter() as exporter:
            async with leased(alice, portal) as lease, connected(lease) as client:
                await power(client, "on")
                await power(client, "off")
                name = lease.name
                assert exporter.lease_name == name
            board = lease_key(name)
            ended = await lab.lab.lease(board)
            assert ended is not None
            assert ended.conditions[-1].reason == "Released"
            key = (await lab.exporter()).key
            await lab.until(key, lambda record: record.status is ExporterStatus.AVAILABLE and not record.lease)


async def test_two_clients_take_turns_without_a_pause(lab: RunningLab, portal: BlockingPortal) -> None:
    """The second one waits in the queue, and drives as soon as the first one is gone."""
    alice, bob = await lab.client("alice"), await lab.client("bob")
    drove: list[str] = []

    async def drive(login: Login) -> None:
        async with leased(login, portal) as lease, connected(lease) as client:
            await power(client, "on")
            drove.append(login.key.name)

    with anyio.fail_after(PATIENCE):
        async with lab.serving_exporter(), anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(drive, alice)
                tasks.start_soon(drive, bob)
    assert sorted(drove) == ["alice"] * 3 + ["bob"] * 3


async def test_T17_lease_that_is_handed_over_serves_the_new_owner_and_not_the_old(
    lab: RunningLab, portal: BlockingPortal
) -> None:
    alice, bob = await lab.client("alice"), await lab.client("bob")
    with anyio.fail_after(PATIENCE):
        async with lab.serving_exporter(), leased(alice, portal) as lease, connected(lease) as client:
            await power(client, "on")
            await lease.svc.UpdateLease(name=lease.name, client="bob")
            async with (
                leased(bob, portal, lease_name=lease.name, exporter_name=None) as theirs,
                connected(theirs) as other,
            ):
                await power(other, "off")
            with pytest.raises(Exception):  # noqa: B017, PT011 (the connection is cut; how a call fails is the client's)
                await power(client, "on")
            with pytest.raises(LeaseError, match="bob"):
                async with leased(alice, portal, lease_name=lease.name, exporter_name=None):
                    pass


async def test_lease_that_nobody_can_get_says_so(lab: RunningLab, portal: BlockingPortal) -> None:
    alice = await lab.client("alice")
    with anyio.fail_after(20), pytest.raises(LeaseError, match="cannot be satisfied"):
        async with leased(alice, portal, exporter_name="missing"):
            pass


async def test_A09_client_with_an_expired_token_is_told_in_the_words_that_lead_to_a_new_login(
    lab: RunningLab, portal: BlockingPortal
) -> None:
    alice = await lab.client("alice", life=timedelta(seconds=-1))
    with anyio.fail_after(20), pytest.raises(ConnectionError, match="token is expired"):
        async with leased(alice, portal):
            pass


class Part:
    """A context that a task of its own enters and leaves, so that it may end before others that began later."""

    def __init__(self, context: AbstractAsyncContextManager[Any]) -> None:
        self._context = context
        self._stop, self._stopped = anyio.Event(), anyio.Event()

    async def run(self, *, task_status: TaskStatus[Any]) -> None:
        try:
            async with self._context as value:
                task_status.started(value)
                await self._stop.wait()
        finally:
            self._stopped.set()

    async def stop(self) -> None:
        self._stop.set()
        await self._stopped.wait()


async def test_X08_client_and_exporter_go_on_after_the_server_started_again(
    tmp_path: Path, portal: BlockingPortal
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        same = {"endpoints": Endpoints(listen=f"127.0.0.1:{free.getsockname()[1]}")}
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            first, second = (Part(running_lab(tmp_path, server=same)) for _ in range(2))
            lab: RunningLab = await tasks.start(first.run)
            alice, board = await lab.client("alice"), await lab.exporter()
            exporter = Part(lab.serving_exporter(login=board))
            await tasks.start(exporter.run)
            async with leased(alice, portal) as lease:
                async with connected(lease) as client:
                    await power(client, "on")
                await first.stop()
                lab = await tasks.start(second.run)
                assert lab.lab.active_lease(lease_key(lease.name)) is not None
                await lab.until(board.key, lambda record: record.status is ExporterStatus.LEASE_READY)
                async with connected(lease) as client:
                    await power(client, "off")
            await lab.until(board.key, lambda record: not record.lease)
            await exporter.stop()
            await second.stop()


async def test_R13_exporter_that_restarts_serves_the_lease_that_it_had(lab: RunningLab, portal: BlockingPortal) -> None:
    alice, board = await lab.client("alice"), await lab.exporter()
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            first, second = (Part(_serving(lab, board)) for _ in range(2))
            await tasks.start(first.run)
            await lab.until(board.key, lambda record: record.status is ExporterStatus.AVAILABLE)
            async with leased(alice, portal) as lease:
                async with connected(lease) as client:
                    await power(client, "on")
                await first.stop()
                await lab.until(board.key, lambda record: not record.online)
                await tasks.start(second.run)
                await lab.until(board.key, lambda record: record.status is ExporterStatus.LEASE_READY)
                async with connected(lease) as client:
                    await power(client, "off")
            await second.stop()


@asynccontextmanager
async def _serving(lab: RunningLab, login: Login) -> AsyncIterator[None]:
    """Run an exporter that may have a lease already, and stop it without a word."""
    async with (
        exporter_for(login.exporter_config(), standalone=False) as exporter,
        anyio.create_task_group() as tasks,
    ):
        await tasks.start(lambda *, task_status: exporter.serve(task_status=task_status))
        yield
        tasks.cancel_scope.cancel()
