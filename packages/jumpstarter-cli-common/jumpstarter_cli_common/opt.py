"""Options that many commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import click

if TYPE_CHECKING:
    from .logs import SourcePrefixFormatter

LOG_LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


def __getattr__(name: str) -> Any:
    # Logging is loaded by the first command that logs, not by every help page.
    if name == "SourcePrefixFormatter":
        from .logs import SourcePrefixFormatter

        return SourcePrefixFormatter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "NameOutputType",
    "OutputMode",
    "OutputType",
    "PathOutputType",
    "SourcePrefixFormatter",
    "confirm_insecure",
    "confirm_insecure_tls",
    "opt_comma_separated",
    "opt_context",
    "opt_insecure",
    "opt_insecure_tls",
    "opt_insecure_tls_config",
    "opt_kubeconfig",
    "opt_labels",
    "opt_log_format",
    "opt_log_level",
    "opt_namespace",
    "opt_nointeractive",
    "opt_output_all",
    "opt_output_name_only",
    "opt_output_path_only",
    "parse_comma_separated",
    "validate_name",
]


# --- logging ---------------------------------------------------------------------------------------------------------


def _set_log_level(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if ctx.resilient_parsing or value is None:
        return
    given = ctx.get_parameter_source(param.name or "") != click.core.ParameterSource.DEFAULT
    # A subgroup's default must not undo what was asked for further left.
    if not given and ctx.parent is not None:
        return
    from .logs import setup_logging

    setup_logging(value)


opt_log_level = click.option(
    "--log-level",
    type=click.Choice(LOG_LEVELS, case_sensitive=False),
    default="INFO",
    show_default=True,
    envvar="JUMPSTARTER_LOG_LEVEL",
    expose_value=False,
    callback=_set_log_level,
    help="Least severe log lines to show on stderr; DEBUG also shows tracebacks of failures.",
)


def _set_log_format(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if not ctx.resilient_parsing and value is not None:
        from .logs import set_format

        set_format(value)


opt_log_format = click.option(
    "--log-format",
    type=click.Choice(["text", "json"], case_sensitive=False),
    default=None,
    envvar="JUMPSTARTER_LOG_FORMAT",
    expose_value=False,
    callback=_set_log_format,
    help="Form of the log lines on stderr: for people, or a JSON object per line  [default: text]",
)


# --- Kubernetes ------------------------------------------------------------------------------------------------------

opt_kubeconfig = click.option(
    "--kubeconfig", type=click.Path(exists=True, dir_okay=False), default=None, help="Path of the kubeconfig file."
)

opt_context = click.option("--context", default=None, help="Context of the kubeconfig to use.")

opt_namespace = click.option("-n", "--namespace", default="default", show_default=True, help="Namespace to work in.")


def _labels(ctx: click.Context, param: click.Parameter, value: Iterable[str]) -> dict[str, str]:
    labels = {}
    for item in value or ():
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{item!r} is not of the form key=value", ctx=ctx, param=param)
        labels[key] = text
    return labels


opt_labels = partial(
    click.option,
    "-l",
    "--label",
    "labels",
    type=str,
    multiple=True,
    callback=_labels,
    help="Label as key=value; repeatable.",
)


# --- TLS and interaction ---------------------------------------------------------------------------------------------

opt_insecure_tls = click.option(
    "-k",
    "--insecure-tls",
    "--insecure-tls-config",
    "insecure_tls",
    is_flag=True,
    default=False,
    help="Don't verify TLS certificates. Dangerous: anybody on the way can read and change the traffic.",
)
opt_insecure_tls_config = opt_insecure_tls
opt_insecure = opt_insecure_tls

opt_nointeractive = click.option(
    "--nointeractive", is_flag=True, default=False, help="Never ask; fail when something needed is missing."
)


def confirm_insecure_tls(insecure_tls: bool, nointeractive: bool) -> None:
    """Ask whether TLS certificates shall really not be verified.

    Raises:
        click.Abort: the user declined.
    """
    if not insecure_tls or nointeractive:
        return
    if not click.confirm("TLS certificates will not be verified, which is insecure. Continue?", err=True):
        click.echo("Aborting.", err=True)
        raise click.Abort()


confirm_insecure = confirm_insecure_tls


# --- output ----------------------------------------------------------------------------------------------------------


class OutputMode(str):
    """The values of `-o/--output`."""

    JSON = "json"
    YAML = "yaml"
    NAME = "name"
    PATH = "path"
    WIDE = "wide"
    TABLE = "table"


OutputType: TypeAlias = OutputMode | None
NameOutputType: TypeAlias = Literal["name"] | None
PathOutputType: TypeAlias = Literal["path"] | None


def _note_output(ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if hasattr(ctx.obj, "output"):
        ctx.obj.output = value
    return None if value == OutputMode.TABLE else value


def _output_option(choices: list[str], text: str) -> Callable[[Any], Any]:
    return click.option(
        "-o",
        "--output",
        type=click.Choice(choices),
        default=None,
        is_eager=True,
        callback=_note_output,
        help=text,
    )


opt_output_all = _output_option(
    [OutputMode.JSON, OutputMode.YAML, OutputMode.NAME, OutputMode.TABLE, OutputMode.WIDE],
    "Output format; the default is a table or text for humans.",
)
opt_output_name_only = _output_option([OutputMode.NAME], "Print only the name.")
opt_output_path_only = _output_option([OutputMode.PATH], "Print only the path.")


# --- values ----------------------------------------------------------------------------------------------------------


def validate_name(name: str | None) -> str:
    """Return `name` without surrounding blanks.

    Raises:
        click.UsageError: it is missing or blank.
    """
    if name is None or not name.strip():
        raise click.UsageError("Missing required argument 'NAME'.")
    return name.strip()


def parse_comma_separated(
    ctx: click.Context | None,
    param: click.Parameter | None,
    value: str | Iterable[str] | None,
    allowed_values: Iterable[str] | None = None,
    normalize_case: bool = True,
) -> list[str]:
    """Return the members of comma-separated texts, stripped, in lower case if asked, each once, in their order.

    Raises:
        click.BadParameter: a member is not among `allowed_values`.
    """
    texts = [value] if isinstance(value, str) else list(value or ())
    members = [member.strip() for text in texts for member in text.split(",")]
    if normalize_case:
        members = [member.lower() for member in members]
    result = list(dict.fromkeys(member for member in members if member))
    if allowed_values is not None:
        allowed = sorted(allowed_values)
        if unknown := [member for member in result if member not in allowed]:
            raise click.BadParameter(
                f"Invalid value(s) {unknown}. Allowed values are: {', '.join(allowed)}", ctx=ctx, param=param
            )
    return result


def opt_comma_separated(
    name: str,
    allowed_values: Iterable[str] | None = None,
    normalize_case: bool = True,
    help_text: str | None = None,
) -> Callable[[Any], Any]:
    """Return a decorator that adds the option `--<name>`, given to the command as the list `<name>_options`."""
    allowed = None if allowed_values is None else set(allowed_values)
    return click.option(
        f"--{name}",
        f"{name}_options",
        multiple=True,
        callback=partial(parse_comma_separated, allowed_values=allowed, normalize_case=normalize_case),
        help=help_text or (f"Comma separated: {', '.join(sorted(allowed))}." if allowed else None),
    )
