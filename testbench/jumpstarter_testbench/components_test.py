import os
from pathlib import Path

import pytest

from jumpstarter_testbench import components as module
from jumpstarter_testbench.components import Component, components, install_line, missing_packages


def test_every_component_says_how_to_find_and_install_it():
    for component in components().values():
        assert component.packages, component.name
        assert component.programs or component.files, component.name
        assert component.tier in {"browser", "daemon", "device", "lab_guest"}


def test_a_program_in_sbin_is_found_with_an_ordinary_users_path(tmp_path, monkeypatch):
    program = tmp_path / "some-daemon"
    program.touch(mode=0o755)
    monkeypatch.setattr(module, "SEARCH_PATH", os.pathsep.join(["/usr/bin", str(tmp_path)]))

    assert Component(name="x", tier="daemon", packages=("x",), programs=("some-daemon",)).missing() == []


def test_absent_programs_and_files_are_named():
    component = Component(
        name="x", tier="daemon", packages=("x",), programs=("sh", "no-such-program"), files=("/no/such/file", "/")
    )

    assert component.missing() == ["no-such-program", "/no/such/file"]


def test_the_packages_of_a_tier_are_those_of_its_missing_components(monkeypatch):
    listed = {
        "there": Component(name="there", tier="daemon", packages=("there",), programs=("sh",)),
        "absent": Component(name="absent", tier="daemon", packages=("one", "two"), programs=("no-such-program",)),
        "other": Component(name="other", tier="device", packages=("three",), programs=("no-such-program",)),
    }
    monkeypatch.setattr(module, "components", lambda: listed)

    assert missing_packages(["daemon"]) == ["one", "two"]


def test_a_component_listed_twice_is_an_error(tmp_path, monkeypatch):
    text = "[daemon.x]\npackages = ['x']\nprograms = ['x']\n[device.x]\npackages = ['x']\nprograms = ['x']\n"
    path = Path(tmp_path, "components.toml")
    path.write_text(text)
    monkeypatch.setattr(module, "LIST", path)
    components.cache_clear()
    try:
        with pytest.raises(ValueError, match="x is listed twice"):
            components()
    finally:
        components.cache_clear()


def test_the_install_line_can_be_copied_into_a_shell():
    assert install_line(["one", "t wo"]) == "sudo apt-get install --no-install-recommends one 't wo'"
