"""Turns whatever a command raises into one readable message with a stable reason word."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Coroutine, Iterator
from functools import wraps
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, ParamSpec, TypeVar

import click

P = ParamSpec("P")
R = TypeVar("R")
E = TypeVar("E", bound=BaseException)


class Failure(NamedTuple):
    """What a user is told about an exception."""

    reason: str
    """A word that scripts can rely on; see `README.md` for the list."""
    message: str
    """What failed, on what and why; one paragraph."""
    hint: str | None = None
    """What to do next."""
    exit_code: int = 1


class ClickExceptionRed(click.ClickException):
    """A failure whose message is red where colours are shown; carries reason and hint for machine-readable output."""

    def __init__(self, message: str, *, reason: str = "failed", hint: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.hint = hint

    def format_message(self) -> str:
        """Return the message in red."""
        return click.style(self.message, fg="red")

    def show(self, file: Any = None) -> None:
        """Write message and hint to `file`, by default stderr."""
        super().show(file)
        if self.hint:
            click.echo(f"Hint: {self.hint}", file=file, err=file is None)


# --- exception groups ------------------------------------------------------------------------------------------------


def leaf_exceptions(group: BaseException, *, fix_tracebacks: bool = True) -> list[BaseException]:
    """Return the exceptions that nested groups hold, in order; an exception that is no group stands for itself.

    With `fix_tracebacks`, each gets a traceback that starts with the frames of the groups around it.
    """
    return list(_leaves(group, (), fix_tracebacks))


def _leaves(
    error: BaseException, outer: tuple[TracebackType | None, ...], fix_tracebacks: bool
) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner, (*outer, error.__traceback__), fix_tracebacks)
        return
    if fix_tracebacks:
        combined = error.__traceback__
        for frames in reversed(outer):
            combined = _combine_tracebacks(frames, combined)
        error.__traceback__ = combined
    yield error


def _combine_tracebacks(tb1: TracebackType | None, tb2: TracebackType | None) -> TracebackType | None:
    """Return a traceback with the frames of `tb1` before those of `tb2`."""
    frames = []
    while tb1 is not None:
        frames.append(tb1)
        tb1 = tb1.tb_next
    for frame in reversed(frames):
        tb2 = TracebackType(tb2, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return tb2


def find_exception_in_group(eg: BaseException, exc_type: type[E], *, fix_tracebacks: bool = False) -> E | None:
    """Return the first exception of that type in nested groups, or None."""
    for leaf in leaf_exceptions(eg, fix_tracebacks=fix_tracebacks):
        if isinstance(leaf, exc_type):
            return leaf
    return None


# --- what to say -----------------------------------------------------------------------------------------------------

_GRPC_FAILURES: dict[str, tuple[str, str, str | None]] = {
    "DEADLINE_EXCEEDED": (
        "timeout",
        "Operation timed out: the other side did not answer in time",
        "Try again; if it lasts, check the network and the load of the service.",
    ),
    "UNAVAILABLE": (
        "unreachable",
        "The service is not reachable",
        "Check the endpoint in the config, the network, and that the service runs.",
    ),
    "UNAUTHENTICATED": (
        "unauthenticated",
        "Authentication or authorization failed",
        "Log in again with `jmp login`, or check the token or passphrase.",
    ),
    "PERMISSION_DENIED": (
        "unauthorized",
        "Authentication or authorization failed",
        "Check with `jmp auth status` who you are logged in as.",
    ),
    "INVALID_ARGUMENT": ("invalid-argument", "Invalid request arguments", None),
    "FAILED_PRECONDITION": ("failed-precondition", "The request does not fit the present state (precondition)", None),
    "NOT_FOUND": ("not-found", "Not found", None),
    "ALREADY_EXISTS": ("already-exists", "It exists already", None),
    "RESOURCE_EXHAUSTED": ("exhausted", "A limit of the service is reached", None),
    "UNIMPLEMENTED": (
        "unimplemented",
        "The other side does not know this request",
        "Client and service may be of different versions; compare them with `jmp version`.",
    ),
    "CANCELLED": ("cancelled", "The request was cancelled by the other side", None),
}

_CLASS_REASONS = {
    "ReauthenticationFailed": "unauthenticated",
    "ExporterOfflineError": "exporter-offline",
    "ExporterUnreachableError": "exporter-unreachable",
    "ConnectionError": "connection",
    "ConfigurationError": "configuration",
    "ArgumentError": "invalid-argument",
    "FileAccessError": "file-access",
    "FileNotFoundError": "file-not-found",
    "EnvironmentVariableNotSetError": "environment",
    "MissingDriverError": "missing-driver",
    "LeaseError": "lease",
    "DriverError": "driver",
}

_TLS_HINT = "Set tls.ca in the config to the CA of the service, or pass --insecure-tls where that is acceptable."


def describe(error: BaseException) -> Failure | None:
    """Return what to tell the user, or None when the exception is not one that happens in normal use."""
    if isinstance(error, BaseExceptionGroup):
        return _describe_group(error)
    for look in (_describe_click, _describe_jumpstarter, _describe_grpc, _describe_builtin):
        if (failure := look(error)) is not None:
            return failure
    return None


def describe_any(error: BaseException) -> Failure:
    """Return what to tell the user; what nobody foresaw is called an internal error."""
    failure = describe(error)
    if failure is not None:
        return failure
    if isinstance(error, BaseExceptionGroup):
        error = next(iter(leaf_exceptions(error, fix_tracebacks=False)))
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return Failure(
        "internal",
        f"Internal error: {text}",
        "Run the command again with --log-level debug and report the traceback.",
    )


def _describe_group(group: BaseException) -> Failure | None:
    leaves = leaf_exceptions(group, fix_tracebacks=False)
    for leaf in leaves:
        if isinstance(leaf, KeyboardInterrupt):
            return describe(leaf)
    told = [failure for leaf in leaves if (failure := describe(leaf)) is not None]
    if len(told) < len(leaves) and not any(failure.reason != "cancelled" for failure in told):
        return None
    return told[0] if told else None


def _describe_click(error: BaseException) -> Failure | None:
    if isinstance(error, click.UsageError):
        hint = f"See `{error.ctx.command_path} --help`." if error.ctx is not None else None
        return Failure("usage", click.unstyle(error.format_message()), hint, error.exit_code)
    if isinstance(error, click.ClickException):
        reason = getattr(error, "reason", "failed")
        return Failure(reason, click.unstyle(error.format_message()), getattr(error, "hint", None), error.exit_code)
    if isinstance(error, KeyboardInterrupt) or (
        isinstance(error, click.Abort) and isinstance(error.__cause__, KeyboardInterrupt)
    ):
        return Failure("interrupted", "Cancelled by user", None, 130)
    if isinstance(error, click.Abort):
        return Failure("aborted", "Aborted by user")
    return None


def _describe_jumpstarter(error: BaseException) -> Failure | None:
    # Only code that has loaded the module can have raised one of its exceptions.
    known = sys.modules.get("jumpstarter.common.exceptions")
    if known is None or not isinstance(error, known.JumpstarterException):
        return None
    reason = getattr(error, "reason", None)
    if (refused := _describe_refusal(error, reason)) is not None:
        return refused
    if not reason or not isinstance(reason, str):
        names = (kind.__name__ for kind in type(error).__mro__)
        reason = next((_CLASS_REASONS[name] for name in names if name in _CLASS_REASONS), "failed")
    hint = getattr(error, "hint", None)
    if not isinstance(hint, str):
        hint = _GRPC_FAILURES["UNAVAILABLE"][2] if reason == "connection" else None
    return Failure(reason, _one_text(error), hint)


def _describe_refusal(error: Any, reason: Any) -> Failure | None:
    """Return what to tell of a refused call: by the controller's own reason, or else by the status."""
    status = getattr(error, "status", None)
    if not isinstance(status, str) or not status:
        return None
    if isinstance(reason, str) and reason.isupper():
        from .refusals import HINTS, reason_word

        hint = getattr(error, "hint", None)
        hint = hint if isinstance(hint, str) else HINTS.get(reason)
        return Failure(reason_word(reason), " ".join(str(error.message).split()), hint)
    if status == "UNKNOWN":
        # What went wrong stands in the text alone, and it was not the connection.
        return Failure("connection", _one_text(error))
    if status in _GRPC_FAILURES and status != "UNAVAILABLE":
        word, _, hint = _GRPC_FAILURES[status]
        return Failure(word, _one_text(error), hint)
    return None


