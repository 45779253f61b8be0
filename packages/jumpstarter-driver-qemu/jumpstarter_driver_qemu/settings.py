"""What the configuration of a machine may hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from .images import parse_size

if TYPE_CHECKING:
    from .driver import Qemu

FIRMWARE: Final = ("bios", "OVMF_CODE.fd", "OVMF_VARS.fd", "kernel", "initrd")
"""Partitions that are no disks."""


class Hostfwd(BaseModel):
    """A port of the guest that the exporter can reach."""

    model_config = ConfigDict(extra="forbid")

    protocol: Literal["tcp", "udp"] = "tcp"
    hostaddr: str = "127.0.0.1"
    hostport: int = Field(default=0, ge=0, le=65535)
    """Port on the exporter; 0 for a free one, which QEMU picks (TCP only)."""
    guestport: int = Field(ge=1, le=65535)


class Disk(BaseModel):
    """A further disk of the machine."""

    model_config = ConfigDict(extra="forbid")

    size: str | None = None
    """Size of an empty disk, such as `64M`."""
    image: str | None = None
    """An image that the disk begins with; it is not written to."""


def check_settings(qemu: Qemu) -> None:
    """Refuse settings that can't work, before anything is made.

    Raises:
        ValueError: the message names the setting.
    """
    if qemu.accel not in ("tcg", "kvm", "hvf", "auto"):
        raise ValueError(f"accel must be one of tcg, kvm, hvf, auto, not {qemu.accel!r}")
    if isinstance(qemu.smp, bool) or not isinstance(qemu.smp, int) or qemu.smp < 1:
        raise ValueError(f"smp must be a number of processors, not {qemu.smp!r}")
    memory_mebibytes(qemu.mem)
    if qemu.disk_size is not None:
        parse_size(qemu.disk_size)
    for name in qemu.default_partitions:
        if name not in ("root", *FIRMWARE):
            raise ValueError(
                f"invalid partition name {name!r} in default_partitions: expected root, {', '.join(FIRMWARE)}"
            )
    _check_forwards(qemu.hostfwd)
    _check_disks(qemu.disks)
    if (
        isinstance(qemu.flash_timeout, bool)
        or not isinstance(qemu.flash_timeout, int | float)
        or qemu.flash_timeout <= 0
    ):
        raise ValueError(f"flash_timeout must be a number of seconds above 0, not {qemu.flash_timeout!r}")
    if isinstance(qemu.extra_args, str):
        raise ValueError("extra_args must be a list of words")
    qemu.extra_args = [str(word) for word in qemu.extra_args]


def _check_forwards(hostfwd: dict[str, Any]) -> None:
    taken = {"power", "flasher", "console", "vnc"}
    for name, value in hostfwd.items():
        if name in taken:
            raise ValueError(f"hostfwd {name}: the machine has a child of that name already")
        forward = read_part(Hostfwd, f"hostfwd {name}", value)
        if forward.protocol == "udp" and forward.hostport == 0:
            raise ValueError(f"hostfwd {name}: a UDP forward needs a hostport")


def _check_disks(disks: dict[str, Any]) -> None:
    for name, value in disks.items():
        if not isinstance(name, str) or not name.isidentifier() or name == "root" or name in FIRMWARE:
            raise ValueError(f"disk {name!r}: the name must be a plain word that is no partition already")
        disk = read_part(Disk, f"disk {name}", value)
        if disk.size is None and disk.image is None:
            raise ValueError(f"disk {name}: give it a size or an image")
        if disk.size is not None:
            parse_size(disk.size)


def memory_mebibytes(size: Any) -> int:
    """Return the mebibytes of a size of memory; a number without a unit counts those, as QEMU has it.

    Raises:
        ValueError: it is no size, or less than one mebibyte.
    """
    text = str(size).strip()
    amount = parse_size(f"{text}m" if text.isdigit() else text) >> 20
    if amount < 1:
        raise ValueError(f"Invalid size {size!r}: a machine needs a mebibyte of memory at least")
    return amount


def read_part(kind: type[Any], what: str, value: Any) -> Any:
    """Read a part of the configuration.

    Raises:
        ValueError: it can't be read; the message says where.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ValueError(f"{what}: {problems}") from error
