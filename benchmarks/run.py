"""Measure ours against a limit of this machine and the published release: `./dev bench [GROUP...] [--no-peer]`."""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "interop"))

import can_bus  # noqa: E402 (found beside this file)
import peer  # noqa: E402 (found by the line above)
from router import figures  # noqa: E402

PARTS = HERE / "parts"
OURS = Path(sys.executable).parent
ROUNDS = 3
BULK_ROUNDS = 7
"""Rounds of what writes files: a disk disturbs more, and for longer, than anything else."""


@dataclass
class Row:
    """One figure: what was measured, as a ratio to what, and what it ought to be."""

    name: str
    unit: str
    ours: float | None
    theirs: float | None
    goal: str
    reached: bool | None

    def __str__(self) -> str:
        def number(value: float | None) -> str:
            return "-" if value is None else f"{value:,.2f}"

        verdict = {True: "reached", False: "NOT reached", None: ""}[self.reached]
        values = f"{number(self.ours):>10} {number(self.theirs):>10}"
        return f"{self.name:<58} {values}  {self.unit:<22} {self.goal:<14} {verdict}".rstrip()


def at_most(name: str, unit: str, ours: float, theirs: float | None, limit: float) -> Row:
    """A figure that may not exceed `limit`."""
    return Row(name, unit, ours, theirs, f"<= {limit:g}", ours <= limit)


def at_least(name: str, unit: str, ours: float, theirs: float | None, limit: float) -> Row:
    """A figure that may not fall below `limit`."""
    return Row(name, unit, ours, theirs, f">= {limit:g}", ours >= limit)


