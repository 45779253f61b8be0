"""Talking to one Tasmota device through an MQTT broker: a connection per exchange, blocking, for a worker thread.

Nothing is remembered between exchanges: an answer counts when it came after the question, and a broker or a plug that
was restarted is simply there again. Every wait has an end, and an exchange can be stopped from another thread.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from .common import TasmotaError, TasmotaTimeout
from .topics import Topics, energy

STEP: Final = 0.1
"""Seconds between two looks whether the exchange shall be stopped."""

BACKLOG: Final = 1000
"""Messages that are kept until they are looked at; a plug sends two or three."""

TWIN_WITHIN: Final = 0.3
"""Seconds that the plain form of a state may come after the JSON form."""

OLD_STATUS_AFTER: Final = 0.4
"""Part of the time after which a plug that ignores STATUS 10 is asked for STATUS 8."""


@dataclass(frozen=True, kw_only=True)
class Broker:
    """An MQTT broker, and how to be let in."""

    host: str
    port: int = 1883
    transport: str = "tcp"
    """`tcp`, `websockets`, or `unix` with a path as the host."""
    tls: bool = True
    ca_file: str | None = None
    insecure_tls: bool = False
    cert_file: str | None = None
    key_file: str | None = None
    client_id: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    timeout: float = 10.0
    """Seconds that each step may take: to connect, to be confirmed, to be answered."""

    def __str__(self) -> str:
        return self.host if self.transport == "unix" else f"{self.host}:{self.port}"


class Stopped(Exception):
    """The exchange was stopped from outside."""


class Exchange:
    """A connection to the broker that listens to one device; made by `exchange`."""

    def __init__(self, broker: Broker, topics: Topics, stop: threading.Event) -> None:
        """Use `exchange` instead."""
        import paho.mqtt.client as mqtt

        self._broker = broker
        self._topics = topics
        self._stop = stop
        self._refusal: str | None = None
        self._connected = False
        self._lost: str | None = None
        self._done: set[int | None] = set()
        self._denied = False
        self._messages: deque[Any] = deque(maxlen=BACKLOG)
        self._client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=broker.client_id or "",
            transport=broker.transport,  # type: ignore[arg-type]
            reconnect_on_failure=False,
        )
        self._client.connect_timeout = broker.timeout
        if broker.username is not None:
            self._client.username_pw_set(broker.username, broker.password)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_publish = self._on_publish
        self._client.on_message = self._on_message

    # -- what a plug can do -------------------------------------------------------------------------------------------

    def switch(self, state: str) -> None:
        """Switch to `on` or `off`, and wait for the echo of the plug.

        Raises:
            TasmotaTimeout: the plug does not say that it did.
            TasmotaError: it is offline.
        """
        self._send(self._topics.command, state.upper())
        self._await_state(lambda told: told == state, f"the plug has not confirmed {state.upper()}")

    def query(self) -> str:
        """Ask the plug for its state: `on` or `off`.

        Raises:
            TasmotaTimeout: the plug does not answer.
            TasmotaError: it is offline.
        """
        self._send(self._topics.command, "")
        return self._await_state(lambda _: True, "the plug does not answer")

    def measure(self) -> dict[str, float] | None:
        """Ask the plug for volts, amperes and watts; None when it measures nothing.

        Raises:
            TasmotaTimeout: the plug does not answer.
            TasmotaError: it is offline, or its answer can't be understood.
        """
        expected = {self._topics.status_answer(number) for number in (10, 8)}
        deadline = time.monotonic() + self._broker.timeout
        self._send(self._topics.status_command, "10")
        message = self._next(
            lambda each: each.topic in expected, time.monotonic() + self._broker.timeout * OLD_STATUS_AFTER
        )
        if message is None:
            self._send(self._topics.status_command, "8")
            message = self._next(lambda each: each.topic in expected, deadline)
        if message is None:
            raise TasmotaTimeout(self._silence("the plug does not tell its measurements", self._topics.status_command))
        try:
            return energy(message.payload, self._topics.relay)
        except (ValueError, RecursionError) as error:
            raise TasmotaError(f"the measurements on {message.topic} can't be understood: {error}") from error

    # -- the connection -----------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Connect and subscribe.

        Raises:
            TasmotaError: the broker is not there, or refuses.
        """
        broker = self._broker
        try:
            if broker.tls and broker.transport != "unix":
                self._client.tls_set_context(self._tls())
            # The handshakes of TLS and WebSocket may take as long as the keep-alive time.
            self._client.connect(broker.host, broker.port, keepalive=max(1, round(broker.timeout)))
        except ssl.SSLCertVerificationError as error:
            raise TasmotaError(
                f"the certificate of the MQTT broker {broker} is not trusted ({error.verify_message}). "
                "Name the authority's certificate in `ca_file`"
            ) from error
        except TimeoutError as error:
            raise TasmotaTimeout(self._no_answer()) from error
        except (ssl.SSLError, ConnectionResetError, EOFError) as error:
            raise TasmotaError(
                f"the MQTT broker {broker} does not speak TLS there ({error}). Brokers mostly have TLS on port 8883; "
                "without TLS set `tls: false`"
                if broker.tls
                else f"the MQTT broker {broker} ended the connection ({error}). With TLS set `tls: true`"
            ) from error
        except (OSError, ValueError) as error:
            raise TasmotaError(
                f"can't connect to the MQTT broker {broker}: {error}. Check `host`, `port`, and that the broker runs"
            ) from error
        if not self._until(lambda: self._connected or self._refusal is not None):
            raise TasmotaTimeout(self._no_answer())
        if self._refusal is not None:
            raise TasmotaError(
                f"the MQTT broker {broker} refused the connection: {self._refusal}. Check `username` and `password`"
            )
        self._subscribe()

    def close(self) -> None:
        """Disconnect; works whatever state the connection is in."""
        self._client.on_disconnect = None
        self._client.disconnect()
        self._client.loop(0)

    def _subscribe(self) -> None:
        wanted = [*self._topics.states, self._topics.status_answer(10), self._topics.status_answer(8)]
        if self._topics.lwt is not None:
            wanted.append(self._topics.lwt)
        _, number = self._client.subscribe([(topic, 1) for topic in dict.fromkeys(wanted)])
        if not self._until(lambda: number in self._done):
            raise TasmotaTimeout(f"the MQTT broker {self._broker} did not confirm the subscription of {wanted[0]}")
        if self._denied:
            raise TasmotaError(
                f"the MQTT broker {self._broker} does not let this user read {', '.join(wanted)}. "
                "Allow it in the broker's access list"
            )

    def _send(self, topic: str, payload: str) -> None:
        """Publish, and wait until the broker has it; what plugs said before does not count any more."""
        self._look_for_absence()
        self._messages.clear()
        info = self._client.publish(topic, payload, qos=1)
        if not self._until(lambda: info.mid in self._done):
            raise TasmotaTimeout(
                f"the MQTT broker {self._broker} did not take the message for {topic} within {self._broker.timeout:g} s"
            )

    def _await_state(self, wanted: Callable[[str], bool], otherwise: str) -> str:
        """Return the state when the plug tells one that is wanted."""
        told: list[str] = []

        def matches(message: Any) -> bool:
            # What the broker kept is older than the question.
            if message.retain or (state := self._topics.power_state(message.topic, message.payload)) is None:
                return False
            told.append(state)
            return wanted(state)

        answer = self._next(matches, time.monotonic() + self._broker.timeout)
        if answer is None:
            last = f", and says {told[-1].upper()}" if told else ""
            raise TasmotaTimeout(self._silence(otherwise + last, self._topics.command))
        if Topics.is_json(answer.payload):
            # The rest of this answer must not be taken for the answer to the next question.
            self._next(lambda each: matches(each) and not Topics.is_json(each.payload), time.monotonic() + TWIN_WITHIN)
        return told[-1]

    def _next(self, matches: Callable[[Any], bool], deadline: float) -> Any:
        """Return the first message that matches; None when the time is over."""
        while True:
            while self._messages:
                message = self._messages.popleft()
                self._check_presence(message)
                if matches(message):
                    return message
            if time.monotonic() >= deadline:
                return None
            self._step(min(STEP, max(0.0, deadline - time.monotonic())))

    def _look_for_absence(self) -> None:
        """Take what the broker kept: it follows the subscription at once."""
        self._step(0)
        for message in self._messages:
            self._check_presence(message)

    def _check_presence(self, message: Any) -> None:
        if message.topic == self._topics.lwt and message.payload.strip().lower() == b"offline":
            raise TasmotaError(
                f"the plug is offline, says the MQTT broker {self._broker} ({message.topic}). "
                "Check the plug's supply and its WLAN"
            )

    def _until(self, done: Callable[[], bool]) -> bool:
        """Serve the connection until `done()`; False when the time is over."""
        deadline = time.monotonic() + self._broker.timeout
        while not done():
            if (rest := deadline - time.monotonic()) <= 0:
                return False
            self._step(min(STEP, rest))
        return True

    def _step(self, seconds: float) -> None:
        if self._stop.is_set():
            raise Stopped
        result = self._client.loop(seconds)
        if self._refusal is None and (result or self._lost is not None):
            reason = self._lost or f"error {int(result)}"
            raise TasmotaError(f"the connection to the MQTT broker {self._broker} was lost: {reason}")

    def _silence(self, what: str, topic: str) -> str:
        return (
            f"{what} within {self._broker.timeout:g} s (asked on {topic}, listening on {self._topics.state}; "
            f"MQTT broker {self._broker}). Check the topics, and that the plug is connected to this broker"
        )

    def _no_answer(self) -> str:
        return (
            f"no answer from the MQTT broker {self._broker} within {self._broker.timeout:g} s. Check `host` and `port`"
        )

    def _tls(self) -> ssl.SSLContext:
        broker = self._broker
        context = ssl.create_default_context(cafile=broker.ca_file)
        if broker.insecure_tls:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if broker.cert_file is not None:
            context.load_cert_chain(broker.cert_file, broker.key_file)
        return context

    # -- called by paho, in this thread -------------------------------------------------------------------------------

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._refusal = str(reason)
        else:
            self._connected = True

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        self._lost = str(reason)

    def _on_subscribe(self, _client: Any, _data: Any, number: int, reasons: list[Any], _properties: Any) -> None:
        self._denied = any(reason.is_failure for reason in reasons)
        self._done.add(number)

    def _on_publish(self, _client: Any, _data: Any, number: int, _reason: Any, _properties: Any) -> None:
        self._done.add(number)

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        self._messages.append(message)


@contextmanager
def exchange(broker: Broker, topics: Topics, stop: threading.Event) -> Generator[Exchange, None, None]:
    """Connect to the broker for one exchange with a plug; blocking.

    Args:
        broker: where the plug is connected to.
        topics: the plug's.
        stop: ends the exchange within STEP seconds (while it connects, within the broker's time-out).

    Raises:
        TasmotaError: the broker is not there, or refuses.
        Stopped: `stop` was set.
    """
    connection = Exchange(broker, topics, stop)
    try:
        connection.open()
        yield connection
    finally:
        connection.close()
