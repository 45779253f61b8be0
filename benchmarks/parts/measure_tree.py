"""Measure how long a client takes until a large tree is ready; prints one JSON object."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack

from anyio.from_thread import start_blocking_portal
from jumpstarter.client import client_from_path
from shared import median_of


def main() -> dict[str, float]:
    """Return the median seconds from an address to a tree of clients."""
    import os

    taken = []
    with start_blocking_portal() as portal:
        for _ in range(20):
            with ExitStack() as stack:
                started = time.perf_counter()
                opened = client_from_path(os.environ["JUMPSTARTER_HOST"], portal, stack, allow=[], unsafe=True)
                client = stack.enter_context(portal.wrap_async_context_manager(opened))
                taken.append(time.perf_counter() - started)
                assert len(client.children) == 1000
    return {"tree": median_of(taken)}


print(json.dumps(main()))