def environment(**more: str) -> dict[str, str]:
    """Our environment without Jumpstarter's own variables."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JMP_", "JUMPSTARTER_", "PYTHON", "VIRTUAL_ENV"))}
    return kept | {"PYTHONPATH": str(PARTS), "JMP_DRIVERS_ALLOW": "UNSAFE", "TERM": "dumb"} | more


def measure(command: list[Any], **env: str) -> dict[str, float]:
    """Run a measuring script and return the JSON object that it prints last."""
    result = subprocess.run(
        [str(part) for part in command], env=environment(**env), capture_output=True, text=True, timeout=900
    )
    if result.returncode != 0:
        raise SystemExit(f"bench: {command} failed:\n{result.stderr[-3000:]}")
    return json.loads(result.stdout.splitlines()[-1])


@contextmanager
def serving(command: list[Any]) -> Iterator[subprocess.Popen[str]]:
    """A process that prints a first line when it is ready and ends with its input."""
    process = subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
        text=True,
    )
    try:
        assert process.stdout is not None
        process.first_line = process.stdout.readline().strip()  # type: ignore[attr-defined]
        if not process.first_line:  # type: ignore[attr-defined]
            raise SystemExit(f"bench: {command} did not start")
        yield process
    finally:
        assert process.stdin is not None
        if not process.stdin.closed:
            process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def best(values: list[float]) -> float:
    """The least disturbed of several runs."""
    return min(values)


# -- start-up ------------------------------------------------------------------------------------


def cpu_seconds(command: list[Any], rounds: int = 7, **env: str) -> tuple[float, float, float]:
    """Return CPU seconds and wall seconds of a command, the best of several runs, and its peak memory in MiB."""
    cpu, wall, memory = [], [], 0.0
    for _ in range(rounds):
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(**env),
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise SystemExit(f"bench: {command} exited with {process.returncode}")
        wall.append(time.perf_counter() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        memory = max(memory, usage.ru_maxrss / 1024)
    return best(cpu), best(wall), memory


def modules(release: Path, *arguments: str) -> int:
    """Return how many modules a command loads."""
    script = (
        "import sys\n"
        f"sys.argv = ['jmp', *{list(arguments)!r}]\n"
        "from jumpstarter_cli.jmp import jmp\n"
        "try:\n    jmp()\nexcept SystemExit:\n    pass\n"
        "print(len(sys.modules), file=sys.stderr)\n"
    )
    result = subprocess.run([release / "python", "-c", script], env=environment(), capture_output=True, text=True)
    return int(result.stderr.splitlines()[-1])


def startup(published: Path | None, folder: Path) -> Iterator[Row]:
    """Commands from nothing to their output."""
    base = {
        release: cpu_seconds([release / "python", "-c", "pass"], 15)[0] for release in filter(None, [OURS, published])
    }
    for arguments in (["--help"], ["version"]):
        name = f"jmp {' '.join(arguments)}"
        ours = cpu_seconds([OURS / "jmp", *arguments])
        theirs = cpu_seconds([published / "jmp", *arguments], 3) if published else None
        yield at_most(
            f"{name}: CPU", "x python -c pass", ours[0] / base[OURS], theirs and theirs[0] / base[published], 6
        )
        yield at_most(f"{name}: peak memory", "MiB", ours[2], theirs and theirs[2], 30)
        yield at_most(
            f"{name}: modules", "modules", modules(OURS, *arguments), published and modules(published, *arguments), 250
        )
    config = folder / "exporter.yaml"
    config.write_text(
        "apiVersion: jumpstarter.dev/v1alpha1\nkind: ExporterConfig\nmetadata: {namespace: default, name: bench}\n"
        "endpoint: ''\ntoken: ''\nexport:\n  power: {type: jumpstarter_driver_power.driver.MockPower}\n"
    )
    shell = ["shell", "--exporter-config", str(config), "--"]
    inner = [sys.executable, str(PARTS / "measure_command.py")]
    results = {}
    for release in filter(None, [OURS, published]):
        results[release] = measure([release / "jmp", *shell, *inner, str(release / "j"), "--help"])
    theirs_help = results.get(published) if published else None
    ours_help = results[OURS]
    yield at_most(
        "j --help in a shell: CPU",
        "x python -c pass",
        ours_help["cpu"] / base[OURS],
        theirs_help and theirs_help["cpu"] / base[published],
        14,
    )
    yield at_most(
        "j --help in a shell: peak memory", "MiB", ours_help["memory"], theirs_help and theirs_help["memory"], 50
    )
    walls: dict[Path, list[float]] = {release: [] for release in filter(None, [OURS, published])}
    for _ in range(7):
        for release, taken in walls.items():
            taken.append(cpu_seconds([release / "jmp", *shell, release / "j", "power", "on"], 1)[1])
    ours_wall = best(walls[OURS])
    theirs_wall = best(walls[published]) if published else None
    if theirs_wall:
        yield at_most("jmp shell -- j power on, whole", "x published", ours_wall / theirs_wall, 1.0, 0.25)
    yield Row("jmp shell -- j power on, whole", "seconds", ours_wall, theirs_wall, "", None)


# -- calls ---------------------------------------------------------------------------------------


def calls(published: Path | None, folder: Path) -> Iterator[Row]:
    """Calls, items and round trips from another process."""
    rounds: list[dict[str, dict[str, float]]] = []
    bare_socket = folder / "bare"
    with serving([OURS / "python", PARTS / "serve_bare.py", bare_socket]):
        sockets = {}
        processes = []
        for name, release in (("ours", OURS), ("theirs", published)):
            if release is not None:
                sockets[name] = folder / name
                context = serving([release / "python", PARTS / "serve.py", sockets[name], "bench"])
                context.__enter__()
                processes.append(context)
        try:
            for _ in range(ROUNDS):
                # The three are measured in turn, so that whatever else the machine does hits them alike.
                seen = {"bare": measure([OURS / "python", PARTS / "measure_bare.py", bare_socket])}
                for name, release in (("ours", OURS), ("theirs", published)):
                    if release is not None:
                        command = [release / "python", PARTS / "measure_client.py"]
                        seen[name] = measure(command, JUMPSTARTER_HOST=str(sockets[name]))
                rounds.append(seen)
        finally:
            for context in processes:
                context.__exit__(None, None, None)

    def value(who: str, what: str, choose: Callable[..., float] = min) -> float | None:
        values = [seen[who][what] for seen in rounds if who in seen]
        return choose(values) if values else None

    def compare(what: str, bare: str, choose: Callable[..., float]) -> tuple[float, float | None]:
        limit = value("bare", bare, choose) or 1
        ours, theirs = value("ours", what, choose), value("theirs", what, choose)
        return (ours or 0) / limit, theirs and theirs / limit

    yield at_most("unary driver call, p50", "x bare grpc.aio", *compare("call", "call", min), 1.1)
    ours, theirs = compare("blocking call", "call", min)
    yield Row("unary call of a blocking method, p50", "x bare grpc.aio", ours, theirs, "", None)
    yield at_least("calls per second from 16 threads", "x bare grpc.aio", *compare("rate", "rate", max), 0.8)
    small, theirs_small = value("ours", "call"), value("theirs", "call")
    big, theirs_big = value("ours", "dictionary"), value("theirs", "dictionary")
    yield at_most(
        "dictionary of 1,000 numbers there and back",
        "x small message",
        (big or 0) / (small or 1),
        theirs_big and theirs_big / (theirs_small or 1),
        4,
    )
    yield at_least("streamed items per second", "x bare grpc.aio", *compare("items", "items", max), 0.67)
    yield at_most("48-byte round trip on a byte stream", "x bare grpc.aio", *compare("trip", "trip", min), 1.5)
    ours, theirs = compare("blocking trip", "trip", min)
    yield Row("the same from blocking code", "x bare grpc.aio", ours, theirs, "", None)


def tree(published: Path | None, folder: Path) -> Iterator[Row]:
    """From an address to a tree of clients."""
    seen = {}
    for name, release in (("ours", OURS), ("theirs", published)):
        if release is not None:
            socket = folder / f"tree-{name}"
            with serving([release / "python", PARTS / "serve.py", socket, "tree", "1000"]):
                command = [release / "python", PARTS / "measure_tree.py"]
                seen[name] = best([measure(command, JUMPSTARTER_HOST=str(socket))["tree"] for _ in range(ROUNDS)])
    theirs = seen.get("theirs")
    yield at_most("client tree of 1,000 drivers ready", "ms", seen["ours"] * 1000, theirs and theirs * 1000, 25)


def can(published: Path | None, folder: Path) -> Iterator[Row]:
    """Frames of a CAN bus; the published release is measured if its CAN driver is installed beside it."""
    for figure in can_bus.figures(published, folder, serving, measure, ROUNDS):
        if figure.goal is None:
            yield Row(figure.name, figure.unit, figure.ours, figure.theirs, "", None)
        else:
            yield at_least(figure.name, figure.unit, figure.ours, figure.theirs, figure.goal)


# -- bulk ----------------------------------------------------------------------------------------


def forward(published: Path | None, folder: Path) -> Iterator[Row]:
    """A TCP connection through the port forward."""
    seen: dict[str, list[dict[str, float]]] = {"direct": [], "ours": [], "theirs": []}
    with serving([OURS / "python", PARTS / "sockets.py"]) as target:
        port = target.first_line  # type: ignore[attr-defined]
        for _ in range(ROUNDS):
            seen["direct"].append(measure([OURS / "python", PARTS / "measure_forward.py", port]))
            for name, release in (("ours", OURS), ("theirs", published)):
                if release is not None:
                    socket = folder / f"forward-{name}"
                    socket.unlink(missing_ok=True)
                    with serving([release / "python", PARTS / "serve.py", socket, "network", port]):
                        command = [release / "python", PARTS / "measure_forward.py", "forward"]
                        seen[name].append(measure(command, JUMPSTARTER_HOST=str(socket)))

    def ratio(name: str, what: str, choose: Callable[..., float]) -> float | None:
        if not seen[name]:
            return None
        return choose(run[what] for run in seen[name]) / choose(run[what] for run in seen["direct"])

    yield at_least(
        "one TCP connection through the port forward",
        "x direct sockets",
        ratio("ours", "bytes per second", max) or 0,
        ratio("theirs", "bytes per second", max),
        0.25,
    )
    rate = max(run["bytes per second"] for run in seen["ours"]) / 1e6
    yield Row("the same", "MB/s", rate, None, "", None)
    yield at_most(
        "64-byte round trip through the port forward",
        "x direct sockets",
        ratio("ours", "trip", min) or 0,
        ratio("theirs", "trip", min),
        8,
    )


def cleared(target: Path) -> Path:
    """Return a path at which nothing lies, with nothing of earlier runs left to be written to the disk.

    Otherwise the one after another is measured with the other's blocks being written, and its own old ones freed.
    """
    target.unlink(missing_ok=True)
    os.sync()
    return target


def sendfile_seconds(source: Path, target: Path) -> float:
    """Return the seconds that a file takes through a loopback socket by sendfile, received into a new file."""
    cleared(target)
    script = (
        "import os, socket, sys\n"
        "with socket.create_server(('127.0.0.1', 0)) as server:\n"
        "    print(server.getsockname()[1], flush=True)\n"
        "    connection, _ = server.accept()\n"
        f"    with connection, open({str(target)!r}, 'wb') as out:\n"
        "        buffer = memoryview(bytearray(1 << 20))\n"
        "        while count := connection.recv_into(buffer):\n"
        "            out.write(buffer[:count])\n"
        "        out.flush()\n"
        "        connection.sendall(b'k')\n"
    )
    import socket as sockets

    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        with sockets.create_connection(("127.0.0.1", int(receiver.stdout.readline()))) as connection:
            started = time.perf_counter()
            with source.open("rb") as file:
                connection.sendfile(file)
            connection.shutdown(sockets.SHUT_WR)
            connection.recv(1)
            return time.perf_counter() - started


def upload_once(release: Path, folder: Path, kind: str, arguments: list[Any]) -> dict[str, float]:
    """Run one upload against a fresh exporter; return its seconds and the peaks of both sides."""
    socket, root = folder / "upload", folder / "root"
    socket.unlink(missing_ok=True)
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    os.sync()
    with serving([release / "python", PARTS / "serve.py", socket, kind, root]) as exporter:
        command = [release / "python", PARTS / "measure_upload.py", *arguments]
        seen = measure(command, JUMPSTARTER_HOST=str(socket))
        assert exporter.stdin is not None
        exporter.stdin.close()
        assert exporter.stdout is not None
        seen["exporter peak"] = float(exporter.stdout.readlines()[-1]) / 1024
    return seen


def upload(published: Path | None, folder: Path) -> Iterator[Row]:
    """A file from the client to the exporter's disk."""
    source = folder / "image"
    with source.open("wb") as file:
        for _ in range(256):
            file.write(os.urandom(1 << 20))
    limits: list[float] = []
    seen: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
    for _ in range(BULK_ROUNDS):
        limits.append(sendfile_seconds(source, folder / "received"))
        for name, release in (("ours", OURS), ("theirs", published)):
            if release is not None:
                seen[name].append(upload_once(release, folder, "storage", [source]))
    limit = best(limits)

    def least(name: str, what: str) -> float | None:
        return min((run[what] for run in seen[name]), default=None)

    theirs = least("theirs", "seconds")
    yield at_least(
        "256 MiB from client to exporter disk",
        "x sendfile",
        limit / (least("ours", "seconds") or 1),
        theirs and limit / theirs,
        0.4,
    )
    yield Row("the same", "MB/s", 268.4 / (least("ours", "seconds") or 1), theirs and 268.4 / theirs, "", None)
    for side in ("client", "exporter"):
        yield at_most(
            f"the same: peak memory of the {side}",
            "MiB",
            max(run[f"{side} peak"] for run in seen["ours"]),
            max((run[f"{side} peak"] for run in seen["theirs"]), default=None),
            120,
        )


