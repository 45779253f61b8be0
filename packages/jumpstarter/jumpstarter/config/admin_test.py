"""Admin configs: kept for their owner alone, and one of them is current."""

from __future__ import annotations

from pathlib import Path

import pytest

from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.common.exceptions import FileNotFoundError as MissingFile
from jumpstarter.config.admin import AdminConfigV1Alpha1
from jumpstarter.config.common import ObjectMeta


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JMP_CLIENT_CONFIG_HOME", str(tmp_path))


def config(alias: str = "lab") -> AdminConfigV1Alpha1:
    return AdminConfigV1Alpha1(
        alias=alias,
        metadata=ObjectMeta(namespace="default", name="root"),
        endpoint="lab.example:8082",
        token="a secret",
    )


def test_a_config_comes_back_as_it_was_saved() -> None:
    AdminConfigV1Alpha1.save(config())
    found = AdminConfigV1Alpha1.load("lab")
    assert (found.alias, found.endpoint, found.token) == ("lab", "lab.example:8082", "a secret")


def test_only_the_owner_may_read_it() -> None:
    assert AdminConfigV1Alpha1.save(config()).stat().st_mode & 0o777 == 0o600


def test_the_token_is_not_shown() -> None:
    assert "a secret" not in repr(config())


def test_without_a_choice_none_is_current() -> None:
    AdminConfigV1Alpha1.save(config())
    assert AdminConfigV1Alpha1.current() is None


def test_the_chosen_one_is_current_until_it_is_removed() -> None:
    path = AdminConfigV1Alpha1.save(config())
    AdminConfigV1Alpha1.use("lab")
    assert AdminConfigV1Alpha1.current() == "lab"
    path.unlink()
    assert AdminConfigV1Alpha1.current() is None


def test_one_that_is_not_there_can_not_be_chosen() -> None:
    with pytest.raises(MissingFile, match="does not exist"):
        AdminConfigV1Alpha1.use("nobody")


def test_an_unknown_key_is_named_with_its_line(tmp_path: Path) -> None:
    path = AdminConfigV1Alpha1.save(config())
    path.write_text(path.read_text() + "colour: red\n")
    with pytest.raises(ConfigurationError, match=r"lab\.yaml:\d+: colour: unknown key"):
        AdminConfigV1Alpha1.load("lab")
