"""The names of `jumpstarter.common` are there, and importing it loads nothing of what they need."""

from __future__ import annotations

import subprocess
import sys

import pytest

import jumpstarter.common


@pytest.mark.parametrize("name", jumpstarter.common.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(jumpstarter.common, name) is not None
    assert name in dir(jumpstarter.common)


def test_other_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = jumpstarter.common.no_such_name


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, jumpstarter.common.exceptions; print(*{name.partition('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert not {"grpc", "google", "pydantic", "anyio", "asyncio", "aiohttp", "rich"} & set(run.stdout.split())


def test_importing_jumpstarter_silences_grpc_unless_told_otherwise() -> None:
    code = "import os, jumpstarter; print(os.environ['GRPC_VERBOSITY'], os.environ['GLOG_minloglevel'])"
    for environment, expected in [({}, "ERROR 2"), ({"GRPC_VERBOSITY": "DEBUG", "GLOG_minloglevel": "0"}, "DEBUG 0")]:
        run = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=30, check=True
        )
        assert run.stdout.split() == expected.split()
