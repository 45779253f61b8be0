"""How the shells are started that `jmp shell` opens."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ShellConfigV1Alpha1(BaseModel):
    """Settings of interactive shells."""

    model_config = ConfigDict(defer_build=True, extra="forbid")

    use_profiles: bool = Field(default=False)
    """Let the shell read its start-up files, which may replace the prompt."""
