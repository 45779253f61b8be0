import tomllib
from pathlib import Path

import pytest

from devtasks import base, checks, workspace

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_build_hook_comes_before_those_that_build_with_it():
    assert workspace.packages()[0].name == "hatch-pin-jumpstarter"


def test_every_published_module_is_under_the_import_contract():
    assert checks._modules_without_contract() == []


def test_everything_that_the_workspace_needs_is_pinned():
    pinned = {workspace._name(line) for line in workspace.CONSTRAINTS.read_text().splitlines() if "==" in line}
    needed = {workspace._name(requirement) for requirement in workspace._requirements()}

    assert needed - pinned == set(), "run ./dev lock"


def test_the_pins_name_versions_and_no_places():
    lines = [line for line in workspace.CONSTRAINTS.read_text().splitlines() if not line.startswith("#")]

    assert lines
    assert [line for line in lines if "==" not in line or "/" in line or "@" in line] == []


def test_what_decides_the_environment_changes_its_fingerprint(monkeypatch, tmp_path):
    monkeypatch.setattr(workspace, "ROOT", tmp_path)
    monkeypatch.setattr(workspace, "CONSTRAINTS", tmp_path / "constraints.txt")
    monkeypatch.setattr(workspace, "__file__", str(tmp_path / "workspace.py"))
    package = tmp_path / "packages" / "one" / "pyproject.toml"
    package.parent.mkdir(parents=True)
    package.write_text("[project]\n")
    first = workspace._fingerprint()
    assert workspace._fingerprint() == first

    package.write_text("[project]\nname = 'one'\n")
    second = workspace._fingerprint()
    (tmp_path / "constraints.txt").write_text("one==1\n")

    assert len({first, second, workspace._fingerprint()}) == 3


@pytest.mark.parametrize(
    ("requirement", "name"),
    [
        ("grpcio>=1.72", "grpcio"),
        ("backports_zstd>=1; python_version<'3.14'", "backports-zstd"),
        ("moto[s3]", "moto"),
        ("PyYAML", "pyyaml"),
    ],
)
def test_the_distribution_of_a_requirement(requirement, name):
    assert workspace._name(requirement) == name


def test_every_package_builds_with_the_pinning_hook_or_is_not_published():
    for package in workspace.packages():
        settings = tomllib.loads((package / "pyproject.toml").read_text())
        hooked = "pin_jumpstarter" in settings.get("tool", {}).get("hatch", {}).get("build", {}).get("hooks", {})
        private = "Private :: Do Not Upload" in settings["project"].get("classifiers", [])
        assert hooked or private or package.name == "hatch-pin-jumpstarter", package.name


def test_a_failed_command_keeps_its_exit_code():
    with pytest.raises(base.CommandFailed, match="exit code 3: sh -c exit 3") as caught:
        base.run(["sh", "-c", "exit 3"], quiet=True)

    assert caught.value.code == 3


def test_a_quiet_command_that_fails_shows_what_it_printed(capfdbinary):
    with pytest.raises(base.DevError):
        base.run(["sh", "-c", "echo the reason; exit 1"], quiet=True)

    assert b"the reason" in capfdbinary.readouterr().out
