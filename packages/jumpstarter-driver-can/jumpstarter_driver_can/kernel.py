"""ISO-TP sockets of the Linux kernel (linux/can/isotp.h, since 5.10): the parameters that they have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import isotp

    from .common import IsoTpParams

CAN_MTU: Final = 16
CANFD_MTU: Final = 72
CANFD_BRS: Final = 0x01

KERNEL_MAX: Final = 4095
"""Bytes of a transfer that every kernel takes; from 6.3 on its parameter `max_pdu_size` says how many more."""

NOT_IN_KERNEL: Final = (
    "rx_flowcontrol_timeout",
    "rx_consecutive_frame_timeout",
    "tx_data_min_length",
    "default_target_address_type",
    "rate_limit_enable",
    "rate_limit_max_bitrate",
    "rate_limit_window_size",
)


def unsupported(params: IsoTpParams) -> list[str]:
    """Return the names of those that were set and have no effect on a kernel socket."""
    return [name for name in NOT_IN_KERNEL if getattr(params, name) != type(params).model_fields[name].default]


def apply(params: IsoTpParams, sock: isotp.socket) -> None:
    """Set the parameters of a socket that is not bound yet.

    Raises:
        ValueError: one is out of range.
        OSError: the kernel refuses one.
    """
    import isotp

    flags = 0
    if params.listen_mode:
        flags |= isotp.socket.flags.LISTEN_MODE
    if params.blocking_send:
        # The write then ends with the transfer, and with its error.
        flags |= isotp.socket.flags.WAIT_TX_DONE
    tx_stmin = None
    if params.override_receiver_stmin is not None:
        tx_stmin = round(params.override_receiver_stmin * 1e9)
    sock.set_opts(optflag=flags, txpad=params.tx_padding, tx_stmin=tx_stmin)
    sock.set_fc_opts(bs=params.blocksize, stmin=params.stmin, wftmax=params.wftmax)
    sock.set_ll_opts(
        mtu=CANFD_MTU if params.can_fd else CAN_MTU,
        tx_dl=params.tx_data_length,
        tx_flags=CANFD_BRS if params.can_fd and params.bitrate_switch else 0,
    )
