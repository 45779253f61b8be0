"""Click groups and commands of driver clients, whose help texts the exporter's config can replace."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from .base import DriverClient


def driver_click_group(client: DriverClient, **kwargs: Any) -> Callable[[Callable[..., Any]], DriverClickGroup]:
    """Make a group of a function, for `cli()` of a driver client.

    The group is called as the function is. Its help is the description of the driver in the exporter's
    config, else the keyword `help`, else the docstring; the help of its commands is replaced likewise,
    by `methods_description`.

    Args:
        client: the client whose commands they are.
        **kwargs: for `click.group`.
    """

    def decorate(function: Callable[..., Any]) -> DriverClickGroup:
        attributes = {"name": function.__name__, **kwargs}
        attributes.setdefault("cls", partial(DriverClickGroup, client))
        if client.description:
            attributes["help"] = client.description
        group: DriverClickGroup = click.group(**attributes)(function)
        return group

    return decorate


def driver_click_command(client: DriverClient, **kwargs: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a single command of a function, for `cli()` of a driver client without sub-commands.

    Its help is the description of the driver in the exporter's config, else the keyword `help`, else
    the docstring.

    Args:
        client: the client whose command it is.
        **kwargs: for `click.command`.
    """

    def decorate(function: Callable[..., Any]) -> click.Command:
        attributes = {"name": function.__name__, **kwargs}
        if client.description:
            attributes["help"] = client.description
        command: click.Command = click.command(**attributes)(function)
        return command

    return decorate


class DriverClickGroup(click.Group):
    """A group whose commands take their help from the `methods_description` of a driver, where it has one."""

    def __init__(self, client: DriverClient, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.client = client

    def command(self, *args: Any, **kwargs: Any) -> Any:
        """Add a command; used as `@group.command` or `@group.command(...)`, as click's own is."""
        return self._add(super().command, args, kwargs)

    def group(self, *args: Any, **kwargs: Any) -> Any:
        """Add a group; used as `@group.group` or `@group.group(...)`, as click's own is."""
        kwargs.setdefault("cls", partial(DriverClickGroup, self.client))
        return self._add(super().group, args, kwargs)

    def _add(self, add: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args and callable(args[0]):
            return self._describe(args[0], add, args[1:], kwargs)
        return lambda function: self._describe(function, add, args, kwargs)

    def _describe(
        self, function: Callable[..., Any], add: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        given = args[0] if args else kwargs.get("name")
        name = given or function.__name__.lower().replace("_", "-")
        described = self.client.methods_description
        text = described.get(name) or described.get(function.__name__)
        return add(*args, **(kwargs | {"help": text} if text else kwargs))(function)
