"""What users are told about exceptions."""

from __future__ import annotations

import json
import socket
import ssl
import traceback
from types import SimpleNamespace
from typing import Any

import click
import pytest
from jumpstarter.common.exceptions import ConfigurationError, ConnectionError, JumpstarterException

from .exceptions import (
    ClickExceptionRed,
    async_handle_exceptions,
    describe,
    describe_any,
    find_exception_in_group,
    handle_exceptions,
    handle_exceptions_with_reauthentication,
    leaf_exceptions,
)


class GrpcError(Exception):
    """Speaks like an error of gRPC."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(details)
        self._code, self._details = code, details

    def code(self) -> Any:
        return SimpleNamespace(name=self._code)

    def details(self) -> str:
        return self._details


def json_error() -> Exception:
    try:
        json.loads("{")
    except json.JSONDecodeError as error:
        return error
    raise AssertionError


CASES = [
    (JumpstarterException("board is gone"), "failed", "board is gone"),
    (ConfigurationError("no endpoint"), "configuration", "no endpoint"),
    (ConnectionError("no controller"), "connection", "no controller"),
    (ModuleNotFoundError("No module named 'numpy'"), "missing-driver", "No module named 'numpy'"),
    (TimeoutError(), "timeout", "Operation timed out"),
    (ssl.SSLCertVerificationError("bad chain"), "tls", "TLS certificate validation failed"),
    (socket.gaierror(-2, "Name or service not known"), "name-resolution", "can't be resolved"),
    (ConnectionRefusedError(111, "refused"), "connection-refused", "Connection was refused"),
    (FileNotFoundError(2, "No such file", "/x"), "file-not-found", "File not found: /x"),
    (PermissionError(13, "denied", "/y"), "permission-denied", "Permission denied: /y"),
    (OSError(28, "No space left on device"), "system", "No space left on device"),
    (json_error(), "invalid-data", "Received invalid JSON data"),
    (KeyboardInterrupt(), "interrupted", "Cancelled by user"),
    (click.Abort(), "aborted", "Aborted by user"),
    (GrpcError("DEADLINE_EXCEEDED", "slow"), "timeout", "Operation timed out"),
    (GrpcError("UNAVAILABLE", "no route"), "unreachable", "no route"),
    (GrpcError("UNAVAILABLE", "TLS handshake failed"), "tls", "TLS certificate validation failed"),
    (GrpcError("UNAUTHENTICATED", "who?"), "unauthenticated", "Authentication or authorization failed: who?"),
    (GrpcError("PERMISSION_DENIED", "not yours"), "unauthorized", "Authentication or authorization failed: not yours"),
    (GrpcError("INVALID_ARGUMENT", "bad selector"), "invalid-argument", "Invalid request arguments: bad selector"),
    (GrpcError("FAILED_PRECONDITION", "leased"), "failed-precondition", "precondition"),
    (GrpcError("NOT_FOUND", "lease x"), "not-found", "lease x"),
    (GrpcError("DATA_LOSS", "oops"), "service", "data loss"),
]


@pytest.mark.parametrize(("error", "reason", "text"), CASES, ids=lambda value: type(value).__name__)
def test_an_exception_of_normal_use_has_a_reason_and_a_message(error: BaseException, reason: str, text: str) -> None:
    failure = describe(error)
    assert failure is not None
    assert failure.reason == reason
    assert text in failure.message
    assert "\n" not in failure.message


def test_a_lost_connection_comes_with_advice() -> None:
    failure = describe(ConnectionError("can't connect"))
    assert failure is not None
    assert failure.hint is not None


def test_ctrl_c_has_the_exit_code_of_the_signal() -> None:
    assert describe_any(KeyboardInterrupt()).exit_code == 130
    aborted = click.Abort()
    aborted.__cause__ = KeyboardInterrupt()
    assert describe_any(aborted).exit_code == 130


def test_a_declined_question_is_a_failure() -> None:
    assert describe_any(click.Abort()).exit_code == 1


def test_what_nobody_foresaw_is_called_an_internal_error() -> None:
    assert describe(KeyError("x")) is None
    failure = describe_any(KeyError("x"))
    assert (failure.reason, failure.exit_code) == ("internal", 1)
    assert "KeyError: 'x'" in failure.message
    assert "--log-level debug" in (failure.hint or "")


def test_the_cause_of_an_error_is_said_in_one_line() -> None:
    error = ConnectionError("the exporter did not respond")
    error.__cause__ = GrpcError("UNAVAILABLE", "refused")
    failure = describe_any(error)
    assert failure.message == "the exporter did not respond: The service is not reachable: refused"


def test_a_group_is_told_by_its_first_member_that_users_meet() -> None:
    group = ExceptionGroup("all", [ExceptionGroup("inner", [KeyError("x"), ConfigurationError("no endpoint")])])
    failure = describe(group)
    assert failure is not None
    assert failure.message == "no endpoint"


def test_a_group_of_unforeseen_errors_names_one() -> None:
    assert "KeyError" in describe_any(ExceptionGroup("all", [KeyError("x")])).message


# --- flattening ------------------------------------------------------------------------------------------------------


def raised_group() -> BaseExceptionGroup[Any]:
    def inner() -> None:
        raise ValueError("leaf")

    try:
        try:
            inner()
        except ValueError as error:
            raise ExceptionGroup("outer", [error, ExceptionGroup("deep", [KeyError("second")])]) from None
    except ExceptionGroup as group:
        return group


def test_leaves_are_returned_in_order() -> None:
    assert [type(leaf) for leaf in leaf_exceptions(raised_group())] == [ValueError, KeyError]


def test_leaves_get_the_frames_of_the_groups_around_them() -> None:
    leaf = leaf_exceptions(raised_group())[0]
    names = [frame.name for frame in traceback.extract_tb(leaf.__traceback__)]
    assert names == ["raised_group", "raised_group", "inner"]


def test_tracebacks_are_left_alone_on_request() -> None:
    leaf = leaf_exceptions(raised_group(), fix_tracebacks=False)[0]
    assert [frame.name for frame in traceback.extract_tb(leaf.__traceback__)] == ["raised_group", "inner"]


def test_an_exception_is_found_in_a_group_by_its_type() -> None:
    group = raised_group()
    assert isinstance(find_exception_in_group(group, KeyError), KeyError)
    assert find_exception_in_group(group, OSError) is None


# --- decorators ------------------------------------------------------------------------------------------------------


def raising(error: BaseException) -> Any:
    def function() -> None:
        """Do it."""
        raise error

    return function


def test_a_handled_exception_becomes_a_red_message() -> None:
    with pytest.raises(ClickExceptionRed) as caught:
        handle_exceptions(raising(ConfigurationError("no endpoint")))()
    assert caught.value.message == "no endpoint"
    assert caught.value.reason == "configuration"
    assert caught.value.format_message() == click.style("no endpoint", fg="red")
    assert caught.value.__suppress_context__


def test_decorated_functions_keep_their_name_and_reach_the_original() -> None:
    function = raising(KeyError())
    wrapped = handle_exceptions(function)
    assert wrapped.__doc__ == "Do it."
    assert wrapped.__wrapped__ is function  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", [click.UsageError("wrong"), click.exceptions.Exit(3), KeyError("bug")])
def test_other_exceptions_pass_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        handle_exceptions(raising(error))()
    assert caught.value is error


async def test_coroutines_are_handled_as_well() -> None:
    @async_handle_exceptions
    async def function() -> None:
        raise TimeoutError

    with pytest.raises(ClickExceptionRed, match="Operation timed out"):
        await function()


def test_an_expired_certificate_of_a_server_is_no_matter_of_a_login() -> None:
    error = ConnectionError("can't reach the controller: Ssl handshake failed: certificate has expired")

    def login(_: Any) -> None:
        raise AssertionError("nobody has to log in")

    with pytest.raises(click.ClickException, match="certificate has expired"):
        handle_exceptions_with_reauthentication(login)(raising(error))()


def test_an_expired_token_leads_to_a_login_and_a_request_to_repeat(capsys: pytest.CaptureFixture[str]) -> None:
    error = ConnectionError("token is expired")
    error.set_config("the config")
    logins: list[Any] = []
    with pytest.raises(ClickExceptionRed, match="Please try again now"):
        handle_exceptions_with_reauthentication(logins.append)(raising(ExceptionGroup("all", [error])))()
    assert logins == ["the config"]
    assert "Token is expired" in capsys.readouterr().err


def test_a_failing_login_is_told_with_its_reason() -> None:
    def login(_: Any) -> None:
        raise JumpstarterException("provider is down")

    with pytest.raises(ClickExceptionRed, match="Re-authentication failed: provider is down"):
        handle_exceptions_with_reauthentication(login)(raising(ConnectionError("token is expired")))()


def test_other_connection_errors_lead_to_no_login() -> None:
    def login(_: Any) -> None:
        raise AssertionError("must not log in")

    with pytest.raises(ClickExceptionRed, match="no controller"):
        handle_exceptions_with_reauthentication(login)(raising(ConnectionError("no controller")))()
