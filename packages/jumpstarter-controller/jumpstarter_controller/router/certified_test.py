"""A router on another machine has its certificate from the controller."""

from __future__ import annotations

import base64
from pathlib import Path

import anyio
import grpc
import pytest
from cryptography import x509
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.common.tls import TLSConfigV1Alpha1
from jumpstarter.config.common import ObjectMeta
from jumpstarter_protocol import lab_pb2

from jumpstarter_controller.clock import SystemClock
from jumpstarter_controller.identity.certificates import ServerCertificates
from jumpstarter_controller.server import Endpoints
from jumpstarter_controller.testing import Login, RunningLab, running_lab

from .certified import Certified
from .remote import RemoteRouter, RemoteSettings


def settings_of(login: Login, endpoint: str) -> RemoteSettings:
    return RemoteSettings(
        controller=login.endpoint,
        tls=TLSConfigV1Alpha1(ca=base64.b64encode(login.ca.encode()).decode()),
        metadata=ObjectMeta(namespace=login.key.namespace, name=login.key.name),
        token=lambda: login.token,
        endpoint=endpoint,
        listen="127.0.0.1:0",
    )


async def obtained(lab: RunningLab, endpoint: str) -> Certified:
    certified = Certified(settings_of(await lab.router(), endpoint), SystemClock())
    await certified.obtain()
    return certified


async def test_it_is_for_the_host_that_peers_dial_and_signed_by_what_they_trust(tmp_path: Path) -> None:
    async with running_lab(tmp_path) as lab:
        pair = (await obtained(lab, "relay.example.com:8083")).current()
        ca = x509.load_pem_x509_certificate(lab.ca.encode())
    names = pair.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["relay.example.com"]
    pair.certificate.verify_directly_issued_by(ca)


async def test_a_client_of_the_lab_reaches_the_router_with_it(tmp_path: Path) -> None:
    async with running_lab(tmp_path) as lab:
        certified = await obtained(lab, "127.0.0.1:1")
        settings = settings_of(await lab.router(), "")
        router = RemoteRouter(settings, ServerCertificates(certified))
        async with router.serving():
            credentials = grpc.ssl_channel_credentials(lab.ca.encode())
            async with grpc.aio.secure_channel(router.endpoint, credentials) as channel:
                with anyio.fail_after(20):
                    await channel.channel_ready()


async def test_each_request_gives_another_key_and_the_former_connection_stays(tmp_path: Path) -> None:
    async with running_lab(tmp_path) as lab:
        certified = await obtained(lab, "relay.example.com:8083")
        first = certified.current()
        await certified.obtain()
        assert certified.current().key != first.key
        assert certified.current().certificate.serial_number != first.certificate.serial_number


async def test_no_router_gets_one_for_the_host_of_the_controller(tmp_path: Path) -> None:
    server = {"endpoints": Endpoints(listen="127.0.0.1:0", router_endpoint="lab.example.com:8082")}
    async with running_lab(tmp_path, server=server) as lab:
        with pytest.raises(ConfigurationError, match=r"lab\.example\.com is the controller's own host.*advertise"):
            await obtained(lab, "LAB.example.com:9999")


@pytest.mark.parametrize("key", [b"", b"no key at all", bytes(2000)])
async def test_what_is_no_key_is_refused(tmp_path: Path, key: bytes) -> None:
    async with running_lab(tmp_path) as lab, (await lab.router()).stubs() as stubs:
        request = lab_pb2.CertifyRouterRequest(endpoint="relay.example.com:1", public_key=key)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stubs.lab.CertifyRouter(request)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_only_routers_get_one(tmp_path: Path) -> None:
    async with running_lab(tmp_path) as lab, (await lab.client()).stubs() as stubs:
        with pytest.raises(grpc.aio.AioRpcError, match="kind"):
            await stubs.lab.CertifyRouter(lab_pb2.CertifyRouterRequest(endpoint="relay.example.com:1"))
