"""Paths that come from clients: how they are normalised, kept inside a root, and told from uploads in progress."""

from __future__ import annotations

import os

__all__ = ["PARTIAL_SUFFIX", "OutsideRoot", "confine", "is_partial", "normalize"]

PARTIAL_SUFFIX = ".jmp-part"
"""End of the name of a file whose upload isn't complete; such files are never listed or served."""


class OutsideRoot(ValueError):
    """A path that leads out of the storage's root."""

    def __init__(self, path: str) -> None:
        super().__init__(f"path {path!r} leads out of the storage's root; name a path inside of it")
        self.path = path


def normalize(path: str | os.PathLike[str]) -> str:
    """The path relative to the root, with `/` between its parts.

    Backslashes count as slashes, a leading slash stands for the root, empty and `.` parts are dropped and `..` parts
    resolved. A trailing slash, which marks a directory, is kept. The root itself is `""`.

    Raises:
        OutsideRoot: there are more `..` than parts before them.
        ValueError: the path holds a NUL character.
    """
    text = os.fspath(path).replace("\\", "/")
    if "\0" in text:
        raise ValueError(f"path {text!r} holds a NUL character")
    parts: list[str] = []
    for part in text.split("/"):
        if part == "..":
            if not parts:
                raise OutsideRoot(text)
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    names_directory = text.endswith(("/", "/.", "/..")) or text in (".", "..")
    return "/".join(parts) + ("/" if parts and names_directory else "")


def confine(root: str | os.PathLike[str], path: str | os.PathLike[str]) -> str:
    """The real, absolute path of `path` inside `root`, with all symbolic links resolved. It needn't exist.

    Raises:
        OutsideRoot: `..` or a symbolic link leads out of the root.
        ValueError: the path holds a NUL character.
    """
    real_root = os.path.realpath(root)
    real = os.path.realpath(os.path.join(real_root, normalize(path)))
    if real != real_root and not real.startswith(real_root.rstrip(os.sep) + os.sep):
        raise OutsideRoot(os.fspath(path))
    return real


def is_partial(path: str | os.PathLike[str]) -> bool:
    """Whether any part of the path is the name of an upload in progress."""
    return any(part.endswith(PARTIAL_SUFFIX) for part in os.fspath(path).replace("\\", "/").split("/"))
