"""Drivers that give a tree its shape: Composite groups others, Proxy shows one of them at a second place."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar
from uuid import UUID

from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.driver import Driver

from .common import RESERVED_NAMES

# The proxies that the running enumeration has passed, outermost first.
_passed: ContextVar[tuple[Proxy, ...]] = ContextVar("jumpstarter_proxies_passed", default=())


class CompositeInterface:
    """Mixin of drivers whose client shows its children as attributes and sub-commands."""

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_composite.client.CompositeClient"


@dataclass(kw_only=True)
class Composite(CompositeInterface, Driver):
    """A driver that has nothing but children.

    Raises:
        ConfigurationError: a child has no usable name, or one driver object stands in the tree under two names.
    """

    driver_type: ClassVar[str] = "composite"

    def __post_init__(self) -> None:
        if hasattr(super(), "__post_init__"):
            super().__post_init__()
        check_names(self.children)
        for name in sorted(RESERVED_NAMES.intersection(self.children)):
            self.logger.warning(
                "child %r is hidden by the client's own attribute of that name: reach it as client.children[%r], "
                "or rename it in the exporter config",
                name,
                name,
            )


def check_names(children: Mapping[str, Driver]) -> None:
    """Raise ConfigurationError unless every child has a name of its own that a command line can carry."""
    names: dict[UUID, str] = {}
    for name, child in children.items():
        if not isinstance(name, str) or not name.strip() or name.startswith("-"):
            raise ConfigurationError(
                f"child driver name {name!r} can't be used: a name must not be empty or start with '-'. "
                "Rename the child in the exporter config."
            )
        twin = names.setdefault(child.uuid, name)
        if twin != name:
            raise ConfigurationError(
                f"children {twin!r} and {name!r} are the same driver (uuid {child.uuid}). Define it once and show it "
                f"under the other name with 'ref'."
            )


@dataclass(kw_only=True)
class Proxy(Driver):
    """Shows the driver that `ref` names at a second place of the tree; the driver itself exists only once.

    Calls of a client go straight to that driver. A parent driver on the exporter may call methods of it through the
    proxy as well. Closing and resetting are left to the driver's real parent.
    """

    driver_type: ClassVar[str] = "composite"

    ref: str
    """Names from the children of the root driver down to the target, joined by dots."""

    _target: Any = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        if hasattr(super(), "__post_init__"):
            super().__post_init__()
        if not isinstance(self.ref, str) or not all(step.strip() for step in self.ref.split(".")):
            raise ConfigurationError(
                f"ref {self.ref!r} is not a path to a driver: write the names from the top of 'export' down to it, "
                "joined by dots, for example 'board.power'"
            )

    @classmethod
    def client(cls) -> str:
        """Not used: the report of a proxy is that of its target, client class included."""
        return "jumpstarter.client.DriverClient"

    def enumerate(
        self, *, root: Driver | None = None, parent: Driver | None = None, name: str | None = None
    ) -> list[tuple[UUID, Driver | None, str | None, Driver]]:
        """Return the entries of the target, under the proxy's own parent and name.

        Raises:
            ConfigurationError: `ref` leads nowhere, or back to this proxy.
        """
        passed = _passed.get()
        refuse_circle(passed, self)
        token = _passed.set((*passed, self))
        try:
            self._target = self._resolve(root, name, (self,))
            return self._target.enumerate(root=root, parent=parent, name=name)
        finally:
            _passed.reset(token)

    def report(self, *, root: Driver | None = None, parent: Driver | None = None, name: str | None = None) -> Any:
        """Return the report of the target, under the proxy's own parent and name.

        Raises:
            RuntimeError: neither `root` was given, nor was the tree enumerated before.
        """
        if root is not None and self._target is None:
            self._target = self._resolve(root, name, (self,))
        return self._resolved().report(parent=parent, name=name)

    def close(self) -> None:
        """Do nothing: the target is closed by its real parent, once."""

    def reset(self) -> None:
        """Do nothing: the target is reset by its real parent, once."""

    def __getattr__(self, name: str) -> Any:
        """Forward to the target, for parent drivers that use their child through a proxy."""
        # Look-ups by pickle, copy, dataclasses and pydantic must not depend on the target.
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._resolved(), name)

    def _resolved(self) -> Driver:
        target = self.__dict__.get("_target")
        if target is None:
            raise RuntimeError(
                f"proxy to {self.ref!r} is not connected to its target yet: that happens when a session starts. "
                "Don't use a child that may be a proxy in __post_init__ or __init__."
            )
        return target

    def _resolve(self, root: Driver | None, name: str | None, followed: tuple[Proxy, ...]) -> Driver:
        """Walk from `root` along `ref`, through other proxies as well; `followed` are those that led here."""
        shown = f"proxy {name!r}" if name else "proxy"
        if root is None:
            raise ConfigurationError(
                f"{shown} with ref {self.ref!r} stands alone: there is no tree it could point into"
            )
        node: Driver = root
        walked: list[str] = []
        for step in self.ref.split("."):
            if isinstance(node, Proxy):
                node = node._follow(root, followed)
            if step not in node.children:
                place = f"{'.'.join(walked)!r}" if walked else "the root"
                known = ", ".join(sorted(node.children)) or "none"
                raise ConfigurationError(
                    f"{shown} can't find its ref {self.ref!r}: {place} has no child {step!r} (children: {known}). "
                    "A ref starts at the top of 'export' in the exporter config."
                )
            node = node.children[step]
            walked.append(step)
        return node

    def _follow(self, root: Driver, followed: tuple[Proxy, ...]) -> Driver:
        """Return the first target that is no proxy."""
        refuse_circle(followed, self)
        followed = (*followed, self)
        target = self._resolve(root, None, followed)
        return target._follow(root, followed) if isinstance(target, Proxy) else target


def refuse_circle(passed: tuple[Proxy, ...], proxy: Proxy) -> None:
    """Raise ConfigurationError when `proxy` is among those that led to it."""
    start = next((index for index, earlier in enumerate(passed) if earlier is proxy), None)
    if start is None:
        return
    chain = " -> ".join(each.ref for each in (*passed[start:], proxy))
    raise ConfigurationError(
        f"proxies refer to each other in a circle, or one refers to a driver that it is part of: {chain}. "
        "Point at least one of these refs at a driver outside the circle."
    )
