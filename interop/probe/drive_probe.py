"""Drive the probe at $JUMPSTARTER_HOST and print what was seen as one JSON object; the same for both releases."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import logging
import lzma
import random
import sys
import threading
from typing import Any

from anyio import BrokenResourceError, EndOfStream, create_task_group
from interop_probe import pattern
from jumpstarter.common.utils import env
from jumpstarter.streams.common import create_memory_stream

try:
    from backports import zstd
except ImportError:
    from compression import zstd

VALUES: list[Any] = [None, True, 7, -1.5, "text \u2615", [1, [2, {"k": None}]], {"a": {"b": ["c"]}}, "", [], {}]
PACKED = {None: lambda b: b, "gzip": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress, "zstd": zstd.compress}


class Records(logging.Handler):
    """Keeps the text of log records and tells when one has come."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.arrived = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the text."""
        self.texts.append(f"{record.levelname} {record.getMessage()}")
        if "interop line" in record.getMessage():
            self.arrived.set()


def failure(run: Any) -> list[Any]:
    """Return the kinds of the exception that `run` raises, and whether its text holds the driver's."""
    try:
        run()
    except Exception as error:  # noqa: BLE001 (what is raised is the answer)
        kinds = {kind.__name__ for kind in type(error).__mro__}
        known = {"DriverError", "DriverInvalidArgument", "DriverMethodNotImplemented", "ExporterNotReady"}
        return [sorted(kinds & known) or type(error).__name__, "told" in str(error)]
    return ["nothing was raised"]


def calls(client: Any) -> dict[str, Any]:
    """Values there and back, and the errors of calls."""
    return {
        "echo": [client.call("echo", value) for value in VALUES],
        "async_echo": client.call("async_echo", 1, "two", None),
        "children": {name: child.call("kind") for name, child in sorted(client.children.items())},
        "greeting": client.labels["interop.example/greeting"],
        "ValueError": failure(lambda: client.call("fail", "ValueError", "told")),
        "NotImplementedError": failure(lambda: client.call("fail", "NotImplementedError", "told")),
        "TimeoutError": failure(lambda: client.call("fail", "TimeoutError", "told")),
        "RuntimeError": failure(lambda: client.call("fail", "RuntimeError", "told")),
        "no method": failure(lambda: client.call("nonesuch")),
        "not exported": failure(lambda: client.call("close")),
    }


def streaming_calls(client: Any) -> dict[str, Any]:
    """Items of generators, and an error after some of them."""
    seen: list[Any] = []

    def fails() -> None:
        seen.extend(client.streamingcall("blocking_items", 3, "told"))

    def keep() -> None:
        for item in client.streamingcall("blocking_items", 3, "told"):
            seen.append(item)

    return {
        "items": list(client.streamingcall("items", 100)),
        "blocking_items": sum(client.streamingcall("blocking_items", 500)),
        "failure": failure(keep),
        "before the failure": seen,
        "no generator": failure(lambda: list(client.streamingcall("nonesuch"))),
    }


def streams(client: Any) -> dict[str, Any]:
    """Bytes both ways, half-closed from either side, and a stream that doesn't open."""
    payload = pattern(3_000_000)

    async def half_close_here() -> list[Any]:
        received = bytearray()
        async with client.stream_async("echo_stream") as stream:

            async def feed() -> None:
                for start in range(0, len(payload), 100_000):
                    await stream.send(payload[start : start + 100_000])
                await stream.send_eof()

            async with create_task_group() as tg:
                tg.start_soon(feed)
                try:
                    while True:
                        received += await stream.receive()
                except EndOfStream:
                    pass
        return [len(received), received[-3:] == b"bye", received[:-3] == payload]

    async def half_close_there() -> list[Any]:
        received = b""
        async with client.stream_async("talker") as stream:
            try:
                while True:
                    received += await stream.receive()
            except EndOfStream:
                pass
            await stream.send(b"12345")
            await stream.send_eof()
            counted = await client.call_async("count")
        return [received.decode(), counted]

    def broken() -> list[Any]:
        try:
            with client.stream("broken_stream") as stream:
                stream.receive()
        except EndOfStream:
            return ["ended"]
        except (BrokenResourceError, Exception) as error:  # noqa: BLE001 (what is raised is the answer)
            return [isinstance(error, Exception)]
        return ["opened"]

    with client.stream("echo_stream") as stream:
        stream.send(b"ping")
        blocking = stream.receive().decode()
    return {
        "blocking": blocking,
        "half-closed here": client.portal.call(half_close_here),
        "half-closed there": client.portal.call(half_close_there),
        "broken": broken(),
    }


def resources(client: Any) -> dict[str, Any]:
    """Uploads in each compression, and a download in each."""
    plain = pattern(2_500_000)

    async def upload(encoding: str | None) -> Any:
        near, far = create_memory_stream()
        packed = PACKED[encoding](plain)

        async def feed() -> None:
            for start in range(0, len(packed), 65536):
                await far.send(packed[start : start + 65536])
            await far.send_eof()

        async with create_task_group() as tg:
            tg.start_soon(feed)
            options = {} if encoding is None else {"content_encoding": encoding}
            async with client.resource_async(near, **options) as handle:
                return await client.call_async("upload", handle)

    async def download(encoding: str | None) -> Any:
        near, far = create_memory_stream()
        received = bytearray()

        async def drain() -> None:
            try:
                while True:
                    received.extend(await far.receive())
            except EndOfStream:
                pass

        async with create_task_group() as tg:
            tg.start_soon(drain)
            options = {} if encoding is None else {"content_encoding": encoding}
            async with client.resource_async(near, **options) as handle:
                await far.send_eof()
                digest = await client.call_async("download", handle, len(plain))
        unpack = {
            None: bytes,
            "gzip": gzip.decompress,
            "xz": lzma.decompress,
            "bz2": bz2.decompress,
            "zstd": zstd.decompress,
        }[encoding]
        return hashlib.sha256(unpack(bytes(received))).hexdigest() == digest

    return {
        "upload": {str(name): client.portal.call(upload, name) for name in PACKED},
        "download": {str(name): client.portal.call(download, name) for name in PACKED},
    }


def logs(client: Any) -> dict[str, Any]:
    """Lines that the driver logs, as the client's own logging shows them."""
    records = Records()
    logging.getLogger().addHandler(records)
    logging.getLogger().setLevel(logging.DEBUG)
    with client.log_stream():
        for attempt in range(100):
            client.call("say", "WARNING", f"interop line {attempt}")
            # The published exporter lets its readers take lines from each other, in turns of 50 ms; a steady rhythm
            # could give every line to the surrounding shell.
            if records.arrived.wait(random.uniform(0.02, 0.2)):
                break
    return {"arrived": any(text.startswith("WARNING") and "interop line" in text for text in records.texts)}


def status(client: Any) -> dict[str, Any]:
    """The status rpcs that 0.9 introduced."""
    return {
        "status": str(client.portal.call(client.get_status_async)).rpartition(".")[2],
        "end_session": client.portal.call(client.end_session_async),
    }


def main() -> None:
    """Run every part and print what was seen."""
    parts = [calls, streaming_calls, streams, resources, logs, *([] if "--no-status" in sys.argv else [status])]
    with env() as client:
        # Through the direct listener the probe is a child of the exporter's root.
        probe = client.children.get("probe", client)
        print(json.dumps({part.__name__: part(probe) for part in parts}, sort_keys=True, default=str))


if __name__ == "__main__":
    main()