def _one_text(error: Any) -> str:
    """Return message and cause; a cause that can't be said in a line of its own is reduced to what it means."""
    cause = error.__cause__
    if cause is None:
        return str(error) or type(error).__name__
    failure = _describe_grpc(cause)
    if failure is None:
        return str(error)
    if isinstance(getattr(error, "hint", None), str):
        return str(error.message)  # has understood its cause
    details = str(cause.details() or "")
    return error.message if details and details in error.message else f"{error.message}: {failure.message}"


def _describe_grpc(error: BaseException) -> Failure | None:
    # Recognised by what it can tell, not by class: clients of other implementations wrap these.
    try:
        name, details = error.code().name, error.details()  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - anything that can't answer is no gRPC error
        return None
    if not isinstance(name, str):
        return None
    text = str(details or "")
    if name == "UNAVAILABLE" and any(word in text.lower() for word in ("ssl", "tls", "certificate", "handshake")):
        return Failure("tls", f"TLS certificate validation failed: {text}", _TLS_HINT)
    reason, message, hint = _GRPC_FAILURES.get(
        name, ("service", f"The service reported an error ({name.lower().replace('_', ' ')})", None)
    )
    return Failure(reason, f"{message}: {text}" if text else message, hint)


def _describe_builtin(error: BaseException) -> Failure | None:
    if isinstance(error, TimeoutError):
        text = f": {error}" if str(error) else ""
        return Failure(
            "timeout",
            f"Operation timed out{text}",
            "Try again; flashing and large transfers may need a longer time limit.",
        )
    if isinstance(error, OSError):
        return _describe_os_error(error)
    if isinstance(error, ImportError):
        return Failure(
            "missing-driver",
            str(error) or "A Python module can't be imported",
            "Install the package that provides it in the environment of this program.",
        )
    json = sys.modules.get("json")
    if json is not None and isinstance(error, json.JSONDecodeError):
        return Failure("invalid-data", f"Received invalid JSON data: {error}")
    yaml = sys.modules.get("yaml")
    if yaml is not None and isinstance(error, yaml.YAMLError):
        return Failure("invalid-data", f"Invalid YAML: {error}")
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(error, pydantic.ValidationError):
        return Failure("invalid-data", validation_text(error))
    return None


