"""The command lines of the documentation exist: each command, and each option of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from jumpstarter_cli.jmp import jmp

HERE = Path(__file__).parent
ROOT = HERE.parent

PAGES = sorted([*ROOT.glob("*.md"), *HERE.glob("*.md"), *HERE.glob("reference/*.md"), *HERE.glob("tutorial/*.md")])
PAGES += sorted([*ROOT.glob("packages/*/README.md"), *ROOT.glob("examples/*/README.md"), ROOT / "deploy" / "README.md"])

BLOCK = re.compile(r"^```(?:console|shell|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(jmp [^`]+)`")
PROMPT = re.compile(r"^(?:\w+@\w+(?::\d+)?(?: ⚡)?)?[$#] ")
ALTERNATIVES = re.compile(r"[|\[…]|\.\.\.")
"""What makes a line a summary of several."""


def command_lines(text: str) -> Iterator[str]:
    """Yield the lines in which `jmp` is called."""
    for block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            typed = PROMPT.sub("", line.strip())
            if typed.startswith("jmp "):
                yield typed
    for inline in INLINE.findall(BLOCK.sub("", text)):
        if not ALTERNATIVES.search(inline):
            yield inline.replace("\n", " ")


def mistake(line: str) -> str:
    """Return what is wrong with a command line; empty for nothing."""
    words = iter(shlex.split(line, comments=True)[1:])
    command: click.Command = jmp
    context = click.Context(jmp, info_name="jmp")
    for word in words:
        if word in ("--", "|", "&", "&&", ">") or word == "--help":
            return ""
        if word.startswith("-"):
            name = word.partition("=")[0]
            option = next((each for each in command.params if name in (*each.opts, *each.secondary_opts)), None)
            if not isinstance(option, click.Option):
                return f"{context.command_path} has no option {name}"
            if not option.is_flag and "=" not in word:
                next(words, None)
        elif isinstance(command, click.Group):
            if word.isupper():
                return ""
            found = command.get_command(context, word)
            if found is None:
                return f"{context.command_path} has no command {word}"
            command, context = found, click.Context(found, info_name=word, parent=context)
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_exist(page: Path) -> None:
    mistakes = {line: what for line in command_lines(page.read_text()) if (what := mistake(line))}

    assert mistakes == {}


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("jmp get exporters --with online", ""),
        ("jmp get boards", "jmp get has no command boards"),
        ("jmp shell --board x", "jmp shell has no option --board"),
        ("jmp --log-level debug shell -l a=b -- j --anything", ""),
    ],
)
def test_what_is_wrong_with_a_command_is_told(line: str, what: str) -> None:
    assert mistake(line) == what
