"""Channels to real TLS servers, and what their failures say."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
import grpc
import pytest
from anyio import fail_after
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from jumpstarter_protocol import jumpstarter_pb2, jumpstarter_pb2_grpc
from jumpstarter_testbench.requirements import need_module

from jumpstarter.common import grpc as module
from jumpstarter.common.exceptions import ConfigurationError, ConnectionError
from jumpstarter.common.grpc import (
    _override_default_grpc_options,
    _parse_target,
    aio_secure_channel,
    composite_channel_credentials,
    ssl_channel_credentials,
    translate_grpc_exceptions,
)


@dataclass
class TLS:
    ca: str = ""
    insecure: bool = False


@dataclass
class Certificate:
    key: bytes
    chain: bytes
    ca: bytes


def certificate(*names: str) -> Certificate:
    """A server certificate for names and addresses, and the throw-away CA that issued it."""
    need_module("cryptography", "cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.UTC)

    def build(subject: str, issuer: str, public: object, extension: x509.ExtensionType) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(extension, critical=True)
        )

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = build("test CA", "test CA", ca_key.public_key(), x509.BasicConstraints(True, None)).sign(
        ca_key, hashes.SHA256()
    )
    alternatives: list[x509.GeneralName] = []
    for name in names:
        try:
            alternatives.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            alternatives.append(x509.DNSName(name))
    leaf = build("server", "test CA", key.public_key(), x509.SubjectAlternativeName(alternatives)).sign(
        ca_key, hashes.SHA256()
    )
    pem = serialization.Encoding.PEM
    return Certificate(
        key=key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        chain=leaf.public_bytes(pem),
        ca=ca.public_bytes(pem),
    )


class Controller(jumpstarter_pb2_grpc.ControllerServiceServicer):
    """Answers `RequestLease` with the authorization that the caller sent."""

    async def RequestLease(self, request: object, context: grpc.aio.ServicerContext) -> object:
        metadata = dict(context.invocation_metadata())
        return jumpstarter_pb2.RequestLeaseResponse(name=metadata.get("authorization", ""))


@asynccontextmanager
async def serving(cert: Certificate, port: int = 0) -> AsyncIterator[int]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    jumpstarter_pb2_grpc.add_ControllerServiceServicer_to_server(Controller(), server)
    credentials = grpc.ssl_server_credentials([(cert.key, cert.chain)])
    port = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def call(target: str, tls: TLS, token: str = "token") -> str:
    with fail_after(20):
        credentials = composite_channel_credentials(
            await ssl_channel_credentials(target, tls), grpc.access_token_call_credentials(token)
        )
        async with aio_secure_channel(target, credentials, None) as channel:
            stub = jumpstarter_pb2_grpc.ControllerServiceStub(channel)
            return (await stub.RequestLease(jumpstarter_pb2.RequestLeaseRequest(), timeout=5)).name


@pytest.fixture(autouse=True)
def forgotten() -> None:
    module._pins.clear()


async def test_the_ca_of_the_config_is_trusted() -> None:
    cert = certificate("localhost")
    async with serving(cert) as port:
        assert await call(f"localhost:{port}", TLS(ca=base64.b64encode(cert.ca).decode())) == "Bearer token"


async def test_a_server_of_another_ca_is_not_trusted() -> None:
    async with serving(certificate("localhost")) as port:
        other = base64.b64encode(certificate("localhost").ca).decode()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(f"localhost:{port}", TLS(ca=other))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("ca", ["not base64!", base64.b64encode(b"no certificate").decode()])
async def test_a_ca_that_is_none_is_a_configuration_error(ca: str) -> None:
    with pytest.raises(ConfigurationError, match=r"tls\.ca for controller\.example:443"):
        await ssl_channel_credentials("controller.example:443", TLS(ca=ca))


@pytest.mark.parametrize(
    "names",
    [["localhost"], ["127.0.0.1"], ["other.example"], ["10.1.2.3"], ["*.apps.example"]],
)
async def test_an_insecure_config_trusts_any_certificate_of_any_name(names: list[str]) -> None:
    async with serving(certificate(*names)) as port:
        assert await call(f"localhost:{port}", TLS(insecure=True)) == "Bearer token"
        assert await call(f"127.0.0.1:{port}", TLS(insecure=True)) == "Bearer token"


@pytest.mark.parametrize("variable", ["JUMPSTARTER_GRPC_INSECURE", "JMP_GRPC_INSECURE"])
async def test_the_environment_makes_a_config_insecure(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    async with serving(certificate("other.example")) as port:
        assert await call(f"localhost:{port}", TLS()) == "Bearer token"


async def test_the_name_of_an_insecure_server_does_not_weaken_other_channels() -> None:
    cert = certificate("other.example")
    async with serving(cert) as port:
        await call(f"localhost:{port}", TLS(insecure=True))
        with pytest.raises(grpc.aio.AioRpcError):
            await call(f"localhost:{port}", TLS(ca=base64.b64encode(cert.ca).decode()))


async def test_an_insecure_server_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    ask = module._server_chain

    async def counted(*args: object) -> bytes:
        asked.append(args)
        return await ask(*args)

    monkeypatch.setattr(module, "_server_chain", counted)
    async with serving(certificate("localhost")) as port:
        for _ in range(3):
            await call(f"localhost:{port}", TLS(insecure=True))
    assert len(asked) == 1


async def test_a_new_certificate_is_accepted_after_a_while(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(certificate("localhost")) as port:
        await call(f"localhost:{port}", TLS(insecure=True))
    monkeypatch.setattr(module, "PIN_LIFETIME", -1.0)
    async with serving(certificate("localhost"), port):
        assert await call(f"localhost:{port}", TLS(insecure=True)) == "Bearer token"
    assert "another certificate than before" in caplog.text


async def test_an_insecure_server_that_is_not_there_is_named() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with pytest.raises(ConnectionError, match=rf"can't connect to 127.0.0.1 port {port}: Connection refused"):
        await ssl_channel_credentials(f"127.0.0.1:{port}", TLS(insecure=True))
    with pytest.raises(ConnectionError, match=rf"can't connect to localhost port {port}: Connection refused"):
        await ssl_channel_credentials(f"localhost:{port}", TLS(insecure=True))


async def test_a_host_name_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConnectionError, match=r"can't connect to does-not-exist.invalid port 443: ."):
        await ssl_channel_credentials("does-not-exist.invalid", TLS(insecure=True))


@pytest.mark.parametrize(
    ("answer", "why"), [(None, "no answer within 0.2 s"), (b"SSH-2.0-x\r\n", "doesn't speak TLS"), (b"", "closed")]
)
async def test_a_server_without_tls_is_named(answer: bytes | None, why: str) -> None:
    async def handle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            if answer is None:
                await anyio.sleep_forever()
            await stream.receive()
            await stream.send(answer)

    async with anyio.create_task_group() as tasks:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.start_soon(listener.serve, handle)
        with pytest.raises(ConnectionError, match=rf"can't connect to 127.0.0.1 port {port}: .*{why}"):
            await ssl_channel_credentials(f"127.0.0.1:{port}", TLS(insecure=True), timeout=0.2)
        tasks.cancel_scope.cancel()
    await listener.aclose()


@pytest.mark.parametrize(
    ("target", "parsed"),
    [
        ("host", ("host", 443)),
        ("host:8082", ("host", 8082)),
        ("10.0.0.1:1", ("10.0.0.1", 1)),
        ("[::1]:8082", ("::1", 8082)),
        ("dns:///host:8082", ("host", 8082)),
    ],
)
def test_targets(target: str, parsed: tuple[str, int]) -> None:
    assert _parse_target(target) == parsed


@pytest.mark.parametrize("target", ["", ":443", "host:port", "host:0", "host:99999", "https://host", "[::1", "a@b:1"])
async def test_a_target_that_is_none_is_a_configuration_error(target: str) -> None:
    with pytest.raises(ConfigurationError, match="is not an endpoint"):
        await ssl_channel_credentials(target, TLS(insecure=True))


def test_the_users_options_win() -> None:
    options = _override_default_grpc_options({"grpc.keepalive_time_ms": 5, "grpc.custom": "x"})
    assert dict(options) == {
        "grpc.lb_policy_name": "round_robin",
        "grpc.keepalive_time_ms": 5,
        "grpc.keepalive_timeout_ms": 180000,
        "grpc.http2.max_pings_without_data": 0,
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.custom": "x",
    }
    assert dict(_override_default_grpc_options(None))["grpc.keepalive_time_ms"] == 20000


class Failing(jumpstarter_pb2_grpc.ControllerServiceServicer):
    def __init__(self, code: grpc.StatusCode, details: str, trailing: tuple[tuple[str, bytes], ...]) -> None:
        self.failure = code, details, trailing

    async def GetLease(self, request: object, context: grpc.aio.ServicerContext) -> object:
        await context.abort(*self.failure)
        raise AssertionError


async def refusal(code: grpc.StatusCode, details: str, trailing: tuple[tuple[str, bytes], ...] = ()) -> ConnectionError:
    """What a caller gets to see of a real refusal."""
    server = grpc.aio.server()
    jumpstarter_pb2_grpc.add_ControllerServiceServicer_to_server(Failing(code, details, trailing), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = jumpstarter_pb2_grpc.ControllerServiceStub(channel)
            with fail_after(10), pytest.raises(ConnectionError) as caught, translate_grpc_exceptions():
                await stub.GetLease(jumpstarter_pb2.GetLeaseRequest(name="lease"))
    finally:
        await server.stop(None)
    return caught.value


CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
async def test_every_status_keeps_its_details(code: grpc.StatusCode) -> None:
    error = await refusal(code, "token is expired")
    assert "token is expired" in str(error)
    assert (error.status, error.details) == (code.name, "token is expired")
    assert "\n" not in str(error)


def test_every_status_has_a_text_of_its_own() -> None:
    assert len(set(module._MEANINGS.values())) == len(module._MEANINGS)
    assert set(module._MEANINGS) == {code.name for code in CODES}


async def test_missing_details_leave_a_whole_sentence() -> None:
    assert str(await refusal(grpc.StatusCode.PERMISSION_DENIED, "")) == "permission denied by the controller"


@pytest.mark.parametrize(
    ("library", "reason"),
    [
        ("CERTIFICATE_VERIFY_FAILED: self signed certificate in certificate chain: OK", "self signed certificate in"),
        ("BAD_SIGNATURE: certificate signature failure: OK", "certificate signature failure"),
        ("CERTIFICATE_VERIFY_FAILED: certificate has expired: OK", "certificate has expired"),
    ],
)
async def test_a_certificate_that_is_not_trusted_is_told_without_the_words_of_the_library(library: str, reason: str):
    text = f"connections to all backends failing; last error: UNKNOWN: SSL_ERROR_SSL: error:1000007d::OPENSSL:{library}"
    error = await refusal(grpc.StatusCode.UNAVAILABLE, text)
    assert error.message.startswith(f"the certificate that the controller shows can't be trusted: {reason}")
    assert "SSL" not in error.message
    assert "tls.ca" in (error.hint or "")


async def test_the_stable_reason_of_a_refusal_is_read() -> None:
    info = error_details_pb2.ErrorInfo(reason="LEASE_ENDED", domain="jumpstarter.dev", metadata={"lease": "l1"})
    packed = any_pb2.Any()
    packed.Pack(info)
    status = status_pb2.Status(code=9, details=[packed])
    error = await refusal(
        grpc.StatusCode.FAILED_PRECONDITION, "ended", (("grpc-status-details-bin", status.SerializeToString()),)
    )
    assert (error.reason, error.metadata) == ("LEASE_ENDED", {"lease": "l1"})


async def test_unreadable_error_details_do_no_harm() -> None:
    error = await refusal(grpc.StatusCode.NOT_FOUND, "gone", (("grpc-status-details-bin", b"\xff\xff"),))
    assert (error.details, error.reason) == ("gone", "")


async def test_nobody_listening_is_told() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = jumpstarter_pb2_grpc.ControllerServiceStub(channel)
        unreachable = pytest.raises(ConnectionError, match=r"can't reach the controller: .*refused")
        with fail_after(20), unreachable, translate_grpc_exceptions():
            await stub.GetLease(jumpstarter_pb2.GetLeaseRequest())


@pytest.mark.parametrize("raises", [lambda: int("x"), lambda: grpc.StatusCode("x")])
def test_a_value_error_is_a_configuration_error_with_its_text(raises: Callable[[], object]) -> None:
    invalid = pytest.raises(ConfigurationError, match=r"invalid value for a call to the controller: .*'x'")
    with invalid as caught, translate_grpc_exceptions():
        raises()
    assert isinstance(caught.value.__cause__, ValueError)


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), translate_grpc_exceptions():
        raise KeyError("x")
