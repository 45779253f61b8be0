"""Questions for values that were not given as options; asked on stderr, so that stdout stays for results."""

from __future__ import annotations

import click


def ask(
    value: str | None, option: str, text: str, *, nointeractive: bool, hidden: bool = False, default: str | None = None
) -> str:
    """Return `value`, or ask for it.

    Raises:
        click.UsageError: it is missing and no questions may be asked.
    """
    if value is not None:
        return value
    if nointeractive:
        if default is not None:
            return default
        raise click.UsageError(f"Missing option '{option}', which is needed with --nointeractive.")
    return str(click.prompt(text, hide_input=hidden, default=default, show_default=bool(default), err=True))


def split_allow(text: str) -> list[str]:
    """Return the patterns of a comma-separated list; an empty text has none."""
    return [pattern.strip() for pattern in text.split(",") if pattern.strip()]


def usable_passphrase(passphrase: str | None) -> str | None:
    """Return a passphrase that can be sent, or None for an empty one.

    Raises:
        click.BadParameter: it has characters that can't be sent.
    """
    if not passphrase:
        return None
    from jumpstarter.common.passphrase import check_passphrase

    try:
        return check_passphrase(passphrase)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--passphrase") from None
