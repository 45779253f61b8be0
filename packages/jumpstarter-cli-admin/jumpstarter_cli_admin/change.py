"""`jmp admin label`, `enable` and `disable`: changes of accounts that are there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from jumpstarter_cli_common.alias import AliasedGroup
from jumpstarter_cli_common.exceptions import handle_exceptions
from jumpstarter_cli_common.opt import OutputType, opt_output_all

from .records import Account, Kind
from .shown import VIEWS, show
from .target import Target, opt_target

if TYPE_CHECKING:
    from .backend import Backend

ATTEMPTS = 5
"""How often somebody else may change the account at the same moment."""


class KindParamType(click.ParamType):
    """A kind of account, in singular or plural."""

    name = "kind"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Kind:
        """Return the kind."""
        text = str(value).lower()
        for kind in Kind:
            if text in (kind.value, f"{kind.value}s"):
                return kind
        self.fail(f"{value!r} is none of {', '.join(Kind)}", param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """Complete kinds."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(kind.value) for kind in Kind if kind.value.startswith(incomplete)]


KIND = KindParamType()


def change_account(target: Target, kind: Kind, name: str, **changes: Callable[[Account], Any]) -> Account:
    """Change members of an account by what they are, and return it as it is then."""

    async def change(backend: Backend) -> Account:
        from jumpstarter.common.exceptions import ConnectionError as CallError

        for attempt in range(1, ATTEMPTS + 1):
            account = await backend.get_account(kind, target.namespace, name)
            try:
                return await backend.update_account(
                    account, **{member: make(account) for member, make in changes.items()}
                )
            except CallError as error:
                if error.reason != "CHANGED_MEANWHILE" or attempt == ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    return target.run(change)


def _parse(changes: tuple[str, ...]) -> tuple[dict[str, str], set[str]]:
    """Return the labels to set and those to remove."""
    given: dict[str, str] = {}
    removed: set[str] = set()
    for text in changes:
        key, equals, value = text.partition("=")
        if equals and key:
            given[key] = value
        elif not equals and text.endswith("-") and len(text) > 1:
            removed.add(text[:-1])
        else:
            raise click.BadParameter(f"{text!r} is neither key=value nor key- (which removes)", param_hint="LABELS")
    if both := sorted(removed & given.keys()):
        raise click.BadParameter(f"{both[0]!r} can't be set and removed at once", param_hint="LABELS")
    return given, removed


@click.command(
    "label", short_help="Set and remove labels of accounts.", context_settings={"ignore_unknown_options": True}
)
@click.argument("kind", type=KIND, metavar="KIND")
@click.argument("name")
@click.argument("labels", nargs=-1, required=True, metavar="KEY=VALUE|KEY-...")
@opt_target
@opt_output_all
@handle_exceptions
def label(target: Target, kind: Kind, name: str, labels: tuple[str, ...], output: OutputType) -> None:
    """Set and remove labels of the account NAME, of KIND client, exporter, admin or router.

        jmp admin label exporter my-board board=rpi4 rack-

    sets the label `board` and removes the label `rack`. Leases that hold or wait for an exporter stay as they are.
    """
    given, removed = _parse(labels)

    def changed(account: Account) -> dict[str, str]:
        return {key: value for key, value in {**account.labels, **given}.items() if key not in removed}

    account = change_account(target, kind, name, labels=changed)
    if output is None:
        from .shown import pairs

        click.echo(f"Labels of {kind} '{name}': {pairs(account.labels) or 'none'}")
    else:
        show(VIEWS[kind], [account], output, single=True)


def _switch(target: Target, kind: Kind, names: tuple[str, ...], output: OutputType, *, enabled: bool) -> None:
    accounts = []
    for name in names:
        accounts.append(change_account(target, kind, name, enabled=lambda _: enabled))
        if output is None:
            click.echo(f"{'Enabled' if enabled else 'Disabled'} {kind} '{name}' in namespace '{target.namespace}'")
    if output is not None:
        show(VIEWS[kind], accounts, output, single=len(accounts) == 1)


@click.group("enable", cls=AliasedGroup, short_help="Undo what disable did.")
def enable() -> None:
    """Undo what `disable` did."""


@click.group("disable", cls=AliasedGroup, short_help="Refuse an account, or leases of an exporter.")
def disable() -> None:
    """Refuse all calls of an account; give no new leases of an exporter."""


_EFFECTS = {
    Kind.CLIENT: "All its calls are refused",
    Kind.EXPORTER: "It takes no new lease; the present one goes on",
    Kind.ADMIN: "All its calls are refused",
    Kind.ROUTER: "All its calls are refused",
}


def _add(kind: Kind) -> None:
    def command(enabled: bool) -> click.Command:
        verb = "Enable" if enabled else "Disable"
        text = f"{verb} {kind.title.lower()}s." + ("" if enabled else f" {_EFFECTS[kind]}.")

        @click.command(kind.value, short_help=f"{verb} {kind}s.", help=text)
        @click.argument("names", nargs=-1, required=True, metavar="NAME...")
        @opt_target
        @opt_output_all
        @handle_exceptions
        def switch(target: Target, names: tuple[str, ...], output: OutputType) -> None:
            _switch(target, kind, names, output, enabled=enabled)

        return switch

    enable.add_command(command(enabled=True))
    disable.add_command(command(enabled=False))


for _kind in Kind:
    _add(_kind)
