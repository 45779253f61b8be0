"""Runs the stand-in as a process: prints its URL, and writes a kubeconfig of an administrator."""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path

from .fixtures import Kube


def main() -> None:
    """Serve until told to end."""
    parser = argparse.ArgumentParser(prog="python -m jumpstarter_testbench.kube", description=__doc__)
    parser.add_argument("folder", type=Path, help="for the certificate and the kubeconfig")
    options = parser.parse_args()
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    server = Kube(options.folder).open()
    path = server.kubeconfig(options.folder / "kubeconfig")
    print(f"{server.url} KUBECONFIG={path}", flush=True)
    ended.wait()
    server.close()


if __name__ == "__main__":
    main()
