"""In a lab, each release as exporter and as client: everything that devices are used for, through our router."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from interop_test import CALLS, ENCODINGS, RESOURCES, STREAMING_CALLS, STREAMS
from lab import Exporter, Lab
from processes import PROBE

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def exporters(
    lab: Lab, releases: dict[str, Path], devices: Callable[[], dict[str, Any]]
) -> Generator[dict[str, Exporter], None, None]:
    """One exporter of each release."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(lab.exporter(release, f"board-{name}", devices(), labels={"release": name}))
            for name, release in releases.items()
        }


@pytest.mark.parametrize("exporter", ["ours", "published"])
@pytest.mark.parametrize("client", ["ours", "published"])
def test_every_device_is_usable_through_the_router(
    lab: Lab, releases: dict[str, Path], exporters: dict[str, Exporter], client: str, exporter: str, tmp_path: Path
) -> None:
    release = releases[client]
    script = [release / "python", PROBE / "drive_lab.py"]

    with lab.client(f"{client}-to-{exporter}").start(
        release, "shell", "--selector", f"release={exporter}", "--duration", "5m", "--", *script, SCRATCH=str(tmp_path)
    ) as shell:
        code = shell.wait(100)

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
    exporters[exporter].until("AVAILABLE", free=True, patience=20)
