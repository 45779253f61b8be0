"""Registry credentials are found in the order that container tools use, and never shown."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from jumpstarter.common import oci
from jumpstarter.common.oci import (
    OciCredentials,
    parse_oci_registry,
    read_auth_file_credentials,
    resolve_oci_credentials,
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without any file, and an environment without any setting."""
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "DOCKER_CONFIG", "OCI_USERNAME", "OCI_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "registries.conf"))
    return tmp_path


def auth_file(path: Path, **auths: str | dict[str, str]) -> Path:
    """Write an auth file; a text `user:password` is stored as container tools do it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = {
        key.replace("__", "/"): {"auth": base64.b64encode(value.encode()).decode()} if isinstance(value, str) else value
        for key, value in auths.items()
    }
    path.write_text(json.dumps({"auths": entries}))
    return path


def found(url: str) -> tuple[str | None, str | None]:
    credentials = read_auth_file_credentials(url)
    return credentials.username, credentials.plain_password


@pytest.mark.parametrize(
    ("url", "registry"),
    [
        ("oci://quay.io/org/image:tag", "quay.io"),
        ("quay.io/org/image", "quay.io"),
        ("oci://localhost/image", "localhost"),
        ("oci://registry:5000/image", "registry:5000"),
        ("oci://QUAY.io/org/image@sha256:abc", "quay.io"),
        ("oci://index.docker.io/library/alpine", "docker.io"),
        ("oci://org/image:tag", "docker.io"),
        ("oci://image:tag", "docker.io"),
        ("image", "docker.io"),
    ],
)
def test_the_registry_of_an_image(url: str, registry: str) -> None:
    assert parse_oci_registry(url) == registry


def test_bare_names_belong_to_the_search_registries(home: Path) -> None:
    (home / "registries.conf").write_text('unqualified-search-registries = ["registry.lab:5000", "docker.io"]')
    assert parse_oci_registry("oci://image") == "registry.lab:5000"
    auth_file(home / ".docker/config.json", **{"docker.io": "hub:secret"})
    assert found("oci://image") == ("hub", "secret")


def test_the_users_search_registries_win(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONTAINERS_REGISTRIES_CONF")
    folder = home / ".config/containers"
    (folder / "registries.conf.d").mkdir(parents=True)
    (folder / "registries.conf").write_text('unqualified-search-registries = ["one.example"]')
    assert parse_oci_registry("image") == "one.example"
    (folder / "registries.conf.d/10.conf").write_text('unqualified-search-registries = ["two.example"]')
    assert parse_oci_registry("image") == "two.example"


def test_a_broken_registries_conf_is_passed_over(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    (home / "registries.conf").write_text("not toml")
    assert parse_oci_registry("image") == "docker.io"
    assert "registries.conf" in caplog.text


def test_auth_files_are_asked_in_order(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(home / "explicit.json"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "run"))
    monkeypatch.setenv("DOCKER_CONFIG", str(home / "docker"))
    places = [
        "explicit.json",
        "run/containers/auth.json",
        ".config/containers/auth.json",
        "docker/config.json",
        ".docker/config.json",
    ]
    for place in reversed(places):
        auth_file(home / place, **{"quay.io": f"{place}:secret"})
        assert found("oci://quay.io/org/image") == (place, "secret")


def test_the_most_special_entry_wins(home: Path) -> None:
    auth_file(
        home / ".docker/config.json",
        **{"quay.io": "all:1", "quay.io__org": "org:2", "quay.io__org__image": "image:3", "quay.io__organ": "no:4"},
    )
    assert found("oci://quay.io/org/image:tag") == ("image", "3")
    assert found("oci://quay.io/org/image@sha256:00") == ("image", "3")
    assert found("oci://quay.io/org/other") == ("org", "2")
    assert found("oci://quay.io/someone/image") == ("all", "1")


@pytest.mark.parametrize(
    "key", ["https://index.docker.io/v1/", "docker.io", "registry-1.docker.io", "https://docker.io"]
)
def test_docker_hub_has_many_names(home: Path, key: str) -> None:
    auth_file(home / ".docker/config.json", **{key: "hub:se:cret"})
    assert found("oci://library/alpine") == ("hub", "se:cret")


def test_entries_may_hold_plain_members(home: Path) -> None:
    auth_file(home / ".docker/config.json", **{"quay.io": {"username": "user", "password": "secret"}})
    assert found("oci://quay.io/image") == ("user", "secret")


@pytest.mark.parametrize("entry", [{"auth": "not base64!"}, {"auth": "/w=="}, {"auth": "dXNlcg=="}, {"username": "u"}])
def test_an_entry_that_can_not_be_used_is_reported_without_its_content(
    home: Path, entry: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    auth_file(home / ".docker/config.json", **{"quay.io": entry})
    assert found("oci://quay.io/image") == (None, None)
    assert "quay.io" in caplog.text
    assert not any(value in caplog.text for value in entry.values() if len(value) > 1)


@pytest.mark.parametrize("text", ["", "[]", '{"auths": []}', "not json", "\xff"])
def test_a_broken_auth_file_is_passed_over(home: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    auth_file(home / ".config/containers/auth.json").write_text(text, encoding="latin-1")
    auth_file(home / ".docker/config.json", **{"quay.io": "user:secret"})
    assert found("oci://quay.io/image") == ("user", "secret")


def test_an_unknown_registry_has_no_credentials(home: Path) -> None:
    auth_file(home / ".docker/config.json", **{"quay.io": "user:secret"})
    assert found("oci://ghcr.io/image") == (None, None)
    assert not read_auth_file_credentials("oci://ghcr.io/image").is_authenticated


def test_arguments_win_over_the_environment_and_that_over_files(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    auth_file(home / ".docker/config.json", **{"quay.io": "file:secret"})
    assert resolve_oci_credentials("oci://quay.io/image").username == "file"
    monkeypatch.setenv("OCI_USERNAME", "environment")
    monkeypatch.setenv("OCI_PASSWORD", "secret")
    assert resolve_oci_credentials("oci://quay.io/image", "", None).username == "environment"
    assert resolve_oci_credentials("oci://quay.io/image", "argument", "secret").username == "argument"


@pytest.mark.parametrize(("username", "password", "missing"), [("user", None, "password"), (" ", "x", "username")])
def test_one_without_the_other_is_an_error(
    username: str | None, password: str | None, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=f"both username and password: arguments lack the {missing}"):
        resolve_oci_credentials("oci://quay.io/image", username, password)
    with pytest.raises(ValidationError, match="both username and password"):
        OciCredentials(username=username, password=password)
    monkeypatch.setenv("OCI_PASSWORD", "secret")
    with pytest.raises(ValueError, match="OCI_USERNAME and OCI_PASSWORD lack the username"):
        resolve_oci_credentials("oci://quay.io/image")


def test_blank_credentials_are_none() -> None:
    assert OciCredentials(username=" ", password=SecretStr("")) == OciCredentials()


def test_the_password_is_not_shown_and_nothing_can_be_changed() -> None:
    credentials = OciCredentials(username="user", password="secret")
    assert credentials.plain_password == "secret"
    assert "secret" not in f"{credentials!r} {credentials}"
    with pytest.raises(ValidationError, match="frozen"):
        credentials.username = "other"


def test_names_in_messages_of_pydantic_hold_no_password() -> None:
    with pytest.raises(ValidationError) as caught:
        OciCredentials(password="s3cr3t")
    assert "s3cr3t" not in str(caught.value)


def test_paths_without_a_file_are_left_out() -> None:
    assert oci._get_auth_file_paths() == []
