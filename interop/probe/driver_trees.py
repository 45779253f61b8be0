"""Trees of drivers that a config can't describe, in the public names of all releases."""

from __future__ import annotations

from typing import Any
from uuid import uuid4


def can() -> Any:
    """Two buses on one virtual channel, and two ends of an ISO-TP connection beside them."""
    from isotp import Address, AddressingMode
    from jumpstarter_driver_can.driver import Can, IsoTpPython
    from jumpstarter_driver_composite.driver import Composite

    bus: dict[str, Any] = {"channel": uuid4().hex, "interface": "virtual"}
    mode = AddressingMode.Normal_11bits
    return Composite(
        children={
            "near": Can(**bus),
            "far": Can(**bus),
            "tester": IsoTpPython(**bus, address=Address(mode, txid=0x320, rxid=0x321)),
            "ecu": IsoTpPython(**bus, address=Address(mode, txid=0x111, rxid=0x222)),
        }
    )
