"""The driver of outlets of power distribution units that speak SNMP."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

import anyio
from jumpstarter.driver import Driver, export
from jumpstarter_driver_power.common import PowerReading
from jumpstarter_driver_power.driver import PowerInterface

from .common import AuthProtocol, PowerState, PrivProtocol, SNMPError, Version
from .families import Command, Family, State, checked_oid, families, family_of_control, find_family
from .session import Engines, Session, Target, session

__all__ = ["AuthProtocol", "PowerState", "PrivProtocol", "SNMPError", "SNMPServer", "Version"]

RARITAN: Final = "1.3.6.1.4.1.13742.6.4.1.2.1.2.1"
"""The object of Raritan units that switches; the default of `oid`."""

SHORTEST_KEY: Final = 8
"""Characters that a key of SNMPv3 has at least (RFC 3414, 11.2)."""

TURN_TIMEOUT: Final = 60.0
"""Seconds that a request may wait until the other outlets of the unit have had their turn."""

E = TypeVar("E", bound=StrEnum)

_current: ContextVar[Session | None] = ContextVar("snmp_session", default=None)


class _Turn:
    """One request at a time for a unit; many can't do more."""

    def __init__(self) -> None:
        self.lock = anyio.Lock()
        self.engines = Engines()


_turns: WeakValueDictionary[tuple[str, int], _Turn] = WeakValueDictionary()


