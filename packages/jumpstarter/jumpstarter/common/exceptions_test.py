"""What the exceptions promise to those who catch, print and re-raise them."""

from __future__ import annotations

import builtins
import pickle

import pytest

from jumpstarter.common import exceptions
from jumpstarter.common.exceptions import (
    ConnectionError,
    EnvironmentVariableNotSetError,
    ExporterOfflineError,
    FileNotFoundError,
    JumpstarterException,
    MissingDriverError,
)


def every_exception() -> list[type[JumpstarterException]]:
    return [getattr(exceptions, name) for name in exceptions.__all__]


@pytest.mark.parametrize("kind", every_exception())
def test_every_exception_is_caught_as_jumpstarter_exception(kind: type[JumpstarterException]) -> None:
    assert issubclass(kind, JumpstarterException)


def test_the_text_is_the_message() -> None:
    error = JumpstarterException("board is gone")
    assert str(error) == error.message == "board is gone"


def test_the_text_names_the_cause_when_there_is_one() -> None:
    with pytest.raises(ConnectionError) as caught:
        raise ConnectionError("no answer") from OSError("cable unplugged")
    assert str(caught.value) == "no answer (Caused by: cable unplugged)"
    assert caught.value.message == "no answer"


def test_a_cause_without_text_is_named_by_its_type() -> None:
    with pytest.raises(ConnectionError) as caught:
        raise ConnectionError("no answer") from TimeoutError()
    assert str(caught.value) == "no answer (Caused by: TimeoutError)"


def test_print_writes_red_text_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    JumpstarterException("board is gone").print("not used")
    assert capsys.readouterr() == ("", "\033[91mboard is gone\033[0m\n")


def test_a_config_can_be_attached() -> None:
    error = JumpstarterException("token is expired")
    assert error.get_config() is None
    config = object()
    error.set_config(config)
    assert error.get_config() is config


def test_connection_error_is_not_the_builtin() -> None:
    assert not issubclass(ConnectionError, builtins.ConnectionError)
    assert issubclass(ExporterOfflineError, ConnectionError)


def test_missing_file_is_also_the_builtin() -> None:
    error = FileNotFoundError("no config 'lab'")
    assert isinstance(error, builtins.FileNotFoundError)
    assert str(error) == "no config 'lab'"


def test_missing_environment_variable_is_also_a_runtime_error() -> None:
    assert isinstance(EnvironmentVariableNotSetError("JUMPSTARTER_HOST not set"), RuntimeError)


def test_missing_driver_carries_the_class_path_through_pickle() -> None:
    error = pickle.loads(pickle.dumps(MissingDriverError("not installed", "vendor.Client")))
    assert (str(error), error.class_path) == ("not installed", "vendor.Client")


def test_an_error_of_grpc_as_the_cause_is_told_in_one_line() -> None:
    import grpc

    from jumpstarter.common.exceptions import JumpstarterException

    cause = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "no route")
    error = JumpstarterException("the call failed")
    error.__cause__ = cause
    assert str(error) == "the call failed (Caused by: UNAVAILABLE: no route)"