def flash(published: Path | None, folder: Path) -> Iterator[Row]:
    """Compressed images that the exporter unpacks."""
    image = folder / "plain"
    random = Random(1)
    words = [random.randbytes(random.randint(3, 9)).hex().encode() for _ in range(4000)]
    with image.open("wb") as file:
        # Like an image of a root file system: text and code that pack to a third, packed files that don't pack.
        while file.tell() < 96 << 20:
            file.write(b" ".join(random.choices(words, k=40000)))
            file.write(random.randbytes(100_000))
    for encoding, tool in (("gzip", "gzip"), ("xz", "xz"), ("zstd", "zstd")):
        if shutil.which(tool) is None:
            continue
        packed = folder / f"image.{encoding}"
        script = [OURS / "python", PARTS / "unpack.py"]
        measure([*script, "pack", encoding, image, packed])
        limits, ours, theirs = [], [], []
        for _ in range(BULK_ROUNDS):
            unpacked = cleared(folder / "unpacked")
            limits.append(measure([*script, "unpack", encoding, packed, unpacked])["seconds"])
            ours.append(upload_once(OURS, folder, "flasher", [packed, encoding])["seconds"])
            if published:
                theirs.append(upload_once(published, folder, "flasher", [packed, encoding])["seconds"])
        yield at_least(
            f"flash of a {encoding} image",
            "x unpacking to a file",
            best(limits) / best(ours),
            best(limits) / best(theirs) if theirs else None,
            0.8,
        )


