"""Trees of drivers: how composites and proxies are put together, resolved, checked and closed."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, field
from typing import Any

import pytest
from jumpstarter.client import DriverClient
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.driver import Driver, export

from jumpstarter_driver_composite.common import RESERVED_NAMES
from jumpstarter_driver_composite.driver import Composite, Proxy


@dataclass(kw_only=True)
class Lamp(Driver):
    """A leaf that notes what is done to it."""

    noted: list[str] = field(default_factory=list)

    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    def light(self) -> str:
        self.noted.append("light")
        return "bright"

    def reset(self) -> None:
        self.noted.append("reset")
        super().reset()

    def close(self) -> None:
        self.noted.append("close")
        super().close()


def places(root: Driver) -> list[tuple[str | None, str]]:
    """Name and class of each entry of the enumeration."""
    return [(name, type(driver).__name__) for _, _, name, driver in root.enumerate()]


def test_composite_enumerates_parents_before_children() -> None:
    root = Composite(children={"board": Composite(children={"lamp": Lamp()})})

    assert places(root) == [(None, "Composite"), ("board", "Composite"), ("lamp", "Lamp")]


def test_proxy_shows_its_target_under_its_own_name_and_parent() -> None:
    lamp = Lamp()
    group = Composite(children={"light": Proxy(ref="board.lamp")})
    root = Composite(children={"board": Composite(children={"lamp": lamp}), "group": group})

    entry = next(entry for entry in root.enumerate() if entry[2] == "light")

    assert entry == (lamp.uuid, group, "light", lamp)


def test_proxy_to_a_composite_shows_the_whole_subtree() -> None:
    root = Composite(children={"board": Composite(children={"lamp": Lamp()}), "again": Proxy(ref="board")})

    assert places(root)[3:] == [("again", "Composite"), ("lamp", "Lamp")]


def test_proxy_may_lead_through_other_proxies() -> None:
    lamp = Lamp()
    root = Composite(
        children={
            "board": Composite(children={"lamp": lamp}),
            "alias": Proxy(ref="board"),
            "one": Proxy(ref="alias.lamp"),
            "two": Proxy(ref="one"),
        }
    )

    assert [entry[0] for entry in root.enumerate() if entry[2] in ("one", "two")] == [lamp.uuid, lamp.uuid]


def test_proxy_inside_a_subtree_that_is_shown_twice_is_no_circle() -> None:
    inner = Composite(children={"lamp": Lamp(), "same": Proxy(ref="alias.lamp")})
    root = Composite(children={"board": inner, "alias": Proxy(ref="board")})

    assert [name for name, _ in places(root)].count("same") == 2


def test_reports_of_proxies_carry_the_uuid_and_client_of_the_target() -> None:
    lamp = Lamp()
    root = Composite(children={"lamp": lamp, "light": Proxy(ref="lamp")})
    root.enumerate()

    report = root.children["light"].report(parent=root, name="light")

    assert report.uuid == str(lamp.uuid)
    assert report.labels["jumpstarter.dev/client"] == Lamp.client()
    assert report.labels["jumpstarter.dev/name"] == "light"


@pytest.mark.parametrize(
    "children",
    [
        pytest.param(lambda: {"a": Proxy(ref="a")}, id="itself"),
        pytest.param(lambda: {"a": Proxy(ref="b"), "b": Proxy(ref="a")}, id="each-other"),
        pytest.param(lambda: {"a": Proxy(ref="a.b")}, id="below-itself"),
        pytest.param(lambda: {"a": Composite(children={"b": Proxy(ref="a")})}, id="its-parent"),
        pytest.param(
            lambda: {"a": Composite(children={"x": Proxy(ref="b")}), "b": Composite(children={"y": Proxy(ref="a")})},
            id="two-subtrees",
        ),
    ],
)
def test_circle_of_proxies_is_a_configuration_error(children: Any) -> None:
    with pytest.raises(ConfigurationError, match="circle"):
        Composite(children=children()).enumerate()


def test_missing_target_names_proxy_ref_and_what_there_is() -> None:
    root = Composite(children={"board": Composite(children={"lamp": Lamp()}), "light": Proxy(ref="board.lampe")})

    with pytest.raises(ConfigurationError, match=r"'light'.*'board\.lampe'.*'board' has no child 'lampe'.*lamp\)"):
        root.enumerate()


@pytest.mark.parametrize("ref", ["", " ", ".", "a..b", "a.", None, 3])
def test_ref_that_is_no_path_is_a_configuration_error(ref: Any) -> None:
    with pytest.raises(ConfigurationError, match="not a path to a driver"):
        Proxy(ref=ref)


def test_proxy_without_a_tree_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="stands alone"):
        Proxy(ref="lamp").enumerate()


def test_parent_driver_uses_its_child_through_a_proxy() -> None:
    lamp = Lamp()
    root = Composite(children={"lamp": lamp, "light": Proxy(ref="lamp")})
    root.enumerate()

    assert root.children["light"].light() == "bright"
    assert lamp.noted == ["light"]


def test_proxy_says_when_it_is_used_before_the_session_starts() -> None:
    with pytest.raises(RuntimeError, match="not connected to its target"):
        Proxy(ref="lamp").light()


def test_proxy_can_be_copied_before_it_is_connected() -> None:
    assert copy.copy(Proxy(ref="lamp")).ref == "lamp"


def test_target_is_reset_and_closed_once() -> None:
    lamp = Lamp()
    root = Composite(children={"lamp": lamp, "light": Proxy(ref="lamp"), "again": Proxy(ref="lamp")})
    root.enumerate()

    root.reset()
    root.close()

    assert lamp.noted == ["reset", "close"]


@pytest.mark.parametrize("name", ["", "  ", "--help"])
def test_child_name_that_no_command_line_can_carry_is_a_configuration_error(name: str) -> None:
    with pytest.raises(ConfigurationError, match="can't be used"):
        Composite(children={name: Lamp()})


def test_one_driver_under_two_names_is_a_configuration_error() -> None:
    lamp = Lamp()

    with pytest.raises(ConfigurationError, match="'one' and 'two' are the same driver"):
        Composite(children={"one": lamp, "two": lamp})


def test_child_that_the_client_hides_is_reported_at_start(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Composite(children={"stream": Lamp(), "lamp": Lamp()})

    assert [record.message for record in caplog.records] == [
        "child 'stream' is hidden by the client's own attribute of that name: reach it as client.children['stream'], "
        "or rename it in the exporter config"
    ]


def test_reserved_names_are_those_of_the_client_class() -> None:
    public = {name for name in dir(DriverClient) if not name.startswith("_")}
    fields = {name for name in DriverClient.__dataclass_fields__ if not name.startswith("_")}

    assert public | fields | {"cli"} == RESERVED_NAMES
