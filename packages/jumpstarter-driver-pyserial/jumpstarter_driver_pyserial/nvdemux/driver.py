"""A channel of the combined serial port of NVIDIA boards."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar, Final

from anyio import to_thread
from anyio.abc import ObjectStream
from jumpstarter.driver import Driver, exportstream

from ..exclusive import Exclusive
from ..port import PortSettings, open_port
from ..streams import ThrottledStream, port_stream
from .manager import DemuxerManager

NV_DEVICE_PATTERN: Final = "/dev/serial/by-id/usb-NVIDIA_Tegra_On-Platform_Operator_*-if01"
"""Where the boards show up."""


@dataclass(kw_only=True)
class NVDemuxSerial(Driver):
    """One channel of an NVIDIA board, which `nv_tcu_demuxer` splits off the board's serial port."""

    driver_type: ClassVar[str] = "serial"

    system_requirements: ClassVar[dict[str, str]] = {
        "nv_tcu_demuxer?": "it comes with NVIDIA's Jetson Linux; it need not be on the PATH, `demuxer_path` names it",
    }

    demuxer_path: str
    """The program `nv_tcu_demuxer`."""
    device: str = NV_DEVICE_PATTERN
    """Path of the combined port; may be a pattern."""
    target: str = "CCPLEX: 0"
    """The channel, as the program names it."""
    chip: str = "T264"
    """T264 for Thor, T234 for Orin."""
    baudrate: int = 115200
    cps: float | None = None
    timeout: float = 10.0
    """Seconds that a connection waits for the channel."""
    poll_interval: float = 1.0
    """Seconds between two looks for a device that is gone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("timeout", "poll_interval"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise ValueError(f"{name} must be a number of seconds above 0, not {value!r}")
        self._owner = Exclusive(f"the channel {self.target}")
        DemuxerManager.get_instance().register_driver(
            driver_id=str(self.uuid),
            demuxer_path=self.demuxer_path,
            device=self.device,
            chip=self.chip,
            target=self.target,
            poll_interval=self.poll_interval,
        )

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_pyserial.client.PySerialClient"

    def close(self) -> None:
        """Give the channel up."""
        try:
            DemuxerManager.get_instance().unregister_driver(str(self.uuid))
        finally:
            super().close()

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[ObjectStream[bytes], None]:
        """Connect to the channel, one connection at a time.

        Raises:
            TimeoutError: it isn't there after `timeout` seconds.
        """
        manager = DemuxerManager.get_instance()
        async with self._owner.acquired():
            path = await to_thread.run_sync(manager.wait_pts_path, str(self.uuid), self.timeout)
            if path is None:
                raise TimeoutError(
                    f"the channel {self.target} was not there after {self.timeout:g} s. Check that the board is "
                    f"connected ({self.device}) and that {self.demuxer_path} names that channel"
                )
            settings = PortSettings(baudrate=self.baudrate)
            async with port_stream(path, lambda: open_port(path, settings), self.logger) as (stream, _):
                yield ThrottledStream(stream=stream, cps=self.cps) if self.cps else stream
