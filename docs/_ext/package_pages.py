"""Makes a page of every package's README, so that each is written once and read on the web and in the package alike."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from driver_table import short_name, tables
from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

ROOT = Path(__file__).resolve().parent.parent.parent

GROUPS: dict[str, Callable[[str], bool]] = {
    "drivers": lambda name: name.startswith("jumpstarter-driver-"),
    "commands": lambda name: name.startswith("jumpstarter-cli"),
    "libraries": lambda name: True,
}
"""Page by page of the section, which packages it lists; the first that fits takes the package."""

TITLES = {"drivers": "Drivers", "commands": "Command line packages", "libraries": "Libraries"}

DRIVERS_TEXT = """
`jmp driver show NAME` prints the same for one driver, with types, defaults and what each method does; keys in bold are
required. Commands come after `j` and the driver's name in the exporter config.

"""

README_LINK = re.compile(r"\]\(\.\./([a-z0-9-]+)(?:/README\.md|/)?(#[\w-]+)?\)")
OUTSIDE_LINK = re.compile(r"\[([^\]]+)\]\(\.\./\.\./(?!docs/)([^)]+)\)")


def write_pages(app: Sphinx) -> None:
    """Write the pages and the lists that lead to them; a file whose text is the same stays untouched."""
    target = Path(app.srcdir) / "packages"
    target.mkdir(exist_ok=True)
    members: dict[str, list[str]] = {group: [] for group in GROUPS}
    pages: dict[str, str] = {}
    for readme in sorted(ROOT.glob("packages/*/README.md")):
        name = readme.parent.name
        group = next(group for group, fits in GROUPS.items() if fits(name))
        members[group].append(name)
        pages[name] = page(readme.read_text())
    for group, names in members.items():
        entries = "\n".join(f"{short_name(name)} <{name}>" if group == "drivers" else name for name in names)
        hidden = ":hidden:\n" if group == "drivers" else ""
        pages[group] = f"# {TITLES[group]}\n\n```{{toctree}}\n:maxdepth: 1\n{hidden}\n{entries}\n```\n"
    pages["drivers"] += DRIVERS_TEXT + tables()
    for path in target.glob("*.md"):
        if path.stem not in pages:
            path.unlink()
    for name, text in pages.items():
        path = target / f"{name}.md"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def page(text: str) -> str:
    """The text of a README, with its links leading to pages; what has no page is named by its path."""
    text = README_LINK.sub(lambda link: f"]({link[1]}.md{link[2] or ''})", text)
    text = OUTSIDE_LINK.sub(lambda link: link[1] if link[2] in link[1] else f"{link[1]} (`{link[2]}`)", text)
    return text.replace("](../../docs/", "](../")


def setup(app: Sphinx) -> ExtensionMetadata:
    """Connect to Sphinx."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
