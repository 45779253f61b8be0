"""From reports of drivers to a tree of clients."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest

from jumpstarter.client.base import DriverClient, StubDriverClient
from jumpstarter.client.tree import DriverReport, build_tree
from jumpstarter.common.exceptions import ConfigurationError

CLIENT = "jumpstarter.client.DriverClient"


@dataclass(kw_only=True)
class OldClient(DriverClient):
    """A client class of an older package, with a constructor of its own and without the later keywords."""

    def __init__(
        self, *, uuid: UUID, labels: dict[str, str], stub: Any, portal: Any, stack: ExitStack, children: dict[str, Any]
    ) -> None:
        self.uuid, self.labels, self.stub = uuid, labels, stub
        self.portal, self.stack, self.children = portal, stack, children


def report(
    name: str | None = None, parent: str | None = None, client: str | None = CLIENT, **more: Any
) -> DriverReport:
    labels = {"jumpstarter.dev/name": name} if name else {}
    if client:
        labels["jumpstarter.dev/client"] = client
    return DriverReport(uuid=more.pop("uuid", str(uuid4())), parent_uuid=parent, labels=labels, **more)


def build(*reports: DriverReport, allow: list[str] | None = None, unsafe: bool = True) -> DriverClient:
    with ExitStack() as stack:
        return build_tree(reports, stub=object(), portal=object(), stack=stack, allow=allow or [], unsafe=unsafe)


def test_children_hang_at_their_parents_in_the_order_of_the_report() -> None:
    root = report()
    middle = report("middle", root.uuid, description="In between", methods_description={"on": "Switch on"})
    leaf, other = report("leaf", middle.uuid), report("other", root.uuid)

    client = build(root, middle, leaf, other)

    assert list(client.children) == ["middle", "other"]
    assert list(client.children["middle"].children) == ["leaf"]
    assert client.children["middle"].description == "In between"
    assert client.children["middle"].methods_description == {"on": "Switch on"}
    assert str(client.children["other"].uuid) == other.uuid


def test_a_driver_that_is_reported_twice_keeps_each_subtree() -> None:
    root = report()
    board = report("board", root.uuid)
    power = report("power", board.uuid)
    alias = report("alias", root.uuid, uuid=board.uuid)
    again = report("power", board.uuid, uuid=power.uuid)

    client = build(root, board, power, alias, again)

    assert list(client.children) == ["board", "alias"]
    assert list(client.children["board"].children) == ["power"]
    assert list(client.children["alias"].children) == ["power"]


@pytest.mark.parametrize(
    ("reports", "problem"),
    [
        ([], "no drivers"),
        ([report(client=None)], "names no client class"),
        ([report(), report("second")], "second root"),
        ([report(), report("orphan", str(uuid4()))], "below a parent that it does not report"),
        ([report("child", str(uuid4()))], "below a parent that it does not report"),
        ([report(uuid="a"), report(None, "a")], "without a name"),
    ],
)
def test_reports_that_make_no_tree_are_refused(reports: list[DriverReport], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        build(*reports)


def test_a_class_without_the_later_keywords_is_built_without_them() -> None:
    client = build(report(client=f"{__name__}.OldClient", description="not for it"))
    assert isinstance(client, OldClient) or type(client).__name__ == "OldClient"


@pytest.mark.parametrize(
    ("client", "allow", "unsafe"),
    [(CLIENT, [], False), (CLIENT, ["vendor*"], False), ("nonesuch_package.Client", [], True)],
)
def test_a_class_that_may_not_or_cannot_be_had_is_replaced(client: str, allow: list[str], unsafe: bool) -> None:
    built = build(report(client=client), allow=allow, unsafe=unsafe)
    assert isinstance(built, StubDriverClient)
    with pytest.raises(ImportError):
        built.call("on")


def test_a_class_that_is_allowed_is_used() -> None:
    assert type(build(report(), allow=["jumpstarter.client.*"], unsafe=False)) is DriverClient
