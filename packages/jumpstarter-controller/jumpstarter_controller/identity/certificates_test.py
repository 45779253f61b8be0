"""Certificates of servers: the lab's own authority, renewal without a restart, and files of the administrator."""

import asyncio
import logging
import os
import socket
import ssl
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import anyio
import anyio.to_thread
import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.x509.verification import PolicyBuilder
from jumpstarter.common.exceptions import ConfigurationError

from ..clock import ManualClock
from .authority import LEAF_LIFE, LIFE, SECRET, Authority
from .certificates import Files, Issued, ServerCertificates
from .keys import Keys
from .pem import endpoint_host, uncovered

AGE = timedelta(days=61)
HOSTS = ["lab.example.com", "192.0.2.5"]


@pytest.fixture
def clock():
    """As late as it is, because TLS libraries look at the clock of the machine."""
    return ManualClock(datetime.now(UTC))


@pytest.fixture
async def authority(store, clock):
    return await Authority.load(store, clock)


@pytest.fixture
async def issued(authority, clock):
    return ServerCertificates(Issued(authority, HOSTS, clock))


@pytest.fixture
async def old(store, clock):
    """A certificate that was issued two months ago, and is due for renewal once `clock` has advanced by `AGE`."""
    clock.step(-AGE)
    return ServerCertificates(Issued(await Authority.load(store, clock), HOSTS, clock))


@pytest.fixture
def write(tmp_path):
    """Writes a certificate and its key, each under a temporary name first, with a time of its own."""
    times = iter(range(1, 100))

    def write_pair(pair):
        for name, data in (("tls.crt", pair.chain), ("tls.key", pair.key)):
            new = tmp_path / f"{name}.new"
            new.write_bytes(data)
            stamp = 1_700_000_000 + next(times)
            os.utime(new, (stamp, stamp))
            new.rename(tmp_path / name)
        return tmp_path / "tls.crt", tmp_path / "tls.key"

    return write_pair


def names_of(certificate):
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))}


async def shown(port, ca, host="localhost"):
    """The serial number of the certificate that a server shows to a new connection, verified with `ca`."""

    def connect():
        context = ssl.create_default_context(cadata=ca.decode())
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            return x509.load_der_x509_certificate(secure.getpeercert(binary_form=True)).serial_number

    return await anyio.to_thread.run_sync(connect)


@asynccontextmanager
async def echo_server(certificates):
    """A gRPC server with one stream that sends back what it gets; yields its port."""

    async def echo(requests, context):
        async for request in requests:
            yield request

    handler = grpc.method_handlers_generic_handler("test.Echo", {"Stream": grpc.stream_stream_rpc_method_handler(echo)})
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_secure_port("127.0.0.1:0", certificates.grpc_credentials())
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


@asynccontextmanager
async def echo_stream(port, ca, **options):
    """A function that sends bytes over one stream and returns what comes back."""
    credentials = grpc.ssl_channel_credentials(ca)
    settings = [("grpc.use_local_subchannel_pool", 1), *((f"grpc.{name}", value) for name, value in options.items())]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=settings) as channel:
        call = channel.stream_stream("/test.Echo/Stream")()

        async def send(data):
            with anyio.fail_after(10):
                await call.write(data)
                return await call.read()

        yield send
        await call.done_writing()


async def test_the_authority_is_made_once_and_for_ten_years(store, clock, authority):
    again = await Authority.load(store, clock)

    assert again.certificate == authority.certificate
    assert authority.expires - clock.now() > LIFE - timedelta(minutes=1)


async def test_a_certificate_is_for_the_endpoints_and_for_this_machine(authority):
    pair = authority.issue(HOSTS)

    assert names_of(pair.certificate) == {*HOSTS, "localhost", "127.0.0.1", "::1"}


@pytest.mark.parametrize("name", ["lab.example.com", "192.0.2.5", "localhost", "127.0.0.1", "::1"])
async def test_a_certificate_stands_up_to_a_strict_verifier(authority, clock, name):
    chain = x509.load_pem_x509_certificates(authority.issue(HOSTS).chain)
    roots = x509.load_pem_x509_certificates(authority.certificate)
    subject = x509.DNSName(name) if name[0].isalpha() else x509.IPAddress(ip_address(name))

    verifier = PolicyBuilder().store(x509.verification.Store(roots)).time(clock.now()).build_server_verifier(subject)

    assert verifier.verify(chain[0], [])


