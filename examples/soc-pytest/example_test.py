"""The example runs as its page says: it passes on the virtual board, and fails when the screen shows something else."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from jumpstarter_testbench import guest
from jumpstarter_testbench.requirements import need
from PIL import Image

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

pytestmark = [pytest.mark.device, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def material(guest_material: guest.Material) -> None:
    """What the board boots, made as the page of the example says."""
    need("qemu-x86_64", "qemu-img")
    spec = importlib.util.spec_from_file_location("soc_pytest_board", HERE / "panel_board.py")
    assert spec is not None
    assert spec.loader is not None
    board = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(board)
    board.make()


def run_example(artifacts: Path, *options: str, references: Path = HERE / "references") -> tuple[int, str]:
    """Run the test in a shell with the board; return its exit code and what it printed."""
    command = [
        *(str(Path(sys.executable).with_name("jmp")), "shell", "--exporter-config", str(HERE / "exporter.yaml"), "--"),
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "test_on_soc.py"), *options),
    ]
    environment = {**os.environ, "ARTIFACTS": str(artifacts), "REFERENCES": str(references), "TERM": "dumb"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=280
    )
    return done.returncode, done.stdout


def test_board_shows_what_its_references_have(material: None, tmp_path: Path) -> None:
    code, output = run_example(tmp_path)

    assert code == 0, output
    assert "4 passed" in output
    assert b"soc login: " in (tmp_path / "console.log").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["console.log"]


@pytest.mark.slow
def test_another_picture_is_a_failure_that_shows_the_difference(material: None, tmp_path: Path) -> None:
    references, artifacts = tmp_path / "references", tmp_path / "artifacts"
    references.mkdir()
    shutil.copy(HERE / "references" / "alarm.png", references / "ok.png")

    code, output = run_example(artifacts, "-k", "all_is_good", references=references)

    assert code == 1, output
    assert f"does not show {references}/ok.png, after 10 s" in output
    for line in (f"seen:       {artifacts}/FAILED_ok.png", f"difference: {artifacts}/DIFF_ok.png"):
        assert line in output
    assert Image.open(artifacts / "FAILED_ok.png").size == (720, 400)
    assert Image.open(artifacts / "DIFF_ok.png").width > 3 * 700
