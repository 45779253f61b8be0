"""The user config, and the choice of the client to act as."""

from __future__ import annotations

from pathlib import Path

import pytest

from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.config.client import ClientConfigV1Alpha1, ObjectMeta
from jumpstarter.config.user import (
    UserConfigV1Alpha1,
    UserConfigV1Alpha1Config,
    current_alias,
    current_client,
)

EMPTY = "apiVersion: jumpstarter.dev/v1alpha1\nkind: UserConfig\nconfig:\n  current-client: null\n"


def add(alias: str) -> ClientConfigV1Alpha1:
    config = ClientConfigV1Alpha1(alias=alias, metadata=ObjectMeta(namespace="lab", name=alias))
    ClientConfigV1Alpha1.save(config)
    return config


def write(text: str) -> Path:
    path = UserConfigV1Alpha1.USER_CONFIG_PATH
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_missing_user_config_is_told_and_made_on_request() -> None:
    assert not UserConfigV1Alpha1.exists()
    with pytest.raises(FileNotFoundError, match=str(UserConfigV1Alpha1.USER_CONFIG_PATH)):
        UserConfigV1Alpha1.load()
    assert UserConfigV1Alpha1.load_or_create().config.current_client is None
    assert UserConfigV1Alpha1.USER_CONFIG_PATH.read_text() == EMPTY


def test_client_that_is_used_is_the_current_one_from_then_on() -> None:
    add("alice")
    path = UserConfigV1Alpha1.load_or_create().use_client("alice")
    assert path == ClientConfigV1Alpha1.CLIENT_CONFIGS_PATH / "alice.yaml"
    assert UserConfigV1Alpha1.USER_CONFIG_PATH.read_text() == EMPTY.replace("null", "alice")
    current = UserConfigV1Alpha1.load().config.current_client
    assert current is not None
    assert current.alias == "alice"
    assert UserConfigV1Alpha1.load().use_client(None) is None
    assert UserConfigV1Alpha1.USER_CONFIG_PATH.read_text() == EMPTY


def test_client_without_a_config_is_not_used() -> None:
    user = UserConfigV1Alpha1.load_or_create()
    with pytest.raises(FileNotFoundError):
        user.use_client("nobody")
    assert UserConfigV1Alpha1.USER_CONFIG_PATH.read_text() == EMPTY


def test_current_client_that_is_gone_is_none_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    write(EMPTY.replace("null", "gone"))
    assert UserConfigV1Alpha1.load().config.current_client is None
    assert "'gone' has no config any more" in caplog.text
    assert current_alias() == "gone"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kind: UserConfig\n", ":1: config: missing"),
        ("config: {current_clent: a}\n", ":1: config.current_clent: unknown key; did you mean 'current-client'?"),
        ("config: {current-client: [a]}\n", ":1: config.current-client: "),
        ("kind: ClientConfig\n", ":1: kind: this is 'ClientConfig', but 'UserConfig' is needed here"),
    ],
)
def test_mistake_is_told_with_file_line_and_key(text: str, expected: str) -> None:
    path = write(text)
    with pytest.raises(ConfigurationError) as caught:
        UserConfigV1Alpha1.load()
    assert str(caught.value).startswith(f"{path}{expected}"), str(caught.value)


def test_mistake_in_the_config_of_the_current_client_names_that_file() -> None:
    add("alice")
    UserConfigV1Alpha1.load_or_create().use_client("alice")
    path = ClientConfigV1Alpha1.CLIENT_CONFIGS_PATH / "alice.yaml"
    path.write_text(path.read_text() + "tokn: x\n")
    with pytest.raises(ConfigurationError, match=r"alice.yaml:\d+: tokn: unknown key; did you mean 'token'"):
        UserConfigV1Alpha1.load()


def test_config_object_takes_a_client() -> None:
    client = add("alice")
    user = UserConfigV1Alpha1(config=UserConfigV1Alpha1Config(current_client=client))  # type: ignore[call-arg]
    assert UserConfigV1Alpha1.dump_yaml(user) == EMPTY.replace("null", "alice")


def test_nobody_to_act_as() -> None:
    assert current_client() is None
    assert not UserConfigV1Alpha1.exists()


def test_client_to_act_as_is_chosen_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    for alias in ("alice", "bob", "carol"):
        add(alias)
    UserConfigV1Alpha1.load_or_create().use_client("alice")

    def chosen() -> str:
        client = current_client()
        assert client is not None
        return client.metadata.name

    assert chosen() == "alice"
    monkeypatch.setenv("JMP_NAMESPACE", "lab")
    assert chosen() == "alice"
    with monkeypatch.context() as patch:
        patch.setenv("JMP_NAME", "ci")
        assert chosen() == "ci"
    monkeypatch.setenv("JMP_CLIENT", "bob")
    assert chosen() == "bob"
    monkeypatch.setenv("JMP_CLIENT_CONFIG", str(ClientConfigV1Alpha1.CLIENT_CONFIGS_PATH / "carol.yaml"))
    assert chosen() == "carol"


def test_client_that_the_environment_names_wrongly_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JMP_CLIENT", "nobody")
    with pytest.raises(FileNotFoundError, match=r"nobody\.yaml"):
        current_client()