async def test_a_certificate_does_not_outlive_its_authority(authority, clock):
    clock.advance(LIFE - timedelta(days=10))

    assert authority.issue(HOSTS).expires == authority.expires


async def test_an_authority_that_has_expired_is_an_error_with_its_place(store, clock, authority):
    clock.advance(LIFE)

    with pytest.raises(ConfigurationError, match=f"{SECRET}.* has expired"):
        await Authority.load(store, clock)


async def test_a_damaged_authority_is_named_with_what_to_do(store, clock):
    await store.put_secret(SECRET, b"{}")

    with pytest.raises(ConfigurationError, match="Restore the store from a backup"):
        await Authority.load(store, clock)


async def test_secrets_lie_in_files_for_the_owner_alone(store, clock, tmp_path, authority):
    await Keys.load(store, clock)

    modes = {path.name: path.stat().st_mode & 0o077 for path in tmp_path.iterdir() if path.name.startswith("lab.db")}

    assert modes
    assert set(modes.values()) == {0}


async def test_a_certificate_is_renewed_after_two_thirds_of_its_life(issued, clock):
    first = issued.current()
    clock.advance(LEAF_LIFE * 2 / 3 - timedelta(seconds=1))
    assert issued.current() is first

    clock.advance(timedelta(seconds=2))
    second = issued.current()

    assert second.certificate.serial_number != first.certificate.serial_number
    assert second.expires - clock.now() > LEAF_LIFE - timedelta(minutes=1)


@pytest.mark.parametrize("host", ["localhost", "lab.example.com", "192.0.2.5"])
async def test_a_grpc_server_is_trusted_by_whoever_trusts_the_authority(issued, host):
    async with echo_server(issued) as port:
        assert await shown(port, issued.ca, host)


async def test_new_connections_see_the_new_certificate_while_old_streams_live_on(old, clock):
    async with echo_server(old) as port, echo_stream(port, old.ca) as stream:
        assert await stream(b"before") == b"before"
        first = await shown(port, old.ca)
        assert first == old.current().certificate.serial_number

        clock.advance(AGE)
        second = await shown(port, old.ca)

        assert second != first
        assert second == old.current().certificate.serial_number
        assert await stream(b"after") == b"after"
        async with echo_stream(port, old.ca) as new:
            assert await new(b"new") == b"new"


async def test_a_peer_that_takes_what_the_server_shows_as_its_root_is_served(issued):
    """As published peers do with `tls.insecure`: the chain of a first connection is what the second one trusts."""
    async with echo_server(issued) as port:

        def probe():
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with (
                socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
                context.wrap_socket(plain) as secure,
            ):
                return secure._sslobj.get_unverified_chain()

        chain = await anyio.to_thread.run_sync(probe)
        roots = "".join(certificate.public_bytes() for certificate in chain)

        async with echo_stream(port, roots.encode()) as stream:
            assert await stream(b"hello") == b"hello"


async def test_an_http_server_follows_the_certificate_too(old, clock):
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=old.ssl_context())
    async with server:
        port = server.sockets[0].getsockname()[1]
        first = await shown(port, old.ca)
        clock.advance(AGE)
        second = await shown(port, old.ca)

    assert first != second
    assert second == old.current().certificate.serial_number


async def test_own_files_are_shown_and_read_again_when_they_change(authority, clock, write, tmp_path):
    chain, key = write(authority.issue(["localhost"]))
    certificates = ServerCertificates(Files(chain, key, ["localhost"], clock))
    async with echo_server(certificates) as port, echo_stream(port, certificates.ca) as old:
        assert await old(b"before") == b"before"
        first = await shown(port, certificates.ca)

        write(authority.issue(["localhost"]))
        second = await shown(port, certificates.ca)

        assert first != second
        assert await old(b"after") == b"after"


async def test_own_files_tell_peers_what_to_trust(authority, clock, write, tmp_path):
    pair = authority.issue(["localhost"])
    chain, key = write(pair)
    ca = tmp_path / "ca.crt"
    ca.write_bytes(authority.certificate)
    assert Files(chain, key, [], clock).ca == authority.certificate
    assert Files(chain, key, [], clock, ca=ca).ca == authority.certificate

    chain.write_bytes(pair.certificate.public_bytes(Encoding.PEM))

    assert Files(chain, key, [], clock).ca == b""


