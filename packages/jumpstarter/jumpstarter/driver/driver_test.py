"""Drivers in every style that authors use: decoration, export, look-up of methods, life cycle and report."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pydantic
import pydantic.dataclasses
import pytest

from jumpstarter.common.utils import serve
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter.driver.decorators import MARKER_DRIVERCALL, MARKER_STREAMCALL, MARKER_STREAMING_DRIVERCALL
from jumpstarter.driver.methods import MethodNotExported, find_method, is_harmless


class Hand(Driver):
    @classmethod
    def client(cls) -> str:
        return "jumpstarter.client.DriverClient"

    @export
    def size(self) -> int:
        return 1


@dataclasses.dataclass(kw_only=True)
class Stdlib(Hand):
    amount: int = 2

    @export
    def size(self) -> int:
        return self.amount


@pydantic.dataclasses.dataclass(kw_only=True)
class Pydantic(Hand):
    amount: int

    def __post_init__(self) -> None:
        if hasattr(super(), "__post_init__"):
            super().__post_init__()
        self.doubled = self.amount * 2

    @export
    def size(self) -> int:
        return self.doubled


@pytest.mark.parametrize(
    ("driver", "size"),
    [(Hand(), 1), (Stdlib(amount=5), 5), (Pydantic(amount="4"), 8)],  # type: ignore[arg-type]
    ids=["hand-written", "stdlib dataclass", "pydantic dataclass"],
)
def test_every_style_of_driver_works(driver: Driver, size: int) -> None:
    with serve(driver) as client:
        assert client.call("size") == size


def test_a_pydantic_driver_checks_its_configuration() -> None:
    with pytest.raises(pydantic.ValidationError, match="amount"):
        Pydantic(amount="many")  # type: ignore[arg-type]


def test_a_stdlib_driver_refuses_unknown_configuration() -> None:
    with pytest.raises(TypeError, match="nonesuch"):
        Stdlib(nonesuch=1)  # type: ignore[call-arg]


def test_children_may_be_drivers_of_any_style() -> None:
    root = Pydantic(amount=1, children={"hand": Hand(), "stdlib": Stdlib()})
    with serve(root) as client:
        assert {name: child.call("size") for name, child in client.children.items()} == {"hand": 1, "stdlib": 2}


def test_a_driver_without_a_client_class_cannot_be_made() -> None:
    class Nameless(Driver):
        pass

    with pytest.raises(TypeError, match="client"):
        Nameless()  # type: ignore[abstract]


@pytest.mark.parametrize(
    "thing", [len, staticmethod(len), classmethod(len), object(), "name"], ids=lambda thing: type(thing).__name__
)
def test_only_functions_can_be_exported(thing: Any) -> None:
    with pytest.raises(ValueError, match="cannot export"):
        export(thing)


class Many(Hand):
    secret = "not for clients"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.touched = False

        @export
        def late() -> str:
            return "late"

        self.late = late

    @property
    def touchy(self) -> None:
        self.touched = True

    @export
    def whole(self, count: int, name: str = "", *rest: int) -> list[Any]:
        return [type(value).__name__ for value in (count, name, *rest)]

    @export
    def fraction(self, amount: float, either: int | float = 0, maybe: int | None = None) -> list[Any]:
        return [type(value).__name__ for value in (amount, either, maybe)]

    @export
    @pydantic.validate_call
    def checked(self, count: int) -> str:
        return type(count).__name__

    @export
    def numbers(self) -> Generator[int, None, None]:
        yield 1

    @export
    async def later(self) -> AsyncGenerator[int, None]:
        yield 1

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[None, None]:
        yield

    def private(self) -> None:
        """Not exported."""


@pytest.mark.parametrize(
    ("name", "marker"),
    [
        ("whole", MARKER_DRIVERCALL),
        ("checked", MARKER_DRIVERCALL),
        ("size", MARKER_DRIVERCALL),
        ("late", MARKER_DRIVERCALL),
        ("numbers", MARKER_STREAMING_DRIVERCALL),
        ("later", MARKER_STREAMING_DRIVERCALL),
        ("connect", MARKER_STREAMCALL),
    ],
)
def test_an_exported_method_is_found_for_its_kind_of_call_alone(name: str, marker: str) -> None:
    driver = Many()
    assert callable(find_method(driver, name, marker)[0])
    for other in {MARKER_DRIVERCALL, MARKER_STREAMCALL, MARKER_STREAMING_DRIVERCALL} - {marker}:
        with pytest.raises(MethodNotExported, match=name):
            find_method(driver, name, other)


@pytest.mark.parametrize("name", ["private", "secret", "close", "__init__", "nonesuch", "", "uuid", "client"])
def test_what_is_not_exported_is_not_found(name: str) -> None:
    with pytest.raises(MethodNotExported):
        find_method(Many(), name, MARKER_DRIVERCALL)


def test_looking_for_a_property_does_not_run_it() -> None:
    driver = Many()
    with pytest.raises(MethodNotExported):
        find_method(driver, "touchy", MARKER_DRIVERCALL)
    assert not driver.touched


class Watched(Hand):
    @export(watch=True)
    def reading(self) -> int:
        return 1

    @export
    def setting(self) -> None:
        """Changes something."""

    @exportstream(watch=True)
    @asynccontextmanager
    async def video(self) -> AsyncGenerator[None, None]:
        yield


class Careless(Watched):
    @export
    def reading(self) -> int:
        return 2


def test_only_what_is_marked_so_is_for_watchers() -> None:
    assert is_harmless(Watched(), "reading", MARKER_DRIVERCALL)
    assert is_harmless(Watched(), "video", MARKER_STREAMCALL)
    for name, marker in (("setting", MARKER_DRIVERCALL), ("reading", MARKER_STREAMCALL), ("close", MARKER_DRIVERCALL)):
        assert not is_harmless(Watched(), name, marker)
    assert not is_harmless(Watched(), "nonesuch", MARKER_DRIVERCALL)
    assert not is_harmless(Careless(), "reading", MARKER_DRIVERCALL)


def test_a_method_that_is_replaced_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Hand()
    assert find_method(driver, "size", MARKER_DRIVERCALL)[0]() == 1

    @export
    def size(self: Driver) -> int:
        return 7

    monkeypatch.setattr(Hand, "size", size)
    assert find_method(driver, "size", MARKER_DRIVERCALL)[0]() == 7


def test_whole_numbers_arrive_as_int_where_the_method_asks_for_one() -> None:
    with serve(Many()) as client:
        assert client.call("whole", 1, "x", 2, 3) == ["int", "str", "int", "int"]
        assert client.call("whole", 1.5) == ["float", "str"]
        assert client.call("fraction", 1, 2, 3) == ["float", "float", "int"]
        assert client.call("checked", 3) == "int"


def test_closing_reaches_every_child_whatever_others_raise() -> None:
    closed: list[str] = []

    class Closing(Hand):
        def __init__(self, name: str, error: Exception | None = None, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self._name, self._error = name, error

        def close(self) -> None:
            closed.append(self._name)
            super().close()
            if self._error is not None:
                raise self._error

    root = Hand(children={"a": Closing("a"), "b": Closing("b", OSError("stuck")), "c": Closing("c")})
    with pytest.raises(OSError, match="stuck"):
        root.close()
    assert closed == ["c", "b", "a"]

    two = Hand(children={"a": Closing("a", OSError("one")), "b": Closing("b", OSError("two"))})
    with pytest.raises(ExceptionGroup):
        two.close()


def test_resetting_reaches_every_child() -> None:
    reset: list[Driver] = []

    class Resetting(Hand):
        def reset(self) -> None:
            reset.append(self)
            super().reset()

    leaf = Resetting()
    root = Hand(children={"middle": Resetting(children={"leaf": leaf}), "other": Resetting()})
    root.reset()
    assert len(reset) == 3
    assert leaf in reset


def test_the_report_names_client_parent_labels_and_help() -> None:
    class Labelled(Hand):
        def extra_labels(self) -> dict[str, str]:
            return {"vendor/serial": "42"}

    parent = Hand()
    driver = Labelled(labels={"own": "yes"}, description="A board", methods_description={"size": "How large"})
    report = driver.report(parent=parent, name="board")

    assert report.uuid == str(driver.uuid)
    assert report.parent_uuid == str(parent.uuid)
    assert dict(report.labels) == {
        "own": "yes",
        "vendor/serial": "42",
        "jumpstarter.dev/client": "jumpstarter.client.DriverClient",
        "jumpstarter.dev/name": "board",
    }
    assert report.description == "A board"
    assert dict(report.methods_description) == {"size": "How large"}


def test_the_report_of_a_root_has_neither_parent_nor_name() -> None:
    report = Hand().report()
    assert not report.HasField("parent_uuid")
    assert "jumpstarter.dev/name" not in report.labels


def test_drivers_are_enumerated_parents_first_in_the_order_of_their_names() -> None:
    leaf, other = Hand(), Hand()
    middle = Hand(children={"leaf": leaf})
    root = Hand(children={"middle": middle, "other": other})
    assert root.enumerate() == [
        (root.uuid, None, None, root),
        (middle.uuid, root, "middle", middle),
        (leaf.uuid, middle, "leaf", leaf),
        (other.uuid, root, "other", other),
    ]


def test_a_uuid_from_a_config_file_is_taken_as_text() -> None:
    uuid = uuid4()
    assert Hand(uuid=str(uuid)).uuid == uuid  # type: ignore[arg-type]
    assert isinstance(Hand().uuid, UUID)


def test_the_level_of_the_logger_comes_from_the_configuration() -> None:
    driver = Stdlib(log_level="DEBUG")
    assert driver.logger.name == "driver.Stdlib"
    assert driver.logger.level == 10


def test_a_blocking_generator_is_closed_when_its_reader_goes(wait: Callable[[Callable[[], bool]], None]) -> None:
    closed: list[int] = []

    class Endless(Hand):
        @export
        def numbers(self) -> Generator[int, None, None]:
            number = 0
            try:
                while True:
                    number += 1
                    yield number
            finally:
                closed.append(number)

    with serve(Endless()) as client:
        items = client.streamingcall("numbers")
        assert [next(items) for _ in range(3)] == [1, 2, 3]
        items.close()
        wait(lambda: bool(closed))


@pytest.fixture
def wait() -> Callable[[Callable[[], bool]], None]:
    """Poll for a condition, at most five seconds."""
    import time

    def poll(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 5
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    return poll
