"""Serve drivers on a Unix socket until standard input ends: serve.py SOCKET KIND [ARGUMENT]."""

from __future__ import annotations

import asyncio
import logging
import sys


def device(kind: str, argument: str):
    """Return the driver to serve."""
    if kind == "bench":
        from bench_driver import Bench

        return Bench()
    if kind == "tree":
        from bench_driver import tree

        return tree(int(argument))
    if kind == "network":
        from jumpstarter_driver_network.driver import TcpNetwork

        return TcpNetwork(host="127.0.0.1", port=int(argument))
    if kind == "can":
        from jumpstarter_driver_can.driver import Can
        from jumpstarter_driver_composite.driver import Composite

        buses = {name: Can(interface="virtual", channel="bench") for name in ("one", "other")}
        return Composite(children=buses)
    if kind == "flasher":
        from jumpstarter_driver_opendal.driver import MockFlasher

        return MockFlasher()
    from jumpstarter_driver_opendal.driver import Opendal

    return Opendal(scheme="fs", kwargs={"root": argument})


async def main(path: str, kind: str, argument: str = "") -> None:
    """Serve, say so, and wait for the end of standard input."""
    from jumpstarter.exporter import Session

    with Session(root_device=device(kind, argument)) as session:
        async with session.serve_port_async(f"unix://{path}"):
            print("ready", flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    import resource

    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)


logging.basicConfig(level=logging.WARNING)
asyncio.run(main(*sys.argv[1:]))
