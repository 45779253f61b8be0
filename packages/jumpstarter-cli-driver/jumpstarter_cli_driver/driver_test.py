"""The driver commands, with packages that are installed and some that are made for a test."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from . import driver
from .driver import list_drivers
from .requirements import examine, is_met, requirements_of

POWER = "jumpstarter_driver_power.driver.MockPower"


def run(*args: str) -> Result:
    return CliRunner().invoke(driver, args, prog_name="jmp-driver")


class Package:
    """A driver package on the path, with the metadata of an installed distribution."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, source: str, entries: dict[str, str]) -> None:
        (self.folder / f"{name}.py").write_text(source)
        info = self.folder / f"{name}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        lines = "\n".join(f"{key} = {value}" for key, value in entries.items())
        (info / "entry_points.txt").write_text(f"[jumpstarter.drivers]\n{lines}\n")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield Package(tmp_path)
    for name in set(sys.modules) - before:
        if (tmp_path / f"{name}.py").exists():
            del sys.modules[name]


NEEDY = """\
from typing import ClassVar
from jumpstarter_driver_power.driver import MockPower

class Base(MockPower):
    system_requirements: ClassVar[dict[str, str]] = {"sh": "apt-get install dash", "no-such-tool": "from the base"}

class Needy(Base):
    system_requirements: ClassVar[dict[str, str]] = {
        "no-such-tool": "apt-get install no-such-tool",
        "/no/such/device?": "plug it in",
        "no-such-tool|sh": "either will do",
        "python:no_such_module_at_all": "pip install it",
    }
"""


# --- list ------------------------------------------------------------------------------------------------------------


def test_the_list_names_drivers_and_their_types() -> None:
    lines = run("list").stdout.splitlines()
    assert lines[0].split() == ["NAME", "TYPE"]
    assert ["MockPower", POWER] in [line.split() for line in lines]


def test_more_columns_on_request() -> None:
    lines = [line.split() for line in run("ls", "-o", "wide").stdout.splitlines()]
    assert lines[0] == ["NAME", "TYPE", "PACKAGE", "VERSION"]
    assert ["MockPower", POWER, "jumpstarter-driver-power"] in [line[:3] for line in lines]


def test_the_list_for_programs() -> None:
    listed = json.loads(run("list", "-o", "json").stdout)
    assert listed["kind"] == "DriverList"
    found = next(item for item in listed["items"] if item["name"] == "MockPower")
    assert (found["type"], found["package"]) == (POWER, "jumpstarter-driver-power")
    assert yaml.safe_load(run("list", "-o", "yaml").stdout) == listed
    assert "MockPower" in run("list", "-o", "name").stdout.splitlines()


def test_without_any_driver_the_list_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    from . import installed

    monkeypatch.setattr(installed, "entry_points", lambda group: [])
    result = run("list")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "NAME  TYPE\n", "No resources found.\n")


def test_newly_installed_drivers_are_found(package: Package) -> None:
    package.add("needy_package", NEEDY, {"Needy": "needy_package:Needy"})
    assert "needy_package.Needy" in run("list").stdout


def test_the_command_is_where_programs_look_for_it() -> None:
    assert list_drivers is driver.commands["list"]


# --- show ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["MockPower", POWER])
def test_a_driver_is_described(name: str) -> None:
    result = run("show", name)
    assert result.exit_code == 0
    assert "Client: jumpstarter_driver_power.client.PowerClient" in result.stdout
    assert "on() -> None" in result.stdout
    assert "[streaming call]" in result.stdout


def test_a_description_for_programs() -> None:
    described = json.loads(run("show", "MockPower", "-o", "json").stdout)
    methods = {method["name"]: method["kind"] for method in described["methods"]}
    assert methods["on"] == "call"
    assert methods["read"] == "streaming call"
    assert described["client"] == "jumpstarter_driver_power.client.PowerClient"


def test_the_commands_are_those_of_the_client() -> None:
    commands = {item["name"]: item for item in json.loads(run("show", "MockPower", "-o", "json").stdout)["commands"]}
    assert {"on", "off", "cycle", "status", "read"} <= set(commands)
    assert commands["on"]["help"] == "Switch on."
    assert "  cycle  -  " in run("show", "MockPower").stdout


