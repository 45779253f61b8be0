"""The core of a lab alone, without a wire: so many exporters and waiting clients, and lease cycles as fast as it can.

    python benchmarks/lab_core.py [--exporters 500] [--waiting 2000] [--seconds 10] [--rate 50] [--sqlite]

Each cycle is what one lease costs: a client asks for it, the exporter that another one gives back goes to whoever has
waited longest, its status changes twice, and the lease is released. Told are the CPU time of a cycle, what part of a
core a rate of cycles takes, and how long it takes until the waiting client has the exporter that was given back.
"""

from __future__ import annotations

import argparse
import gc
import resource
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import anyio
from jumpstarter_controller.lab import Actor, Lab, LeaseRequest
from jumpstarter_controller.model.records import (
    Account,
    Device,
    Exporter,
    ExporterStatus,
    Key,
    Kind,
    Lease,
    Meta,
    Record,
)
from jumpstarter_controller.store.base import Store
from jumpstarter_controller.store.memory import MemoryStore
from jumpstarter_controller.store.sqlite import SQLiteStore

NAMESPACE = "lab"
ADMIN = Actor(kind="admin", key=None)
SELECTORS = 8


def actor(kind: Kind, name: str) -> Actor:
    return Actor(kind=kind.value.rstrip("s"), key=Key(kind, NAMESPACE, name))


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Load:
    """Peers that ask for leases and give them back."""

    def __init__(self, lab: Lab, options: argparse.Namespace) -> None:
        self.lab, self.options = lab, options
        self.held: list[Lease] = []
        self.freed: dict[str, float] = {}
        self.latencies: list[float] = []
        self.cycles = 0
        self.number = 0
        self.granted = anyio.Event()
        lab.observe(self.changed)

    def changed(self, old: Record | None, new: Record | None) -> None:
        if isinstance(new, Lease) and new.exporter and not new.ended and not (isinstance(old, Lease) and old.exporter):
            self.held.append(new)
            freed = self.freed.pop(new.exporter, None)
            if freed is not None:
                self.latencies.append(time.perf_counter() - freed)
            self.granted.set()

    async def prepare(self) -> None:
        for number in range(200):
            meta = Meta(namespace=NAMESPACE, name=f"client-{number}")
            await self.lab.create_account(ADMIN, Account(kind=Kind.CLIENT, meta=meta))
        for number in range(self.options.exporters):
            labels = {"board": f"b{number % SELECTORS}", "rack": f"r{number % 40}"}
            name = f"exporter-{number}"
            await self.lab.create_account(ADMIN, Exporter(meta=Meta(namespace=NAMESPACE, name=name, labels=labels)))
            await self.lab.register(actor(Kind.EXPORTER, name), {}, [Device(uuid=name)])

    async def ask(self) -> None:
        self.number += 1
        await self.lab.create_lease(
            actor(Kind.CLIENT, f"client-{self.number % 200}"),
            LeaseRequest(selector=f"board=b{self.number % SELECTORS}", duration=timedelta(hours=1)),
        )

    async def cycle(self) -> None:
        while not self.held:
            self.granted = anyio.Event()
            await self.granted.wait()
        lease = self.held.pop(0)
        exporter = actor(Kind.EXPORTER, lease.exporter)
        await self.lab.report_status(exporter, ExporterStatus.LEASE_READY)
        await self.ask()
        await self.lab.report_status(exporter, ExporterStatus.AVAILABLE)
        self.freed[lease.exporter] = time.perf_counter()
        await self.lab.release_lease(actor(Kind.CLIENT, lease.client), lease.key)
        self.cycles += 1

    async def as_fast_as_possible(self, at_once: int) -> None:
        end = time.perf_counter() + self.options.seconds

        async def work() -> None:
            while time.perf_counter() < end:
                await self.cycle()

        async with anyio.create_task_group() as tasks:
            for _ in range(at_once):
                tasks.start_soon(work)

    async def at_rate(self) -> None:
        start = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for number in range(int(self.options.seconds * self.options.rate)):
                await anyio.sleep(max(0.0, start + number / self.options.rate - time.perf_counter()))
                tasks.start_soon(self.cycle)

    async def watch(self, lease: Key) -> None:
        async with self.lab.follow(lease) as moments:
            async for _ in moments:
                found = self.lab.active_lease(lease)
                if found is None:
                    return
                self.lab.view(found)


@asynccontextmanager
async def store(options: argparse.Namespace) -> AsyncIterator[Store]:
    if not options.sqlite:
        async with MemoryStore() as memory:
            yield memory
        return
    with tempfile.TemporaryDirectory() as folder:
        async with SQLiteStore(Path(folder) / "lab" / "lab.db") as sqlite:
            yield sqlite


def tell(load: Load, what: str, seconds: float, used: float) -> None:
    latencies = sorted(load.latencies) or [0.0]
    median, late = statistics.median(latencies) * 1e3, latencies[int(len(latencies) * 0.99)] * 1e3
    print(
        f"{what:<24} {load.cycles / seconds:8.1f} cycles/s {used / max(1, load.cycles) * 1e3:8.2f} ms CPU per cycle "
        f"{used / seconds:8.0%} of a core   grant {median:6.1f} ms median, {late:6.1f} ms 99 %"
    )
    load.cycles = 0
    load.latencies.clear()


async def main(options: argparse.Namespace) -> None:
    async with store(options) as kept, _running(kept) as lab:
        load = Load(lab, options)
        began = time.perf_counter()
        await load.prepare()
        async with anyio.create_task_group() as tasks:
            with ExitStack() as streams:
                for number in range(options.exporters):
                    streams.enter_context(lab.connected(actor(Kind.EXPORTER, f"exporter-{number}")))
                for _ in range(options.exporters + options.waiting):
                    await load.ask()
                for lease in await lab.leases(NAMESPACE):
                    if not lease.exporter:
                        tasks.start_soon(load.watch, lease.key)
                print(
                    f"prepared {options.exporters} exporters, {len(load.held)} leased, {options.waiting} waiting, in "
                    f"{time.perf_counter() - began:.1f} s"
                )
                gc.collect()
                load.latencies.clear()
                for what, work in (
                    (f"at {options.rate} cycles/s", load.at_rate),
                    ("as fast as possible", lambda: load.as_fast_as_possible(16)),
                ):
                    start, used = time.perf_counter(), cpu()
                    await work()
                    tell(load, what, time.perf_counter() - start, cpu() - used)
                print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def _running(kept: Store) -> AsyncIterator[Lab]:
    lab = Lab(kept)
    async with lab.run():
        yield lab


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exporters", type=int, default=500)
    parser.add_argument("--waiting", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--sqlite", action="store_true", help="keep records in a file instead of in memory")
    anyio.run(main, parser.parse_args())
