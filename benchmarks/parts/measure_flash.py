"""Measure the parts of a flash: measure_flash.py FOLDER MEBIBYTES; prints one JSON object of seconds.

The board is a busybox shell on this machine whose disk is a file, so that what is measured is ours and not an emulator:
the way of an image into the exporter's cache, the second time, and its way from there to the board's disk.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pexpect
from jumpstarter.common.utils import serve
from jumpstarter_driver_flashers.arguments import Job, Options
from jumpstarter_driver_flashers.board import Board, script
from jumpstarter_driver_flashers.driver import BaseFlasher
from jumpstarter_driver_flashers.progress import Display
from jumpstarter_driver_flashers.transfer import Transfers
from jumpstarter_driver_http.driver import HttpServer
from jumpstarter_driver_power.driver import MockPower
from jumpstarter_driver_pyserial.driver import PySerial
from jumpstarter_driver_tftp.driver import Tftp
from jumpstarter_driver_uboot.console import Console
from jumpstarter_driver_uboot.dialects import SHELL

MIB = 1 << 20


def main(folder: Path, size: int) -> dict[str, float]:
    """Return the seconds of each part, the best of several rounds."""
    image = folder / "disk.img"
    with image.open("wb") as file:
        for number in range(size):
            file.write(random.Random(number).randbytes(MIB))
    taken: dict[str, list[float]] = {}
    for _ in range(3):
        shutil.rmtree(folder / "cache", ignore_errors=True)
        taken.setdefault("dd", []).append(dd(image, folder / "disk"))
        for name, seconds in one_flash(folder, image).items():
            taken.setdefault(name, []).append(seconds)
    return {name: min(seconds) for name, seconds in taken.items()}


def dd(image: Path, disk: Path) -> float:
    """What the exporter's own `dd` takes to write the same bytes, stored as ours are."""
    disk.unlink(missing_ok=True)
    started = time.perf_counter()
    command = ["dd", f"if={image}", f"of={disk}", "bs=1M", "conv=fsync"]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    return time.perf_counter() - started


def one_flash(folder: Path, image: Path) -> dict[str, float]:
    """Send an image, find it again, and have the board write it."""
    driver = BaseFlasher(
        cache_dir=str(folder / "cache"),
        children={
            "power": MockPower(),
            "serial": PySerial(url="loop://"),
            "tftp": Tftp(root_dir=str(folder / "tftp"), host="127.0.0.1", port=0),
            "http": HttpServer(root_dir=str(folder / "http"), host="127.0.0.1", port=0),
        },
    )
    disk = folder / "disk"
    disk.unlink(missing_ok=True)
    disk.touch()
    with serve(driver) as client:
        started = time.perf_counter()
        transfer(client, image)
        sent = time.perf_counter()
        ready = transfer(client, image)
        found = time.perf_counter()
        client.http.start()
        client.http.storage.write_bytes("board.sh", script())
        shell = pexpect.spawn("busybox", ["sh"], encoding="utf-8", env={**os.environ, "PS1": "# "}, timeout=60)
        try:
            shell.expect_exact("# ")
            board = Board(Console(shell, SHELL, ["#"]), client.http.get_url())
            board._program = str(folder / "tmp" / "board.sh")
            board.install(f"{client.http.get_url()}/board.sh")
            begun = time.perf_counter()
            offered = client.image_host.offer(ready["key"])
            board.write(str(disk), offered["path"], offered["pieces"], lambda done: None)
            written = time.perf_counter()
        finally:
            shell.close(force=True)
    if subprocess.run(["cmp", image, disk], check=False).returncode != 0:
        raise SystemExit("what was written is not the image")
    return {"send": sent - started, "again": found - sent, "write": written - begun}


def transfer(client: object, image: Path) -> dict[str, object]:
    """Have an image in the exporter's cache."""
    job = Job(path=image)
    display = Display(logging.getLogger("bench"), terminal=False)
    with display, Transfers(client, [job], Options(), display) as transfers:  # type: ignore[arg-type]
        return transfers.wait(job)


print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
