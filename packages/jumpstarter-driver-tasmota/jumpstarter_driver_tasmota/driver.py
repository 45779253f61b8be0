"""The driver of Tasmota plugs and relays that are connected to an MQTT broker."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
from anyio import to_thread
from jumpstarter.driver import Driver, export
from jumpstarter_driver_power.common import PowerReading
from jumpstarter_driver_power.driver import PowerInterface

from .common import TasmotaError, TasmotaTimeout
from .plug import Broker, Exchange, exchange
from .topics import Topics, checked_topic

__all__ = ["TasmotaError", "TasmotaPower", "TasmotaTimeout"]

TIMEOUT: Final = 10.0
"""Seconds that a step may take unless the exporter config says otherwise."""

T = TypeVar("T")


@dataclass(kw_only=True)
class TasmotaPower(PowerInterface, Driver):
    """A relay of a Tasmota device."""

    host: str
    """Name or address of the MQTT broker; with the transport `unix` the path of its socket."""
    port: int = 1883
    """Port of the broker; with TLS mostly 8883."""
    tls: bool = True
    client_id: str | None = None
    """Client id for the broker; one of its choice unless given."""
    transport: str = "tcp"
    """`tcp`, `websockets` or `unix`."""
    timeout: float | None = None
    """Seconds that each step may take: to connect, to be confirmed, to be answered; 10 unless given."""
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    cmnd_topic: str
    """Topic that takes ON and OFF, such as `cmnd/tasmota_6990F2/POWER`."""
    stat_topic: str
    """Topic where the device tells the state, such as `stat/tasmota_6990F2/POWER`."""
    lwt_topic: str | None = None
    """Topic where the broker tells whether the device is there; `tele/.../LWT` unless given, empty for none."""
    ca_file: str | None = None
    """PEM file of the authorities to trust instead of those of the system."""
    insecure_tls: bool = False
    """Accept any certificate; only for a network that is trusted as a whole."""
    cert_file: str | None = None
    """PEM file of a client certificate, for brokers that want one."""
    key_file: str | None = None
    """PEM file of its key, unless that is in `cert_file`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_config()
        self._topics = Topics.of(self.cmnd_topic, self.stat_topic, self.lwt_topic)
        self._broker = Broker(
            host=self.host,
            port=self.port,
            transport=self.transport,
            tls=self.tls,
            ca_file=self.ca_file,
            insecure_tls=self.insecure_tls,
            cert_file=self.cert_file,
            key_file=self.key_file,
            client_id=self.client_id,
            username=None if self.username is None else str(self.username),
            password=None if self.password is None else str(self.password),
            timeout=TIMEOUT if self.timeout is None else float(self.timeout),
        )
        # A client id can be connected once.
        self._turn = anyio.Lock()
        self._running: dict[threading.Event, threading.Event] = {}

    @export
    async def on(self) -> None:
        """Switch the relay on; return when the device says that it is on.

        Raises:
            TasmotaError: the broker or the device did not take the command.
            PowerNotConfirmed: the device reports another state.
        """
        await self._exchange(lambda plug: plug.switch("on"))
        await self.confirm("on")

    @export
    async def off(self) -> None:
        """Switch the relay off; return when the device says that it is off.

        Raises:
            TasmotaError: the broker or the device did not take the command.
            PowerNotConfirmed: the device reports another state.
        """
        await self._exchange(lambda plug: plug.switch("off"))
        await self.confirm("off")

    @export(watch=True)
    async def status(self) -> str:
        """Ask the device for the state of the relay: `on` or `off`.

        Raises:
            TasmotaError: the broker or the device does not answer.
        """
        return await self._exchange(Exchange.query)

    @export(watch=True)
    async def read(self) -> AsyncGenerator[PowerReading, None]:
        """Yield one measurement of the device.

        Raises:
            NotImplementedError: the device measures nothing.
            TasmotaError: the broker or the device does not answer.
        """
        values = await self._exchange(Exchange.measure)
        if values is None:
            raise NotImplementedError("this Tasmota device does not measure (its status has no ENERGY)")
        yield PowerReading(**values)

    def close(self) -> None:
        """End exchanges that are under way."""
        try:
            for stop in list(self._running):
                stop.set()
            for done in list(self._running.values()):
                done.wait(self._broker.timeout + 1)
        finally:
            super().close()

    async def _exchange(self, action: Callable[[Exchange], T]) -> T:
        """Connect for `action` in a worker thread; a caller that goes away ends it."""
        with anyio.move_on_after(self._broker.timeout * 6) as patience:
            await self._turn.acquire()
        if patience.cancelled_caught:
            raise TasmotaTimeout(f"the plug behind {self.cmnd_topic} was busy with other commands all the time")
        try:
            stop, done = threading.Event(), threading.Event()
            self._running[stop] = done
            try:
                return await to_thread.run_sync(partial(self._run, action, stop, done), abandon_on_cancel=True)
            finally:
                stop.set()
        finally:
            self._turn.release()

    def _run(self, action: Callable[[Exchange], T], stop: threading.Event, done: threading.Event) -> T:
        try:
            with exchange(self._broker, self._topics, stop) as plug:
                return action(plug)
        finally:
            self._running.pop(stop, None)
            done.set()

    def _check_config(self) -> None:
        if not isinstance(self.host, str) or not self.host.strip():
            raise ValueError(f"host must be the name or address of the MQTT broker, not {self.host!r}")
        if self.transport not in ("tcp", "websockets", "unix"):
            raise ValueError(f"transport must be tcp, websockets or unix, not {self.transport!r}")
        if isinstance(self.port, bool) or not isinstance(self.port, int) or not 1 <= self.port <= 65535:
            raise ValueError(f"port must be a number from 1 to 65535, not {self.port!r}")
        timeout: Any = TIMEOUT if self.timeout is None else self.timeout
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= 300:
            raise ValueError(f"timeout must be above 0 and at most 300 seconds, not {self.timeout!r}")
        for name in ("tls", "insecure_tls"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, not {getattr(self, name)!r}")
        checked_topic("cmnd_topic", self.cmnd_topic)
        checked_topic("stat_topic", self.stat_topic)
        if self.lwt_topic:
            checked_topic("lwt_topic", self.lwt_topic)
        self._check_credentials()

    def _check_credentials(self) -> None:
        if self.password is not None and self.username is None:
            raise ValueError("password needs a username")
        for name in ("ca_file", "cert_file", "key_file"):
            if (path := getattr(self, name)) is None:
                continue
            if not Path(path).expanduser().is_file():
                raise ValueError(f"{name} {path}: there is no such file")
            setattr(self, name, str(Path(path).expanduser()))
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("key_file needs a cert_file")
