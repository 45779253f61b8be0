"""The agent: keys of every kind against OpenSSH's own client, and requests that it must not sign."""

from __future__ import annotations

import logging
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from jumpstarter.streams.common import create_memory_stream
from jumpstarter_testbench.requirements import need, program

from .agent import FAILURE, IDENTITIES_ANSWER, MAX_MESSAGE, REQUEST_IDENTITIES, SIGN_REQUEST, SIGN_RESPONSE, serve_agent
from .keys import RSA_SHA2_512, KeyUnusable, SigningKey, string

KINDS = {
    "ed25519": ["-t", "ed25519"],
    "ecdsa-256": ["-t", "ecdsa", "-b", "256"],
    "ecdsa-384": ["-t", "ecdsa", "-b", "384"],
    "ecdsa-521": ["-t", "ecdsa", "-b", "521"],
    "rsa": ["-t", "rsa", "-b", "2048"],
    "rsa-pem": ["-t", "rsa", "-b", "2048", "-m", "PEM"],
    "ecdsa-pkcs8": ["-t", "ecdsa", "-m", "PKCS8"],
}


def generate(path: Path, *options: str, passphrase: str = "") -> str:
    need("ssh")
    command = [program("ssh-keygen"), "-q", *options, "-N", passphrase, "-C", "x", "-f", str(path)]
    subprocess.run(command, check=True, timeout=60)
    return path.read_text()


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return SigningKey(generate(tmp_path_factory.mktemp("key") / "key", "-t", "ed25519"))


@pytest.mark.parametrize("kind", KINDS)
def test_public_key_is_that_of_ssh_keygen(kind: str, tmp_path: Path) -> None:
    text = generate(tmp_path / "key", *KINDS[kind])

    assert SigningKey(text).public == " ".join((tmp_path / "key.pub").read_text().split()[:2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "damaged, or no private key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE KEY-----\n", "damaged"),
        ("-----BEGIN RSA PRIVATE KEY-----\nsecret\n-----END RSA PRIVATE KEY-----\n", "damaged"),
    ],
)
def test_what_is_no_key_is_refused_without_showing_it(text: str, message: str) -> None:
    with pytest.raises(KeyUnusable, match=message) as caught:
        SigningKey(text)
    assert "b3Bl" not in str(caught.value)


@pytest.mark.parametrize("form", [[], ["-m", "PEM"]])
def test_key_with_a_passphrase_is_refused(form: list[str], tmp_path: Path) -> None:
    text = generate(tmp_path / "key", "-t", "ecdsa", *form, passphrase="secret")

    with pytest.raises(KeyUnusable, match="protected by a passphrase"):
        SigningKey(text)


def login(key: SigningKey, *, kind: int = 50, method: bytes = b"publickey", blob: bytes | None = None) -> bytes:
    """What a client has signed for a login (RFC 4252, 7)."""
    name = key.kind.encode()
    fields = string(b"user") + string(b"ssh-connection") + string(method) + b"\1" + string(name)
    return string(b"session") + bytes([kind]) + fields + string(key.blob if blob is None else blob)


def sign_request(blob: bytes, data: bytes, flags: int = 0) -> bytes:
    return bytes([SIGN_REQUEST]) + string(blob) + string(data) + struct.pack(">I", flags)


@asynccontextmanager
async def agent(key: SigningKey) -> AsyncIterator[Any]:
    """Yield a function that sends a message and returns the answer."""
    ours, theirs = create_memory_stream()

    async def ask(message: bytes, pieces: int = 1 << 20) -> bytes:
        framed = string(message)
        for start in range(0, len(framed), pieces):
            await theirs.send(framed[start : start + pieces])
        answer = b""
        while len(answer) < 4 or len(answer) < 4 + int.from_bytes(answer[:4]):
            answer += await theirs.receive()
        return answer[4:]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve_agent, ours, key, "comment", logging.getLogger("test"))
        with anyio.fail_after(20):
            yield ask
        await theirs.aclose()


async def test_key_is_listed_whatever_the_pieces_of_the_request(key: SigningKey) -> None:
    async with agent(key) as ask:
        for pieces in (1, 3, 100):
            answer = await ask(bytes([REQUEST_IDENTITIES]), pieces)
            assert answer == bytes([IDENTITIES_ANSWER]) + struct.pack(">I", 1) + string(key.blob) + string(b"comment")


async def test_login_is_signed(key: SigningKey) -> None:
    async with agent(key) as ask:
        answer = await ask(sign_request(key.blob, login(key), RSA_SHA2_512))
    assert answer[0] == SIGN_RESPONSE


async def test_nothing_but_a_login_with_this_key_is_signed(key: SigningKey) -> None:
    refused = {
        "a file (SSHSIG)": b"SSHSIG" + string(b"git") + string(b"") + string(b"sha512") + string(b"x" * 64),
        "empty data": b"",
        "another request": login(key, kind=80),
        "another method": login(key, method=b"hostbased"),
        "another key in the request": login(key, blob=b"other"),
        "a request that ends early": login(key)[:40],
    }
    async with agent(key) as ask:
        for what, data in refused.items():
            assert await ask(sign_request(key.blob, data)) == bytes([FAILURE]), what
        assert await ask(sign_request(b"another key", login(key))) == bytes([FAILURE])
        assert await ask(bytes([SIGN_REQUEST]) + b"\xff\xff\xff\xff") == bytes([FAILURE])
        # 17 to 27: adding, removing and locking keys, and extensions.
        for kind in range(17, 28):
            assert await ask(bytes([kind])) == bytes([FAILURE])
        assert (await ask(sign_request(key.blob, login(key))))[0] == SIGN_RESPONSE


@pytest.mark.parametrize("length", [0, MAX_MESSAGE + 1, 0xFFFFFFFF])
async def test_message_of_an_impossible_length_ends_the_connection(key: SigningKey, length: int) -> None:
    ours, theirs = create_memory_stream()
    await theirs.send(struct.pack(">I", length) + b"x")
    with anyio.fail_after(20):
        await serve_agent(ours, key, "", logging.getLogger("test"))