@dataclass(kw_only=True)
class SNMPServer(PowerInterface, Driver):
    """An outlet of a power distribution unit, which is an SNMP agent."""

    host: str
    """Name or address of the unit."""
    plug: int
    """Number of the outlet."""
    pdu: str | dict[str, Any] | None = None
    """Family of the unit: a name, a YAML file, or a description."""
    unit: int = 1
    """Number of the unit in a chain, of the tower, or of the group of ports."""
    infeed: int = 1
    """Number of the infeed (Server Technology)."""
    port: int = 161
    version: str | None = None
    """`v1`, `v2c` or `v3`; v3 when there is a user, v2c when there is only a community."""
    community: str | None = field(default=None, repr=False)
    """Password of v1 and v2c."""
    user: str | None = None
    """User of v3."""
    auth_protocol: str = AuthProtocol.NONE
    auth_key: str | None = field(default=None, repr=False)
    priv_protocol: str = PrivProtocol.NONE
    priv_key: str | None = field(default=None, repr=False)
    timeout: float = 5.0
    """Seconds that a request may take, with its repetitions."""
    confirm_timeout: float = 10.0
    """Seconds that the unit may take until it reports the state that it was switched to."""
    oid: str | None = None
    """Without `pdu`: object that switches, to which the outlet's number is added."""
    on_value: int | None = None
    """With `oid`: what switches on, 1 unless the object is that of a known family."""
    off_value: int | None = None
    """With `oid`: what switches off, 0 unless the object is that of a known family."""
    state_oid: str | None = None
    """With `oid`: object that tells the state, to which the outlet's number is added; empty when there is none."""
    on_states: list[int] | None = None
    """With `oid`: values that mean on; `on_value` unless given."""
    off_states: list[int] | None = None
    """With `oid`: values that mean off; `off_value` unless given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._target = self._checked_target()
        self._outlet = self._checked_family()
        self._turn = _turns.setdefault((self._target.host, self._target.port), _Turn())

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_snmp.client.SNMPServerClient"

    @export
    async def on(self) -> str:  # type: ignore[override]
        """Switch the outlet on; return when the unit says that it is on.

        Raises:
            SNMPError: the unit refused, or did not answer.
            PowerNotConfirmed: it reports another state.
        """
        return await self._command(self._outlet.switch_on, "on")

    @export
    async def off(self) -> str:  # type: ignore[override]
        """Switch the outlet off; return when the unit says that it is off.

        Raises:
            SNMPError: the unit refused, or did not answer.
            PowerNotConfirmed: it reports another state.
        """
        return await self._command(self._outlet.switch_off, "off")

    @export(watch=True)
    async def status(self) -> str:
        """Return what the unit reports: `on`, `off`, or `unknown` while it is on the way.

        Raises:
            NotImplementedError: the exporter config names no object that tells it.
            SNMPError: the unit refused, or did not answer.
        """
        state = self._outlet.state
        if state is None:
            raise NotImplementedError("this family of power distribution units does not tell the state of outlets")
        async with self._session() as agent:
            (value,) = await agent.get(state.oid)
        return state.name(value)

    @export(watch=True)
    async def read(self) -> AsyncGenerator[PowerReading, None]:
        """Yield one measurement of the outlet.

        Raises:
            NotImplementedError: units of this family don't measure outlets.
            SNMPError: the unit refused, or did not answer.
        """
        if self._outlet.voltage is None or self._outlet.current is None:
            raise NotImplementedError("this family of power distribution units does not measure its outlets")
        measurements = {
            name: each for name in ("voltage", "current", "power") if (each := getattr(self._outlet, name)) is not None
        }
        digits = {name: each.digits for name, each in measurements.items() if each.digits is not None}
        async with self._session() as agent:
            values = await agent.get(*(each.oid for each in measurements.values()), *digits.values())
        places = dict(zip(digits, values[len(measurements) :], strict=True))
        reading = {
            name: value * each.scale / 10 ** places.get(name, 0)
            for (name, each), value in zip(measurements.items(), values, strict=False)
        }
        yield PowerReading(**{name: float(f"{value:.9g}") for name, value in reading.items()})

    async def _command(self, command: Command, state: str) -> str:
        async with self._session() as agent:
            await agent.set(command.oid, command.value)
            if self._outlet.state is not None:
                await self.confirm(state, self.confirm_timeout)
        return f"Power {state.upper()} command sent successfully"

    @asynccontextmanager
    async def _session(self) -> AsyncGenerator[Session, None]:
        """The session of this task; a new one, when it is our turn, if it has none."""
        if (running := _current.get()) is not None:
            yield running
            return
        with anyio.move_on_after(TURN_TIMEOUT) as patience:
            await self._turn.lock.acquire()
        if patience.cancelled_caught:
            raise TimeoutError(f"{self._target} was busy with other outlets for {TURN_TIMEOUT:g} s")
        try:
            async with session(self._target, self._turn.engines) as agent:
                token = _current.set(agent)
                try:
                    yield agent
                finally:
                    _current.reset(token)
        finally:
            self._turn.lock.release()

    # -- the exporter config ------------------------------------------------------------------------------------------

    def _checked_target(self) -> Target:
        if not isinstance(self.host, str) or not self.host.strip():
            raise ValueError(f"host must be the name or address of the unit, not {self.host!r}")
        self._check_number("port", self.port, 1, 65535)
        for name in ("timeout", "confirm_timeout"):
            seconds = getattr(self, name)
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= 300:
                raise ValueError(f"{name} must be above 0 and at most 300 seconds, not {seconds!r}")
        return Target(
            host=self.host.strip(),
            port=self.port,
            version=self._checked_version(),
            community=self.community or "",
            user=self.user or "",
            timeout=float(self.timeout),
            **self._checked_security(),
        )

    def _checked_version(self) -> Version:
        version = _choice("version", self.version or (Version.V3 if self.user else Version.V2C), Version)
        if version is Version.V3 and not self.user:
            raise ValueError("SNMPv3 needs a `user`")
        if version is not Version.V3 and not self.community:
            raise ValueError(f"SNMP needs credentials: `user` for v3, `community` for v1 and v2c ({version})")
        if version is not Version.V3 and self.user:
            raise ValueError(f"`user` is for SNMPv3; {version} has a `community` only")
        return version

    def _checked_security(self) -> dict[str, Any]:
        auth = _choice("auth_protocol", self.auth_protocol, AuthProtocol)
        priv = _choice("priv_protocol", self.priv_protocol, PrivProtocol)
        if priv is not PrivProtocol.NONE and auth is AuthProtocol.NONE:
            raise ValueError(f"priv_protocol {priv} needs an auth_protocol as well")
        for name, protocol, key in (("auth_key", auth, self.auth_key), ("priv_key", priv, self.priv_key)):
            if protocol != "NONE" and (not isinstance(key, str) or len(key) < SHORTEST_KEY):
                raise ValueError(f"{name} for {protocol} must be a text of at least {SHORTEST_KEY} characters")
        return {
            "auth_protocol": auth,
            "auth_key": self.auth_key,
            "priv_protocol": priv,
            "priv_key": self.priv_key,
        }

    def _checked_family(self) -> Family:
        self._check_number("plug", self.plug, 0 if self.oid else 1, 0xFFFF)
        self._check_number("unit", self.unit, 0, 0xFFFF)
        self._check_number("infeed", self.infeed, 0, 0xFFFF)
        numbers = {"outlet": self.plug, "unit": self.unit, "infeed": self.infeed}
        if self.pdu is None:
            family, fixed = self._family_of_oid()
            return family.at(**{**numbers, **fixed})
        for name in ("oid", "on_value", "off_value", "state_oid", "on_states", "off_states"):
            if getattr(self, name) is not None:
                raise ValueError(f"`{name}` and `pdu` exclude each other; put it into the description of the unit")
        return find_family(self.pdu).at(**numbers)

    def _family_of_oid(self) -> tuple[Family, Mapping[str, int]]:
        """Return what `oid` and its companions describe, on top of the family that the object belongs to."""
        control = checked_oid(self.oid if self.oid is not None else RARITAN)
        known = family_of_control(control)
        base = families()[known[0]] if known else None
        if base is not None and all(
            each is None for each in (self.on_value, self.off_value, self.state_oid, self.on_states, self.off_states)
        ):
            return base, known[1] if known else {}
        on = self._value("on_value", base.switch_on.value if base else PowerState.ON)
        off = self._value("off_value", base.switch_off.value if base else PowerState.OFF)
        if on == off:
            raise ValueError(f"on_value and off_value must differ, both are {on}")
        state = None
        if self.state_oid != "":
            state_oid = checked_oid(self.state_oid) if self.state_oid else control
            state = {
                "oid": f"{state_oid}.{{outlet}}",
                "on_states": self.on_states or [on],
                "off_states": self.off_states or [off],
            }
        return (
            Family(
                switch_on=Command(oid=f"{control}.{{outlet}}", value=on),
                switch_off=Command(oid=f"{control}.{{outlet}}", value=off),
                state=State.model_validate(state) if state else None,
            ),
            {},
        )

    def _value(self, name: str, default: int) -> int:
        value = getattr(self, name)
        if value is None:
            return int(default)
        self._check_number(name, value, -(2**31), 2**31 - 1)
        return int(value)

    @staticmethod
    def _check_number(name: str, value: Any, least: int, most: int) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"{name} must be a whole number from {least} to {most}, not {value!r}")


def _choice(name: str, value: Any, kind: type[E]) -> E:
    try:
        return kind(str(value))
    except ValueError:
        raise ValueError(f"{name} must be one of {', '.join(kind)}, not {value!r}") from None
