"""Measure writing a file to an exporter's disk: measure_upload.py FILE [ENCODING]; prints one JSON object."""

from __future__ import annotations

import json
import resource
import sys
import time

from jumpstarter.common.utils import env


def main(path: str, encoding: str | None = None) -> dict[str, float]:
    """Return the seconds it took, and this process's peak memory in MiB."""
    with env() as client:
        started = time.perf_counter()
        if encoding is None:
            client.write_from_path("image", path)
        else:
            client.flash(path, compression=encoding)
        taken = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": taken, "client peak": peak}


print(json.dumps(main(*sys.argv[1:])))
