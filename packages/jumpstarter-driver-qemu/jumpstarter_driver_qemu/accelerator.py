"""Whether the machine runs by emulation (TCG) or by the processor's own virtualization (KVM, HVF)."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from typing import Final, Literal

Accelerator = Literal["tcg", "kvm", "hvf", "auto"]

KVM_DEVICE: Final = "/dev/kvm"

PROBE_TIMEOUT: Final = 15.0
"""Seconds that a probe may take."""

_ARCHITECTURES: Final = {"amd64": "x86_64", "arm64": "aarch64"}


def host_architecture() -> str:
    """Return this machine's architecture by QEMU's name."""
    name = platform.machine().lower()
    return _ARCHITECTURES.get(name, name)


def resolve(wanted: Accelerator, arch: str, program: str, machine: str | None) -> str:
    """Return the accelerator to use.

    `auto` is KVM (HVF on macOS) for guests of the host's architecture, if a machine with the host's processor model
    can be made with it, and TCG otherwise. That finds missing permissions and processors that QEMU can't pass on; a
    host whose virtualization starts and then hangs is not found, which is why TCG is the default.

    Raises:
        ValueError: an accelerator was asked for by name that this machine can't offer.
    """
    if wanted == "tcg":
        return wanted
    if wanted == "auto":
        candidate = "hvf" if platform.system() == "Darwin" else "kvm"
        return candidate if obstacle(candidate, arch) is None and _probe(candidate, program, machine) else "tcg"
    if (problem := obstacle(wanted, arch)) is not None:
        raise ValueError(f"accel: {wanted} can't be used: {problem}. Use accel: tcg, or repair that")
    return wanted


def obstacle(accelerator: str, arch: str) -> str | None:
    """Return why an accelerator can't be used, as far as that is visible from outside, or None."""
    if arch != host_architecture():
        return f"the guest is {arch}, this machine is {host_architecture()}"
    if accelerator == "kvm":
        if not os.path.exists(KVM_DEVICE):
            return f"there is no {KVM_DEVICE}"
        if not os.access(KVM_DEVICE, os.R_OK | os.W_OK):
            return f"no permission for {KVM_DEVICE}; on Debian the group kvm has it"
    elif platform.system() != "Darwin":
        return f"{accelerator} exists on macOS only"
    return None


@cache
def _probe(accelerator: str, program: str, machine: str | None) -> bool:
    """Tell whether QEMU can make a machine with this accelerator and the host's processor."""
    options = ["-nodefaults", "-display", "none", "-S", "-accel", accelerator, "-cpu", "host"]
    options += ["-machine", machine] if machine else []
    try:
        result = subprocess.run(
            [program, *options, "-monitor", "stdio"],
            input=b"quit\n",
            capture_output=True,
            timeout=PROBE_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.returncode == 0
