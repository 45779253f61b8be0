"""Finding the classes that reports and configs name, within what the user allows."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cache
from importlib import import_module
from typing import Any

from .exceptions import MissingDriverError

__all__ = ["cached_import", "import_class", "missing_driver_message"]

logger = logging.getLogger(__name__)


def cached_import(module_path: str, class_name: str) -> Any:
    """Return an attribute of a module, which is imported when it isn't yet.

    Raises:
        ImportError: the module can't be imported.
        AttributeError: it has no such attribute.
    """
    module = sys.modules.get(module_path)
    spec = getattr(module, "__spec__", None)
    if module is None or getattr(spec, "_initializing", False):
        module = import_module(module_path)
    return getattr(module, class_name)


def import_class(class_path: str, allow: Iterable[str], unsafe: bool) -> Any:
    """Return the class that `class_path` names, such as `jumpstarter_driver_power.client.PowerClient`.

    Args:
        class_path: dotted path of module and class.
        allow: shell patterns, one of which must match the whole path; `*` matches dots too.
        unsafe: import anything, whatever `allow` says.

    Raises:
        MissingDriverError: the class is not allowed, not installed or not in its module.
        ImportError: the path has no dot.
    """
    if not unsafe:
        _check_allowed(class_path, list(allow))
    module_path, _, class_name = class_path.rpartition(".")
    if not module_path:
        raise ImportError(f"{class_path!r} is not the path of a class: expected a module, a dot and the class name")
    try:
        return cached_import(module_path, class_name)
    except ModuleNotFoundError as error:
        raise MissingDriverError(_missing(class_path, module_path, error.name), class_path) from error
    except ImportError as error:
        raise MissingDriverError(f"{class_path} can't be imported: {error}", class_path) from error
    except AttributeError as error:
        if error.obj is not sys.modules.get(module_path):
            raise  # a fault in the module's own code
        message = f"module {module_path} has no class {class_name}. {_hint(class_path)}"
        raise MissingDriverError(message, class_path) from error


def _check_allowed(class_path: str, allow: list[str]) -> None:
    matching = [pattern for pattern in allow if fnmatchcase(class_path, pattern)]
    if not matching:
        patterns = ", ".join(allow) or "none"
        raise MissingDriverError(
            f"{class_path} doesn't match any of the allowed patterns ({patterns}). "
            "If you trust it, add it to drivers.allow of the client config or to JMP_DRIVERS_ALLOW",
            class_path,
        )
    if all(_is_broad(pattern) for pattern in matching):
        _warn_broad(matching[0])


def _is_broad(pattern: str) -> bool:
    """Tell whether a pattern matches packages that its author may never have heard of.

    The prefix of Jumpstarter's own drivers is what the documentation suggests, so it passes.
    """
    package = pattern.partition(".")[0]
    return any(char in package for char in "*?[") and not package.startswith("jumpstarter_driver_")


@cache
def _warn_broad(pattern: str) -> None:
    stem = pattern.rstrip("*")
    advice = f" Write {stem}.* to allow the package {stem} alone." if stem.isidentifier() else ""
    logger.warning("the allowed pattern %s lets in any package whose name matches.%s", pattern, advice)


def _missing(class_path: str, module_path: str, missing: str | None) -> str:
    if missing and module_path != missing and not module_path.startswith(f"{missing}."):
        return f"{class_path} needs the module {missing}, which is not installed. Install the package that provides it"
    return missing_driver_message(class_path)


def missing_driver_message(class_path: str) -> str:
    """Return what to tell about a class whose package is not installed: its path, and how to install it."""
    return f"{class_path} is not installed. {_hint(class_path)}"


def _hint(class_path: str) -> str:
    package = class_path.partition(".")[0]
    if class_path.startswith("jumpstarter_driver_"):
        return (
            "This is probably a version mismatch between client and exporter: "
            f"update Jumpstarter on this machine, or install the driver with: pip install {package}"
        )
    return f"Install it with: pip install {package} (or: uv pip install {package})"
