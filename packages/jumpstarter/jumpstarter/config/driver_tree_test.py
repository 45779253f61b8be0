"""Driver objects from driver entries: right ones, and errors that name the entry, its place and what to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic.dataclasses import dataclass as pydantic_dataclass

from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.config.exporter import ExporterConfigV1Alpha1, ExporterConfigV1Alpha1DriverInstance
from jumpstarter.driver import Driver, export

closed: list[str] = []


class Base(Driver):
    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    def who(self) -> str:
        return type(self).__name__


@dataclass(kw_only=True)
class Plain(Base):
    port: int
    host: str = "localhost"

    def close(self) -> None:
        closed.append(self.host)
        super().close()


@pydantic_dataclass(kw_only=True)
class Checked(Base):
    baudrate: int = 9600
    secret: str = field(init=False, default="x")


class Undecorated(Base):
    pass


@dataclass(kw_only=True)
class Failing(Base):
    kind: str = "OSError"

    def __post_init__(self) -> None:
        super().__post_init__()
        match self.kind:
            case "OSError":
                raise FileNotFoundError(2, "No such file or directory", "/dev/ttyUSB7")
            case "ValueError":
                raise ValueError("odd parity")
            case "ImportError":
                import no_such_module_of_a_driver  # noqa: F401
            case "TypeError":
                len(5)  # type: ignore[arg-type]
            case "ConfigurationError":
                raise ConfigurationError("host and path exclude each other")
            case "Exception":
                raise Exception("the vendor's library is upset")


def path_of(kind: type) -> str:
    return f"{__name__}.{kind.__name__}"


def entry(kind: Any, **members: Any) -> ExporterConfigV1Alpha1DriverInstance:
    return ExporterConfigV1Alpha1DriverInstance(type=kind if isinstance(kind, str) else path_of(kind), **members)


@pytest.fixture(autouse=True)
def _nothing_closed() -> None:
    closed.clear()


@pytest.mark.parametrize(("kind", "config"), [(Plain, {"port": 1}), (Checked, {"baudrate": 5}), (Undecorated, {})])
def test_drivers_of_every_style_are_made(kind: type[Driver], config: dict[str, Any]) -> None:
    driver = entry(kind, config=config | {"log_level": "DEBUG", "labels": {"a": "b"}}).instantiate()
    assert type(driver) is kind
    assert (driver.log_level, driver.labels) == ("DEBUG", {"a": "b"})
    assert vars(driver).items() >= config.items()


def test_tree_is_made_children_first_with_descriptions() -> None:
    config = ExporterConfigV1Alpha1(
        metadata={"namespace": "lab", "name": "bench"},  # type: ignore[arg-type]
        description="the bench",
        export={
            "parent": {  # type: ignore[dict-item]
                "type": path_of(Undecorated),
                "description": "the parent",
                "methods_description": {"who": "tells"},
                "children": {"child": {"type": path_of(Checked)}},
            },
            "group": {"children": {"shown": {"ref": "parent.child"}}},  # type: ignore[dict-item]
        },
    )
    root = config.instantiate()
    parent = root.children["parent"]
    assert root.description == "the bench"
    assert (parent.description, parent.methods_description) == ("the parent", {"who": "tells"})
    assert isinstance(parent.children["child"], Checked)
    entries = root.enumerate()
    assert [name for _, _, name, _ in entries] == [None, "parent", "child", "group", "shown"]
    assert entries[2][0] == entries[4][0]


@pytest.mark.parametrize(
    ("kind", "config", "expected"),
    [
        (Plain, {"prt": 1}, "unknown config key 'prt'; did you mean 'port'?"),
        (Plain, {"zzz": 1}, "unknown config key 'zzz'; it takes: host, port"),
        (Plain, {}, "config lacks 'port'"),
        (Checked, {"baud_rate": 1}, "unknown config key 'baud_rate'; did you mean 'baudrate'?"),
        (Checked, {"secret": "y"}, "unknown config key 'secret'"),
        (Checked, {"baudrate": "fast"}, "config key 'baudrate': input should be a valid integer"),
        (Undecorated, {"host": "x"}, "unknown config key 'host'; it takes: none"),
        (Failing, {}, "the driver can't be set up (Caused by: [Errno 2] No such file or directory: '/dev/ttyUSB7')"),
        (Failing, {"kind": "ValueError"}, "the driver can't be set up (Caused by: odd parity)"),
        (Failing, {"kind": "TypeError"}, "the driver can't be set up (Caused by: object of type 'int' has no len())"),
        (Failing, {"kind": "ImportError"}, "the driver needs the Python module 'no_such_module_of_a_driver'"),
        (Failing, {"kind": "Exception"}, "the driver can't be set up (Caused by: the vendor's library is upset)"),
        (Failing, {"kind": "ConfigurationError"}, "host and path exclude each other"),
    ],
)
def test_config_that_the_driver_does_not_take_is_told(kind: type, config: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        entry(kind, config=config).instantiate()
    assert str(caught.value).startswith(f"driver ({path_of(kind)}): {expected}")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (
            "vendor_of_boards.driver.Power",
            "no Python module 'vendor_of_boards' is installed on this exporter; "
            "install the driver with: pip install vendor-of-boards",
        ),
        ("jumpstarter_driver_power.driver.MockPowr", "has no class 'MockPowr'; did you mean 'MockPower'?"),
        ("jumpstarter_driver_tmt.driver.TMT", "install the driver with: pip install jumpstarter-driver-tmt"),
        ("jumpstarter_driver_powr.driver.MockPower", "did you mean 'jumpstarter_driver_power.driver.MockPower'?"),
        ("jumpstarter_driver_power.drivers.MockPower", "jumpstarter_driver_power.drivers.MockPower is not installed"),
        ("Power", "'Power' is not the path of a class"),
        ("os.path.join", "this is no driver class"),
        ("pathlib.Path", "this is no driver class"),
    ],
)
def test_class_that_cannot_be_had_is_told(path: str, expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        entry(path).instantiate()
    assert f"driver ({path}): " in str(caught.value)
    assert expected in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_member_that_is_given_twice_is_told() -> None:
    with pytest.raises(ConfigurationError, match="'description' is given beside 'config' and inside it"):
        entry(Undecorated, description="a", config={"description": "b"}).instantiate()


def test_error_in_a_file_names_file_line_and_entry(tmp_path: Path) -> None:
    path = tmp_path / "bench.yaml"
    path.write_text(
        "apiVersion: jumpstarter.dev/v1alpha1\nkind: ExporterConfig\nmetadata: {namespace: lab, name: bench}\n"
        f"export:\n  board:\n    children:\n      power:\n        type: {path_of(Plain)}\n        config:\n"
        "          prt: 1\n"
    )
    config = ExporterConfigV1Alpha1.load_path(path)
    with pytest.raises(ConfigurationError) as caught:
        config.instantiate()
    assert str(caught.value).startswith(
        f"{path}:10: driver export.board.children.power ({path_of(Plain)}): unknown config key 'prt'"
    )


def test_reference_that_leads_nowhere_names_the_file_and_closes_what_was_made(tmp_path: Path) -> None:
    path = tmp_path / "bench.yaml"
    path.write_text(
        f"metadata: {{namespace: lab, name: bench}}\nexport:\n  one:\n    type: {path_of(Plain)}\n"
        "    config: {port: 1, host: one}\n  two: {ref: three}\n"
    )
    closed.clear()
    with pytest.raises(ConfigurationError) as caught:
        ExporterConfigV1Alpha1.load_path(path).instantiate()
    assert str(caught.value).startswith(f"{path}:2: proxy 'two' can't find its ref 'three'")
    assert closed == ["one"]


def test_package_that_is_not_installed_is_not_taken_for_any_other() -> None:
    with pytest.raises(ConfigurationError) as caught:
        entry("jumpstarter_driver_tmt.driver.TMT").instantiate()
    assert "did you mean" not in str(caught.value)


def test_drivers_that_were_made_are_closed_when_a_later_one_fails() -> None:
    group = ExporterConfigV1Alpha1DriverInstance(
        children={
            "one": {"type": path_of(Plain), "config": {"port": 1, "host": "one"}},
            "two": {"children": {"inner": {"type": path_of(Plain), "config": {"port": 1, "host": "two"}}}},
            "three": {"type": path_of(Failing)},
        }
    )
    closed.clear()
    with pytest.raises(ConfigurationError, match=r"driver children\.three"):
        group.instantiate()
    assert closed == ["two", "one"]
