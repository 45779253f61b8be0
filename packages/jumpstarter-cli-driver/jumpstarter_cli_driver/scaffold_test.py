"""`driver new`: the package that it writes is installed, tested and used like any other."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from . import driver
from .scaffold import DriverNames, write_package

TIMEOUT = 110


def new(out: Path, *args: str) -> Path:
    result = CliRunner().invoke(driver, ["new", *args, "--out", str(out), "-o", "path"], prog_name="jmp-driver")
    assert result.exit_code == 0, result.output
    return Path(result.stdout.strip())


def run_tests(folder: Path, *, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("my-board", ("jumpstarter-driver-my-board", "jumpstarter_driver_my_board", "MyBoard", "my_board")),
        ("My_Board", ("jumpstarter-driver-my-board", "jumpstarter_driver_my_board", "MyBoard", "my_board")),
        ("jumpstarter-driver-x1", ("jumpstarter-driver-x1", "jumpstarter_driver_x1", "X1", "x1")),
        ("class", ("jumpstarter-driver-class", "jumpstarter_driver_class", "Class", "class_")),
    ],
)
def test_names_are_made_from_one(name: str, expected: tuple[str, str, str, str]) -> None:
    names = DriverNames.from_name(name)
    assert (names.distribution, names.module, names.class_name, names.instance) == expected


@pytest.mark.parametrize("name", ["", "1st", "a b", "a/b", "../a", "é"])
def test_what_can_name_no_package_is_refused(name: str) -> None:
    with pytest.raises(click.UsageError, match="can't name a driver"):
        DriverNames.from_name(name)


def test_a_class_name_can_be_given_but_must_be_one() -> None:
    assert DriverNames.from_name("x", "XDriver").class_name == "XDriver"
    with pytest.raises(click.UsageError, match="can't name a class"):
        DriverNames.from_name("x", "class")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    folder = new(tmp_path, "x")
    (folder / "README.md").write_text("mine")
    result = CliRunner().invoke(driver, ["new", "x", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "not empty" in result.output
    assert (folder / "README.md").read_text() == "mine"


def test_all_that_a_package_needs_is_there(tmp_path: Path) -> None:
    folder = new(tmp_path, "my-board", "--author", "Ada <ada@example.com>", "--description", 'A "good" board.')
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {
        ".gitignore",
        "README.md",
        "pyproject.toml",
        "examples/exporter.yaml",
        "jumpstarter_driver_my_board/__init__.py",
        "jumpstarter_driver_my_board/py.typed",
        "jumpstarter_driver_my_board/driver.py",
        "jumpstarter_driver_my_board/client.py",
        "jumpstarter_driver_my_board/driver_test.py",
    }
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["description"] == 'A "good" board'
    assert project["authors"] == [{"name": "Ada", "email": "ada@example.com"}]
    assert project["entry-points"]["jumpstarter.drivers"] == {"MyBoard": "jumpstarter_driver_my_board.driver:MyBoard"}


@pytest.mark.parametrize("args", [["my-board"], ["class", "--description", 'Odd \\ "text" with \'\'\' and """ in it']])
def test_the_tests_of_a_new_package_pass(args: list[str], tmp_path: Path) -> None:
    result = run_tests(new(tmp_path, *args))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "9 passed" in result.stdout


def test_the_tests_of_a_new_package_can_fail(tmp_path: Path) -> None:
    folder = new(tmp_path, "my-board")
    source = folder / "jumpstarter_driver_my_board" / "driver.py"
    source.write_text(source.read_text().replace("self._on = True", "self._on = False"))
    result = run_tests(folder)
    assert result.returncode == 1
    assert "2 failed" in result.stdout


def test_an_installed_new_driver_is_found_and_used(tmp_path: Path) -> None:
    folder = new(tmp_path, "my-board")
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False, symlinks=True)
    # The new environment sees the packages of this one, and nothing is fetched.
    (site,) = environment.glob("lib/python3*/site-packages")
    (site / "outer.pth").write_text("\n".join(path for path in sys.path if path and Path(path).is_dir()))
    python = str(environment / "bin" / "python")

    def call(*args: str) -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run([python, *args], env=env, capture_output=True, text=True, timeout=TIMEOUT)

    install = ["-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    installed = call(*install, "--disable-pip-version-check", "-e", str(folder))
    assert installed.returncode == 0, installed.stderr
    assert "jumpstarter_driver_my_board.driver.MyBoard" in call("-m", "jumpstarter_cli", "driver", "list").stdout
    example = str(folder / "examples" / "exporter.yaml")
    j = [python, "-m", "jumpstarter_cli.j", "my_board", "greet", "world"]
    used = call("-m", "jumpstarter_cli", "shell", "--exporter-config", example, "--", *j)
    assert (used.returncode, used.stdout) == (0, "Hello, world!\n"), used.stderr


def test_a_folder_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        write_package(DriverNames.from_name("x"), tmp_path / "file")
