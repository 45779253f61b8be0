"""`jmp admin apply`: makes a lab have the access policies that a file describes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click
from jumpstarter_cli_common.exceptions import handle_exceptions
from jumpstarter_cli_common.opt import OutputType, opt_output_all

from .target import Target, opt_target

if TYPE_CHECKING:
    from .backend import Backend
    from .records import Policy


def put_policies(target: Target, path: str, output: OutputType, *, create: bool | None) -> None:
    """Send the policies of a file to the server.

    Args:
        create: they must not be there yet, or must be; None for either.
    """
    from .policy_file import read_policies
    from .shown import POLICIES, show

    policies = read_policies(path, target.namespace)
    if not policies:
        click.echo("The list of policies is empty, so nothing was changed.", err=True)
        if output is not None:
            show(POLICIES, [], output)
        return

    async def put(backend: Backend) -> list[Policy]:
        stored = []
        for policy in policies:
            done, kept = await _put(backend, policy, create)
            stored.append(kept)
            if output is None:
                click.echo(f"{done} policy '{kept.name}' in namespace '{kept.namespace}'", err=True)
        return stored

    show(POLICIES, target.run(put), output, single=len(policies) == 1)


async def _put(backend: Backend, policy: Policy, create: bool | None) -> tuple[str, Policy]:
    # What others changed meanwhile is replaced unless the file names the version that it began with, and updates it.
    bare = replace(policy, version="")
    if create is True:
        return "Created", await backend.put_policy(bare, create=True)
    if create is False:
        return "Updated", await backend.put_policy(policy, create=False)
    present = {each.name for each in await backend.list_policies(policy.namespace)}
    if policy.name in present:
        return "Updated", await backend.put_policy(bare, create=False)
    return "Created", await backend.put_policy(bare, create=True)


@click.command("apply", short_help="Create or replace what a file describes.")
@click.option("-f", "--file", "path", required=True, metavar="FILE", help="YAML file; `-` for the standard input.")
@opt_target
@opt_output_all
@handle_exceptions
def apply(target: Target, path: str, output: OutputType) -> None:
    """Create or replace the access policies that a file describes.

    The file has the form that `jmp admin get policy -o yaml` prints; several policies are separated by lines of `---`.
    """
    put_policies(target, path, output, create=None)
