"""Opening python-can's interfaces by a driver's config, with messages that say what to do."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import can
from jumpstarter.common.exceptions import ConfigurationError

from .steady import reason_of

BIT_RATE_ELSEWHERE = ("socketcan", "socketcan_native", "socketcan_ctypes")
"""Interfaces whose bit rates belong to the network device, and which take them silently as an argument."""


def bus_arguments(
    interface: str | None,
    channel: str | int | None,
    *,
    bitrate: int | None,
    data_bitrate: int | None,
    fd: bool | None,
    receive_own_messages: bool | None,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Return the keyword arguments for `can.Bus`.

    Raises:
        ConfigurationError: they can't work.
    """
    given = {
        "bitrate": bitrate,
        "data_bitrate": data_bitrate,
        "fd": fd,
        "receive_own_messages": receive_own_messages,
    }
    given = {name: value for name, value in given.items() if value is not None}
    for name in ("interface", "channel", *given):
        if name in options:
            raise ConfigurationError(f"CAN: {name} is given inside options as well; give it beside them only")
    if interface in BIT_RATE_ELSEWHERE and (rates := given.keys() & {"bitrate", "data_bitrate"}):
        raise ConfigurationError(
            f"CAN: interface socketcan takes no {' and no '.join(sorted(rates))}: set the bit rate on the exporter, "
            f"with: ip link set {channel} up type can bitrate {bitrate or 500000}"
        )
    for name, rate in (("bitrate", bitrate), ("data_bitrate", data_bitrate)):
        if rate is not None and rate <= 0:
            raise ConfigurationError(f"CAN: {name} must be above 0 bits per second, not {rate}")
    return given | options


def bus_name(interface: str | None, channel: str | int | None) -> str:
    """Return what messages call a bus."""
    return f"CAN bus {channel if channel is not None else 'by default'} ({interface or 'interface by default'})"


def advice(interface: str | None, channel: str | int | None, error: BaseException) -> str:
    """Return what to do about an interface that can't be opened, as far as that can be told."""
    code = getattr(error, "error_code", None) or getattr(error, "errno", None)
    if interface == "socketcan":
        if code == errno.ENODEV:
            there = _can_devices()
            return (
                f"this exporter has no network interface {channel}"
                + (f" (CAN interfaces: {', '.join(there)})" if there else " and no other CAN interface")
                + f". Plug the adapter in, or make a virtual one: ip link add {channel} type vcan"
            )
        if code == errno.EAFNOSUPPORT:
            return "the exporter's kernel has no CAN support: modprobe can_raw, or use a kernel with CONFIG_CAN"
        if code in (errno.EPERM, errno.EACCES):
            return "the exporter's user may not open CAN sockets"
    if isinstance(error, can.CanInterfaceNotImplementedError | NotImplementedError):
        return f"interfaces that python-can knows: {', '.join(sorted(can.VALID_INTERFACES))}"
    if isinstance(error, ImportError):
        return f"install what the interface needs: pip install 'python-can[{interface}]'"
    if code == errno.ENOENT:
        return "check that the adapter is plugged in, and the channel's name"
    return "check interface, channel and options, and that the adapter is plugged in and free"


def open_bus(interface: str | None, channel: str | int | None, arguments: dict[str, Any]) -> can.BusABC:
    """Open an interface.

    Raises:
        can.CanError: it can't be opened, of the class that python-can raised or CanInitializationError; the message
            says what to do.
    """
    try:
        return can.Bus(channel=channel, interface=interface, **arguments)
    except Exception as error:
        text = (
            f"{bus_name(interface, channel)} can't be opened: {reason_of(error)}; {advice(interface, channel, error)}"
        )
        kind = type(error) if isinstance(error, can.CanError) else can.CanInitializationError
        if isinstance(error, NotImplementedError):
            kind = can.CanInterfaceNotImplementedError
        raise kind(text) from error


def _can_devices() -> list[str]:
    """Return the names of the CAN network interfaces of this machine (ARPHRD_CAN is 280, linux/if_arp.h)."""
    found = []
    for kind in Path("/sys/class/net").glob("*/type"):
        try:
            if kind.read_text().strip() == "280":
                found.append(kind.parent.name)
        except OSError:
            continue
    return sorted(found)
