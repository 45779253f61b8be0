"""A board is switched on, watched on its console, and its screen compared with what it should show.

An ordinary test with Jumpstarter. It runs against the board of the shell around it, or leases one:

    jmp shell --exporter-config examples/soc-pytest/exporter.yaml -- pytest examples/soc-pytest/test_on_soc.py
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jumpstarter.client.core import DriverError
from jumpstarter_imagehash import ImageHash
from jumpstarter_testing import JumpstarterTest

REFERENCES = Path(os.environ.get("REFERENCES", Path(__file__).parent / "references"))
ARTIFACTS = Path(os.environ.get("ARTIFACTS", "demo-artifacts/soc-pytest"))
"""Where the console's log goes, and pictures of comparisons that failed."""

BOOT_TIMEOUT = 60
COMMAND_TIMEOUT = 30
PROMPT = "@soc:~#"


class TestResource(JumpstarterTest):
    """The tests run in this order, on one board."""

    selector = "example=soc-pytest"

    @pytest.fixture(scope="class")
    @classmethod
    def console(cls, client: Any) -> Iterator[Any]:
        """The serial console, open over all power cycles; everything it says is recorded."""
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        with client.console.pexpect() as session, (ARTIFACTS / "console.log").open("wb") as log:
            session.logfile_read = log
            yield session

    @pytest.fixture
    def video(self, client: Any) -> ImageHash:
        """The screen."""
        return ImageHash(client.video, outdir=ARTIFACTS, hash_size=16)

    @pytest.fixture(scope="class")
    @classmethod
    def booted(cls, client: Any, console: Any) -> Iterator[None]:
        """The board at its login; off in the end."""
        client.power.cycle(0)
        console.expect_exact("login: ", timeout=BOOT_TIMEOUT)
        yield
        client.power.off()

    @pytest.fixture(scope="class")
    @classmethod
    def shell(cls, booted: None, console: Any) -> Any:
        """The console with a shell."""
        console.sendline("jumpstarter")
        console.expect_exact("assword: ", timeout=COMMAND_TIMEOUT)
        console.sendline("password")
        console.expect_exact(PROMPT, timeout=COMMAND_TIMEOUT)
        return console

    def test_has_no_picture_while_it_is_off(self, client: Any, video: ImageHash) -> None:
        client.power.off()
        with pytest.raises(DriverError):
            video.snapshot()

    def test_shows_its_start_picture(self, booted: None, video: ImageHash) -> None:
        video.assert_snapshot(REFERENCES / "start.png", tolerance=4, timeout=10)

    def test_shows_that_all_is_good(self, shell: Any, video: ImageHash) -> None:
        shell.sendline("panel ok; echo dra''wn")
        shell.expect_exact("drawn", timeout=COMMAND_TIMEOUT)
        video.assert_snapshot(REFERENCES / "ok.png", tolerance=4, timeout=10)

    def test_shows_an_alarm(self, shell: Any, video: ImageHash) -> None:
        shell.sendline("panel alarm; echo dra''wn")
        shell.expect_exact("drawn", timeout=COMMAND_TIMEOUT)
        video.assert_snapshot(REFERENCES / "alarm.png", tolerance=4, timeout=10)
