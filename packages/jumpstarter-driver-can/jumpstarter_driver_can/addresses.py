"""ISO-TP addresses in exporter configs: a mapping, with the addressing mode as a name or a number."""

from __future__ import annotations

from typing import Annotated, Any

import isotp
from pydantic import BeforeValidator, ValidationError

from .common import IsoTpAddress


def parse_address(value: Any) -> isotp.Address | isotp.AsymmetricAddress:
    """Return the address that a config names, or the one that a program gives.

    Raises:
        ValueError: a member is missing, unknown or out of range.
    """
    if isinstance(value, isotp.Address | isotp.AsymmetricAddress):
        return value
    if not isinstance(value, dict):
        raise ValueError(f"an address is a mapping with addressing_mode, txid, rxid and so on, not {value!r}")
    if value.keys() & {"tx_addr", "rx_addr"}:
        if value.keys() != {"tx_addr", "rx_addr"}:
            raise ValueError("an asymmetric address has the two members tx_addr and rx_addr")
        return isotp.AsymmetricAddress(
            tx_addr=_one({"tx_only": True, **value["tx_addr"]}), rx_addr=_one({"rx_only": True, **value["rx_addr"]})
        )
    return _one(value)


def _one(value: Any) -> isotp.Address:
    if unknown := value.keys() - IsoTpAddress.model_fields.keys():
        known = ", ".join(IsoTpAddress.model_fields)
        raise ValueError(f"an address has no member {', '.join(map(str, sorted(unknown)))}; it takes: {known}")
    mode = value.get("addressing_mode", isotp.AddressingMode.Normal_11bits)
    try:
        mode = isotp.AddressingMode[mode] if isinstance(mode, str) else isotp.AddressingMode(mode)
    except (KeyError, ValueError):
        names = ", ".join(isotp.AddressingMode.__members__)
        raise ValueError(f"there is no addressing mode {mode!r}; there are: {names}") from None
    try:
        return IsoTpAddress.model_validate({**value, "addressing_mode": mode.value}).dump()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{first['loc'][0]} of an address: {first['msg']}") from None


Address = Annotated[isotp.Address | isotp.AsymmetricAddress, BeforeValidator(parse_address)]
"""For members of a pydantic dataclass."""
