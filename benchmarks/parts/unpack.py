"""Pack a file, or time unpacking one: unpack.py pack|unpack ENCODING SOURCE TARGET; prints one JSON object."""

from __future__ import annotations

import gzip
import json
import lzma
import shutil
import sys
import time
from typing import Any

try:
    from backports import zstd
except ImportError:
    from compression import zstd

OPEN: dict[str, Any] = {"gzip": gzip.open, "xz": lzma.open, "zstd": zstd.open}


def main(action: str, encoding: str, source: str, target: str) -> dict[str, float]:
    """Return the seconds that it took."""
    opened = OPEN[encoding]
    started = time.perf_counter()
    if action == "pack":
        options = {"compresslevel": 6} if encoding == "gzip" else {"preset": 1} if encoding == "xz" else {}
        with open(source, "rb") as plain, opened(target, "wb", **options) as packed:
            shutil.copyfileobj(plain, packed, 1 << 20)
    else:
        with opened(source, "rb") as packed, open(target, "wb") as plain:
            shutil.copyfileobj(packed, plain, 1 << 20)
    return {"seconds": time.perf_counter() - started}


print(json.dumps(main(*sys.argv[1:])))
