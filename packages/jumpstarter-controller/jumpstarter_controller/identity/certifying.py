"""Certificates for routers on other machines, whose keys stay there."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from ..errors import Code, Refused
from ..router.endpoints import parse_endpoint, split_endpoint
from .authority import LOCAL, Authority


class RouterCertificates:
    """Has the authority of a lab certify routers.

    Args:
        authority: None when the lab shows certificates of somebody else.
        own_hosts: what peers dial to reach the controller, for which no router may pass itself off.
    """

    def __init__(self, authority: Authority | None, own_hosts: Sequence[str]) -> None:
        self._authority = authority
        self._reserved = frozenset(host.lower() for host in own_hosts) - frozenset(LOCAL)

    def certify(self, endpoint: str, public_key: bytes) -> tuple[bytes, datetime]:
        """Return a chain as PEM for the router at an endpoint, and when it expires.

        Args:
            endpoint: `host:port`.
            public_key: SubjectPublicKeyInfo in DER, of a P-256 key.

        Raises:
            Refused: INVALID_ARGUMENT; FAILED_PRECONDITION without authority; PERMISSION_DENIED for the controller's.
        """
        host = split_endpoint(parse_endpoint(endpoint))[0].lower()
        if self._authority is None:
            raise Refused(
                Code.FAILED_PRECONDITION,
                "NO_AUTHORITY",
                "this lab has no certificate authority of its own, as its certificate is given by files; give the"
                " router one too, with the key `certificate` of its config",
            )
        if host in self._reserved:
            raise Refused(
                Code.PERMISSION_DENIED,
                "HOST_OF_CONTROLLER",
                f"{host} is the controller's own host, so the router gets no certificate for it; give it"
                " a name or address of its own, with `advertise` in its config",
            )
        try:
            return self._authority.certify(public_key, host)
        except ValueError as error:
            raise Refused(
                Code.INVALID_ARGUMENT, "BAD_KEY", f"the key of the router can't be certified: {error}"
            ) from None
