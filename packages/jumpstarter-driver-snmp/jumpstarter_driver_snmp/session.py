"""Asking and switching one SNMP agent: GET and SET of integers in versions 1, 2c and 3, on top of pysnmp.

Blocking preparations (the import, the engine, SNMPv3 keys) are made in a worker thread; the exchange of datagrams is
part of the calling task, and nothing of it is left when the session ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import anyio
from anyio import to_thread

from .common import AuthProtocol, PrivProtocol, SNMPError, Version

RETRIES: Final = 4
"""How often a request is sent again within the time that it may take."""

TICK: Final = 0.05
"""Seconds between two looks of pysnmp at its clock."""

_TARGET: Final = "pdu"
_MODELS: Final = {Version.V1: 0, Version.V2C: 1, Version.V3: 3}

_HINTS: Final = {
    "unknownUserName": "The agent does not know the `user`.",
    "wrongDigest": "Check `auth_protocol` and `auth_key`.",
    "decryptionError": "Check `priv_protocol` and `priv_key`.",
    "unsupportedSecurityLevel": "The agent has the user with other `auth_protocol` and `priv_protocol`.",
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """An agent, and how to be let in."""

    host: str
    port: int = 161
    version: Version = Version.V3
    community: str = field(default="", repr=False)
    user: str = ""
    auth_protocol: AuthProtocol = AuthProtocol.NONE
    auth_key: str | None = field(default=None, repr=False)
    priv_protocol: PrivProtocol = PrivProtocol.NONE
    priv_key: str | None = field(default=None, repr=False)
    timeout: float = 5.0
    """Seconds that a request may take, all its repetitions included."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Session:
    """An engine that talks to one agent."""

    def __init__(self, target: Target, engine: Any) -> None:
        """Use `session` instead."""
        self._target = target
        self._engine = engine

    async def get(self, *oids: str) -> list[int]:
        """Return the values of integer objects.

        Raises:
            SNMPError: the agent does not answer, refuses, or has no such integer.
        """
        from pyasn1.type import univ
        from pysnmp.entity.rfc3413 import cmdgen

        found = await self._ask("get", cmdgen.GetCommandGenerator(), [(_numbers(oid), univ.Null("")) for oid in oids])
        return [self._integer(oid, value) for oid, (_, value) in zip(oids, found, strict=True)]

    async def set(self, oid: str, value: int) -> None:
        """Write an integer.

        Raises:
            SNMPError: the agent does not answer, or refuses.
        """
        from pysnmp.entity.rfc3413 import cmdgen
        from pysnmp.proto.rfc1902 import Integer32

        await self._ask("set", cmdgen.SetCommandGenerator(), [(_numbers(oid), Integer32(value))])

    def _integer(self, oid: str, value: Any) -> int:
        from pyasn1.type import univ

        if isinstance(value, univ.Integer):
            return int(value)
        kind = type(value).__name__
        what = "no such object" if kind in ("NoSuchObject", "NoSuchInstance", "EndOfMibView", "Null") else f"a {kind}"
        raise SNMPError(
            f"SNMP get failed: {self._target} has {what} at {oid}. Check the outlet number and the family of the unit."
        )

    async def _ask(self, verb: str, generator: Any, bindings: list[tuple[tuple[int, ...], Any]]) -> list[Any]:
        """Send one request, again when it is lost, and return the variable bindings of the answer."""
        answered: asyncio.Future[tuple[Any, Any, Any, Any]] = asyncio.get_running_loop().create_future()

        def take(_engine: Any, _handle: Any, failure: Any, status: Any, index: Any, found: Any, _context: Any) -> None:
            if not answered.done():
                answered.set_result((failure, status, index, found))

        try:
            with anyio.fail_after(self._target.timeout + 1):
                generator.send_varbinds(self._engine, _TARGET, None, b"", bindings, take)
                failure, status, index, found = await answered
        except TimeoutError:
            raise self._silent(verb) from None
        if failure:
            raise self._silent(verb) if type(failure).__name__ == "RequestTimedOut" else self._failed(verb, failure)
        if status:
            oid = ".".join(str(number) for number in bindings[max(0, int(index) - 1)][0])
            raise SNMPError(
                f"SNMP {verb} failed: SNMP error: {status.prettyPrint()} at {oid} ({self._target}). "
                "Check the outlet number, the family of the unit, and whether the user or community may write."
            )
        if len(found) != len(bindings):
            raise SNMPError(f"SNMP {verb} failed: {self._target} answered something else than it was asked")
        return [(str(oid), value) for oid, value in found]

    def _silent(self, verb: str) -> SNMPError:
        wrong = "community" if self._target.version is not Version.V3 else "priv_key"
        return SNMPError(
            f"SNMP {verb} failed: SNMP operation timed out: no answer from {self._target} within "
            f"{self._target.timeout:g} s. Check host, port and version; to a wrong {wrong} units don't answer either."
        )

    def _failed(self, verb: str, failure: Any) -> SNMPError:
        kind = type(failure).__name__
        hint = _HINTS.get(kind[:1].lower() + kind[1:], "")
        return SNMPError(f"SNMP {verb} failed: SNMP error: {failure} ({self._target}). {hint}".rstrip())


