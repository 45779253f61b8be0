"""Serve the probe driver on a Unix socket until standard input ends: serve_probe.py SOCKET."""

from __future__ import annotations

import asyncio
import logging
import sys

from interop_probe import Probe
from jumpstarter.exporter import Session


async def main(path: str) -> None:
    """Serve, say so, and wait for the end of standard input."""
    logging.getLogger().setLevel(logging.INFO)
    with Session(root_device=Probe()) as session:
        async with session.serve_port_async(f"unix://{path}"):
            print("ready", flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main(sys.argv[1]))
