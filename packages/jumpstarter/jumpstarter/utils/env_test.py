"""The client of the session that the environment names."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal

from jumpstarter.client.base import StubDriverClient
from jumpstarter.common.exceptions import EnvironmentVariableNotSetError, ExporterUnreachableError
from jumpstarter.common.utils import ExporterMetadata, env, env_with_metadata
from jumpstarter.config.client import ClientConfigV1Alpha1, ObjectMeta
from jumpstarter.config.exporter import ExporterConfigV1Alpha1
from jumpstarter.config.user import UserConfigV1Alpha1
from jumpstarter.utils.env import drivers_allowed, env_async, env_with_metadata_async

POWER = "jumpstarter_driver_power.driver.MockPower"


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A session that the environment names, without a word on drivers."""
    config = ExporterConfigV1Alpha1(
        metadata=ObjectMeta(namespace="lab", name="bench"),
        export={"power": {"type": POWER}},  # type: ignore[dict-item]
    )
    with config.serve_unix() as path:
        monkeypatch.setenv("JUMPSTARTER_HOST", str(path))
        yield str(path)


def test_client_of_the_session_is_opened(session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JMP_DRIVERS_ALLOW", "jumpstarter_driver_*")
    with env() as client:
        client.power.on()  # type: ignore[attr-defined]


async def test_client_of_the_session_is_opened_on_the_event_loop(session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JMP_DRIVERS_ALLOW", "UNSAFE")
    async with BlockingPortal() as portal:
        with ExitStack() as stack:
            async with env_async(portal, stack) as client:
                await client.children["power"].call_async("on")
            async with env_with_metadata_async(portal, stack) as (client, metadata):
                assert (metadata.name, list(client.children)) == ("", ["power"])


def test_missing_variable_is_told_and_caught_as_before() -> None:
    with (
        pytest.raises(EnvironmentVariableNotSetError, match=r"JUMPSTARTER_HOST is not set.*jmp shell") as caught,
        env(),
    ):
        pytest.fail("opened")
    assert isinstance(caught.value, RuntimeError)


def test_session_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("JUMPSTARTER_HOST", str(tmp_path / "gone"))
    monkeypatch.setenv("JMP_DRIVERS_ALLOW", "UNSAFE")
    with pytest.raises(ExporterUnreachableError, match=f"{tmp_path}/gone did not respond"), env():
        pytest.fail("opened")


def test_error_of_the_body_comes_out_as_it_is(session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JMP_DRIVERS_ALLOW", "UNSAFE")
    with pytest.raises(ZeroDivisionError), env():
        raise ZeroDivisionError


def test_class_that_is_not_allowed_is_not_imported(session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JMP_DRIVERS_ALLOW", "vendor.*,jumpstarter_driver_composite.*")
    with env() as client:
        assert isinstance(client.children["power"], StubDriverClient)
        with pytest.raises(ImportError, match=r"doesn't match any of the allowed patterns .* drivers\.allow"):
            client.children["power"].call("on")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"JMP_DRIVERS_ALLOW": "a.*,b.*"}, (["a.*", "b.*"], False)),
        ({"JMP_DRIVERS_ALLOW": "UNSAFE"}, (["UNSAFE"], True)),
        ({"JMP_DRIVERS_ALLOW": ""}, ([""], False)),
        ({"JMP_DRIVERS_UNSAFE": "1"}, ([], True)),
        ({"JMP_DRIVERS": '{"allow": ["a.*"], "unsafe": false}'}, (["a.*"], False)),
        ({}, ([], False)),
    ],
)
def test_allowed_classes_come_from_the_environment(
    environment: dict[str, str], expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert drivers_allowed() == expected


def test_allowed_classes_come_from_the_current_client_where_the_environment_is_silent() -> None:
    config = ClientConfigV1Alpha1(
        alias="alice",
        metadata=ObjectMeta(namespace="lab", name="alice"),
        drivers={"allow": ["a.*"]},
    )
    ClientConfigV1Alpha1.save(config)
    UserConfigV1Alpha1.load_or_create().use_client("alice")
    assert drivers_allowed() == (["a.*"], False)


def test_shell_tells_of_its_exporter(session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JMP_EXPORTER", "rpi-1")
    monkeypatch.setenv("JMP_LEASE", "lease-1")
    monkeypatch.setenv("JMP_EXPORTER_LABELS", "board=rpi,odd,x=1=2,=y")
    monkeypatch.setenv("JMP_DRIVERS_ALLOW", "UNSAFE")
    with env_with_metadata() as (client, metadata):
        client.power.on()  # type: ignore[attr-defined]
    assert metadata == ExporterMetadata(name="rpi-1", labels={"board": "rpi", "x": "1=2"}, lease="lease-1")


def test_nothing_is_known_of_an_exporter_outside_of_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JMP_LEASE", "")
    assert ExporterMetadata.from_env() == ExporterMetadata(name="", labels={}, lease=None)


def test_environment_is_read_without_what_only_configs_need() -> None:
    code = (
        "import os, sys; os.environ['JMP_DRIVERS_ALLOW'] = 'a'; "
        "import jumpstarter.utils.env as e; e.drivers_allowed(); "
        "print([m for m in ('pydantic', 'yaml', 'grpc', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