class Engines:
    """Engines that were made already: making one takes some tenths of a second, mostly to read MIBs.

    Not for more than one session at a time.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[Target, tuple[str, int]], Any] = {}

    async def take(self, target: Target, address: tuple[str, int], is_v6: bool) -> Any:
        """Return the engine for an agent, which is made if need be.

        Raises:
            SNMPError: a key is refused.
        """
        engine = self._made.pop((target, address), None)
        return engine or await to_thread.run_sync(partial(_engine, target, address, is_v6))

    def give_back(self, target: Target, address: tuple[str, int], engine: Any) -> None:
        """Keep an engine for the next session; one that met a failure better isn't."""
        self._made[target, address] = engine


@asynccontextmanager
async def session(target: Target, engines: Engines) -> AsyncGenerator[Session, None]:
    """Open a session with an agent; nothing is sent before the first request.

    Args:
        target: the agent.
        engines: those that earlier sessions have made.

    Raises:
        SNMPError: the host's name can't be resolved, or a key is refused.
    """
    address, is_v6 = await _resolved(target)
    engine = await engines.take(target, address, is_v6)
    loop = asyncio.get_running_loop()
    transport = _transport(is_v6)
    # The transport's own way to open would leave that to a task of its own.
    await loop.create_datagram_endpoint(lambda: transport, local_addr=("::" if is_v6 else "0.0.0.0", 0))
    from pysnmp.carrier.asyncio.dispatch import AsyncioDispatcher
    from pysnmp.entity import config

    dispatcher = AsyncioDispatcher(timeout=TICK, loop=loop)
    try:
        engine.register_transport_dispatcher(dispatcher)
        config.add_transport(engine, _domain(is_v6), transport)
        yield Session(target, engine)
    finally:
        ticking = dispatcher.loopingcall
        engine.close_dispatcher()
        dispatcher.close_dispatcher()
        transport.close_transport()
        if ticking is not None:
            with anyio.CancelScope(shield=True):
                await asyncio.wait([ticking], timeout=1)
    engines.give_back(target, address, engine)


async def _resolved(target: Target) -> tuple[tuple[str, int], bool]:
    import socket

    try:
        with anyio.fail_after(target.timeout):
            found = await anyio.getaddrinfo(target.host, target.port, type=socket.SOCK_DGRAM)
    except TimeoutError:
        raise SNMPError(f"no answer about the name {target.host} within {target.timeout:g} s") from None
    except (OSError, UnicodeError) as error:
        raise SNMPError(f"the host {target.host} can't be found: {error}. Check `host` and the name service") from error
    family, _, _, _, address = found[0]
    return (address[0], address[1]), family == socket.AF_INET6


def _transport(is_v6: bool) -> Any:
    from pysnmp.carrier.asyncio.dgram import udp, udp6

    return udp6.Udp6AsyncioTransport() if is_v6 else udp.UdpAsyncioTransport()


def _domain(is_v6: bool) -> tuple[int, ...]:
    from pysnmp.carrier.asyncio.dgram import udp, udp6

    return tuple(udp6.DOMAIN_NAME if is_v6 else udp.DOMAIN_NAME)


def _engine(target: Target, address: tuple[str, int], is_v6: bool) -> Any:
    """Return an engine that knows the agent; blocking, some tenths of a second."""
    from pysnmp.entity import config
    from pysnmp.entity.engine import SnmpEngine
    from pysnmp.error import PySnmpError

    engine = SnmpEngine()
    try:
        level = _add_credentials(engine, target)
    except PySnmpError as error:
        raise SNMPError(f"the keys for {target} can't be used: {error}") from error
    config.add_target_parameters(engine, "access", target.user or "access", level, _MODELS[target.version])
    each = max(10, round(target.timeout * 100 / (RETRIES + 1)))
    config.add_target_address(engine, _TARGET, _domain(is_v6), address, "access", timeout=each, retryCount=RETRIES)
    return engine


def _add_credentials(engine: Any, target: Target) -> str:
    """Tell the engine who asks; return the security level."""
    from pysnmp.entity import config

    if target.version is not Version.V3:
        config.add_v1_system(engine, "access", target.community, securityName="access")
        return "noAuthNoPriv"
    auth = {
        AuthProtocol.NONE: config.USM_AUTH_NONE,
        AuthProtocol.MD5: config.USM_AUTH_HMAC96_MD5,
        AuthProtocol.SHA: config.USM_AUTH_HMAC96_SHA,
        AuthProtocol.SHA224: config.USM_AUTH_HMAC128_SHA224,
        AuthProtocol.SHA256: config.USM_AUTH_HMAC192_SHA256,
        AuthProtocol.SHA384: config.USM_AUTH_HMAC256_SHA384,
        AuthProtocol.SHA512: config.USM_AUTH_HMAC384_SHA512,
    }[target.auth_protocol]
    priv = {
        PrivProtocol.NONE: config.USM_PRIV_NONE,
        PrivProtocol.DES: config.USM_PRIV_CBC56_DES,
        PrivProtocol.AES: config.USM_PRIV_CFB128_AES,
        PrivProtocol.AES256: config.USM_PRIV_CFB256_AES,
    }[target.priv_protocol]
    if target.auth_protocol is AuthProtocol.NONE:
        config.add_v3_user(engine, target.user)
        return "noAuthNoPriv"
    if target.priv_protocol is PrivProtocol.NONE:
        config.add_v3_user(engine, target.user, auth, target.auth_key)
        return "authNoPriv"
    config.add_v3_user(engine, target.user, auth, target.auth_key, priv, target.priv_key)
    return "authPriv"


def _numbers(oid: str) -> tuple[int, ...]:
    return tuple(int(part) for part in oid.split("."))
