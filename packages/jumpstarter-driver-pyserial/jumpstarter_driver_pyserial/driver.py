"""The serial port driver."""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal

import anyio
import serial
from anyio import to_thread
from anyio.abc import ObjectStream
from anyio.streams.stapled import StapledObjectStream
from jumpstarter.driver import Driver, export, exportstream

from .exclusive import Exclusive
from .mailbox import Mailbox
from .port import PortSettings, disable_hupcl, open_port
from .reader import PortReader
from .streams import MailboxStream, ThrottledStream, port_stream

__all__ = ["LOOP", "PySerial", "ThrottledStream"]

LOOP: Final = "loop://"
"""The URL of a port that sends back what it is sent; it needs no hardware, and every connection has one of its own."""

LOOP_CHUNKS: Final = 32
"""Chunks that the loop holds before the sender waits."""

RECORD_WAIT: Final = 5.0
"""Seconds that a connection waits for a recorded port that isn't there at the moment."""


@dataclass(kw_only=True)
class PySerial(Driver):
    """A serial port: a device file, or a port on the network by a pyserial URL."""

    driver_type: ClassVar[str] = "serial"

    url: str
    """Device path, or URL: `rfc2217://HOST:PORT`, `socket://HOST:PORT`, `hwgrep://REGEX`, `loop://`, ..."""
    baudrate: int = 115200
    check_present: bool = True
    """Open the port once when the exporter starts, which fails when that can't be done."""
    cps: float | None = None
    """Characters per second that are written at most; None or 0 for no limit."""
    disable_hupcl: bool = False
    """Leave DTR and RTS as they are when the port is closed."""
    bytesize: Literal[5, 6, 7, 8] = 8
    parity: Literal["N", "E", "O", "M", "S"] = "N"
    stopbits: float = 1
    """1, 1.5 or 2."""
    xonxoff: bool = False
    rtscts: bool = False
    dsrdtr: bool = False
    dtr: bool | None = None
    """State of DTR when the port is opened; None leaves it to the system."""
    rts: bool | None = None
    """State of RTS when the port is opened; None leaves it to the system."""
    exclusive: bool = True
    """Lock the device file against other programs."""
    backlog: int = 0
    """Bytes of output to keep while nobody is connected; above 0 the port stays open for the whole session."""

    _recorder: PortReader | None = field(init=False, default=None, repr=False)
    _stream: ObjectStream[bytes] | None = field(init=False, default=None, repr=False)
    _port: serial.SerialBase | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_config()
        self._owner = Exclusive(f"serial port {self.url}")
        self._mailbox = Mailbox(self.backlog) if self.backlog else None
        if self.check_present and self.url != LOOP:
            self._open().close()

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_pyserial.client.PySerialClient"

    def reset(self) -> None:
        """Start to record the port if that is configured."""
        super().reset()
        if self._mailbox is not None and self._recorder is None and self.url != LOOP:
            self._recorder = PortReader(self.url, self._open, self._mailbox, self.logger, record=True)
            self._recorder.start()

    def close(self) -> None:
        """Release the port."""
        try:
            if self._recorder is not None:
                self._recorder.stop()
                self._recorder = None
            if self._mailbox is not None:
                self._mailbox.close()
        finally:
            super().close()

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[ObjectStream[bytes], None]:
        """Open the port; one connection at a time.

        Raises:
            serial.SerialException: the port can't be opened.
            LineInUse: another connection has it.
        """
        if self.url == LOOP:
            async with StapledObjectStream(*anyio.create_memory_object_stream[bytes](LOOP_CHUNKS)) as stream:
                yield self._throttled(stream)
            return
        async with self._owner.acquired(), self._opened() as stream:
            self._stream = stream
            try:
                yield self._throttled(stream)
            finally:
                self._stream = None

    @export
    async def close_port(self) -> None:
        """End the connection that has the port, whoever opened it; nothing happens when there is none."""
        if self._stream is not None:
            await self._stream.aclose()

    @export
    def set_dtr(self, value: bool) -> None:
        """Set DTR, on the open port or for a moment of its own."""
        with self._line() as port:
            port.dtr = bool(value)

    @export
    def set_rts(self, value: bool) -> None:
        """Set RTS, on the open port or for a moment of its own."""
        with self._line() as port:
            port.rts = bool(value)

    @export
    def send_break(self, duration: float = 0.25) -> None:
        """Hold the line in the break state.

        Args:
            duration: seconds, above 0 and 10 at most.
        """
        if not 0 < duration <= 10:
            raise ValueError(f"duration must be above 0 and at most 10 seconds, not {duration!r}")
        with self._line() as port:
            port.send_break(duration)

    @asynccontextmanager
    async def lent(self) -> AsyncGenerator[str, None]:
        """Yield the URL of the port for another program on the exporter, which has it until the context ends.

        The connection that has the port is ended, and none is made meanwhile; recording pauses.

        Raises:
            LineInUse: the connection doesn't end.
        """
        await self.close_port()
        async with self._owner.acquired():
            recorder, self._recorder = self._recorder, None
            if recorder is not None:
                await to_thread.run_sync(recorder.stop)
            try:
                yield self.url
            finally:
                if recorder is not None:
                    self.reset()

    @contextmanager
    def lines(self) -> Generator[serial.SerialBase, None, None]:
        """Yield the open port, for sequences on its modem lines; one that is open meanwhile if there is none.

        Blocking; a connection goes on beside it.

        Raises:
            NotImplementedError: the port has no such lines.
        """
        with self._line() as port:
            yield port

    async def DriverCall(self, request: Any, context: Any) -> Any:
        """Serve a unary call. The call `close` ends the connection; the method of that name ends the driver."""
        if request.method == "close":
            request = type(request)(uuid=request.uuid, method="close_port", args=request.args)
        return await super().DriverCall(request, context)

    def _check_config(self) -> None:
        if not isinstance(self.url, str) or not self.url:
            raise ValueError(f"url must be a device path or a pyserial URL, not {self.url!r}")
        if isinstance(self.baudrate, bool) or not isinstance(self.baudrate, int) or self.baudrate <= 0:
            raise ValueError(f"serial port {self.url}: baudrate must be a whole number above 0, not {self.baudrate!r}")
        for name, known in (
            ("bytesize", (5, 6, 7, 8)),
            ("parity", ("N", "E", "O", "M", "S")),
            ("stopbits", (1, 1.5, 2)),
        ):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"serial port {self.url}: {name} must be one of {known}, not {value!r}")
        if self.cps is not None and (not isinstance(self.cps, int | float) or self.cps < 0):
            raise ValueError(f"serial port {self.url}: cps must be a number of characters per second, not {self.cps!r}")
        if isinstance(self.backlog, bool) or not isinstance(self.backlog, int) or self.backlog < 0:
            raise ValueError(f"serial port {self.url}: backlog must be a number of bytes, not {self.backlog!r}")

    def _settings(self) -> PortSettings:
        return PortSettings(
            baudrate=self.baudrate,
            bytesize=self.bytesize,
            parity=self.parity,
            stopbits=self.stopbits,
            xonxoff=self.xonxoff,
            rtscts=self.rtscts,
            dsrdtr=self.dsrdtr,
            exclusive=self.exclusive,
            dtr=self.dtr,
            rts=self.rts,
        )

    def _open(self) -> serial.SerialBase:
        port = open_port(self.url, self._settings())
        if self.disable_hupcl:
            try:
                disable_hupcl(port)
            except (OSError, NotImplementedError) as error:
                self.logger.warning("serial port %s: HUPCL can't be cleared: %s", self.url, error)
        return port

    @asynccontextmanager
    async def _opened(self) -> AsyncGenerator[ObjectStream[bytes], None]:
        if self._recorder is None or self._mailbox is None:
            async with port_stream(self.url, self._open, self.logger) as (stream, port):
                self._port = port
                try:
                    yield stream
                finally:
                    self._port = None
            return
        if not await to_thread.run_sync(self._recorder.wait_available, RECORD_WAIT):
            raise serial.SerialException(f"serial port {self.url} is not connected at the moment")
        async with MailboxStream(self._mailbox, self._recorder.write, self.logger) as recorded:
            yield recorded

    def _throttled(self, stream: ObjectStream[bytes]) -> ObjectStream[bytes]:
        return ThrottledStream(stream=stream, cps=self.cps) if self.cps else stream

    @contextmanager
    def _line(self) -> Generator[serial.SerialBase, None, None]:
        """Yield the open port, or one that is open meanwhile.

        Raises:
            NotImplementedError: the port has no such lines.
        """
        if self.url == LOOP:
            raise NotImplementedError(f"{LOOP} has no modem lines and no break")
        port = self._recorder.port if self._recorder is not None else self._port
        opened = None
        try:
            if port is None:
                port = opened = self._open()
            yield port
        except OSError as error:
            if error.errno in (errno.ENOTTY, errno.EINVAL, errno.EIO):
                raise NotImplementedError(f"serial port {self.url} has no modem lines") from error
            raise
        finally:
            if opened is not None:
                opened.close()
