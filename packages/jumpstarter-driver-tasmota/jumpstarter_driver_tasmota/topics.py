"""MQTT topics and payloads of Tasmota devices: https://tasmota.github.io/docs/MQTT and /Commands.

A full topic is `%prefix%/%topic%/` (or another order, as FullTopic says) and the command; the prefix is `cmnd` for what
a device is told, `stat` for its answers and `tele` for what it says by itself. `cmnd/x/POWER` with ON, OFF, or nothing
as a question is answered by `stat/x/RESULT` with `{"POWER":"ON"}` and then by `stat/x/POWER` with `ON`; with SetOption4
the JSON comes on the latter too, with SetOption90 it comes alone. `cmnd/x/STATUS` with 10 is answered by
`stat/x/STATUS10`, with the older 8 by `stat/x/STATUS8`. `tele/x/LWT` holds `Online` or `Offline`, retained.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

ON_WORDS = frozenset({"on", "1", "true"})
OFF_WORDS = frozenset({"off", "0", "false"})

_POWER = re.compile(r"power([0-9]*)", re.IGNORECASE)


def checked_topic(name: str, topic: Any) -> str:
    """Return a topic that a message can be sent to.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(topic, str) or not topic.strip("/") or set(topic) & set("+#\0") or len(topic.encode()) > 65535:
        raise ValueError(f"{name} must be a topic without + and #, such as cmnd/tasmota_6990F2/POWER, not {topic!r}")
    return topic


@dataclass(frozen=True)
class Topics:
    """The topics of one relay of a device."""

    command: str
    """Takes ON, OFF, and the empty question."""
    state: str
    """Where the relay's state is told."""
    lwt: str | None = None
    """Where the device's presence is told."""

    @classmethod
    def of(cls, command: str, state: str, lwt: str | None) -> Topics:
        """Return the topics for those of a config; without `lwt` the usual one, where it follows from `state`."""
        if lwt is None:
            parts = state.split("/")[:-1]
            if parts.count("stat") == 1:
                parts[parts.index("stat")] = "tele"
                lwt = "/".join([*parts, "LWT"])
        return cls(command, state, lwt or None)

    @property
    def relay(self) -> int:
        """The number of the relay, 1 for a device that has only one."""
        match = _POWER.fullmatch(self.state.rpartition("/")[2])
        return int(match[1]) if match and match[1] else 1

    @property
    def states(self) -> list[str]:
        """All topics where the relay's state is told."""
        base, _, last = self.state.rpartition("/")
        # With SetOption26 a device with one relay says POWER1, whatever it was asked by.
        twin = {"POWER": "POWER1", "POWER1": "POWER"}.get(last)
        return [self.state, f"{base}/RESULT", *([f"{base}/{twin}"] if twin else [])]

    @property
    def status_command(self) -> str:
        """Takes the question for measurements."""
        return f"{self.command.rpartition('/')[0]}/STATUS"

    def status_answer(self, number: int) -> str:
        """Where the answer to that question comes."""
        return f"{self.state.rpartition('/')[0]}/STATUS{number}"

    def power_state(self, topic: str, payload: bytes) -> str | None:
        """Return `on` or `off` when a message tells the state of the relay."""
        if topic not in self.states:
            return None
        text = payload.decode("utf-8", "replace").strip()
        if self.is_json(payload):
            text = self._from_json(text)
        elif topic.endswith("/RESULT"):
            return None
        word = text.lower()
        return "on" if word in ON_WORDS else "off" if word in OFF_WORDS else None

    @staticmethod
    def is_json(payload: bytes) -> bool:
        """Tell whether a state has the JSON form, which the plain one follows (but for SetOption90)."""
        return payload.lstrip().startswith(b"{")

    def _from_json(self, text: str) -> str:
        try:
            values = json.loads(text)
        except ValueError:
            return ""
        wanted = {self.state.rpartition("/")[2].upper(), f"POWER{self.relay}"}
        if self.relay == 1:
            wanted.add("POWER")
        for key, value in values.items():
            if key.upper() in wanted and isinstance(value, str | int):
                return str(value)
        return ""


def energy(payload: bytes, relay: int) -> dict[str, float] | None:
    """Return volts, amperes and watts of a relay from the answer to STATUS 10 or 8; None when there are none.

    Devices with several relays that are measured each give lists.

    Raises:
        ValueError: the answer can't be understood.
    """
    found = json.loads(payload)
    sensors = found.get("StatusSNS") if isinstance(found, dict) else None
    if not isinstance(sensors, dict):
        raise ValueError("it has no StatusSNS")
    values = sensors.get("ENERGY")
    if not isinstance(values, dict) or "Voltage" not in values or "Current" not in values:
        return None
    reading: dict[str, float] = {}
    for name, key in (("voltage", "Voltage"), ("current", "Current"), ("power", "Power")):
        if (value := values.get(key)) is None:
            continue
        if isinstance(value, list):
            if relay > len(value):
                raise ValueError(f"{key} has only {len(value)} values")
            value = value[relay - 1]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{key} is {value!r}")
        reading[name] = float(value)
    return reading
