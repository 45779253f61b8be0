"""An exporter that comes to listen again a thousand times while clients dial; in one process, over real connections."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import grpc
import pytest
from jumpstarter_controller.model.records import ExporterStatus, Key, Kind
from jumpstarter_controller.testing import NAMESPACE, running_lab
from jumpstarter_protocol import client_pb2, jumpstarter_pb2
from jumpstarter_protocol.jumpstarter.v1 import common_pb2

from .report import Outcome

ROUNDS = 1000
DIALLERS = 4
LIMIT = 90


@pytest.mark.timeout(120)
async def test_D06_a_thousand_rounds_of_listening_again_lose_and_double_no_token(
    tmp_path: Path, note: Callable[[Outcome], None]
) -> None:
    outcome = Outcome("1000 x Listen again", "dial")
    note(outcome)
    async with running_lab(tmp_path) as lab:
        board, alice = await lab.exporter(), await lab.client()
        async with board.stubs() as exporter, alice.stubs() as client, anyio.create_task_group() as tasks:
            status = exporter.controller.Status(jumpstarter_pb2.StatusRequest())
            await status.read()
            await exporter.controller.Register(jumpstarter_pb2.RegisterRequest(reports=[{"uuid": "1"}]))
            await report(exporter, common_pb2.EXPORTER_STATUS_AVAILABLE)
            request = client_pb2.CreateLeaseRequest(parent=f"namespaces/{NAMESPACE}")
            request.lease.exporter_name = "board"
            request.lease.duration.FromTimedelta(timedelta(minutes=10))
            lease = (await client.client.CreateLease(request)).name.rsplit("/", 1)[1]
            key = Key(Kind.LEASE, NAMESPACE, lease)
            await lab.until(key, lambda record: record.exporter == "board")
            await report(exporter, common_pb2.EXPORTER_STATUS_LEASE_READY)
            await lab.until(board.key, lambda record: record.status is ExporterStatus.LEASE_READY)

            got: list[str] = []
            dialled: list[str] = []
            listening = True

            async def read(call: Any) -> None:
                while (message := await call.read()) is not grpc.aio.EOF:
                    got.append(message.router_token)

            async def dial() -> None:
                while listening:
                    answer = await client.controller.Dial(jumpstarter_pb2.DialRequest(lease_name=lease))
                    dialled.append(answer.router_token)

            with anyio.fail_after(LIMIT):
                async with anyio.create_task_group() as diallers:
                    for _ in range(DIALLERS):
                        diallers.start_soon(dial)
                    for _ in range(ROUNDS):
                        call = exporter.controller.Listen(jumpstarter_pb2.ListenRequest(lease_name=lease))
                        tasks.start_soon(read, call)
                        await call.wait_for_connection()
                    listening = False
                while len(got) < len(dialled):  # noqa: ASYNC110 (what is waited for tells nobody)
                    await anyio.sleep(0.01)
            status.cancel()
            call.cancel()
            tasks.cancel_scope.cancel()
    assert len(dialled) > ROUNDS / 10
    assert len(got) == len(set(streams(got)))
    assert sorted(streams(got)) == sorted(streams(dialled))
    outcome.passed = True


async def report(exporter: Any, status: int) -> None:
    await exporter.controller.ReportStatus(jumpstarter_pb2.ReportStatusRequest(status=status))


def claims(token: str) -> dict[str, Any]:
    """Return what a token says."""
    part = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))))


def streams(tokens: list[str]) -> list[str]:
    """Return whose streams the tokens are for."""
    return [claims(token)["sub"] for token in tokens]
