"""Client of drivers with children: they are attributes in Python and sub-commands of `j`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

import click
from jumpstarter.client import DriverClient
from jumpstarter.client.base import StubDriverClient
from jumpstarter.client.decorators import driver_click_group

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class ChildNotFound(AttributeError, KeyError):
    """A composite has no child of that name; also caught as KeyError, which older releases raised."""

    def __str__(self) -> str:
        # KeyError would show the repr of the message.
        return str(self.args[0]) if self.args else ""


@dataclass(kw_only=True)
class CompositeClient(DriverClient):
    """Shows the children of a driver: `client.power` is `client.children["power"]`."""

    def __getattr__(self, name: str) -> DriverClient:
        """Return the child called `name`.

        Raises:
            AttributeError: there is none (the error is a KeyError as well).
        """
        # While the object is being made, or copied, there are no children yet and the look-up must not recurse.
        children: dict[str, DriverClient] = self.__dict__.get("children") or {}
        if name in children:
            return children[name]
        known = ", ".join(sorted(children)) or "none"
        raise ChildNotFound(f"{type(self).__name__} has no attribute and no child {name!r} (children: {known})")

    def __dir__(self) -> Iterable[str]:
        """List the children too, for completion in interactive shells."""
        return {*super().__dir__(), *(name for name in self.children if name.isidentifier())}

    def close(self) -> None:
        """Close the children, the last one first, and whatever this client itself holds open."""
        errors: list[Exception] = []
        for child in reversed(self.children.values()):
            try:
                child.close()
            except Exception as error:  # noqa: BLE001 - one child must not keep the others open
                errors.append(error)
        super().close()
        if errors:
            raise errors[0]

    def cli(self) -> click.Group:
        """Return the `j` group: one sub-command per child that has commands, made when it is needed."""

        @driver_click_group(self)
        @click.option(
            "--log-level",
            type=click.Choice(LOG_LEVELS, case_sensitive=False),
            metavar=f"[{'|'.join(LOG_LEVELS)}]",
            help="Least level of the messages that are shown.  [default: INFO]",
        )
        @click.pass_context
        def base(ctx: click.Context, log_level: str | None) -> None:
            """Commands of the devices behind this exporter."""
            # A group inside another one leaves the level alone unless it is asked for.
            if log_level is not None or ctx.parent is None or not ctx.parent.meta.get(__name__):
                set_log_level(self, (log_level or "INFO").upper())
            ctx.meta[__name__] = True

        commands = ChildCommands(self.children)
        commands.update(base.commands)
        base.commands = commands
        return base


def set_log_level(client: DriverClient, level: str) -> None:
    """Set the level of the root logger and of all loggers of `client` and below."""
    logging.getLogger().setLevel(level)
    client.logger.setLevel(level)
    for child in client.children.values():
        set_log_level(child, level)


class ChildCommands(MutableMapping[str, click.Command]):
    """Commands by name: those that were set, and those of the children, which are made at first use.

    Children whose client class is not there have a command too, which says why; it is not listed.
    """

    def __init__(self, children: dict[str, DriverClient]) -> None:
        self._makers: dict[str, Callable[[], Any]] = {
            name: maker
            for name, child in children.items()
            if not isinstance(child, StubDriverClient) and callable(maker := getattr(child, "cli", None))
        }
        self._missing = {name: child for name, child in children.items() if isinstance(child, StubDriverClient)}
        self._made: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name in self._missing and name not in self._made:
            return missing_command(name, self._missing[name].reason)
        if name not in self._made:
            self._made[name] = make_command(name, self._makers[name])
        return self._made[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        self._made.pop(name, None)
        self._makers.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter({**self._makers, **self._made})

    def __len__(self) -> int:
        return len({**self._makers, **self._made})

    def __contains__(self, name: object) -> bool:
        return name in self._makers or name in self._made


def make_command(name: str, maker: Callable[[], Any]) -> click.Command:
    """Return the command that `maker` makes; if it fails, one that says so, so that the others keep working."""
    try:
        command = maker()
    except Exception as error:  # noqa: BLE001 - whatever a third-party client raises concerns this command only
        return broken_command(name, f"{type(error).__name__}: {error}")
    if not isinstance(command, click.Command):
        return broken_command(name, f"its cli() returned {type(command).__name__}, not a click command")
    return command


def missing_command(name: str, reason: str | None) -> click.Command:
    """Return the command of a child whose client class is not installed or not allowed."""
    return failing_command(name, f"the commands of {name!r} are not available: {reason or 'its client is missing'}")


def broken_command(name: str, reason: str) -> click.Command:
    """Return a command that fails with `reason`, whatever its arguments."""
    text = f"the commands of {name!r} can't be loaded: {reason}. Update or reinstall the package of its driver."
    command = failing_command(name, text)
    command.short_help = f"(not available: {reason})"
    return command


def failing_command(name: str, text: str) -> click.Command:
    """Return a command that takes any arguments and fails."""

    def fail(**_: Any) -> None:
        raise click.ClickException(text)

    return click.Command(
        name,
        callback=fail,
        params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
        context_settings={"ignore_unknown_options": True, "help_option_names": []},
    )
