"""The diagnostic services (ISO 14229-1) of the simulated control unit, as a function from requests to responses."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

SERVICE_NOT_SUPPORTED = 0x11
SUBFUNCTION_NOT_SUPPORTED = 0x12
INCORRECT_LENGTH = 0x13
REQUEST_SEQUENCE_ERROR = 0x24
OUT_OF_RANGE = 0x31
SECURITY_ACCESS_DENIED = 0x33
INVALID_KEY = 0x35
EXCEEDED_ATTEMPTS = 0x36
NOT_IN_THIS_SESSION = 0x7F

DEFAULT_SESSION = 0x01
EXTENDED_SESSION = 0x03
SESSION_TIMEOUT = 5.0
"""Seconds without a request after which the session falls back to the default one (S3 of the standard)."""

VIN = 0xF190
MAX_ATTEMPTS = 3

KEY_MASK = 0x4A554D50


def key_of(seed: bytes) -> bytes:
    """Return the key that answers a seed; a real control unit has something better."""
    return (int.from_bytes(seed, "big") ^ KEY_MASK).to_bytes(4, "big")


class Refused(Exception):
    """A negative response with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"negative response 0x{code:02X}")
        self.code = code


class UdsServer:
    """Answers requests; `trouble_codes` are pairs of a 3-byte code and its status byte."""

    def __init__(self, coolant: Callable[[], int], vin: str) -> None:
        """
        Args:
            coolant: returns the temperature in degrees Celsius.
            vin: 17 characters.
        """
        self.vin = vin
        self.trouble_codes: dict[int, int] = {}
        self._coolant = coolant
        self._attempts = 0
        self.reset()
        self._services: dict[int, Callable[[bytes], bytes]] = {
            0x10: self._session_control,
            0x11: self._ecu_reset,
            0x14: self._clear_trouble_codes,
            0x19: self._read_trouble_codes,
            0x22: self._read_data,
            0x27: self._security_access,
            0x2E: self._write_data,
            0x3E: self._tester_present,
        }

    def reset(self) -> None:
        """Be as after power on; the number of wrong keys is kept until then only."""
        self.session = DEFAULT_SESSION
        self._seed: bytes | None = None
        self._unlocked = False
        self._last_request = time.monotonic()

    def answer(self, request: bytes) -> bytes | None:
        """Return the response to a request; None when the client asked for no positive one."""
        if not request:
            return None
        now = time.monotonic()
        if self.session != DEFAULT_SESSION and now - self._last_request > SESSION_TIMEOUT:
            self.reset()
        self._last_request = now
        service = request[0]
        try:
            if service not in self._services:
                raise Refused(SERVICE_NOT_SUPPORTED)
            response = self._services[service](request[1:])
        except Refused as refused:
            return bytes((0x7F, service, refused.code))
        suppressed = service in (0x10, 0x11, 0x3E) and len(request) > 1 and request[1] & 0x80
        return None if suppressed else bytes((service + 0x40,)) + response

    def _session_control(self, data: bytes) -> bytes:
        (session,) = _exactly(data, 1)
        session &= 0x7F
        if session not in (DEFAULT_SESSION, EXTENDED_SESSION):
            raise Refused(SUBFUNCTION_NOT_SUPPORTED)
        self.reset()
        self.session = session
        # P2 in milliseconds, P2* in tens of them.
        return bytes((session,)) + (50).to_bytes(2, "big") + (500).to_bytes(2, "big")

    def _ecu_reset(self, data: bytes) -> bytes:
        (kind,) = _exactly(data, 1)
        if kind & 0x7F not in (1, 3):
            raise Refused(SUBFUNCTION_NOT_SUPPORTED)
        self._attempts = 0
        self.reset()
        return bytes((kind & 0x7F,))

    def _tester_present(self, data: bytes) -> bytes:
        (kind,) = _exactly(data, 1)
        if kind & 0x7F:
            raise Refused(SUBFUNCTION_NOT_SUPPORTED)
        return b"\x00"

    def _read_data(self, data: bytes) -> bytes:
        if not data or len(data) % 2:
            raise Refused(INCORRECT_LENGTH)
        found = b""
        for at in range(0, len(data), 2):
            match identifier := int.from_bytes(data[at : at + 2], "big"):
                case 0xF190:
                    value = self.vin.encode()
                case 0xF18C:
                    value = b"JMP-ECU-0001"
                case 0x0100:
                    value = bytes((self._coolant() + 40,))
                case _:
                    raise Refused(OUT_OF_RANGE)
            found += identifier.to_bytes(2, "big") + value
        return found

    def _write_data(self, data: bytes) -> bytes:
        if len(data) < 3:
            raise Refused(INCORRECT_LENGTH)
        if self.session != EXTENDED_SESSION:
            raise Refused(NOT_IN_THIS_SESSION)
        if int.from_bytes(data[:2], "big") != VIN:
            raise Refused(OUT_OF_RANGE)
        if not self._unlocked:
            raise Refused(SECURITY_ACCESS_DENIED)
        if len(data) != 19 or not data[2:].isalnum():
            raise Refused(OUT_OF_RANGE)
        self.vin = data[2:].decode()
        return data[:2]

    def _security_access(self, data: bytes) -> bytes:
        if self.session != EXTENDED_SESSION:
            raise Refused(NOT_IN_THIS_SESSION)
        if data[:1] == b"\x01":
            if self._attempts >= MAX_ATTEMPTS:
                raise Refused(EXCEEDED_ATTEMPTS)
            self._seed = bytes(4) if self._unlocked else secrets.token_bytes(4)
            return b"\x01" + self._seed
        if data[:1] != b"\x02":
            raise Refused(SUBFUNCTION_NOT_SUPPORTED)
        if self._seed is None:
            raise Refused(REQUEST_SEQUENCE_ERROR)
        seed, self._seed = self._seed, None
        if data[1:] != key_of(seed):
            self._attempts += 1
            raise Refused(EXCEEDED_ATTEMPTS if self._attempts >= MAX_ATTEMPTS else INVALID_KEY)
        self._unlocked, self._attempts = True, 0
        return b"\x02"

    def _read_trouble_codes(self, data: bytes) -> bytes:
        if len(data) != 2:
            raise Refused(INCORRECT_LENGTH)
        if data[0] != 0x02:
            raise Refused(SUBFUNCTION_NOT_SUPPORTED)
        found = b"\x02\xff"
        for code, status in sorted(self.trouble_codes.items()):
            if status & data[1]:
                found += code.to_bytes(3, "big") + bytes((status,))
        return found

    def _clear_trouble_codes(self, data: bytes) -> bytes:
        if len(data) != 3:
            raise Refused(INCORRECT_LENGTH)
        if data != b"\xff\xff\xff":
            raise Refused(OUT_OF_RANGE)
        self.trouble_codes.clear()
        return b""


def _exactly(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise Refused(INCORRECT_LENGTH)
    return data
