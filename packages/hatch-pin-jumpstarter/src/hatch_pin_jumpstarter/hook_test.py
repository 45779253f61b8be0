"""Real builds of small projects with the hook: what ends up in source distributions and wheels."""

from __future__ import annotations

import email
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from hatch_pin_jumpstarter import PinJumpstarter, hatch_register_build_hook, pinned

PROJECT = """
[build-system]
requires = ["hatchling", "hatch-pin-jumpstarter"]
build-backend = "hatchling.build"

[project]
name = "jumpstarter-driver-example"
version = "1.2.3"
requires-python = ">=3.11"
dependencies = [
  "jumpstarter",
  "Jumpstarter_Protocol[grpc]>=1.0; python_version >= '3.11'",
  "anyio>=4.6",
  "not-jumpstarter",
]

[project.optional-dependencies]
extra = ["jumpstarter-driver-power"]

[dependency-groups]
dev = ["jumpstarter-testing"]

[tool.hatch.build.targets.wheel]
packages = ["example"]

[tool.hatch.build.hooks.pin_jumpstarter]
"""

PINNED = [
    "jumpstarter==1.2.3",
    'Jumpstarter_Protocol[grpc]==1.2.3,>=1.0; python_version >= "3.11"',
    "anyio>=4.6",
    "not-jumpstarter",
]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of one module in a directory of its own."""
    folder = tmp_path / "project"
    (folder / "example").mkdir(parents=True)
    (folder / "example/__init__.py").write_text("")
    (folder / "pyproject.toml").write_text(PROJECT)
    return folder


def build(project: Path, target: str) -> Path:
    """Build with Hatchling as a front end does, in a process of its own; return the artifact."""
    temporary = project.parent / "temporary"
    temporary.mkdir(exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target],
        cwd=project,
        env={"TMPDIR": str(temporary), "PATH": ""},
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert list(temporary.iterdir()) == []  # nothing is left behind
    (artifact,) = (project / "dist").glob("*.tar.gz" if target == "sdist" else "*.whl")
    return artifact


def unpack(sdist: Path, folder: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(folder)  # written by the test itself; the filters are younger than the oldest Python 3.11
    (root,) = folder.iterdir()
    return root


def required(wheel: Path) -> list[str]:
    """The requirements in the metadata of a wheel, those of extras left out."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    return [item for item in metadata.get_all("Requires-Dist", []) if "extra ==" not in item]


def test_a_source_distribution_pins_its_siblings(project: Path, tmp_path: Path) -> None:
    root = unpack(build(project, "sdist"), tmp_path / "unpacked")
    document = tomllib.loads((root / "pyproject.toml").read_text())
    assert document["project"]["dependencies"] == PINNED


def test_everything_else_in_the_project_file_stays(project: Path, tmp_path: Path) -> None:
    root = unpack(build(project, "sdist"), tmp_path / "unpacked")
    before, after = tomllib.loads(PROJECT), tomllib.loads((root / "pyproject.toml").read_text())
    del before["project"]["dependencies"], after["project"]["dependencies"]
    assert after == before


def test_the_project_file_in_the_tree_is_left_alone(project: Path) -> None:
    build(project, "sdist")
    assert (project / "pyproject.toml").read_text() == PROJECT


def test_a_wheel_from_the_source_distribution_is_pinned(project: Path, tmp_path: Path) -> None:
    root = unpack(build(project, "sdist"), tmp_path / "unpacked")
    assert sorted(required(build(root, "wheel"))) == sorted(
        [
            "jumpstarter==1.2.3",
            "jumpstarter-protocol[grpc]==1.2.3,>=1.0; python_version >= '3.11'",
            "anyio>=4.6",
            "not-jumpstarter",
        ]
    )


def test_a_wheel_from_the_tree_is_not_pinned(project: Path) -> None:
    assert not any("==1.2.3" in item for item in required(build(project, "wheel")))


def test_pinning_twice_changes_nothing(project: Path, tmp_path: Path) -> None:
    first = unpack(build(project, "sdist"), tmp_path / "first")
    second = unpack(build(first, "sdist"), tmp_path / "second")
    assert (second / "pyproject.toml").read_text() == (first / "pyproject.toml").read_text()


def test_a_project_without_dependencies_builds(project: Path, tmp_path: Path) -> None:
    start, end = PROJECT.index("dependencies = ["), PROJECT.index("[project.optional-dependencies]")
    (project / "pyproject.toml").write_text(PROJECT[:start] + PROJECT[end:])
    root = unpack(build(project, "sdist"), tmp_path / "unpacked")
    assert tomllib.loads((root / "pyproject.toml").read_text())["project"].get("dependencies", []) == []


@pytest.mark.parametrize(
    ("dependency", "expected"),
    [
        ("jumpstarter", "jumpstarter==1.0"),
        ("jumpstarter>=0.9", "jumpstarter==1.0,>=0.9"),
        ("jumpstarter-driver-power[cli]", "jumpstarter-driver-power[cli]==1.0"),
        ("jumpstarter_cli; sys_platform == 'linux'", 'jumpstarter_cli==1.0; sys_platform == "linux"'),
        ("jumpstarter==1.0", "jumpstarter==1.0"),
        ("numpy", "numpy"),
        ("my-jumpstarter>=2", "my-jumpstarter>=2"),
    ],
)
def test_siblings_are_known_by_their_names(dependency: str, expected: str) -> None:
    assert pinned(dependency, "1.0") == expected


def test_the_hook_is_registered_under_its_name() -> None:
    assert hatch_register_build_hook() is PinJumpstarter
    assert PinJumpstarter.PLUGIN_NAME == "pin_jumpstarter"
