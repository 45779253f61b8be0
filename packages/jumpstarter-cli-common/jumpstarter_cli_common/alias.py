"""Groups whose commands also answer to short and alternative names."""

from __future__ import annotations

import click


class AliasedGroup(click.Group):
    """A group that finds its commands by their aliases as well; help and usage lines show the canonical names."""

    common_aliases: dict[str, list[str]] = {
        "remove": ["rm"],
        "list": ["ls"],
        "create": ["c"],
        "import": ["i"],
        "get": ["g"],
        "admin": ["admins", "a"],
        "create-config": ["cc"],
        "delete-config": ["dc"],
        "edit-config": ["ec"],
        "list-configs": ["lc"],
        "use-config": ["uc"],
        "move": ["mv"],
        "rename": ["mv"],
        "config": ["conf"],
        "delete": ["del", "d", "rm"],
        "shell": ["sh", "s"],
        "exporter": ["exporters", "e"],
        "exporters": ["exporter", "e"],
        "client": ["clients", "c"],
        "clients": ["client", "c"],
        "lease": ["leases", "l"],
        "leases": ["lease", "l"],
        "router": ["routers", "r"],
        "policy": ["policies", "p", "exporteraccesspolicy", "exporteraccesspolicies"],
        "cluster": ["clusters"],
        "clusters": ["cluster"],
        "version": ["ver", "v"],
    }
    """Canonical name -> aliases."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name or alias, or None.

        Raises:
            click.UsageError: several commands of this group have the alias.
        """
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            return command
        matches = [name for name in self.list_commands(ctx) if cmd_name in self.common_aliases.get(name, ())]
        if not matches:
            return None
        if len(matches) > 1:
            ctx.fail(f"{cmd_name!r} can mean several commands: {', '.join(sorted(matches))}")
        return super().get_command(ctx, matches[0])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments name; the name returned is the canonical one."""
        name, command, rest = super().resolve_command(ctx, args)
        return (name if command is None else command.name), command, rest
