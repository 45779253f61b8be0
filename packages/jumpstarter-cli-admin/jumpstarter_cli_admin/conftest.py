"""A lab in a thread, and the commands as its admin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from jumpstarter.config.admin import AdminConfigV1Alpha1
from jumpstarter_controller.testing import Login, ThreadedLab, threaded_lab

from . import admin

Run = Callable[..., Result]


def save_admin(login: Login, alias: str) -> AdminConfigV1Alpha1:
    """Write the config of an admin."""
    config = AdminConfigV1Alpha1(
        alias=alias,
        metadata={"namespace": login.key.namespace, "name": login.key.name},
        endpoint=login.endpoint,
        tls=login.tls,
        token=login.token,
    )
    AdminConfigV1Alpha1.save(config)
    return config


@pytest.fixture
def lab(tmp_path: Path, tmp_config_path: Path) -> Iterator[ThreadedLab]:
    """A lab whose admin is the current one of this machine."""
    with threaded_lab(tmp_path) as running:
        save_admin(running.admin("root"), "here")
        AdminConfigV1Alpha1.use("here")
        yield running


@pytest.fixture
def run(lab: ThreadedLab) -> Run:
    """Run `jmp admin` with arguments."""
    return invoke


def invoke(*args: str, **options: Any) -> Result:
    """Run `jmp admin` with arguments, as a program."""
    return CliRunner().invoke(admin, args, prog_name="jmp admin", **options)


def done(result: Result) -> str:
    """Return what a command printed, after a look that it did not fail."""
    assert result.exit_code == 0, result.output
    return result.stdout


def failed(result: Result, code: int = 1) -> str:
    """Return the message of a command that failed."""
    assert result.exit_code == code, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, result.output
    assert "Traceback" not in result.output
    return result.stderr
