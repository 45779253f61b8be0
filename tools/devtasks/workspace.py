"""The virtual environment that holds every package of the workspace."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from . import debian
from .base import BIN, CACHE, ROOT, VENV, DevError, run, say, succeeds, warn

CONSTRAINTS = ROOT / "constraints.txt"

BUILD_TOOLS = ["editables", "hatchling", "setuptools", "tomli-w", "wheel"]
"""What building the packages needs (and the one dependency that comes as source), so that no build has to fetch
anything by itself."""

DEV_TOOLS = [
    "furo",
    "hypothesis",
    "import-linter",
    "linkify-it-py",
    "mypy",
    "myst-parser",
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "ruff",
    "sphinx",
    "types-PyYAML",
    "types-protobuf",
]
"""What tests, lint, types and docs need beside the packages themselves."""

CONSTRAINTS_HEADER = """\
# Exact versions of everything that `./dev setup` installs. `./dev lock` writes this file.
"""


def packages() -> list[Path]:
    """Every distribution of the workspace, the build hook first because the others build with it."""
    found = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
    found += sorted(path.parent for path in ROOT.glob("examples/*/pyproject.toml"))
    found += sorted(path.parent for path in ROOT.glob("testbench/pyproject.toml"))
    return sorted(found, key=lambda path: path.name != "hatch-pin-jumpstarter")


def setup() -> None:
    """Bring .venv up to date with the workspace; at once when nothing changed.

    Runs of several processes wait for each other.
    """
    stamp = VENV / ".jumpstarter-stamp"
    with _alone():
        wanted = _fingerprint()
        if stamp.exists() and stamp.read_text() == wanted:
            return
        started = time.monotonic()
        make_venv(VENV)
        say("installing the workspace into .venv")
        install_workspace(VENV, constrained=True)
        stamp.write_text(wanted)
        say(f"workspace ready after {time.monotonic() - started:.0f} s")


def lock() -> None:
    """Resolve everything anew in an environment of its own and write the versions to constraints.txt."""
    venv = ROOT / ".venv-lock"
    shutil.rmtree(venv, ignore_errors=True)
    try:
        make_venv(venv)
        say("resolving the newest versions")
        install_workspace(venv, constrained=False)
        frozen = subprocess.run(
            [venv / "bin" / "python", "-m", "pip", "freeze", "--all", "--exclude-editable"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
    finally:
        shutil.rmtree(venv, ignore_errors=True)
    # pip belongs to the Python that made the environment, not to the workspace.
    versions = [line for line in frozen if "==" in line and not line.startswith("pip==")]
    CONSTRAINTS.write_text(CONSTRAINTS_HEADER + "".join(f"{line}\n" for line in sorted(versions, key=str.lower)))
    say(f"{CONSTRAINTS.name} holds {len(versions)} versions")


def make_venv(venv: Path) -> None:
    """Create the environment unless a working one is there that was made by this Python at this place.

    Where Python came without ensurepip, Debian's python3-venv is installed first.
    """
    home = venv / ".jumpstarter-home"
    made_by = f"{sys.version}\n{venv}\n"
    if home.exists() and home.read_text() == made_by and succeeds([venv / "bin" / "python", "-m", "pip", "--version"]):
        return
    shutil.rmtree(venv, ignore_errors=True)
    if not succeeds([sys.executable, "-c", "import ensurepip, venv"]):
        version = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        if not debian.can_install():
            raise DevError(
                f"this Python ({sys.executable}) has no ensurepip. Install it first: {debian.install_line([version])}"
            )
        say(f"installing {version}")
        debian.install([version])
    say(f"creating {venv.name}")
    run([sys.executable, "-m", "venv", venv], quiet=True)
    home.write_text(made_by)


def install_workspace(venv: Path, *, constrained: bool) -> None:
    """Install every package of the workspace in editable form, and the tools."""
    python = venv / "bin" / "python"
    constraint = ["--constraint", str(CONSTRAINTS)] if constrained and CONSTRAINTS.exists() else []
    run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "uv", *constraint], quiet=True)
    hook, *others = packages()
    editable = [part for package in others for part in ("-e", str(package))]
    _install(venv, [*BUILD_TOOLS, *DEV_TOOLS, *constraint])
    _install(venv, ["--no-build-isolation", "-e", str(hook), *constraint])
    _install(venv, ["--no-build-isolation", *editable, *constraint])


def _install(venv: Path, arguments: list[str]) -> None:
    """Install with uv, which is fast; with pip where uv can't, because pip knows the indexes of its own config."""
    python = venv / "bin" / "python"
    uv = [venv / "bin" / "uv", "pip", "install", "-q", "--python", python, *arguments]
    finished = subprocess.run([str(part) for part in uv], cwd=ROOT, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        reason = next(iter(finished.stderr.strip().splitlines()), "no message")
        warn(f"uv failed ({reason.strip()}); installing with pip, which takes longer")
        run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *arguments], quiet=True)


def _fingerprint() -> str:
    """A digest of everything that decides what the virtual environment holds."""
    digest = hashlib.sha256(f"{sys.version}{VENV}".encode())
    for path in [CONSTRAINTS, Path(__file__), *(package / "pyproject.toml" for package in packages())]:
        if path.exists():
            digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Hold the lock that keeps two set-ups of one checkout apart."""
    CACHE.mkdir(exist_ok=True)
    with open(CACHE / "setup.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up of this checkout to finish")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def tool(name: str) -> Path:
    """The path of a program in .venv."""
    path = BIN / name
    if not os.access(path, os.X_OK):
        raise DevError(f"{path} is missing. Remove {VENV} and run ./dev setup again.")
    return path
