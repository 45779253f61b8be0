"""The errors that Jumpstarter raises on purpose: each carries one message that a user can act on."""

from __future__ import annotations

import builtins
import sys
from typing import Any

__all__ = [
    "ArgumentError",
    "ConfigurationError",
    "ConnectionError",
    "EnvironmentVariableNotSetError",
    "ExporterOfflineError",
    "ExporterUnreachableError",
    "FileAccessError",
    "FileNotFoundError",
    "JumpstarterException",
    "MissingDriverError",
    "ReauthenticationFailed",
]


def _in_one_line(cause: BaseException) -> str:
    """Return the text of a cause; errors of gRPC, whose own text is a table, as status and details."""
    code, details = getattr(cause, "code", None), getattr(cause, "details", None)
    if callable(code) and callable(details) and hasattr(status := code(), "name"):
        return f"{status.name}: {details() or 'no details'}"
    return str(cause) or type(cause).__name__


class JumpstarterException(Exception):
    """Base of all errors that Jumpstarter raises on purpose.

    The text of the exception is `message`, followed by the text of the cause when it was raised `from` one.
    """

    message: str
    """What failed, on what and why, without the cause."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
        self._config: Any = None

    def __str__(self) -> str:
        if self.__cause__ is None:
            return self.message
        return f"{self.message} (Caused by: {_in_one_line(self.__cause__)})"

    def print(self, message: str | None = None) -> None:
        """Write the text in red to stderr; `message` is accepted for compatibility and not used."""
        print(f"\033[91m{self}\033[0m", file=sys.stderr)

    def set_config(self, config: Any) -> None:
        """Attach the client or exporter config in use, so that a command can log in again and repeat."""
        self._config = config

    def get_config(self) -> Any:
        """Return the config that was attached, or None."""
        return self._config


class ConnectionError(JumpstarterException):
    """A controller, router or exporter can't be reached or refused a call. Not the built-in of that name."""

    status: str = ""
    """Name of the gRPC status of a refused call, such as `PERMISSION_DENIED`."""
    details: str = ""
    """The peer's own text."""
    reason: str = ""
    """A stable word for the cause, where the peer gives one (`google.rpc.ErrorInfo`)."""
    hint: str | None = None
    """What to do about it, where that is known better than from the status."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.metadata: dict[str, str] = {}
        """Facts about the cause, where the peer gives them."""


class ConfigurationError(JumpstarterException):
    """A config file, environment variable or option holds something that can't work."""


class ArgumentError(JumpstarterException):
    """An argument of a command or function is wrong."""


class FileAccessError(JumpstarterException):
    """A file exists but can't be read or written."""


class FileNotFoundError(JumpstarterException, builtins.FileNotFoundError):
    """A file that is needed doesn't exist; also caught as the built-in of that name."""


class ExporterOfflineError(ConnectionError):
    """The exporter that holds the device is not connected to the controller."""


class ExporterUnreachableError(JumpstarterException):
    """An exporter that was addressed directly gave no answer."""


class ReauthenticationFailed(JumpstarterException):
    """The token is not valid any more and no new one could be obtained."""


class EnvironmentVariableNotSetError(JumpstarterException, RuntimeError):
    """An environment variable that the call depends on is not set."""


class MissingDriverError(JumpstarterException):
    """A driver or client class is not installed or may not be imported."""

    class_path: str
    """Dotted path of the class that was asked for."""

    def __init__(self, message: str, class_path: str) -> None:
        super().__init__(message)
        self.class_path = class_path

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.class_path)
