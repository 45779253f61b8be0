"""What can go wrong with a cluster, each as a message that says what to do."""

from __future__ import annotations

from typing import Any

from jumpstarter.common.exceptions import ConfigurationError, JumpstarterException

__all__ = [
    "AlreadyExists",
    "ClusterError",
    "Conflict",
    "Forbidden",
    "Gone",
    "Invalid",
    "JumpstarterKubernetesError",
    "KubeconfigError",
    "NotFound",
    "TooMany",
    "Unauthorized",
    "Unreachable",
    "Unsupported",
    "refused",
]


class JumpstarterKubernetesError(JumpstarterException):
    """Base of all errors of this package."""


class KubeconfigError(JumpstarterKubernetesError, ConfigurationError):
    """There is no usable way to a cluster: no kubeconfig, a broken one, an unknown context."""


class ClusterError(JumpstarterKubernetesError):
    """The API server refused a request, or could not be reached."""

    def __init__(
        self, message: str, *, status: int = 0, reason: str = "", details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status; 0 when there was no answer."""
        self.reason = reason
        """The server's word for it, such as `AlreadyExists`."""
        self.details = details or {}
        """The server's `details`: name, kind, causes, retryAfterSeconds."""


class NotFound(ClusterError):
    """There is no such object, or no such kind."""


class AlreadyExists(ClusterError):
    """An object of that name is there already."""


class Conflict(ClusterError):
    """The object was changed by somebody else since it was read, or fields belong to another manager."""


class Gone(ClusterError):
    """A watch or a page can't be continued from so long ago: list again."""


class Unauthorized(ClusterError):
    """The server doesn't know who asks."""


class Forbidden(ClusterError):
    """Who asks may not do this."""


class Invalid(ClusterError):
    """The object is not as its schema or its rules want it."""


class TooMany(ClusterError):
    """The server has too much to do; later it may be possible."""


class Unsupported(ClusterError):
    """The server doesn't know this kind of request."""


class Unreachable(ClusterError):
    """No answer came from the server."""


_KINDS: dict[int, type[ClusterError]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    405: Unsupported,
    409: Conflict,
    410: Gone,
    415: Unsupported,
    422: Invalid,
    429: TooMany,
    503: TooMany,
    504: TooMany,
}

_HINTS: dict[type[ClusterError], str] = {
    Unauthorized: "Log in to the cluster again, or choose another context of the kubeconfig.",
    Forbidden: "Ask the cluster's administrator for this right, or use another context.",
    TooMany: "Try again in a moment.",
}


def refused(what: str, server: str, status: int, body: Any) -> ClusterError:
    """Return the error for an answer that is a refusal.

    Args:
        what: was asked for, such as `create leases.jumpstarter.dev "board"`.
        server: the API server's address.
        status: the HTTP status.
        body: the answer: a `Status` object, or whatever a server or proxy has sent.
    """
    told = body if isinstance(body, dict) else {}
    reason = str(told.get("reason") or "")
    message = str(told.get("message") or (body if isinstance(body, str) else "") or "").strip()[:2000]
    kind = (
        AlreadyExists
        if reason == "AlreadyExists"
        else Gone
        if reason == "Expired"
        else _KINDS.get(status, ClusterError)
    )
    text = f"{server} refused to {what}: {message or f'HTTP status {status}'}"
    if kind is NotFound and message == "the server could not find the requested resource":
        text += ". This cluster does not know that kind of objects: install Jumpstarter into it (jmp admin install)"
    elif kind is NotFound and not told:
        text += ". Is this the address of a Kubernetes API server?"
    elif hint := _HINTS.get(kind):
        text = f"{text.rstrip('.')}. {hint}"
    return kind(text, status=status, reason=reason, details=told.get("details") or {})
