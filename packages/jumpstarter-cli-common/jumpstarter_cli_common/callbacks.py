"""Progress and questions of long operations, on the terminal."""

from __future__ import annotations

import click


class ClickCallback:
    """Reports to the terminal and asks the user; a silent one reports nothing and answers yes."""

    def __init__(self, silent: bool = False) -> None:
        self.silent = silent

    def progress(self, message: str) -> None:
        """Report a step."""
        if not self.silent:
            click.echo(message)

    def success(self, message: str) -> None:
        """Report a good end."""
        if not self.silent:
            click.echo(click.style(message, fg="green"))

    def warning(self, message: str) -> None:
        """Report something that the user should look at."""
        if not self.silent:
            click.echo(click.style(message, fg="yellow"), err=True)

    def error(self, message: str) -> None:
        """Report a failure on stderr."""
        if not self.silent:
            click.echo(click.style(message, fg="red"), err=True)

    def confirm(self, prompt: str) -> bool:
        """Ask for a yes or no."""
        return True if self.silent else click.confirm(prompt)


class ForceClickCallback(ClickCallback):
    """Reports, but takes every answer for yes."""

    def confirm(self, prompt: str) -> bool:
        """Answer yes."""
        return True


class SilentWithConfirmCallback(ClickCallback):
    """Reports nothing, but asks."""

    def __init__(self) -> None:
        super().__init__(silent=True)

    def confirm(self, prompt: str) -> bool:
        """Ask for a yes or no."""
        return click.confirm(prompt)
