"""The virtual environment that holds every package of the workspace."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

from . import debian
from .base import BIN, CACHE, ROOT, VENV, DevError, run, say, succeeds, warn

CONSTRAINTS = ROOT / "constraints.txt"

OLDEST_PYTHON = "3.11"
"""The versions in constraints.txt must install on its first release: Debian 12 has 3.11.2."""

BUILD_TOOLS = ["editables", "hatchling", "setuptools", "tomli-w", "wheel"]
"""What building the packages needs (and the one dependency that comes as source), so that no build has to fetch
anything by itself."""

DEV_TOOLS = [
    "furo",
    "hypothesis",
    "import-linter",
    "kubernetes-validate",
    "mypy",
    "myst-parser",
    "openapi-spec-validator",
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "ruff",
    "sphinx",
    "sphinx-click",
    "sphinx-copybutton",
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
        make_venv()
        say("installing the workspace into .venv")
        install_workspace()
        stamp.write_text(wanted)
        say(f"workspace ready after {time.monotonic() - started:.0f} s")


def lock() -> None:
    """Resolve everything anew, for all Pythons from the oldest on, and write the versions to constraints.txt."""
    setup()
    uv = [str(tool("uv")), "pip", "compile", "--quiet", "--universal", "--python-version", OLDEST_PYTHON]
    finished = subprocess.run(
        [*uv, "--no-header", "--no-annotate", "--no-config", "-"],
        input="".join(f"{requirement}\n" for requirement in _requirements()),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode != 0:
        raise DevError(f"no set of versions fits:\n{finished.stderr.strip()}")
    versions = [line for line in finished.stdout.splitlines() if "==" in line]
    CONSTRAINTS.write_text(CONSTRAINTS_HEADER + "".join(f"{line}\n" for line in versions))
    say(f"{CONSTRAINTS.name} holds {len(versions)} versions; ./dev setup installs them")


def _requirements() -> list[str]:
    """What the workspace needs from outside: the tools, and the dependencies of its packages but for each other."""
    projects = [tomllib.loads((package / "pyproject.toml").read_text())["project"] for package in packages()]
    members = {project["name"] for project in projects}
    needed = {requirement for project in projects for requirement in project.get("dependencies", [])}
    outside = {requirement for requirement in needed if _name(requirement) not in members}
    return sorted({"uv", *BUILD_TOOLS, *DEV_TOOLS, *outside})


def _name(requirement: str) -> str:
    """The distribution that a requirement names."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    if found is None:
        raise DevError(f"not a requirement: {requirement!r}")
    return re.sub(r"[-_.]+", "-", found.group()).lower()


def make_venv() -> None:
    """Create .venv unless a working one is there that was made by this Python at this place.

    Where Python came without ensurepip, Debian's python3-venv is installed first.
    """
    home = VENV / ".jumpstarter-home"
    made_by = f"{sys.version}\n{VENV}\n"
    if home.exists() and home.read_text() == made_by and succeeds([BIN / "python", "-m", "pip", "--version"]):
        return
    shutil.rmtree(VENV, ignore_errors=True)
    if not succeeds([sys.executable, "-c", "import ensurepip, venv"]):
        version = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
        if not debian.can_install():
            raise DevError(
                f"this Python ({sys.executable}) has no ensurepip. Install it first: {debian.install_line([version])}"
            )
        say(f"installing {version}")
        debian.install([version])
    say(f"creating {VENV.name}")
    run([sys.executable, "-m", "venv", VENV], quiet=True)
    home.write_text(made_by)


def install_workspace() -> None:
    """Install every package of the workspace in editable form, and the tools, in the versions of constraints.txt."""
    constraint = ["--constraint", str(CONSTRAINTS)] if CONSTRAINTS.exists() else []
    run([BIN / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", "uv", *constraint], quiet=True)
    hook, *others = packages()
    editable = [part for package in others for part in ("-e", str(package))]
    _install([*BUILD_TOOLS, *DEV_TOOLS, *constraint])
    _install(["--no-build-isolation", "-e", str(hook), *constraint])
    _install(["--no-build-isolation", *editable, *constraint])


def _install(arguments: list[str]) -> None:
    """Install with uv, which is fast; with pip where uv can't, because pip knows the indexes of its own config."""
    python = BIN / "python"
    uv = [BIN / "uv", "pip", "install", "-q", "--python", python, *arguments]
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
