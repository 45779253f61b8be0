"""A diagnostic client (udsoncan) on any bus of python-can, such as a Jumpstarter client of a CAN driver."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import can
import isotp
import udsoncan
from udsoncan.client import Client
from udsoncan.connections import PythonIsoTpConnection

from .ecu import REQUESTS, RESPONSES
from .uds_server import key_of

VIN = 0xF190
COOLANT = 0x0100


class Coolant(udsoncan.DidCodec):
    """Degrees Celsius, in one byte with an offset of 40."""

    def encode(self, *value: Any) -> bytes:
        """Return the byte of a temperature."""
        return bytes((value[0] + 40,))

    def decode(self, payload: bytes) -> int:
        """Return the temperature."""
        return payload[0] - 40

    def __len__(self) -> int:
        return 1


@contextmanager
def uds_client(bus: can.BusABC, timeout: float = 5.0) -> Generator[Client, None, None]:
    """Yield a diagnostic client for the engine control unit.

    Args:
        bus: where the control unit is.
        timeout: seconds that a response may take.
    """
    config: Any = {
        **udsoncan.configs.default_client_config,
        "data_identifiers": {VIN: udsoncan.AsciiCodec(17), COOLANT: Coolant},
        "security_algo": lambda level, seed: key_of(seed),
        "request_timeout": timeout,
        "p2_timeout": timeout,
        "use_server_timing": False,
    }
    address = isotp.Address(txid=REQUESTS, rxid=RESPONSES)
    with can.Notifier(bus, [], timeout=0.1) as notifier:
        stack = isotp.NotifierBasedCanStack(
            bus, notifier, address=address, params={"tx_padding": 0xCC, "stmin": 0}, read_timeout=0.02
        )
        with Client(PythonIsoTpConnection(stack), config=config) as client:
            yield client
