"""Adapters: what turns the stream of a network driver into something that other software can use.

Each is a context manager that is called with the client as `client=...`.
"""

from .dbus import DbusAdapter
from .fabric import FabricAdapter
from .novnc import NovncAdapter
from .pexpect import PexpectAdapter
from .portforward import TcpPortforwardAdapter, UdpPortforwardAdapter, UnixPortforwardAdapter

__all__ = [
    "DbusAdapter",
    "FabricAdapter",
    "NovncAdapter",
    "PexpectAdapter",
    "TcpPortforwardAdapter",
    "UdpPortforwardAdapter",
    "UnixPortforwardAdapter",
]
