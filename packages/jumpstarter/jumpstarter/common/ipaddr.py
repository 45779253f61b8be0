"""Under which address other machines reach this one."""

from __future__ import annotations

import ipaddress
import logging
import socket

__all__ = ["get_ip_address", "get_minikube_ip"]

PROBE = ("192.175.48.1", 53)
"""A public address (AS112, RFC 7534) that only chooses the route: no packet is sent to it."""

MINIKUBE_TIMEOUT = 60.0
"""Seconds that minikube has to answer."""


def get_ip_address(logger: logging.Logger | None = None) -> str:
    """Return the IPv4 address of this machine, `0.0.0.0` with a warning when it has none.

    That is the address of the host name, and if it's a loopback one, as on Debian, the address of the default route.
    Looking up the host name may block for seconds.
    """
    for address in (_host_address(), _route_address()):
        if address and not ipaddress.ip_address(address).is_loopback:
            return address
    (logger or logging.getLogger(__name__)).warning(
        "can't find an IP address of this machine: its name resolves to none, and there is no default route. "
        "Using 0.0.0.0; set the address explicitly"
    )
    return "0.0.0.0"


def _host_address() -> str | None:
    try:
        return socket.gethostbyname(socket.gethostname())
    except (OSError, UnicodeError):  # no such name, or one that is no host name at all
        return None


def _route_address() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(PROBE)
            address: str = sock.getsockname()[0]
            return address
        except OSError:
            return None


async def get_minikube_ip(profile: str | None = None, minikube: str = "minikube") -> str:
    """Return the address of a minikube cluster.

    Args:
        profile: name of the cluster; None for minikube's current one.
        minikube: name or path of the program.

    Raises:
        RuntimeError: the program is missing, fails or doesn't answer; the text is what it says on stderr.
    """
    import anyio

    command = [minikube, "ip", *(["-p", profile] if profile else [])]
    try:
        with anyio.fail_after(MINIKUBE_TIMEOUT):
            done = await anyio.run_process(command, check=False)
    except TimeoutError:
        raise RuntimeError(f"{' '.join(command)} gave no answer within {MINIKUBE_TIMEOUT:g} s") from None
    except OSError as error:
        raise RuntimeError(f"can't run {minikube}: {error.strerror}; is minikube installed?") from error
    if done.returncode != 0:
        text = done.stderr.decode(errors="replace").strip()
        raise RuntimeError(text or f"{' '.join(command)} failed with exit code {done.returncode}")
    return done.stdout.decode(errors="replace").strip()