async def test_while_only_one_of_the_files_is_replaced_the_former_certificate_stays(authority, clock, write, caplog):
    first, second = authority.issue(["localhost"]), authority.issue(["localhost"])
    chain, key = write(first)
    certificates = ServerCertificates(Files(chain, key, ["localhost"], clock))

    chain.write_bytes(second.chain)
    assert certificates.current().certificate == first.certificate
    assert "does not belong to the first certificate" in caplog.text
    key.write_bytes(second.key)

    assert certificates.current().certificate == second.certificate


async def test_files_that_went_away_leave_the_former_certificate(authority, clock, write, caplog):
    chain, key = write(authority.issue(["localhost"]))
    certificates = ServerCertificates(Files(chain, key, ["localhost"], clock))

    key.unlink()

    assert certificates.current()
    assert certificates.current()
    assert caplog.text.count("stays in use") == 1


async def test_own_files_that_do_not_belong_together_are_refused(authority, clock, write):
    chain, key = write(authority.issue([]))
    key.write_bytes(authority.issue([]).key)

    with pytest.raises(ConfigurationError, match=r"tls\.crt with .*tls\.key: the key does not belong"):
        Files(chain, key, [], clock)


async def test_a_certificate_that_has_expired_is_refused(authority, clock, write):
    chain, key = write(authority.issue([]))
    clock.advance(LEAF_LIFE)

    with pytest.raises(ConfigurationError, match="has expired at 20"):
        Files(chain, key, [], clock)


async def test_a_certificate_that_is_not_valid_yet_is_refused(authority, clock, write):
    chain, key = write(authority.issue([]))
    clock.step(timedelta(hours=-2))

    with pytest.raises(ConfigurationError, match="is not valid before 20"):
        Files(chain, key, [], clock)


async def test_a_key_with_a_passphrase_is_refused(authority, clock, write):
    chain, key = write(authority.issue([]))
    private = ec.generate_private_key(ec.SECP256R1())
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))

    with pytest.raises(ConfigurationError, match="protected by a passphrase"):
        Files(chain, key, [], clock)


@pytest.mark.parametrize("name", ["tls.crt", "tls.key"])
async def test_what_is_no_pem_is_refused_by_name(authority, clock, write, tmp_path, name):
    chain, key = write(authority.issue([]))
    (tmp_path / name).write_bytes(b"\x00 nothing")

    with pytest.raises(ConfigurationError, match="is no PEM file"):
        Files(chain, key, [], clock)
    (tmp_path / name).unlink()
    with pytest.raises(ConfigurationError, match=f"{name} can't be read: No such file"):
        Files(chain, key, [], clock)


async def test_a_certificate_for_another_host_is_complained_about(authority, clock, write, caplog):
    chain, key = write(authority.issue(["lab.example.com"]))

    Files(chain, key, ["lab.example.com", "other.example.com", "192.0.2.9"], clock)

    assert "is not for other.example.com, 192.0.2.9" in caplog.text


async def test_a_certificate_that_ends_soon_is_complained_about_once(authority, clock, write, caplog):
    chain, key = write(authority.issue(["localhost"]))
    certificates = ServerCertificates(Files(chain, key, ["localhost"], clock))
    clock.advance(LEAF_LIFE - timedelta(days=13))

    with caplog.at_level(logging.WARNING):
        certificates.current()
        certificates.current()

    assert caplog.text.count("replace it") == 1


async def test_a_wildcard_covers_one_level(authority):
    certificate = authority.issue(["*.example.com"]).certificate

    assert uncovered(certificate, ["lab.example.com", "LAB.example.com."]) == []
    assert uncovered(certificate, ["a.b.example.com", "example.com"]) == ["a.b.example.com", "example.com"]


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [("lab:8082", "lab"), ("[::1]:8082", "::1"), ("::1", "::1"), ("lab", "lab"), ("192.0.2.1:1", "192.0.2.1")],
)
def test_the_host_of_an_endpoint_is_what_the_certificate_is_for(endpoint, host):
    assert endpoint_host(endpoint) == host
