"""`jmp admin export lab` and `jmp admin import lab`: a whole lab, from a folder or cluster into another one."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from jumpstarter_cli_common.alias import AliasedGroup
from jumpstarter_cli_common.exceptions import ClickExceptionRed, handle_exceptions

if TYPE_CHECKING:
    from .places import Place


def opt_place(function: Any) -> Any:
    """Add the options that say where a lab is, and pass it as keyword `place`, and `-n` as `namespace`."""

    @wraps(function)
    def wrapper(*args: Any, data: Path | None, kubeconfig: str | None, context: str | None, **kwargs: Any) -> Any:
        place = _place(data, kubeconfig, context, kwargs["namespace"])
        return function(*args, place=place, **kwargs)

    for option in (
        click.option("-n", "--namespace", default=None, help="Namespace  [default: that of the context, or all]"),
        click.option("--context", default=None, help="Context of the kubeconfig, for a lab in a cluster."),
        click.option(
            "--kubeconfig",
            type=click.Path(exists=True, dir_okay=False),
            default=None,
            help="Path of a kubeconfig file, for a lab in a cluster.",
        ),
        click.option(
            "--data",
            type=click.Path(file_okay=False, path_type=Path),
            default=None,
            help="Folder of a lab of `jmp controller run`, which must not run meanwhile.",
        ),
    ):
        wrapper = option(wrapper)
    return wrapper


def _place(data: Path | None, kubeconfig: str | None, context: str | None, namespace: str | None) -> Place:
    if (data is None) == (kubeconfig is None and context is None):
        raise click.UsageError(
            "Say where the lab is: --data names the folder of a stopped one, --kubeconfig and --context a cluster."
        )
    try:
        from .places import Folder, InCluster
    except ImportError as error:
        raise ClickExceptionRed(
            f"Moving labs needs jumpstarter-controller, which is not installed: {error}",
            reason="missing-package",
            hint="Install it: pip install 'jumpstarter-cli-admin[lab]'",
        ) from error
    if data is not None:
        return Folder(data)
    from ..cluster.backend import open_cluster
    from ..cluster.errors import check_namespace

    chosen = namespace or open_cluster(kubeconfig, context)[0]
    check_namespace(chosen)
    return InCluster(kubeconfig, context, chosen)


def _run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    import anyio
    from jumpstarter_controller.startup import told_to_users

    with told_to_users():
        return anyio.run(work)


@click.group("export", cls=AliasedGroup)
def export() -> None:
    """Write a whole lab into a file."""


@export.command("lab", short_help="Write a whole lab into a file.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@opt_place
@handle_exceptions
def export_lab(place: Place, file: Path, force: bool, namespace: str | None) -> None:
    """Write accounts, access policies and keys of a lab into FILE, for `jmp admin import lab`.

    Tokens and certificates that were given out go on working with the lab that FILE is imported into. FILE holds the
    keys: keep it as you keep them, and delete it afterwards. Leases are left behind.
    """
    from .lab_file import write
    from .moving import export as read_out

    if file.exists() and not force:
        raise ClickExceptionRed(
            f"'{file}' is there already.", reason="already-exists", hint="Choose another FILE, or add --force."
        )
    if not file.absolute().parent.is_dir():
        raise ClickExceptionRed(f"The folder '{file.absolute().parent}' does not exist.", reason="file-not-found")
    found = _run(lambda: read_out(place, namespace or ""))
    if not found.lab.records and not found.lab.secrets:
        raise ClickExceptionRed(f"There is no lab in {place}.", reason="not-found")
    write(file, found.lab)
    click.echo(f"Exported {found.lab.counts()} of {place} to {file}")
    if found.leases:
        click.echo(f"{found.leases} leases that have not ended are left behind.", err=True)
    if found.without_token:
        names = ", ".join(found.without_token[:5]) + (", ..." if len(found.without_token) > 5 else "")
        click.echo(f"{len(found.without_token)} accounts have no token that can go along: {names}", err=True)
    click.echo(f"{file} holds the keys of the lab; only you can read it.", err=True)


@click.command("lab", short_help="Take over a whole lab from a file.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--from", "source", default="", metavar="NAMESPACE", help="Take what was in this namespace alone.")
@opt_place
@handle_exceptions
def import_lab(place: Place, file: Path, source: str, namespace: str | None) -> None:
    """Put the lab of FILE, which `jmp admin export lab` has written, into a folder or a namespace of a cluster.

    Nothing that is there is replaced: accounts of the same names, or of a lab with other keys, are refused before
    anything is changed. What was ended half way can be done again. No controller may run there meanwhile.
    """
    from .lab_file import read, readable_by_others
    from .moving import put

    lab = read(file)
    if readable_by_others(file):
        click.echo(f"Warning: others may read '{file}', which holds keys; run: chmod 600 {file}", err=True)
    done = _run(lambda: put(place, lab, source_namespace=source, namespace=namespace or ""))
    there = f", {done.there} were there already" if done.there else ""
    click.echo(f"Imported {done.added} accounts and policies into {place}{there}")
    if done.renamed:
        now = place.namespace or namespace
        click.echo(
            f"Configs of peers name the namespace {done.renamed!r}, which is {now!r} now: change their "
            "metadata.namespace.",
            err=True,
        )
    click.echo(place.next_step(), err=True)
