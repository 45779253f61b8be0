"""An SSH agent with one key that signs logins and nothing else (draft-ietf-sshm-ssh-agent).

What it is asked to sign must be the request of a login with this very key (RFC 4252, 7), so that nobody can have it
sign files, certificates or commits.
"""

from __future__ import annotations

import logging
import struct
from typing import Final

from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, to_thread
from anyio.abc import ObjectStream

from .keys import SigningKey, string

MAX_MESSAGE: Final = 256 << 10
"""Bytes of the largest message, as in OpenSSH."""

FAILURE: Final = 5
REQUEST_IDENTITIES: Final = 11
IDENTITIES_ANSWER: Final = 12
SIGN_REQUEST: Final = 13
SIGN_RESPONSE: Final = 14

USERAUTH_REQUEST: Final = 50

_METHODS: Final = (b"publickey", b"publickey-hostbound-v00@openssh.com")


class Malformed(ValueError):
    """A message isn't what it says it is."""


class Reader:
    """Takes the fields of a message one after the other (RFC 4251, 5)."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        if count > len(self._data):
            raise Malformed("a message that ends before its fields")
        head, self._data = self._data[:count], self._data[count:]
        return head

    def number(self) -> int:
        """Return the next `uint32`."""
        return int.from_bytes(self.take(4))

    def byte(self) -> int:
        """Return the next `byte`."""
        return self.take(1)[0]

    def string(self) -> bytes:
        """Return the next `string`."""
        return self.take(self.number())


async def serve_agent(stream: ObjectStream[bytes], key: SigningKey, comment: str, logger: logging.Logger) -> None:
    """Answer what an SSH client asks, until it hangs up."""
    buffer = bytearray()
    try:
        while True:
            while len(buffer) < 4 or len(buffer) < 4 + _length(buffer):
                buffer += await stream.receive()
            end = 4 + _length(buffer)
            message, buffer = bytes(buffer[4:end]), buffer[end:]
            await stream.send(string(await to_thread.run_sync(_answer, message, key, comment, logger)))
    except (EndOfStream, BrokenResourceError, ClosedResourceError):
        return
    except Malformed as error:
        logger.warning("a client of the SSH agent broke the protocol: %s", error)


def _length(buffer: bytearray) -> int:
    length = int.from_bytes(buffer[:4])
    if not 0 < length <= MAX_MESSAGE:
        raise Malformed(f"a message of {length} bytes")
    return length


def _answer(message: bytes, key: SigningKey, comment: str, logger: logging.Logger) -> bytes:
    reader = Reader(message)
    kind = reader.byte()
    if kind == REQUEST_IDENTITIES:
        return bytes([IDENTITIES_ANSWER]) + struct.pack(">I", 1) + string(key.blob) + string(comment.encode())
    if kind == SIGN_REQUEST:
        try:
            blob, data, flags = reader.string(), reader.string(), reader.number()
            user = login_of(data, key) if blob == key.blob else None
        except Malformed as error:
            logger.warning("refused to sign: %s", error)
            return bytes([FAILURE])
        if user is not None:
            logger.info("signed a login of %s", user)
            return bytes([SIGN_RESPONSE]) + string(key.sign(data, flags))
    return bytes([FAILURE])


def login_of(data: bytes, key: SigningKey) -> str:
    """Return the user for whom `data` requests a login with `key`.

    Raises:
        Malformed: it is something else.
    """
    reader = Reader(data)
    reader.string()  # the session
    if reader.byte() != USERAUTH_REQUEST:
        raise Malformed("this is no request of a login")
    user, service, method = reader.string(), reader.string(), reader.string()
    if service != b"ssh-connection" or method not in _METHODS or reader.byte() != 1:
        raise Malformed("this is no request of a login by public key")
    reader.string()  # the name of the signature
    if reader.string() != key.blob:
        raise Malformed("this is a request of a login with another key")
    return user.decode(errors="replace")
