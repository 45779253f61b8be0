"""In a lab, each release as exporter and as client: everything that devices are used for, through our router."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from interop_test import CALLS, ENCODINGS, RESOURCES, STREAMING_CALLS, STREAMS
from lab import Lab
from mixes import Mix, Mixes, in_every_mix, open_mixes
from processes import PROBE, TIMEOUT

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]


@pytest.fixture(scope="module")
def mixes(
    lab: Lab,
    releases: dict[str, Path],
    devices: Callable[[], dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Generator[Mixes, None, None]:
    """An exporter with all devices for every pair of releases."""
    with ExitStack() as stack:
        yield open_mixes(stack, lab, releases, tmp_path_factory.mktemp, devices)


@in_every_mix
def test_every_device_is_usable_through_the_router(mix: Mix) -> None:
    script = [mix.release / "python", PROBE / "drive_lab.py"]

    with mix.client().start(mix.release, "shell", *mix.select, "--", *script, SCRATCH=str(mix.folder)) as shell:
        code = shell.wait()

    assert code == 0, shell
    # Between the lines of the log, which goes to standard output in one release.
    seen = json.loads(next(line for line in shell.output.splitlines() if line.startswith("{")))
    assert seen["calls"] == CALLS
    assert seen["streaming_calls"] == STREAMING_CALLS
    assert seen["streams"] == STREAMS
    assert seen["resources"] == RESOURCES
    assert seen["logs"] == {"arrived": True}
    assert seen["status"] == "LEASE_READY"
    assert seen["power"] == {"readings": [[0.0, 0.0], [5.0, 2.0]], "j": 0}
    assert seen["serial"] == {"pexpect": True, "pipe": True}
    assert seen["storage"] == {"hash": True, "back": True, "bytes": True, "listed": ["file"], "deleted": True}
    assert seen["flasher"] == dict.fromkeys(ENCODINGS, True)
    assert seen["network"] == {"adapter": [True, True, True], "j": "small"}
    assert seen["half_close"] == {"complete": True}
