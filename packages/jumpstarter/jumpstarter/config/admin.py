"""Admin configs: who an administrator is to which lab, one file per lab."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from .account import AccountConfig, folder_of

__all__ = ["AdminConfigV1Alpha1"]

CURRENT = "current"
"""Name of the file that holds the alias of the current config."""


class AdminConfigV1Alpha1(AccountConfig):
    """The config of an administrator; its namespace is that of commands that name none."""

    FOLDER: ClassVar[Path] = folder_of("admins")
    WORD: ClassVar[str] = "Admin"
    ADVICE: ClassVar[str] = "'jmp controller run' makes one for who starts a lab"

    kind: Literal["AdminConfig"] = Field(default="AdminConfig")

    @classmethod
    def current(cls) -> str | None:
        """Return the alias of the current config, or None."""
        try:
            alias = (Path(cls.FOLDER) / CURRENT).read_text(encoding="utf-8").strip()
        except OSError:
            return None
        return alias if alias in cls.aliases() else None

    @classmethod
    def use(cls, alias: str) -> None:
        """Make a config the current one.

        Raises:
            FileNotFoundError: there is no such config.
        """
        from .document import write_secret

        cls.load(alias)
        write_secret(Path(cls.FOLDER) / CURRENT, f"{alias}\n")
