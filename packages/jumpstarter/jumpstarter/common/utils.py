"""Where programs and tests find the usual helpers; each lives in its own place and is loaded when first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jumpstarter.client.shell import (
        ANSI_GRAY,
        ANSI_RESET,
        ANSI_WHITE,
        ANSI_YELLOW,
        PROMPT_CWD,
        launch_shell,
        lease_ending_handler,
    )
    from jumpstarter.config.serving import serve, serve_async
    from jumpstarter.utils.env import ExporterMetadata, env, env_with_metadata

_PLACES = {
    "ANSI_GRAY": "jumpstarter.client.shell",
    "ANSI_RESET": "jumpstarter.client.shell",
    "ANSI_WHITE": "jumpstarter.client.shell",
    "ANSI_YELLOW": "jumpstarter.client.shell",
    "PROMPT_CWD": "jumpstarter.client.shell",
    "ExporterMetadata": "jumpstarter.utils.env",
    "env": "jumpstarter.utils.env",
    "env_with_metadata": "jumpstarter.utils.env",
    "launch_shell": "jumpstarter.client.shell",
    "lease_ending_handler": "jumpstarter.client.shell",
    "serve": "jumpstarter.config.serving",
    "serve_async": "jumpstarter.config.serving",
}

__all__ = [
    "ANSI_GRAY",
    "ANSI_RESET",
    "ANSI_WHITE",
    "ANSI_YELLOW",
    "PROMPT_CWD",
    "ExporterMetadata",
    "env",
    "env_with_metadata",
    "launch_shell",
    "lease_ending_handler",
    "serve",
    "serve_async",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
