"""What an administrator can set of the lab; read from a YAML file, with a default for everything."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from .durations import parse_duration

Length = Annotated[timedelta, BeforeValidator(parse_duration), Field(ge=timedelta(0))]
Positive = Annotated[timedelta, BeforeValidator(parse_duration), Field(gt=timedelta(0))]


class Section(BaseModel):
    """A mapping of the file; keys are written in camelCase."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, frozen=True, alias_generator=to_camel)


class Tokens(Section):
    """Tokens that the server issues."""

    life: Positive = timedelta(days=90)
    grace: Length = timedelta(minutes=5)
    """For how long a rotated token is still accepted."""
    prefix: str = "internal:"


class Leases(Section):
    """How leases are given and kept."""

    max_tags: int = Field(default=10, ge=0)
    offline_after: Positive = timedelta(seconds=4)
    """An exporter whose connection is lost counts as offline after this; its lease goes on.

    The loss of one that vanishes without a word is noticed within 10 seconds, to which this is added.
    """
    pending_grace: Length = timedelta(seconds=30)
    """A pending lease whose owner watched it, and does not any more, is cancelled after this."""
    pending_limit: Positive | None = None
    """Leases of clients that don't watch are cancelled when they have waited for this long."""
    keep_ended: Positive | None = timedelta(days=30)
    """For how long ended leases can be looked up."""
    warn_before: Length = timedelta(minutes=5)
    hidden_labels: tuple[str, ...] = ()
    deprecated_labels: dict[str, str] = Field(default_factory=dict)


class Audit(Section):
    """The audit record."""

    keep: Positive | None = timedelta(days=90)
    max_entries: int = Field(default=1_000_000, ge=0)


class Settings(Section):
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
