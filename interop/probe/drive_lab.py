"""Use every kind of device of a leased exporter and print what was seen as one JSON object; for all releases."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import drive_probe
from anyio import EndOfStream, create_task_group
from interop_probe import pattern
from jumpstarter.common.utils import env
from jumpstarter_driver_network.adapters import TcpPortforwardAdapter

J = Path(sys.executable).parent / "j"


def power(client: Any) -> dict[str, Any]:
    """Switch, and read a stream of values."""
    client.on()
    readings = [[reading.voltage, reading.current] for reading, _ in zip(client.read(), range(2), strict=False)]
    client.off()
    return {"readings": readings, "j": subprocess.run([J, "power", "on"], check=False).returncode}


def serial(client: Any) -> dict[str, Any]:
    """Bytes both ways by pexpect, by a plain stream, and by the command."""
    with client.pexpect() as console:
        console.sendline("marco")
        console.expect("MARCO", timeout=10)
    with ended(subprocess.Popen([J, "serial", "pipe"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)) as process:
        process.stdin.write(b"polo\n")
        process.stdin.close()
        heard = process.stdout.readline()
    return {"pexpect": True, "pipe": b"POLO" in heard}


def storage(client: Any) -> dict[str, Any]:
    """A file up, its hash, and down again."""
    payload, folder = pattern(1_500_000), Path(os.environ["SCRATCH"])
    (folder / "up").write_bytes(payload)
    client.write_from_path("file", str(folder / "up"))
    client.read_into_path("file", str(folder / "down"))
    found = {
        "hash": client.hash("file", "sha256") == hashlib.sha256(payload).hexdigest(),
        "back": (folder / "down").read_bytes() == payload,
        "bytes": client.read_bytes("file") == payload,
        "listed": [entry.rstrip("/") for entry in client.list("/") if entry.startswith("file")],
    }
    client.delete("file")
    return {**found, "deleted": not client.exists("file")}


def flasher(client: Any) -> dict[str, Any]:
    """An image in each compression that the command knows, and back."""
    folder, found = Path(os.environ["SCRATCH"]), {}
    payload = pattern(700_000)
    for name, pack in drive_probe.PACKED.items():
        (folder / "image").write_bytes(pack(payload))
        more = {} if name is None else {"compression": name}
        client.flash(str(folder / "image"), **more)
        client.dump(str(folder / "dumped"))
        found[str(name)] = (folder / "dumped").read_bytes() == payload
    return found


def through(port: int, payload: bytes) -> bytes:
    """Send bytes to a port of loopback, half-close, and return all that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:

        def feed() -> None:
            connection.sendall(payload)
            connection.shutdown(socket.SHUT_WR)

        feeder = threading.Thread(target=feed)
        feeder.start()
        received = bytearray()
        while chunk := connection.recv(65536):
            received += chunk
        feeder.join()
    return bytes(received)


def network(client: Any) -> dict[str, Any]:
    """A forwarded port, by the adapter with several connections at once, and by the command."""
    payload = pattern(2_000_000)
    answers: list[bytes] = []
    with TcpPortforwardAdapter(client=client) as (_, port):
        threads = [threading.Thread(target=lambda: answers.append(through(port, payload))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    with forwarded() as port:
        small = through(port, b"small")
    return {"adapter": [answer == payload for answer in answers], "j": small.decode()}


@contextmanager
def forwarded() -> Any:
    """Forward a port with the command; yields the port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [J, "web", "forward-tcp", "--address", "127.0.0.1", str(port)]
    with ended(subprocess.Popen(command, stdout=subprocess.PIPE)) as process:
        process.stdout.readline()  # the address, as soon as it can be connected to
        yield port


@contextmanager
def ended(process: Any) -> Any:
    """Interrupt a command that runs until it is interrupted when the body ends."""
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


def half_close(client: Any) -> dict[str, Any]:
    """A stream of which this side is closed while the other goes on."""
    payload = pattern(400_000)

    async def run() -> bool:
        received = bytearray()
        async with client.stream_async("connect") as stream, create_task_group() as tasks:

            async def feed() -> None:
                await stream.send(payload)
                await stream.send_eof()

            tasks.start_soon(feed)
            try:
                while True:
                    received += await stream.receive()
            except EndOfStream:
                pass
        return bytes(received) == payload

    return {"complete": client.portal.call(run)}


def main() -> None:
    """Run every part and print what was seen."""
    with env() as client:
        probe, web = client.children["probe"], client.children["web"]
        seen: dict[str, Any] = {
            part.__name__: part(probe)
            for part in (drive_probe.calls, drive_probe.streaming_calls, drive_probe.streams, drive_probe.resources)
        }
        seen |= {
            "logs": drive_probe.logs(probe),
            "power": power(client.children["power"]),
            "serial": serial(client.children["serial"]),
            "storage": storage(client.children["storage"]),
            "flasher": flasher(client.children["flasher"]),
            "network": network(web),
            "half_close": half_close(web),
            "status": str(client.portal.call(client.get_status_async)).rpartition(".")[2],
        }
        print(json.dumps(seen, sort_keys=True, default=str))


main()
