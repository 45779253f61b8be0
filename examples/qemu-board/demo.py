"""The demonstration: makes the virtual board's material and runs the test of the board in a `jmp shell`.

    python examples/qemu-board/demo.py [--artifacts FOLDER] [PYTEST-OPTION ...]

The folder then holds console.log (with the time of each line), screen.png and junit.xml. The exit code is 0 when
everything that is shown worked.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import board

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Run the demonstration; return the exit code."""
    parser = argparse.ArgumentParser(description="Boot a virtual board and put it through a test.", allow_abbrev=False)
    parser.add_argument(
        "--artifacts", type=Path, default=board.ROOT / "demo-artifacts", help="folder for what is recorded"
    )
    options, pytest_options = parser.parse_known_args()
    artifacts = options.artifacts.expanduser().resolve()
    started = time.monotonic()

    print("--> make the board's kernel, root file system and firmware", flush=True)
    if (code := board.main()) != 0:
        return code
    command = [
        *(Path(sys.executable).with_name("jmp"), "shell", "--exporter-config", HERE / "exporter.yaml", "--"),
        *(sys.executable, "-m", "pytest", "-s", "-x", "-q", "--no-header", "-p", "no:cacheprovider"),
        *("--junitxml", artifacts / "junit.xml", "--artifacts", artifacts, HERE / "board_test.py"),
        *pytest_options,
    ]
    # The paths in exporter.yaml start at the top of the repository.
    environment = {**os.environ, "TERM": "dumb"} if not sys.stdout.isatty() else None
    code = subprocess.run([str(word) for word in command], cwd=board.ROOT, env=environment, check=False).returncode

    verdict = "everything worked" if code == 0 else f"something failed (exit code {code})"
    print(f"\n{verdict}; {time.monotonic() - started:.0f} s in all. Recorded in {artifacts}:")
    for path in sorted(artifacts.glob("*")):
        print(f"    {path.name:<14} {path.stat().st_size:>8} bytes")
    return code


if __name__ == "__main__":
    sys.exit(main())
