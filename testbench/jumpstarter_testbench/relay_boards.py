"""A USB relay board of the NOYITO kind, byte for byte: on a pseudo-terminal, or as a HID device in the lab guest.

A command is four bytes: `A0`, channel, state (1 on, 0 off), and the low byte of their sum; what doesn't fit is
ignored, as the boards do. The status query is `FF` on a serial port and `A0 0F 02 B1` over HID; the answer is one line
per channel, `CH1:ON`.
"""

from __future__ import annotations

import os
import select
import threading
import tty
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from jumpstarter_testbench.usb_gadgets import Interface, Protocol, Request, Stall

VENDOR, PRODUCT = 5131, 2007
"""Of the HID variant; decimal."""

REPORT_SIZE = 64

_REPORT_DESCRIPTOR = bytes.fromhex("0600ff0901a101150026ff007508954009018102954009019102c0")
"""Vendor-defined reports of 64 bytes both ways, without report ids."""

_GET_DESCRIPTOR, _HID_REPORT = 6, 0x22


@dataclass
class RelayBoard:
    """The relays and the firmware of a board."""

    channels: int = 4
    stuck: bool = False
    """Relays stay as they are."""
    silent: bool = False
    """The board does not answer."""
    answer: bytes | None = None
    """What it answers instead of its status lines."""
    closed: dict[int, bool] = field(init=False)
    commands: list[tuple[int, int]] = field(default_factory=list)
    """(channel, state) of every valid command, in order."""
    _pending: bytes = b""

    def __post_init__(self) -> None:
        self.closed = dict.fromkeys(range(1, self.channels + 1), False)

    def receive(self, data: bytes) -> bytes:
        """Take what the host sends, in pieces of any size; return the answer."""
        self._pending += data
        answer = b""
        while self._pending:
            if self._pending[0] == 0xFF:
                self._pending = self._pending[1:]
                answer += self._status()
            elif self._pending[0] != 0xA0:
                self._pending = self._pending[1:]
            elif len(self._pending) < 4:
                break
            else:
                frame, self._pending = self._pending[:4], self._pending[4:]
                answer += self._execute(frame)
        return answer

    def _execute(self, frame: bytes) -> bytes:
        _, channel, state, check = frame
        if (0xA0 + channel + state) & 0xFF != check:
            return b""
        if (channel, state) == (0x0F, 2):
            return self._status()
        self.commands.append((channel, state))
        if channel in self.closed and not self.stuck:
            self.closed[channel] = state == 1
        return b""

    def _status(self) -> bytes:
        if self.silent:
            return b""
        if self.answer is not None:
            return self.answer
        return b"".join(b"CH%d:%s\r\n" % (number, b"ON" if on else b"OFF") for number, on in self.closed.items())


class SerialPlug:
    """A relay board behind a serial port, which is a symbolic link `path` while the board is plugged in."""

    def __init__(self, board: RelayBoard, path: Path) -> None:
        """Do nothing yet; `with` plugs it in."""
        self.board = board
        self.path = path
        self._master = self._slave = self._wake = -1
        self._thread: threading.Thread | None = None
        self.unplugs_when_asked = False
        """Whether somebody pulls the cable while the board answers."""

    def __enter__(self) -> Self:
        self.plug()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unplug()

    def plug(self) -> None:
        """Plug it in."""
        # The slave is kept open, as a master without one reads errors.
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self._wake = os.eventfd(0)
        self.path.symlink_to(os.ttyname(self._slave))
        self._thread = threading.Thread(target=self._serve, name="relay-board", daemon=True)
        self._thread.start()

    def unplug(self) -> None:
        """Pull it out, if it is plugged in."""
        if self._thread is not None:
            os.eventfd_write(self._wake, 1)
            self._thread.join(10)
            self._thread = None
            os.close(self._wake)
            self._hang_up()

    def _hang_up(self) -> None:
        self.path.unlink(missing_ok=True)
        for descriptor in (self._master, self._slave):
            if descriptor >= 0:
                os.close(descriptor)
        self._master = self._slave = -1

    def _serve(self) -> None:
        while True:
            ready, _, _ = select.select([self._master, self._wake], [], [])
            if self._wake in ready:
                return
            data = os.read(self._master, 256)
            if self.unplugs_when_asked and b"\xff" in data:
                self._hang_up()
                return
            os.write(self._master, self.board.receive(data))


def hid_function(board: RelayBoard) -> Protocol:
    """A USB function that is the board; its output reports hold one command each."""

    def control(request: Request) -> bytes:
        if request.request == _GET_DESCRIPTOR and request.value >> 8 == _HID_REPORT:
            return _REPORT_DESCRIPTOR
        raise Stall

    def report(data: bytes) -> Sequence[bytes]:
        # Reports are filled up with zeros both ways; the kernel drops shorter ones.
        answer = board.receive(data[:4])
        pieces = (answer[start : start + REPORT_SIZE] for start in range(0, len(answer), REPORT_SIZE))
        return [piece.ljust(REPORT_SIZE, b"\0") for piece in pieces]

    descriptor = bytes((9, 0x21, 0x11, 0x01, 0, 1, _HID_REPORT, len(_REPORT_DESCRIPTOR), 0))
    interface = Interface(usb_class=3, extra=descriptor, interrupt_in=REPORT_SIZE, interrupt_out=REPORT_SIZE)
    return Protocol(control, report=report, interfaces=[interface])
