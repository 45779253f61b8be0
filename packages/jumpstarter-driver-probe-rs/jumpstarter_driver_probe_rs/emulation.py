"""The command-line program probe-rs, as it behaves from version 0.24 to 0.32, with a probe and a target in a file.

It is run as a program: `emulation.py COMMAND ...`. Beside it lies `state.json`: the version to be, the probes that are
connected, and the target's memory; what was called is added to it.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

STATE = Path(sys.argv[0]).with_name("state.json")
WIDTHS = {"b8": 1, "b16": 2, "b32": 4, "b64": 8}
FLASH = 0x08000000


def fail(message: str) -> NoReturn:
    """End as probe-rs does when something fails."""
    sys.stderr.write(f"\x1b[31mError:\x1b[0m {message}\n" if styled() else f"Error: {message}\n")
    sys.exit(1)


def styled() -> bool:
    """Newer versions colour what they print, wherever it goes, unless told not to."""
    return version() >= (0, 32) and os.environ.get("PROBE_RS_COLOR", "true") not in ("false", "0", "no", "never")


def version() -> tuple[int, int]:
    major, minor = state["version"]
    return major, minor


def attach() -> None:
    """Open the probe that the environment selects, and attach to the target."""
    probes = state["probes"]
    wanted = os.environ.get("PROBE_RS_PROBE")
    if wanted is not None:
        parts = [part.lower() for part in wanted.split(":", 2)]
        probes = [each for each in probes if each.lower().split(":", 2)[: len(parts)] == parts]
    if not probes:
        fail("No connected probes were found." if wanted is None else "Probe not found")
    if len(probes) > 1:
        fail(f"{len(probes)} probes were found: \n    1. ...\nUse --probe to select one.")
    if state.get("busy"):
        fail("Failed to open probe\n\nCaused by:\n    0: Failed to open the debug probe.\n    1: Resource busy")
    protocol = os.environ.get("PROBE_RS_PROTOCOL")
    if protocol is not None and protocol.lower() not in ("swd", "jtag"):
        sys.stderr.write(f"error: invalid value '{protocol}' for '--protocol <PROTOCOL>'\n")
        sys.exit(2)
    chip = os.environ.get("PROBE_RS_CHIP")
    if chip is not None and chip not in state["chips"]:
        fail(
            f"The connected chip could not be determined.\n\nCaused by:\n    Could not find chip '{chip}' in registry."
        )


def memory() -> dict[int, int]:
    return {int(address): value for address, value in state["memory"].items()}


def put(address: int, data: bytes) -> None:
    for offset, value in enumerate(data):
        state["memory"][str(address + offset)] = value


def read(words: list[str]) -> None:
    """Print memory in the shape of the version."""
    style = None
    if "--format" in words:
        position = words.index("--format")
        style = words[position + 1]
        del words[position : position + 2]
    if words[0] not in WIDTHS or (words[0] == "b16" and version() <= (0, 27)):
        sys.stderr.write(f"error: invalid value '{words[0]}' for '<WIDTH>'\n")
        sys.exit(2)
    size, address, number = WIDTHS[words[0]], int(words[1], 0), int(words[2])
    attach()
    content = memory()
    values = [
        int.from_bytes(bytes(content.get(address + index * size + byte, 0) for byte in range(size)), "little")
        for index in range(number)
    ]
    digits = 8 if words[0] == "b16" and (0, 28) <= version() <= (0, 29) else 2 * size
    shown = [f"{value:0{digits}x}" for value in values]
    if version() < (0, 32) or style == "simple-hex":
        print("".join(f"{value} " for value in shown))
        return
    per_line = {1: 8, 2: 8, 4: 8, 8: 4}[size]
    for start in range(0, number, per_line):
        place = f"{address + start * size:08x}:"
        print(f"\x1b[2m{place}\x1b[0m" if styled() else place, " ".join(shown[start : start + per_line]))


def options_of(words: list[str]) -> tuple[dict[str, Any], list[str]]:
    options: dict[str, Any] = {}
    rest = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word in ("--binary-format", "--base-address"):
            options[word] = queue.pop(0)
        elif word.startswith("--"):
            options[word] = True
        else:
            rest.append(word)
    return options, rest


def firmware(words: list[str]) -> tuple[int, bytes, dict[str, Any]]:
    options, rest = options_of(words)
    data = Path(rest[0]).read_bytes()
    kind = options.get("--binary-format", "elf")
    if kind == "elf" and data[:4] != b"\x7fELF":
        fail("Failed to load the binary.\n\nCaused by:\n    Unknown file magic")
    if kind == "hex" and not re.match(rb":[0-9A-F]{10}", data):
        fail("Failed to load the binary.\n\nCaused by:\n    Could not parse Intel HEX")
    return int(options.get("--base-address", hex(FLASH)), 0), data, options


def print_version(_: list[str]) -> None:
    print(f"probe-rs {state['version'][0]}.{state['version'][1]}.0 (git commit: v0)")


def list_probes(_: list[str]) -> None:
    print("The following debug probes were found:" if state["probes"] else "No debug probes were found.")
    for index, probe in enumerate(state["probes"]):
        print(f"[{index}]: J-Link -- {probe} (J-Link)")


def info(_: list[str]) -> None:
    attach()
    print("Probing target via SWD\n\nARM Chip with debug port Default:\nDebug Port: DPv1, DP Designer: ARM Ltd")


def reset(_: list[str]) -> None:
    attach()


def erase(_: list[str]) -> None:
    attach()
    state["memory"] = {}
    sys.stderr.write("      Erasing ✔ 100% [####################]\n")


def download(words: list[str]) -> None:
    address, data, options = firmware(words)
    attach()
    if "--chip-erase" in options:
        state["memory"] = {}
    put(address, data)
    sys.stderr.write("     Finished in 0.52s\n")


def verify(words: list[str]) -> None:
    address, data, _ = firmware(words)
    attach()
    content = memory()
    if any(content.get(address + offset, 0xFF) != value for offset, value in enumerate(data)):
        fail("Verification failed")
    print("Verification successful")


def write(words: list[str]) -> None:
    attach()
    size, address = WIDTHS[words[0]], int(words[1], 0)
    for index, value in enumerate(words[2:]):
        put(address + index * size, int(value, 0).to_bytes(size, "little"))


def gdb(words: list[str]) -> None:
    attach()
    host, _, port = words[words.index("--gdb-connection-string") + 1].partition(":")
    with socket.create_server((host, int(port))) as listener:
        print(f"Firing up GDB stub at {host}:{port}.", flush=True)
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(4096):
                connection.sendall(b"+" + data)


COMMANDS = {
    "--version": print_version,
    "list": list_probes,
    "info": info,
    "reset": reset,
    "erase": erase,
    "download": download,
    "verify": verify,
    "read": read,
    "write": write,
    "gdb": gdb,
}


def main(command: str, words: list[str]) -> None:
    """Run a command."""
    if (seconds := state.get("hang", {}).get(command)) is not None:
        STATE.with_name("started").touch()
        time.sleep(seconds)
    if command not in COMMANDS:
        sys.stderr.write(f"error: unrecognized subcommand '{command}'\n")
        sys.exit(2)
    COMMANDS[command](words)


if __name__ == "__main__":
    state: dict[str, Any] = json.loads(STATE.read_text())
    environment = {name: value for name, value in os.environ.items() if name.startswith("PROBE_RS_")}
    state["calls"].append({"argv": sys.argv[1:], "env": environment, "path": os.environ.get("PATH")})
    try:
        main(sys.argv[1], sys.argv[2:])
    finally:
        STATE.write_text(json.dumps(state))
