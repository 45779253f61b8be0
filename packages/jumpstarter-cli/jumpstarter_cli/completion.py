"""`jmp completion`: scripts that make a shell complete the commands of `jmp` and `j`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class
from jumpstarter_cli_common.exceptions import ClickExceptionRed

PROGRAMS = {"jmp": "_JMP_COMPLETE", "j": "_J_COMPLETE"}

INSTRUCTIONS = {
    "bash": 'eval "$(jmp completion bash)"   # in ~/.bashrc',
    "zsh": 'eval "$(jmp completion zsh)"    # in ~/.zshrc, after compinit',
    "fish": "jmp completion fish | source    # in ~/.config/fish/config.fish",
}


@click.command(
    "completion",
    short_help="Print a script for completion in a shell.",
    epilog="Use it with: " + "; ".join(INSTRUCTIONS.values()),
)
@click.argument("shell", type=click.Choice(list(INSTRUCTIONS)))
def completion(shell: str) -> None:
    """Print the script that completes the commands of jmp and j in SHELL.

    Aliases of configs, names of drivers and, inside `jmp shell`, the commands of the device are completed too.
    """
    completer = get_completion_class(shell)
    if completer is None:
        raise ClickExceptionRed(f"Unsupported shell: {shell}", reason="usage")
    for program, variable in PROGRAMS.items():
        click.echo(completer(click.Command(program), {}, program, variable).source())
