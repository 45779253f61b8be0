"""The developer's entry point behind ./dev: sets up the workspace and runs its tasks.

Runs on a bare Python 3.11 with nothing but the standard library.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BIN = VENV / "bin"
CONSTRAINTS = ROOT / "constraints.txt"

DEV_TOOLS = [
    "hypothesis",
    "import-linter",
    "mypy",
    "pytest",
    "pytest-xdist",
    "pytest-timeout",
    "ruff",
    "types-PyYAML",
    "types-protobuf",
]
"""What tests, lint and types need beside the packages themselves."""


class DevError(Exception):
    """A task can't go on; the message says why and what to do."""


def say(text: str) -> None:
    """Print a progress line."""
    print(f"\033[1m==>\033[0m {text}" if sys.stdout.isatty() else f"==> {text}", flush=True)


def run(command: Sequence[str | Path], *, env: dict[str, str] | None = None, quiet: bool = False) -> None:
    """Run a command in the repository root; raise DevError when it fails."""
    result = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        check=False,
    )
    if result.returncode != 0:
        if quiet and result.stdout:
            sys.stdout.buffer.write(result.stdout)
        raise DevError(f"failed with exit code {result.returncode}: {' '.join(map(str, command))}")


def packages() -> list[Path]:
    """Every distribution of the workspace, the build hook first because the others build with it."""
    found = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
    found += sorted(path.parent for path in ROOT.glob("testbench/pyproject.toml"))
    return sorted(found, key=lambda path: path.name != "hatch-pin-jumpstarter")


def fingerprint() -> str:
    """A digest of everything that decides what the virtual environment holds."""
    digest = hashlib.sha256(f"{sys.version}{VENV}".encode())
    for path in [CONSTRAINTS, Path(__file__), *(package / "pyproject.toml" for package in packages())]:
        if path.exists():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def make_venv() -> None:
    """Create .venv, installing Debian's python3-venv first where Python came without ensurepip."""
    if (BIN / "python").exists() and subprocess.run([BIN / "python", "-m", "pip", "--version"], capture_output=True).returncode == 0:
        return
    shutil.rmtree(VENV, ignore_errors=True)
    if subprocess.run([sys.executable, "-c", "import ensurepip, venv"], capture_output=True).returncode != 0:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise DevError(f"this Python has no venv module with pip. Install it first: apt-get install {version}")
        say(f"installing {version}")
        run(["apt-get", "update", "-qq"], quiet=True)
        run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", version],
            env={"DEBIAN_FRONTEND": "noninteractive"}, quiet=True)
    say("creating .venv")
    run([sys.executable, "-m", "venv", VENV], quiet=True)


def setup() -> None:
    """Bring .venv up to date with the workspace; at once when nothing changed."""
    stamp = VENV / ".jumpstarter-stamp"
    wanted = fingerprint()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    started = time.monotonic()
    make_venv()
    say("installing the workspace into .venv")
    run([BIN / "python", "-m", "pip", "install", "-q", "uv", *constrained()], quiet=True)
    uv = [BIN / "uv", "pip", "install", "-q", "--python", BIN / "python", *constrained()]
    run([*uv, "hatchling", "editables", "-e", packages()[0], *DEV_TOOLS], quiet=True)
    editable = [part for package in packages() for part in ("-e", str(package))]
    run([*uv, "--no-build-isolation", *editable], quiet=True)
    stamp.write_text(wanted)
    say(f"workspace ready after {time.monotonic() - started:.0f} s")


def constrained() -> list[str]:
    """The installer's options that hold every version to constraints.txt."""
    return ["--constraint", str(CONSTRAINTS)] if CONSTRAINTS.exists() else []


def task_setup(_: list[str]) -> None:
    """install the workspace into .venv"""
    setup()


def task_test(arguments: list[str]) -> None:
    """run the test suite (further arguments go to pytest)"""
    setup()
    run([BIN / "python", "-m", "pytest", *arguments])


def task_lint(arguments: list[str]) -> None:
    """check formatting, style and the import contract"""
    setup()
    run([BIN / "ruff", "format", "--check", *(arguments or ["."])])
    run([BIN / "ruff", "check", *(arguments or ["."])])
    run([BIN / "lint-imports"])


def task_types(arguments: list[str]) -> None:
    """check the type hints"""
    setup()
    run([BIN / "mypy", *arguments])


def task_clean(_: list[str]) -> None:
    """remove .venv, caches and everything that the tasks made"""
    for pattern in (".venv", ".venv-*", ".cache", ".*_cache", "demo-artifacts", "docs/_build"):
        for path in ROOT.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)
    for path in ROOT.rglob("__pycache__"):
        shutil.rmtree(path, ignore_errors=True)


TASKS: dict[str, Callable[[list[str]], None]] = {
    "setup": task_setup,
    "test": task_test,
    "lint": task_lint,
    "types": task_types,
    "clean": task_clean,
}


def main() -> int:
    """Run one task; return the exit code."""
    listing = "\n".join(f"  {name:<8}{task.__doc__}" for name, task in TASKS.items())
    parser = argparse.ArgumentParser(
        prog="./dev",
        description="Sets up the workspace and runs its tasks.",
        epilog=f"tasks:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", nargs="?", choices=TASKS, metavar="TASK")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...")
    options = parser.parse_args()
    if options.task is None:
        parser.print_help()
        return 0
    try:
        TASKS[options.task](options.arguments)
    except DevError as error:
        print(f"dev {options.task}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
