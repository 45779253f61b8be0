"""The certificate of a router that its controller issues: asked for at the start, and again before it expires."""

from __future__ import annotations

import base64
import logging
import random
from typing import TYPE_CHECKING

import anyio
import grpc
from jumpstarter.common.cancellation import answer
from jumpstarter.common.exceptions import ConfigurationError, ConnectionError

from ..clock import Clock
from ..identity.pem import Pair
from .joining import controller_channel

if TYPE_CHECKING:
    from .remote import RemoteSettings

logger = logging.getLogger(__name__)

TIMEOUT = 10.0
"""Seconds that the controller may take for a certificate."""

SHORTEST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
"""Seconds between two attempts."""

FINAL = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNKNOWN,
    }
)
"""Answers that will be the same the next time."""


class Certified:
    """The current certificate; a source for `identity.certificates.ServerCertificates`.

    Args:
        settings: how the controller is reached, and where peers dial the router.
    """

    def __init__(self, settings: RemoteSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._pair: Pair | None = None

    @property
    def ca(self) -> bytes:
        """What peers trust anyway, as they have to trust the controller."""
        return base64.b64decode(self._settings.tls.ca)

    def current(self) -> Pair:
        """Return the certificate for a connection that begins now."""
        assert self._pair is not None, "obtain() comes first"
        return self._pair

    async def obtain(self) -> None:
        """Get the first certificate, waiting for the controller as long as it takes.

        Raises:
            ConfigurationError: the controller refuses; says why.
        """
        pause = SHORTEST_PAUSE
        while True:
            try:
                await self._ask()
                return
            except ConnectionError as error:
                logger.warning("no certificate from %s yet: %s; trying again", self._settings.controller, error)
            await anyio.sleep(pause * random.uniform(0.5, 1))
            pause = min(pause * 2, LONGEST_PAUSE)

    async def keep_fresh(self) -> None:
        """Replace the certificate when two thirds of its life have passed, until cancelled."""
        while True:
            left = (self.current().expires - self._clock.now()).total_seconds()
            await anyio.sleep(max(left * 2 / 3, LONGEST_PAUSE))
            try:
                await self._ask()
                logger.info("the certificate of the router was renewed; it expires at %s", self.current().expires)
            except (ConfigurationError, ConnectionError) as error:
                logger.warning("the certificate of the router can't be renewed now: %s; trying again", error)

    async def _ask(self) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
        from cryptography.x509 import load_pem_x509_certificates
        from jumpstarter_protocol import lab_pb2, lab_pb2_grpc

        key = ec.generate_private_key(ec.SECP256R1())
        request = lab_pb2.CertifyRouterRequest(
            endpoint=self._settings.endpoint or self._settings.listen,
            public_key=key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        )
        channel = await controller_channel(self._settings)
        try:
            response = await answer(lab_pb2_grpc.LabServiceStub(channel).CertifyRouter(request, timeout=TIMEOUT))
        except grpc.aio.AioRpcError as error:
            text = error.details() or error.code().name
            if error.code() in FINAL:
                raise ConfigurationError(f"the controller gives this router no certificate: {text}") from None
            raise ConnectionError(text) from None
        finally:
            with anyio.CancelScope(shield=True):
                await channel.close()
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._pair = Pair(private, response.chain, load_pem_x509_certificates(response.chain)[0])