def test_a_client_that_can_not_be_looked_at_costs_only_its_commands(package: Package) -> None:
    source = (
        "from jumpstarter_driver_power.driver import MockPower\n"
        "class Odd(MockPower):\n"
        "    @classmethod\n"
        "    def client(cls):\n"
        "        return 'no_such_package.client.Client'\n"
    )
    package.add("odd_client_package", source, {"OddClient": "odd_client_package:Odd"})
    described = json.loads(run("show", "OddClient", "-o", "json").stdout)
    assert described["commands"] == []
    assert described["methods"]


def test_settings_are_those_of_the_driver_alone(package: Package) -> None:
    source = (
        "from dataclasses import dataclass\n"
        "from jumpstarter_driver_power.driver import MockPower\n"
        "@dataclass(kw_only=True)\n"
        "class Set(MockPower):\n"
        "    host: str\n"
        "    port: int = 23\n"
    )
    package.add("set_package", source, {"Set": "set_package:Set"})
    settings = json.loads(run("show", "Set", "-o", "json").stdout)["settings"]
    assert [(item["name"], item["required"]) for item in settings] == [("host", True), ("port", False)]


def test_an_unknown_driver_is_a_failure_with_a_hint() -> None:
    result = run("show", "Nope")
    assert result.exit_code == 1
    assert "No driver 'Nope' is installed" in result.stderr
    assert "jmp driver list" in result.stderr


def test_a_driver_that_can_not_be_loaded_says_why(package: Package) -> None:
    package.add("broken_package", "import no_such_module_at_all\n", {"Broken": "broken_package:Broken"})
    result = run("show", "Broken")
    assert result.exit_code == 1
    assert "no_such_module_at_all" in result.stderr


# --- doctor ----------------------------------------------------------------------------------------------------------


def test_a_driver_without_needs_is_well() -> None:
    result = run("doctor", "MockPower")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].split() == ["MockPower", "-", "ok"]


def test_what_is_missing_is_told_with_what_to_do(package: Package) -> None:
    package.add("needy_package", NEEDY, {"Needy": "needy_package:Needy"})
    result = run("doctor", "Needy", "-o", "json")
    assert result.exit_code == 1
    found = {item["requirement"]: (item["state"], item["hint"]) for item in json.loads(result.stdout)["items"]}
    assert found == {
        "sh": ("ok", ""),
        "no-such-tool": ("missing", "apt-get install no-such-tool"),
        "/no/such/device": ("optional", "plug it in"),
        "no-such-tool or sh": ("ok", ""),
        "python:no_such_module_at_all": ("missing", "pip install it"),
    }
    assert run("doctor", "Needy", "-o", "name").stdout == "Needy\n"


def test_a_driver_that_can_not_be_loaded_is_a_finding(package: Package) -> None:
    package.add("broken_package", "import no_such_module_at_all\n", {"Broken": "broken_package:Broken"})
    package.add("odd_package", "raise RuntimeError('wrong system')\n", {"Odd": "odd_package:Odd"})
    result = run("doctor", "Broken", "Odd")
    assert result.exit_code == 1
    assert "python:no_such_module_at_all" in result.stdout
    assert "RuntimeError: wrong system" in result.stdout


def test_declared_needs_must_be_texts() -> None:
    class Wrong:
        system_requirements = ["tool"]

    with pytest.raises(TypeError, match=r"Wrong.system_requirements must be a mapping"):
        requirements_of(Wrong)
    assert examine("Wrong", lambda: Wrong)[0].state == "broken"


@pytest.mark.parametrize(
    ("requirement", "met"),
    [
        ("sh", True),
        ("no-such-tool", False),
        ("/dev/null", True),
        ("/no/such/file?", False),
        ("python:json", True),
        ("python:no_such.module", False),
        ("lib:no-such-library", False),
        ("no-such-tool | sh", True),
    ],
)
def test_how_needs_are_written(requirement: str, met: bool) -> None:
    assert is_met(requirement) is met


def test_all_installed_drivers_can_be_examined() -> None:
    result = run("doctor", "-o", "json")
    items = json.loads(result.stdout)["items"]
    assert {"MockPower", "Composite"} <= {item["driver"] for item in items}
    assert result.exit_code == int(any(item["state"] in ("missing", "broken") for item in items))


def test_sh_is_what_these_tests_rely_on() -> None:
    assert shutil.which("sh")
