"""Groups that know the names and short helps of their commands, and load a command's module when it is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module
from typing import Any, NamedTuple

import click

from .alias import AliasedGroup
from .collection import loading


class LazyCommand(NamedTuple):
    """Where a command is found, and what a listing says about it."""

    target: str
    """`module:attribute` of the click command."""
    short_help: str
    hidden: bool = False

    def load(self) -> click.Command:
        """Import the command."""
        module, _, attribute = self.target.partition(":")
        with loading():
            command = getattr(import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{self.target} is a {type(command).__name__}, not a click command")
        return command


class CommandTable(MutableMapping[str, click.Command]):
    """The commands of a group: looking one up loads it, looking at the names loads none."""

    def __init__(self, lazy: Mapping[str, LazyCommand]) -> None:
        self._commands: dict[str, LazyCommand | click.Command] = dict(lazy)
        self._short_helps = {name: command.short_help for name, command in lazy.items()}
        self._hidden = {name for name, command in lazy.items() if command.hidden}

    def __getitem__(self, name: str) -> click.Command:
        command = self._commands[name]
        if isinstance(command, LazyCommand):
            command = self._commands[name] = command.load()
        return command

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._commands[name] = command
        self._short_helps.pop(name, None)
        self._hidden.discard(name)

    def __delitem__(self, name: str) -> None:
        del self._commands[name]
        self._short_helps.pop(name, None)
        self._hidden.discard(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._commands)

    def __len__(self) -> int:
        return len(self._commands)

    def __contains__(self, name: object) -> bool:
        return name in self._commands

    def is_hidden(self, name: str) -> bool:
        """Whether listings leave the command out."""
        return self[name].hidden if name not in self._short_helps else name in self._hidden

    def short_help(self, name: str, limit: int = 45) -> str:
        """What a listing says about the command."""
        declared = self._short_helps.get(name)
        return self[name].get_short_help_str(limit) if declared is None else declared


class LazyGroup(AliasedGroup):
    """A group made from `name -> LazyCommand`; it stays an ordinary, walkable `click.Group`."""

    def __init__(self, *args: Any, lazy: Mapping[str, LazyCommand] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        table = CommandTable(lazy or {})
        table.update(self.commands)
        self.commands = table

    def _visible(self, ctx: click.Context) -> tuple[CommandTable, list[str]]:
        table = self.commands
        if not isinstance(table, CommandTable):
            raise TypeError("the commands of a LazyGroup must stay a CommandTable")
        return table, [name for name in self.list_commands(ctx) if name in table and not table.is_hidden(name)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands of a help page."""
        table, names = self._visible(ctx)
        if not names:
            return
        limit = formatter.width - 6 - max(len(name) for name in names)
        with formatter.section("Commands"):
            formatter.write_dl([(name, table.short_help(name, limit)) for name in names])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Complete names of commands and options."""
        from click.shell_completion import CompletionItem

        table, names = self._visible(ctx)
        items = [CompletionItem(name, help=table.short_help(name)) for name in names if name.startswith(incomplete)]
        return [*items, *click.Command.shell_complete(self, ctx, incomplete)]