FLASH_SIZE = 256
"""Mebibytes of the image that a board gets."""


def flashers(published: Path | None, folder: Path) -> Iterator[Row]:
    """The way of an image to a board's disk, without boot loader and kernel; the published one needs a board for it."""
    if shutil.which("busybox") is None:
        return
    seconds = measure([OURS / "python", PARTS / "measure_flash.py", folder, FLASH_SIZE])
    limit = seconds["dd"]
    yield at_least("an image into the exporter's cache", "x dd", limit / seconds["send"], None, 0.25)
    yield at_least("the same image again", "x dd", limit / seconds["again"], None, 10)
    yield at_least("from the cache to the board's disk", "x dd", limit / seconds["write"], None, 0.25)


def router(published: Path | None, folder: Path) -> Iterator[Row]:
    """Streams through our router; the published one is no Python program, and is not installed here."""
    for figure in figures(folder, serving, measure):
        if figure.goal is None:
            yield Row(figure.name, figure.unit, figure.value, None, "", None)
        else:
            check = at_most if figure.low else at_least
            yield check(figure.name, figure.unit, figure.value, None, figure.goal)


LAB_PEERS = {"exporters": 500, "clients": 2000, "seconds": 30, "hold": 10, "churn": 100_000}
"""Peers, seconds for which they are watched, seconds that a lease is held, and ended leases."""


