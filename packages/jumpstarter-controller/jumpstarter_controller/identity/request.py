"""What a request says of who makes it: the metadata that published peers send, taken apart."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

from ..errors import Code, Refused
from ..model.records import Kind

Metadata = Sequence[tuple[str, str | bytes]]

KIND_KEY = "jumpstarter-kind"
NAMESPACE_KEY = "jumpstarter-namespace"
NAME_KEY = "jumpstarter-name"

KINDS = {"Client": Kind.CLIENT, "Exporter": Kind.EXPORTER, "Admin": Kind.ADMIN, "Router": Kind.ROUTER}
"""Values of `jumpstarter-kind`; published peers know the first two."""

_MAX_QUOTED = 200


@dataclass(frozen=True, slots=True)
class Request:
    """The metadata of a call that matter for authentication."""

    token: str = field(repr=False)
    kinds: tuple[str, ...]
    namespaces: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, metadata: Metadata) -> Request:
        """Take the metadata apart.

        Raises:
            Refused: there is not one bearer token; with the codes that published peers know.
        """
        if not metadata:
            raise Refused(Code.INVALID_ARGUMENT, "METADATA_MISSING", "missing metadata: the call names nobody")
        found: dict[str, list[str]] = {"authorization": [], KIND_KEY: [], NAMESPACE_KEY: [], NAME_KEY: []}
        for key, value in metadata:
            values = found.get(key.lower())
            if values is not None:
                values.append(value if isinstance(value, str) else value.decode("utf-8", "replace"))
        token = bearer_token(found["authorization"])
        return cls(token, tuple(found[KIND_KEY]), tuple(found[NAMESPACE_KEY]), tuple(found[NAME_KEY]))

    def kind(self, expected: Collection[Kind]) -> Kind:
        """Return the kind of the caller.

        Raises:
            Refused: INVALID_ARGUMENT, it is missing, given twice, or none that may make this call.
        """
        text = self._one(KIND_KEY, self.kinds)
        kind = KINDS.get(text)
        if kind is None or kind not in expected:
            wanted = " or ".join(word for word, one in KINDS.items() if one in expected)
            raise Refused(
                Code.INVALID_ARGUMENT,
                "KIND_MISMATCH",
                f"object kind mismatch: this call is for {wanted}, and {KIND_KEY} is {quoted(text)}",
            )
        return kind

    def namespace(self) -> str:
        """Return the namespace of the caller's account.

        Raises:
            Refused: INVALID_ARGUMENT, it is missing, empty, or given twice.
        """
        namespace = self._one(NAMESPACE_KEY, self.namespaces)
        if not namespace:
            raise _malformed(f"{NAMESPACE_KEY} is empty; set the namespace in the config")
        return namespace

    def name(self) -> str:
        """Return the name of the caller's account where nothing but the caller tells it.

        Raises:
            Refused: INVALID_ARGUMENT, it is missing, empty, or given twice.
        """
        name = self._one(NAME_KEY, self.names)
        if not name:
            raise _malformed(f"{NAME_KEY} is empty; set the name in the config")
        return name

    def _one(self, key: str, values: tuple[str, ...]) -> str:
        if len(values) != 1:
            raise _malformed(
                f"{key} is {'missing' if not values else 'given more than once'} in the metadata of the call"
            )
        return values[0]


def bearer_token(values: Sequence[str]) -> str:
    """Return the token of the one `authorization` value that there has to be.

    Raises:
        Refused: UNAUTHENTICATED when there is none, INVALID_ARGUMENT when there are several or it is something else.
    """
    if not values:
        raise Refused(
            Code.UNAUTHENTICATED,
            "CREDENTIALS_MISSING",
            "missing authorization: the call brings no token; log in, or set the token in the config",
        )
    if len(values) > 1:
        raise _malformed("authorization is given more than once in the metadata of the call")
    scheme, _, token = values[0].strip().partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise _malformed("authorization must be of the form 'Bearer TOKEN'")
    return token.strip()


def peer_address(peer: str) -> str:
    """Return the address of a gRPC peer (`ipv4:192.0.2.1:5000`, `ipv6:%5B::1%5D:5000`) without its port.

    `unknown` when there is none; an address without port stays as it is.
    """
    family, _, rest = peer.partition(":")
    if family == "unix":
        return "unix"
    if family not in ("ipv4", "ipv6"):
        return peer or "unknown"
    address = unquote(rest)
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.rpartition(":")[0] or address or "unknown"


def quoted(text: str) -> str:
    """Return a text that came over the wire as one that can't disturb a log or a terminal."""
    return ascii(text[:_MAX_QUOTED])


def _malformed(why: str) -> Refused:
    return Refused(Code.INVALID_ARGUMENT, "METADATA_INVALID", why)
