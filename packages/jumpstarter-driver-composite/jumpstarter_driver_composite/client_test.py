"""The client of a tree: children as attributes and as sub-commands, over a real session."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click
import pytest
from click.testing import CliRunner
from jumpstarter.client import DriverClient
from jumpstarter.client.base import StubDriverClient
from jumpstarter.common.utils import serve
from jumpstarter.driver import Driver
from jumpstarter_driver_power.driver import MockPower

from jumpstarter_driver_composite.client import CompositeClient
from jumpstarter_driver_composite.driver import Composite, Proxy


class Unloadable(Driver):
    """A driver whose client's commands can't be made."""

    @classmethod
    def client(cls) -> str:
        return f"{__name__}.UnloadableClient"


class UnloadableClient(DriverClient):
    def cli(self) -> click.Group:
        raise OSError("libfoo.so: no such file")


class Missing(Driver):
    """A driver whose client package is not installed."""

    @classmethod
    def client(cls) -> str:
        return "jumpstarter_driver_not_installed.client.Client"


@pytest.fixture
def tree() -> Iterator[Any]:
    root = Composite(
        children={
            "power0": MockPower(),
            "composite1": Composite(children={"power1": MockPower()}),
            "proxy0": Proxy(ref="composite1.power1"),
            "proxy1": Proxy(ref="composite1"),
        }
    )
    with serve(root) as client:
        yield root, client


def test_children_and_proxies_are_attributes(tree: Any) -> None:
    root, client = tree

    client.power0.on()
    client.composite1.power1.on()
    client.proxy0.off()
    client.proxy1.power1.on()

    assert list(root.children["power0"].history) == ["on"]
    assert list(root.children["composite1"].children["power1"].history) == ["on", "off", "on"]


@pytest.mark.parametrize("kind", [AttributeError, KeyError])
def test_unknown_child_names_those_there_are(tree: Any, kind: type[Exception]) -> None:
    _, client = tree

    with pytest.raises(kind) as caught:
        _ = client.power9

    assert str(caught.value) == (
        "CompositeClient has no attribute and no child 'power9' (children: composite1, power0, proxy0, proxy1)"
    )
    assert not hasattr(client, "power9")


def test_children_are_offered_for_completion(tree: Any) -> None:
    _, client = tree

    assert {"power0", "composite1", "call", "children"} <= set(dir(client))


def test_command_line_mirrors_the_tree_verbatim() -> None:
    power = MockPower()
    with serve(Composite(children={"b_c": Composite(children={"a-b": power})})) as client:
        result = CliRunner().invoke(client.cli(), ["b_c", "a-b", "on"], catch_exceptions=False)

    assert result.exit_code == 0
    assert list(power.history) == ["on"]


def test_commands_of_children_are_made_only_when_used(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    with serve(Composite(children={"one": MockPower(), "two": MockPower()})) as client:
        for name in ("one", "two"):
            original = client.children[name].cli
            monkeypatch.setattr(client.children[name], "cli", lambda n=name, o=original: (made.append(n), o())[1])

        CliRunner().invoke(client.cli(), ["one", "on"], catch_exceptions=False)

    assert made == ["one"]


def test_child_whose_commands_fail_to_load_leaves_the_others_usable() -> None:
    with serve(Composite(children={"bad": Unloadable(), "power": MockPower()})) as client:
        runner = CliRunner()
        listed = runner.invoke(client.cli(), ["--help"])
        bad = runner.invoke(client.cli(), ["bad", "--anything", "at-all"])
        good = runner.invoke(client.cli(), ["power", "on"])

    assert listed.exit_code == 0
    assert "power" in listed.output
    assert bad.exit_code == 1
    assert "the commands of 'bad' can't be loaded: OSError: libfoo.so: no such file" in bad.output
    assert good.exit_code == 0


def test_child_without_installed_client_has_no_command() -> None:
    with serve(Composite(children={"missing": Missing(), "power": MockPower()})) as client:
        assert isinstance(client.missing, StubDriverClient)
        assert set(client.cli().commands) == {"power"}


def test_child_without_installed_client_says_why_when_it_is_used() -> None:
    with serve(Composite(children={"missing": Missing()})) as client:
        result = CliRunner().invoke(client.cli(), ["missing", "on", "--now"])
    assert result.exit_code == 1
    assert "the commands of 'missing' are not available" in result.output
    assert Missing.client() in result.output
    assert "pip install" in result.output


def test_tree_without_any_installed_client_gives_an_empty_group() -> None:
    with serve(Composite(children={"missing": Missing()})) as client:
        assert dict(client.cli().commands) == {}


@dataclass(kw_only=True)
class ExtendedClient(CompositeClient):
    """A composite client with commands of its own, as packages build on this class."""

    def cli(self) -> click.Group:
        base = super().cli()

        @base.command()
        def own_thing() -> None:
            """Do the thing of this client."""
            click.echo("done")

        return base


class Extended(Composite):
    @classmethod
    def client(cls) -> str:
        return f"{__name__}.ExtendedClient"


def test_subclass_adds_commands_beside_those_of_children() -> None:
    with serve(Extended(children={"power": MockPower()})) as client:
        group = client.cli()

        assert set(group.commands) == {"power", "own-thing"}
        assert CliRunner().invoke(group, ["own-thing"]).output == "done\n"


def test_description_from_the_exporter_config_is_the_help_text() -> None:
    with serve(Composite(description="The board in rack 3.", children={"power": MockPower()})) as client:
        assert "The board in rack 3." in CliRunner().invoke(client.cli(), ["--help"]).output


def test_log_level_applies_to_the_whole_tree(tree: Any) -> None:
    _, client = tree
    before = logging.getLogger().level
    try:
        CliRunner().invoke(client.cli(), ["--log-level", "error", "power0", "on"], catch_exceptions=False)

        assert logging.getLogger().level == logging.ERROR
        assert client.composite1.power1.logger.level == logging.ERROR
    finally:
        logging.getLogger().setLevel(before)


def test_group_inside_a_group_keeps_the_outer_log_level(tree: Any) -> None:
    _, client = tree
    before = logging.getLogger().level
    try:
        CliRunner().invoke(client.cli(), ["--log-level", "ERROR", "composite1", "power1", "on"], catch_exceptions=False)

        assert logging.getLogger().level == logging.ERROR
    finally:
        logging.getLogger().setLevel(before)


def test_closing_closes_all_children_even_if_one_fails(tree: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, client = tree
    closed: list[str] = []

    def failing() -> None:
        raise OSError("stuck")

    with monkeypatch.context() as patch:
        patch.setattr(client.power0, "close", lambda: closed.append("power0"))
        patch.setattr(client.composite1, "close", failing)
        patch.setattr(client.proxy0, "close", lambda: closed.append("proxy0"))

        with pytest.raises(OSError, match="stuck"):
            client.close()

    assert closed == ["proxy0", "power0"]