def _describe_os_error(error: OSError) -> Failure:
    ssl, socket = sys.modules.get("ssl"), sys.modules.get("socket")
    if ssl is not None and isinstance(error, ssl.SSLError):
        return Failure("tls", f"TLS certificate validation failed: {error}", _TLS_HINT)
    if socket is not None and isinstance(error, socket.gaierror):
        return Failure(
            "name-resolution",
            f"The host name can't be resolved: {error.strerror or error}",
            "Check the endpoint and DNS.",
        )
    if isinstance(error, ConnectionRefusedError):
        return Failure(
            "connection-refused",
            f"Connection was refused: {error}",
            "Check host and port of the endpoint, and that the service runs.",
        )
    what = f": {error.filename}" if error.filename else (f": {error}" if str(error) else "")
    if isinstance(error, FileNotFoundError):
        return Failure("file-not-found", f"File not found{what}", "Check the path.")
    if isinstance(error, PermissionError):
        return Failure("permission-denied", f"Permission denied{what}", "Check owner and mode of the file or device.")
    text = error.strerror or str(error) or errno.errorcode.get(error.errno or 0, type(error).__name__)
    return Failure("system", f"System error: {text}{what if error.filename else ''}")


def validation_text(error: Any) -> str:
    """Return what a pydantic validation error says, one problem after the other, without links and input dumps."""
    problems = []
    for item in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in item["loc"])
        problems.append(f"{where}: {item['msg']}" if where else item["msg"])
    return f"Invalid {error.title}: " + "; ".join(problems)


# --- decorators ------------------------------------------------------------------------------------------------------


def _reraise(error: Exception) -> NoReturn:
    """Raise `error` as a red click exception if it is one that users meet, else as it is."""
    if isinstance(error, click.ClickException | click.exceptions.Exit):
        raise error
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        raise error
    failure = describe(error)
    if failure is None:
        raise error
    red = ClickExceptionRed(failure.message, reason=failure.reason, hint=failure.hint)
    # The original stays reachable for the traceback of --log-level debug, without changing the message.
    red.__context__ = error
    raise red from None


def handle_exceptions(func: Callable[P, R]) -> Callable[P, R]:
    """Decorate a command so that exceptions of normal use become `ClickExceptionRed`."""

    @wraps(func)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return func(*args, **kwargs)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except Exception as error:  # noqa: BLE001 - sorted by _reraise
            _reraise(error)

    return wrapper


def async_handle_exceptions(func: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Decorate a coroutine function so that exceptions of normal use become `ClickExceptionRed`."""

    @wraps(func)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await func(*args, **kwargs)
        except (click.ClickException, click.exceptions.Exit):
            raise
        except Exception as error:  # noqa: BLE001 - sorted by _reraise
            _reraise(error)

    return wrapper


def handle_exceptions_with_reauthentication(
    login_func: Callable[[Any], Any],
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Like `handle_exceptions`; when a token has expired, `login_func` is given the config to obtain a new one.

    The command is not repeated, because it may have had effects: the user is asked to.
    """

    def decorator(func: Callable[P, R]) -> Callable[P, R]:
        @wraps(func)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return func(*args, **kwargs)
            except (click.ClickException, click.exceptions.Exit):
                raise
            except Exception as error:  # noqa: BLE001 - sorted by _reraise
                expired = _expired_token(error)
                if expired is None:
                    _reraise(error)
                _log_in_again(login_func, expired)

        return wrapper

    return decorator


def _expired_token(error: BaseException) -> Any:
    known = sys.modules.get("jumpstarter.common.exceptions")
    if known is None:
        return None
    for leaf in leaf_exceptions(error, fix_tracebacks=False):
        # Other things expire too, such as the certificate of a server, which no login makes good for.
        if isinstance(leaf, known.ConnectionError) and (
            leaf.reason == "TOKEN_EXPIRED" if leaf.reason else "token is expired" in str(leaf).lower()
        ):
            return leaf
    return None


def _log_in_again(login_func: Callable[[Any], Any], expired: Any) -> NoReturn:
    click.echo(click.style("Token is expired, logging in again ...", fg="yellow"), err=True)
    try:
        login_func(expired.get_config())
    except click.exceptions.Exit:
        raise
    except Exception as error:
        failure = describe_any(error)
        raise ClickExceptionRed(
            f"Re-authentication failed: {failure.message}",
            reason="unauthenticated",
            hint=failure.hint or "Log in with `jmp login`.",
        ) from error
    raise ClickExceptionRed("Logged in again. Please try again now", reason="reauthenticated") from None
