"""The Debian packages behind the real components: which ones are missing, and installing them.

The list itself belongs to the test bench, whose skip messages name the same packages.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from .base import ROOT, DevError, run, say, succeeds, warn

sys.path.insert(0, str(ROOT / "testbench"))

from jumpstarter_testbench.components import components, install_line, missing_packages

POLICY = Path("/usr/sbin/policy-rc.d")

APT_ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive"}
APT_OPTIONS = ["-o", "DPkg::Lock::Timeout=300"]


def can_install() -> bool:
    """Tell whether this process may install Debian packages."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(packages: list[str]) -> None:
    """Install Debian packages; raise DevError when that fails. No service of theirs starts, now or at the next boot."""
    update = ["apt-get", "update", "-qq", *APT_OPTIONS]
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *APT_OPTIONS, *packages]
    with _no_service_starts():
        # Without package lists, or with lists so old that the archive has newer versions, they are fetched first.
        if not (_known_to_apt(packages) and succeeds(command, env=APT_ENVIRONMENT)):
            run(update, env=APT_ENVIRONMENT, quiet=True)
            run(command, env=APT_ENVIRONMENT, quiet=True)
    _disable_services(packages)


@contextlib.contextmanager
def _no_service_starts() -> Iterator[None]:
    """Tell the packages' scripts to start no service, through the switch that Debian has for it."""
    try:
        POLICY.touch(mode=0o755, exist_ok=False)
    except FileExistsError:  # the machine has a policy of its own, which is not ours to change
        yield
        return
    try:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        yield
    finally:
        POLICY.unlink(missing_ok=True)


def _disable_services(packages: Iterable[str]) -> None:
    """Keep what was just installed from starting at the next boot, where systemd would do that."""
    if not Path("/run/systemd/system").exists():
        return
    installed = set(packages)
    for component in components().values():
        if component.services and installed.issuperset(component.packages):
            run(["systemctl", "disable", "--quiet", *component.services], quiet=True)


def _known_to_apt(packages: list[str]) -> bool:
    """Tell whether the package lists on disk know every package."""
    found = subprocess.run(["apt-cache", "show", "--no-all-versions", *packages], capture_output=True, check=False)
    return found.returncode == 0 and found.stdout.count(b"Package: ") >= len(packages)


def provide(*tiers: str, required: bool = False) -> None:
    """Install what the tiers need where that is possible, else say what to install.

    Raises:
        DevError: something is missing although it is `required`.
    """
    provide_packages(missing_packages(tiers), f"tests ({', '.join(tiers)})", required=required)


def provide_packages(missing: list[str], purpose: str, *, required: bool = False) -> None:
    """Install packages where that is possible, else say how to.

    Raises:
        DevError: that was not possible although they are `required`.
    """
    if not missing:
        return
    if not can_install():
        message = f"not installed, for the {purpose}: {', '.join(missing)}. Install: {install_line(missing)}"
        if required:
            raise DevError(message)
        warn(message)
        return
    say(f"installing for the {purpose}: {' '.join(missing)}")
    try:
        install(missing)
    except DevError as error:
        if required:
            raise
        warn(f"could not install them ({error}); going on without")
