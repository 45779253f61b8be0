"""Which classes are imported, and what a user is told about the others."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from jumpstarter.common import importlib
from jumpstarter.common.exceptions import MissingDriverError
from jumpstarter.common.importlib import cached_import, import_class


@pytest.fixture
def vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with a sound client, and modules that are broken in different ways."""
    name = f"vendor_{tmp_path.name.replace('-', '_')}"
    package = tmp_path / name
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "client.py").write_text("class Client: pass\n")
    (package / "needy.py").write_text("import not_installed_at_all\n")
    (package / "stale.py").write_text("from os import no_such_name\n")
    (package / "faulty.py").write_text("import os\nos.no_such_attribute\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib._warn_broad.cache_clear()
    return name


def test_a_class_is_imported_once(vendor: str) -> None:
    assert cached_import(f"{vendor}.client", "Client") is import_class(f"{vendor}.client.Client", [], unsafe=True)


@pytest.mark.parametrize("pattern", ["{}.client.Client", "{}.*", "{}.*.Client", "*.Client", "{}.cl?ent.Client"])
def test_a_pattern_matches_the_whole_path_and_crosses_dots(vendor: str, pattern: str) -> None:
    allow = ["other.*", pattern.format(vendor)]
    assert import_class(f"{vendor}.client.Client", allow, unsafe=False).__name__ == "Client"


@pytest.mark.parametrize("allow", [[], [""], ["{}"], ["{}.client"], ["{}.CLIENT.*"], ["client.Client"]])
def test_what_no_pattern_matches_is_not_imported(vendor: str, allow: list[str]) -> None:
    path = f"{vendor}.client.Client"
    with pytest.raises(MissingDriverError, match=r"doesn't match any of the allowed patterns") as caught:
        import_class(path, [pattern.format(vendor) for pattern in allow], unsafe=False)
    assert path in str(caught.value)
    assert caught.value.class_path == path


def test_being_allowed_is_checked_before_anything_else() -> None:
    with pytest.raises(MissingDriverError, match="allowed"):
        import_class("nodots", [], unsafe=False)
    with pytest.raises(ImportError, match="nodots"):
        import_class("nodots", [], unsafe=True)


def test_a_missing_driver_of_jumpstarter_hints_at_versions() -> None:
    path = "jumpstarter_driver_nonexistent.client.Client"
    with pytest.raises(MissingDriverError, match="version mismatch") as caught:
        import_class(path, ["jumpstarter_driver_*"], unsafe=False)
    assert path in str(caught.value)
    assert "pip install jumpstarter_driver_nonexistent" in str(caught.value)


def test_a_missing_vendor_package_comes_with_its_install_command() -> None:
    with pytest.raises(MissingDriverError, match=r"not installed\. Install it with: pip install some_vendor") as caught:
        import_class("some_vendor.client.Client", [], unsafe=True)
    assert "version mismatch" not in str(caught.value)


def test_a_missing_class_is_named_with_its_module(vendor: str) -> None:
    with pytest.raises(MissingDriverError, match=rf"module {vendor}.client has no class Other"):
        import_class(f"{vendor}.client.Other", [], unsafe=True)


def test_a_missing_dependency_is_named_instead_of_the_driver(vendor: str) -> None:
    with pytest.raises(MissingDriverError, match="needs the module not_installed_at_all"):
        import_class(f"{vendor}.needy.Client", [], unsafe=True)


def test_a_module_that_fails_to_import_says_why(vendor: str) -> None:
    with pytest.raises(MissingDriverError, match=r"can't be imported: .*no_such_name"):
        import_class(f"{vendor}.stale.Client", [], unsafe=True)


def test_a_fault_in_a_module_is_not_taken_for_a_missing_class(vendor: str) -> None:
    with pytest.raises(AttributeError, match="no_such_attribute"):
        import_class(f"{vendor}.faulty.Client", [], unsafe=True)


def test_a_broad_pattern_is_warned_of_once(vendor: str, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        import_class(f"{vendor}.client.Client", ["vendor_*"], unsafe=False)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "vendor_*" in caplog.text


def test_a_pattern_within_a_package_is_not_broad(vendor: str, caplog: pytest.LogCaptureFixture) -> None:
    import_class(f"{vendor}.client.Client", ["vendor_*", f"{vendor}.*"], unsafe=False)
    assert not caplog.records
    assert not importlib._is_broad("jumpstarter_driver_*")
