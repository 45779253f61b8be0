"""A simulated engine control unit on a CAN bus: it sends its signals, obeys the pedal and answers diagnostics."""

from __future__ import annotations

import threading
from importlib.resources import files

import can
import cantools
import isotp

from .uds_server import UdsServer

PERIOD = 0.02
"""Seconds between two frames of signals."""

IDLE_SPEED = 800.0
FULL_SPEED = 6500.0
LIMP_SPEED = 2000.0
"""Revolutions per minute."""

OVERHEATED = 0x021700
"""The trouble code P0217: engine overheated."""

CONFIRMED = 0x09
"""Status of a trouble code: test failed, confirmed."""

REQUESTS, RESPONSES = 0x7E0, 0x7E8


def database() -> cantools.database.can.Database:
    """Return the signals of the bus."""
    text = files(__package__).joinpath("powertrain.dbc").read_text()
    loaded = cantools.database.load_string(text, "dbc")
    assert isinstance(loaded, cantools.database.can.Database)
    return loaded


class EngineControlUnit:
    """Runs from its construction, which is power on, to `stop`."""

    def __init__(self, bus: can.BusABC, vin: str) -> None:
        """
        Args:
            bus: where it is connected; closed by the caller.
            vin: 17 characters that it tells as the vehicle's number.
        """
        signals = database()
        self._engine_data = signals.get_message_by_name("EngineData")
        self._throttle = signals.get_message_by_name("ThrottleRequest")
        self._bus = bus
        self._speed = IDLE_SPEED
        self._coolant = 20.0
        self._pedal = 0.0
        self._counter = 0
        self.diagnostics = UdsServer(lambda: round(self._coolant), vin)
        self._stopped = threading.Event()
        self._notifier = can.Notifier(bus, [self._received], timeout=0.1)
        self._stack = isotp.NotifierBasedCanStack(
            bus,
            self._notifier,
            address=isotp.Address(txid=RESPONSES, rxid=REQUESTS),
            params={"tx_padding": 0xAA, "stmin": 0},
            read_timeout=0.02,
        )
        self._stack.start()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._drive, self._diagnose)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Switch off."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(5)
        self._stack.stop()
        self._notifier.stop()

    def _received(self, frame: can.Message) -> None:
        if frame.arbitration_id == self._throttle.frame_id and not frame.is_extended_id and frame.dlc == 2:
            self._pedal = float(self._throttle.decode(frame.data)["PedalPosition"])  # type: ignore[arg-type, call-overload]

    def _drive(self) -> None:
        while not self._stopped.wait(PERIOD):
            limp = OVERHEATED in self.diagnostics.trouble_codes
            wanted = IDLE_SPEED + (FULL_SPEED - IDLE_SPEED) * min(self._pedal, 100.0) / 100
            wanted = min(wanted, LIMP_SPEED) if limp else wanted
            self._speed += (wanted - self._speed) * 0.2
            # Under full load it gets hotter than is good for it within a second or two.
            self._coolant += 2.0 if self._speed > 6000 else -2.0 if self._coolant > 90 else 0.1
            if self._coolant > 125:
                self.diagnostics.trouble_codes[OVERHEATED] = CONFIRMED
            self._send(limp)

    def _send(self, limp: bool) -> None:
        self._counter = (self._counter + 1) % 256
        data = self._engine_data.encode(
            {
                "EngineSpeed": self._speed,
                "CoolantTemperature": round(self._coolant),
                "EngineState": "Limp" if limp else "Running" if self._pedal else "Idle",
                "Counter": self._counter,
            }
        )
        self._bus.send(can.Message(arbitration_id=self._engine_data.frame_id, is_extended_id=False, data=data))

    def _diagnose(self) -> None:
        while not self._stopped.is_set():
            if (request := self._stack.recv(block=True, timeout=0.1)) is None:
                continue
            if (response := self.diagnostics.answer(bytes(request))) is not None:
                self._stack.send(response)
