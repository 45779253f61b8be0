"""A whole lab, real services over TLS on loopback, for simulated peers: `serve_lab.py FOLDER PORT EXPORTERS CLIENTS`.

Prints a line when it is ready, and answers each line of its input with a JSON object: `stats` with what it uses,
`churn N` after N leases were begun and ended.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

import anyio
from anyio import to_thread
from jumpstarter_controller.lab import Actor, LeaseRequest
from jumpstarter_controller.model.records import Device, ExporterStatus, Kind
from jumpstarter_controller.server import Endpoints
from jumpstarter_controller.testing import SERVER, RunningLab, running_lab

PAGE = resource.getpagesize()
GROUPS = 10
"""Different labels of exporters, and selectors of clients."""


async def accounts(lab: RunningLab, folder: Path, exporters: int, clients: int) -> None:
    """Make the accounts of all peers and write their tokens."""
    found = {"endpoint": lab.endpoint, "ca": lab.ca, "exporters": [], "clients": []}
    for number in range(exporters):
        login = await lab.exporter(f"board-{number}", labels={"group": f"g{number % GROUPS}"})
        found["exporters"].append((login.key.name, login.token))
    for number in range(clients):
        login = await lab.client(f"user-{number}")
        found["clients"].append((login.key.name, login.token))
    (folder / "accounts.json").write_text(json.dumps(found))


def stats(folder: Path) -> dict[str, float]:
    """What the process uses: MiB of memory, MiB of store, CPU seconds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    store = sum(path.stat().st_size for path in (folder / "lab").glob("lab.db*"))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"memory": pages * PAGE / 2**20, "store": store / 2**20, "cpu": usage.ru_utime + usage.ru_stime}


async def churn(lab: RunningLab, count: int) -> None:
    """Begin and end leases as fast as the lab can, one board at a time."""
    board, user = await lab.exporter("churn", labels={"group": "churn"}), await lab.client("churn")
    exporter, client = Actor(kind="exporter", key=board.key), Actor(kind="client", key=user.key)
    await lab.lab.register(exporter, {}, [Device(uuid="root")])
    with lab.lab.connected(exporter):
        await lab.lab.report_status(exporter, ExporterStatus.AVAILABLE)
        for _ in range(count):
            lease = await lab.lab.create_lease(client, LeaseRequest(selector="group=churn", duration=HOUR))
            await lab.lab.release_lease(client, lease.key)
    await lab.lab.delete_account(SERVER, board.key)


async def main(folder: Path, port: int, exporters: int, clients: int) -> None:
    server = {"endpoints": Endpoints(listen=f"127.0.0.1:{port}")}
    async with running_lab(folder, server=server, leases={"keepEnded": "5s"}, audit={"maxEntries": 1000}) as lab:
        if not (folder / "accounts.json").exists():
            await accounts(lab, folder, exporters, clients)
        print("ready", flush=True)
        while line := await to_thread.run_sync(sys.stdin.readline):
            command, _, argument = line.strip().partition(" ")
            if command == "churn":
                await churn(lab, int(argument))
            active = lab.lab.accounts(Kind.EXPORTER)
            found = stats(folder) | {"online": sum(each.online for each in active)}
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    from datetime import timedelta

    HOUR = timedelta(hours=1)
    anyio.run(main, Path(sys.argv[1]), *map(int, sys.argv[2:5]))
    os._exit(0)