def lab(published: Path | None, folder: Path) -> Iterator[Row]:
    """A lab with simulated peers; the published controller is no Python program, and is not installed here."""
    found = measure([OURS / "python", PARTS / "measure_lab.py", *LAB_PEERS.values()])
    peers = f"{LAB_PEERS['exporters']} exporters, {LAB_PEERS['clients']} clients"
    expected = LAB_PEERS["exporters"] / LAB_PEERS["hold"]
    yield at_least(f"{peers}: lease cycles", "per second", found["cycles"], None, 0.95 * expected)
    yield at_most("the same: free board to who waits, median", "ms", found["p50"], None, 100)
    yield at_most("the same: 99 of 100", "ms", found["p99"], None, 100)
    yield Row("the same: the slowest", "ms", found["worst"], None, "", None)
    yield Row("the same: CPU of the controller", "cores", found["cpu"], None, "", None)
    yield Row("the same: memory of the controller", "MiB", found["memory"], None, "", None)
    yield at_most("controller killed and started: all are back", "s", found["back"], None, 30)
    yield at_most("the same: leases lost, and calls that failed for good", "", found["failures"], None, 0)
    ended = f"{LAB_PEERS['churn']:,} ended leases"
    yield at_most(f"{ended}: memory of the controller", "x a tenth of them", found["memory_growth"], None, 1.1)
    yield at_most("the same: size of the store", "x a tenth of them", found["store_growth"], None, 1.5)


GROUPS: dict[str, Callable[[Path | None, Path], Iterator[Row]]] = {
    "startup": startup,
    "calls": calls,
    "tree": tree,
    "can": can,
    "forward": forward,
    "upload": upload,
    "flash": flash,
    "flashers": flashers,
    "router": router,
    "lab": lab,
}


def main() -> None:
    """Print a row for each figure as it is measured."""
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"some of {', '.join(GROUPS)}; all by default")
    parser.add_argument("--no-peer", action="store_true", help="don't measure the published release")
    options = parser.parse_args()
    if unknown := set(options.groups) - set(GROUPS):
        parser.error(f"unknown group {', '.join(sorted(unknown))}: there are {', '.join(GROUPS)}")
    published = None if options.no_peer else peer.install()
    print(f"{'figure':<58} {'ours':>10} {'published':>10}  {'unit':<22} {'goal':<14}")
    for name in options.groups or GROUPS:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            for row in GROUPS[name](published, Path(folder)):
                print(row, flush=True)


if __name__ == "__main__":
    main()
