"""What an administrator can set of the lab; read from a YAML file, with a default for everything."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[timedelta, Field(gt=timedelta(0))]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True, frozen=True)


class Tokens(_Section):
    """Tokens that the server issues."""

    life: Positive = timedelta(days=90)
    grace: timedelta = Field(default=timedelta(minutes=5), ge=timedelta(0))
    """For how long a rotated token is still accepted."""
    prefix: str = "internal:"


class Leases(_Section):
    """How leases are given and kept."""

    max_tags: int = Field(default=10, ge=0)
    offline_after: Positive = timedelta(seconds=12)
    """An exporter whose connection is lost counts as offline after this."""
    pending_grace: timedelta = Field(default=timedelta(seconds=30), ge=timedelta(0))
    """A pending lease whose owner watched it, and does not any more, is cancelled after this."""
    pending_limit: timedelta | None = None
    """Leases of clients that don't watch are cancelled when they have waited for this long."""
    keep_ended: timedelta | None = timedelta(days=30)
    """For how long ended leases can be looked up."""
    warn_before: timedelta = timedelta(minutes=5)
    hidden_labels: tuple[str, ...] = ()
    deprecated_labels: dict[str, str] = Field(default_factory=dict)


class Audit(_Section):
    """The audit record."""

    keep: timedelta | None = timedelta(days=90)
    max_entries: int = Field(default=1_000_000, ge=0)


class Settings(_Section):
    """Everything that can be set."""

    namespace: str = "default"
    """For requests that name none."""
    tokens: Tokens = Tokens()
    leases: Leases = Leases()
    audit: Audit = Audit()
    jwt: tuple[dict[str, Any], ...] = ()
    """Login providers, in the form of Kubernetes' JWTAuthenticator."""
    provisioning: bool = False
    """Make a client for whoever logs in at a provider for the first time."""
