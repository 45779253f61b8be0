"""Simulated exporters and clients at a real lab: `measure_lab.py EXPORTERS CLIENTS SECONDS HOLD CHURN`.

Each peer has a connection of its own. All exporters are leased all the time, for HOLD seconds at a time, and all other
clients wait, following their lease. Prints a JSON object with the figures.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import grpc
from anyio import to_thread
from google.protobuf.duration_pb2 import Duration
from jumpstarter_controller.testing import Stubs
from jumpstarter_protocol import client_pb2, jumpstarter_pb2, lab_pb2
from jumpstarter_protocol.jumpstarter.v1 import common_pb2

HERE = Path(__file__).resolve().parent
OPENING = 50
"""Connections that are opened at a time."""

OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))


class Server:
    """The process of the lab."""

    def __init__(self, folder: Path, port: int, exporters: int, clients: int) -> None:
        self._command = [
            sys.executable,
            str(HERE / "serve_lab.py"),
            str(folder),
            str(port),
            str(exporters),
            str(clients),
        ]
        self.process: subprocess.Popen[str]

    async def start(self) -> None:
        self.process = subprocess.Popen(  # noqa: ASYNC220 (some milliseconds, while nothing is measured)
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        line = await to_thread.run_sync(self.process.stdout.readline)  # type: ignore[union-attr]
        if line.strip() != "ready":
            raise SystemExit("the lab did not start")

    async def ask(self, line: str) -> dict[str, float]:
        self.process.stdin.write(f"{line}\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        return json.loads(await to_thread.run_sync(self.process.stdout.readline))  # type: ignore[union-attr]

    async def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        await to_thread.run_sync(self.process.wait)

    async def stop(self) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        await to_thread.run_sync(self.process.wait)


@dataclass
class World:
    """What all peers know in common."""

    endpoint: str
    credentials: grpc.ChannelCredentials
    hold: float
    freed: dict[str, float] = field(default_factory=dict)
    """When each exporter said that it is free."""
    grants: list[float] = field(default_factory=list)
    """Seconds from there to the client that has it."""
    measuring: bool = False
    cycles: int = 0
    watching: set[str] = field(default_factory=set)
    attached: set[str] = field(default_factory=set)
    """Exporters whose Status stream is open."""
    failures: list[str] = field(default_factory=list)
    opening: anyio.Semaphore = field(default_factory=lambda: anyio.Semaphore(OPENING))

    @asynccontextmanager
    async def stubs(self, kind: str, name: str, token: str) -> AsyncIterator[Stubs]:
        async with grpc.aio.secure_channel(self.endpoint, self.credentials, OPTIONS) as channel:
            async with self.opening:
                await channel.channel_ready()
            metadata = (
                ("authorization", f"Bearer {token}"),
                ("jumpstarter-kind", kind),
                ("jumpstarter-namespace", "default"),
                ("jumpstarter-name", name),
            )
            yield Stubs(channel, metadata)


async def exporter(world: World, name: str, token: str) -> None:
    """Be an exporter without hooks, which comes back when the controller does."""
    while True:
        try:
            async with world.stubs("Exporter", name, token) as stubs:
                await be_exporter(world, name, stubs)
        except grpc.aio.AioRpcError:
            world.attached.discard(name)
            await anyio.sleep(0.5)


async def be_exporter(world: World, name: str, stubs: Stubs) -> None:
    report = jumpstarter_pb2.DriverInstanceReport(uuid=name)
    await stubs.controller.Register(jumpstarter_pb2.RegisterRequest(reports=[report]), timeout=30)

    async def say(status: int) -> None:
        request = jumpstarter_pb2.ReportStatusRequest(status=status)  # type: ignore[arg-type]
        await stubs.controller.ReportStatus(request, timeout=30)

    await say(common_pb2.EXPORTER_STATUS_AVAILABLE)
    listening = None
    async for news in stubs.controller.Status(jumpstarter_pb2.StatusRequest()):
        world.attached.add(name)
        if news.leased:
            request = jumpstarter_pb2.ListenRequest(lease_name=news.lease_name)
            listening = stubs.controller.Listen(request)
            await say(common_pb2.EXPORTER_STATUS_LEASE_READY)
        elif listening is not None:
            listening.cancel()
            listening = None
            world.freed[name] = time.perf_counter()
            await say(common_pb2.EXPORTER_STATUS_AVAILABLE)


async def client(world: World, name: str, token: str, group: str) -> None:
    """Ask for a board, wait, hold it, give it back; again and again."""
    lease, returned = "", False
    while True:
        try:
            async with world.stubs("Client", name, token) as stubs:
                while True:
                    if not lease:
                        lease = await ask(stubs, group)
                    if returned or await wait(world, stubs, name, lease):
                        if not returned:
                            # Otherwise boards that were given in one go would come free in one go for ever.
                            await anyio.sleep(world.hold * random.uniform(0.5, 1.5))
                        returned = True
                        await stubs.client.DeleteLease(client_pb2.DeleteLeaseRequest(name=lease), timeout=30)
                        world.cycles += world.measuring
                    else:
                        world.failures.append(f"{name}: lease {lease} ended while it waited")
                    lease, returned = "", False
        except grpc.aio.AioRpcError as error:
            world.watching.discard(name)
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                # A lease whose return was lost with the answer is over already.
                if not returned:
                    world.failures.append(f"{name}: {error.code().name} {error.details()}")
                lease, returned = "", False
            await anyio.sleep(0.5)


async def ask(stubs: Stubs, group: str) -> str:
    lease = client_pb2.Lease(selector=f"group={group}", duration=Duration(seconds=3600))
    request = client_pb2.CreateLeaseRequest(parent="namespaces/default", lease=lease)
    return (await stubs.client.CreateLease(request, timeout=30)).name


async def wait(world: World, stubs: Stubs, name: str, lease: str) -> bool:
    waited = False
    async for state in stubs.lab.WatchLease(lab_pb2.WatchLeaseRequest(name=lease)):
        world.watching.add(name)
        if state.ended:
            return False
        if state.lease.exporter and state.lease.conditions[-1].type == "Ready":
            board = state.lease.exporter.rpartition("/")[2]
            if waited and world.measuring and board in world.freed:
                world.grants.append(time.perf_counter() - world.freed[board])
            return True
        waited = True
    return False


async def until(check: Any, seconds: float) -> float:
    """Wait for something; return how long it took."""
    started = time.perf_counter()
    with anyio.fail_after(seconds):
        while not check():  # noqa: ASYNC110 (of many peers, of which each would have to tell)
            await anyio.sleep(0.05)
    return time.perf_counter() - started


async def main(exporters: int, clients: int, seconds: int, hold: int, churn: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        server = Server(folder, port, exporters, clients)
        await server.start()
        found = json.loads((folder / "accounts.json").read_text())
        world = World(found["endpoint"], grpc.ssl_channel_credentials(found["ca"].encode()), hold)
        figures: dict[str, float] = {}
        async with anyio.create_task_group() as peers:
            for account in found["exporters"]:
                peers.start_soon(exporter, world, *account)
            figures["attach"] = await until(lambda: len(world.attached) == exporters, 120)
            for number, account in enumerate(found["clients"]):
                peers.start_soon(client, world, *account, f"g{number % 10}")
            await until(lambda: len(world.watching) == clients, 240)
            # The boards were given in one go; that levels out.
            await anyio.sleep(2 * hold)
            before, world.measuring = await server.ask("stats"), True
            started = time.perf_counter()
            await anyio.sleep(seconds)
            world.measuring = False
            spent, after = time.perf_counter() - started, await server.ask("stats")
            grants = sorted(world.grants)
            figures |= {
                "cycles": world.cycles / spent,
                "p50": 1000 * grants[len(grants) // 2],
                "p99": 1000 * grants[len(grants) * 99 // 100],
                "worst": 1000 * grants[-1],
                "cpu": (after["cpu"] - before["cpu"]) / spent,
                "memory": after["memory"],
            }
            await server.kill()
            killed = time.perf_counter()
            await until(lambda: not world.attached, 60)
            await server.start()
            await until(lambda: len(world.attached) == exporters, 120)
            figures["back"] = time.perf_counter() - killed
            figures["failures"] = len(world.failures)
            for failure in world.failures[:10]:
                print(failure, file=sys.stderr)
            peers.cancel_scope.cancel()
        await server.ask(f"churn {churn // 10}")
        first = await server.ask("stats")
        last = await server.ask(f"churn {churn}")
        figures |= {"memory_growth": last["memory"] / first["memory"], "store_growth": last["store"] / first["store"]}
        await server.stop()
        print(json.dumps(figures))


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    anyio.run(main, *map(int, sys.argv[1:6]))
