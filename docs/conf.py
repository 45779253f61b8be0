"""Settings of the documentation; `./dev docs` builds it."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs" / "_ext"))

project = "Jumpstarter"
author = "The Jumpstarter authors"
copyright = "The Jumpstarter authors, Apache-2.0"
release = tomllib.loads((ROOT / "packages" / "jumpstarter" / "pyproject.toml").read_text())["project"]["version"]
version = ".".join(release.split(".")[:2])

extensions = ["myst_parser", "package_pages", "sphinx_click", "sphinx_copybutton"]
exclude_patterns = ["_build", "_ext"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"Jumpstarter {version}"
html_static_path: list[str] = []
html_show_sphinx = False

# Prompts and output are not copied along with a command.
copybutton_prompt_text = r"(?:\w+@\w+(?::\d+)?(?: ⚡)?)?\$ |>>> |=> "
copybutton_prompt_is_regexp = True
