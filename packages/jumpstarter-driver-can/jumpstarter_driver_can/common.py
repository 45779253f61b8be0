"""Values that the exporter and its clients exchange by calls; frame links have a form of their own, see `wire`."""

from __future__ import annotations

from typing import Any

import can
import isotp
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field

__all__ = ["CanMessage", "CanResult", "IsoTpAddress", "IsoTpAsymmetricAddress", "IsoTpMessage", "IsoTpParams"]


class CanMessage(BaseModel):
    """A frame; `data` travels as base64, `dlc` is a number of bytes."""

    model_config = ConfigDict(from_attributes=True)

    timestamp: float = 0.0
    arbitration_id: int = 0
    is_extended_id: bool = True
    is_remote_frame: bool = False
    is_error_frame: bool = False
    channel: int | str | None = None
    dlc: int | None = None
    data: Base64Bytes | None = None
    is_fd: bool = False
    is_rx: bool = True
    bitrate_switch: bool = False
    error_state_indicator: bool = False

    @classmethod
    def construct(cls, message: can.Message) -> CanMessage:  # type: ignore[override]
        """Return the wire form of a frame, without checking it."""
        channel = message.channel
        return cls.model_construct(
            timestamp=message.timestamp,
            arbitration_id=message.arbitration_id,
            is_extended_id=message.is_extended_id,
            is_remote_frame=message.is_remote_frame,
            is_error_frame=message.is_error_frame,
            channel=channel if isinstance(channel, int | str | None) else str(channel),
            dlc=message.dlc,
            data=bytes(message.data) if message.data is not None else None,
            is_fd=message.is_fd,
            is_rx=message.is_rx,
            bitrate_switch=message.bitrate_switch,
            error_state_indicator=message.error_state_indicator,
        )

    def to_message(self) -> can.Message:
        """Return the frame.

        Raises:
            ValueError: it can't be on a bus.
        """
        from .frames import check_frame

        members = {name: getattr(self, name) for name in type(self).model_fields}
        message = can.Message(**members)
        check_frame(message)
        return message


CanResult = tuple[CanMessage | None, bool]
"""A frame, if there was one, and whether the exporter has filtered already."""


class IsoTpMessage(BaseModel):
    """The data of one transfer; null when nothing was received."""

    data: Base64Bytes | None = None

    @classmethod
    def construct(cls, data: bytes | bytearray | None) -> IsoTpMessage:  # type: ignore[override]
        """Return the wire form of `data`."""
        return cls.model_construct(data=None if data is None else bytes(data))


class IsoTpAddress(BaseModel):
    """An address of ISO 15765-2; members as of `isotp.Address`."""

    addressing_mode: int
    txid: int | None = None
    rxid: int | None = None
    target_address: int | None = None
    source_address: int | None = None
    physical_id: int | None = None
    functional_id: int | None = None
    address_extension: int | None = None
    rx_only: bool = False
    tx_only: bool = False

    @classmethod
    def validate(cls, value: Any) -> IsoTpAddress:
        """Return the wire form of an `isotp.Address`."""
        fields = {
            "txid": "_txid",
            "rxid": "_rxid",
            "target_address": "_target_address",
            "source_address": "_source_address",
            "address_extension": "_address_extension",
            "rx_only": "_rx_only",
            "tx_only": "_tx_only",
            # The library sets these two in the fixed 29-bit modes only.
            "physical_id": "physical_id",
            "functional_id": "functional_id",
        }
        found: dict[str, Any] = {name: getattr(value, attribute, None) for name, attribute in fields.items()}
        return cls(addressing_mode=isotp.AddressingMode(value._addressing_mode).value, **found)

    def dump(self) -> isotp.Address:
        """Return the address for the library.

        Raises:
            ValueError: a part that the mode needs is missing, or out of range.
        """
        members = self.model_dump()
        mode = isotp.AddressingMode(members.pop("addressing_mode"))
        return isotp.Address(mode, **members)


class IsoTpAsymmetricAddress(BaseModel):
    """Different addresses for what is sent and what is received."""

    tx_addr: IsoTpAddress
    rx_addr: IsoTpAddress

    @classmethod
    def validate(cls, value: Any) -> IsoTpAsymmetricAddress:
        """Return the wire form of an `isotp.AsymmetricAddress`."""
        return cls(tx_addr=IsoTpAddress.validate(value.tx_addr), rx_addr=IsoTpAddress.validate(value.rx_addr))

    def dump(self) -> isotp.AsymmetricAddress:
        """Return the address for the library.

        Raises:
            ValueError: the halves are not `tx_only` and `rx_only`, or malformed.
        """
        return isotp.AsymmetricAddress(tx_addr=self.tx_addr.dump(), rx_addr=self.rx_addr.dump())


class IsoTpParams(BaseModel):
    """Parameters of an ISO-TP stack, as of `isotp.TransportLayer.Params`."""

    model_config = ConfigDict(extra="forbid")

    stmin: int = 0
    """Least separation time that the sender is asked for: 0 to 127 ms, 0xF1 to 0xF9 100 to 900 us."""
    blocksize: int = 8
    """Frames between two flow controls; 0 for no limit."""
    override_receiver_stmin: float | None = None
    """Seconds between two frames that are sent, whatever the receiver asks for."""
    rx_flowcontrol_timeout: int = 1000
    """Milliseconds."""
    rx_consecutive_frame_timeout: int = 1000
    """Milliseconds."""
    tx_padding: int | None = None
    """Byte that fills frames up."""
    wftmax: int = 0
    """Wait frames that are accepted."""
    tx_data_length: int = 8
    """Bytes of a frame: 8, or up to 64 with CAN FD."""
    tx_data_min_length: int | None = None
    max_frame_size: int = 4095
    """Bytes of the longest transfer that is received."""
    can_fd: bool = False
    bitrate_switch: bool = False
    default_target_address_type: isotp.TargetAddressType = isotp.TargetAddressType.Physical
    rate_limit_enable: bool = False
    rate_limit_max_bitrate: int = 10000000
    rate_limit_window_size: float = 0.2
    listen_mode: bool = False
    blocking_send: bool = Field(default=False)
    """`send` waits until the transfer is complete."""

    def apply(self, sock: isotp.socket) -> None:
        """Set what a kernel socket can do; `unsupported` tells what it can't."""
        from .kernel import apply

        apply(self, sock)
