"""A Tasmota plug at an MQTT broker: its command, answer and telemetry topics, and its last will.

https://tasmota.github.io/docs/MQTT and https://tasmota.github.io/docs/Commands
"""

from __future__ import annotations

import json
import threading
from types import TracebackType
from typing import Any, Self

import paho.mqtt.client as mqtt


class TasmotaPlug:
    """The plug, as a context manager that is connected to the broker."""

    def __init__(
        self,
        port: int,
        topic: str,
        *,
        relays: int = 1,
        energy: dict[str, Any] | None = None,
        option4: bool = False,
        option26: bool = False,
        option90: bool = False,
        status: tuple[int, ...] = (8, 10),
        host: str = "127.0.0.1",
    ) -> None:
        """Prepare a plug that is off.

        Args:
            port: the broker's.
            topic: name of the device in its topics.
            relays: number of relays.
            energy: what its meter tells; None for a plug without one.
            option4: answers come as JSON on the topic of the command (SetOption4).
            option26: a single relay says POWER1 (SetOption26).
            option90: states are told as JSON only (SetOption90).
            status: the STATUS commands that it knows.
            host: the broker's.
        """
        self.on = [False] * relays
        self.commands: list[tuple[str, str]] = []
        """Topics and payloads of all commands so far."""
        self.deaf = False
        """It is connected, but takes no commands."""
        self.stuck = False
        """Its relays don't move."""
        self.heard = threading.Event()
        self._topic = topic
        self._energy = energy
        self._option4, self._option26, self._option90 = option4, option26, option90
        self._status = status
        self._ready = threading.Event()
        self._address = (host, port)
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"DVES_{topic}")
        self._client.reconnect_delay_set(1, 1)
        self._client.will_set(f"tele/{topic}/LWT", "Offline", qos=1, retain=True)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message

    def say(self, payload: str, retain: bool = False) -> None:
        """Tell a state by itself, as after a button press."""
        self._client.publish(f"stat/{self._topic}/POWER", payload, qos=1, retain=retain).wait_for_publish(10)

    def vanish(self) -> None:
        """Lose the connection without a word, so that the broker sends the last will."""
        self._client.loop_stop()
        if (connection := self._client.socket()) is not None:
            connection.close()

    def wait_ready(self) -> None:
        """Wait until the plug listens (again)."""
        if not self._ready.wait(20):
            raise TimeoutError("the emulated plug did not get its subscription")

    def forget_ready(self) -> None:
        """Have `wait_ready` wait for the next connection."""
        self._ready.clear()

    def __enter__(self) -> Self:
        self._client.connect(*self._address, keepalive=30)
        self._client.loop_start()
        self.wait_ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: mqtt.Client, *_: Any) -> None:
        client.publish(f"tele/{self._topic}/LWT", "Online", qos=1, retain=True)
        client.subscribe(f"cmnd/{self._topic}/#")

    def _on_subscribe(self, *_: Any) -> None:
        self._ready.set()

    def _on_message(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        command, payload = message.topic.rpartition("/")[2].upper(), message.payload.decode()
        self.commands.append((message.topic, payload))
        self.heard.set()
        if self.deaf:
            return
        if command.startswith("POWER"):
            self._power(command, payload.strip().lower())
        elif command == "STATUS" and payload.strip().isdigit() and int(payload) in self._status:
            sensors: dict[str, Any] = {"Time": "2026-02-03T04:05:06"}
            if self._energy is not None:
                sensors["ENERGY"] = self._energy
            self._answer(f"STATUS{payload.strip()}", json.dumps({"StatusSNS": sensors}))

    def _power(self, command: str, payload: str) -> None:
        number = int(command.removeprefix("POWER") or 1)
        if number > len(self.on):
            return
        if not self.stuck:
            if payload in ("on", "1", "true"):
                self.on[number - 1] = True
            elif payload in ("off", "0", "false"):
                self.on[number - 1] = False
            elif payload in ("toggle", "2"):
                self.on[number - 1] = not self.on[number - 1]
        name = f"POWER{number}" if len(self.on) > 1 or self._option26 else "POWER"
        state = "ON" if self.on[number - 1] else "OFF"
        answer = json.dumps({name: state}, separators=(",", ":"))
        self._answer(name if self._option4 else "RESULT", answer)
        if not self._option90:
            self._answer(name, state)

    def _answer(self, name: str, payload: str) -> None:
        self._client.publish(f"stat/{self._topic}/{name}", payload)
