"""What a client runs in its shell: does with the board what it is told over a Unix socket, and says what came of it."""

from __future__ import annotations

import json
import os
import socket
from contextlib import ExitStack
from typing import Any

from jumpstarter.utils.env import env


def main() -> None:
    lease = os.environ.get("JMP_LEASE", "")
    with socket.socket(socket.AF_UNIX) as link, ExitStack() as stack:
        link.connect(os.environ["FAULTS_WORKER"])
        commands = link.makefile("r")
        board: Any = None
        stream: Any = None
        for line in commands:
            answer: dict[str, str] = {}
            try:
                match line.strip():
                    case "exit":
                        return
                    case "open":
                        board = stack.enter_context(env()).children["board"]
                    case "use":
                        answer["done"] = board.use(lease)
                    case "hold":
                        answer["done"] = board.hold(lease)
                    case "stream":
                        stream = stack.enter_context(board.stream("echo"))
                    case "echo":
                        stream.send(b"echo")
                        answer["done"] = stream.receive().decode()
            except Exception as error:  # noqa: BLE001 (told to the test, which judges it)
                answer["error"] = f"{type(error).__name__}: {error}"
            link.sendall(json.dumps(answer).encode() + b"\n")


main()
