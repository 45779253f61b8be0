"""The exporter config of the HTTP power driver: requests, where values lie in answers, and credentials."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

BODY_METHODS = ("POST", "PUT", "PATCH")
"""Methods whose requests have a body."""


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an address that begins with http:// or https://")
    if parts.username is not None:
        raise ValueError("must not hold user and password; put them into `auth`")
    _ = parts.port  # raises ValueError when it is no port
    return url


Url = Annotated[str, AfterValidator(_checked_url)]
Path = Annotated[str, Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Endpoint(_Part):
    """One request."""

    url: Url
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    data: str | dict[str, Any] | list[Any] | None = None
    """Body of POST, PUT and PATCH: text as it is, anything else as JSON."""
    headers: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _upper_method(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("method"), str):
            return value | {"method": value["method"].upper()}
        return value

    @property
    def shown(self) -> str:
        """The request without what may be secret in it: for messages and the log."""
        parts = urlsplit(self.url)
        return f"{self.method} {parts.scheme}://{parts.netloc}{parts.path}" + ("?..." if parts.query else "")


class ReadEndpoint(Endpoint):
    """The request for measurements."""

    voltage_path: Path | None = None
    """Where volts lie in the JSON answer; `voltage` unless given."""
    current_path: Path | None = None
    """Where amperes lie in the JSON answer; `current` unless given."""
    power_path: Path | None = None
    """Where watts lie in the JSON answer, if anywhere."""


class StatusEndpoint(Endpoint):
    """The request for the state of the supply."""

    path: Path | None = None
    """Where the state lies in the JSON answer; without it the whole answer is taken, as text."""
    on_values: list[bool | int | str] = Field(default=[True, 1, "on", "true", "1"], min_length=1)
    """Values that mean on; text in any case of letters."""
    off_values: list[bool | int | str] = Field(default=[False, 0, "off", "false", "0"], min_length=1)
    """Values that mean off."""

    def name(self, value: Any) -> str:
        """Return `on`, `off` or `unknown` for a value of an answer."""
        for state, values in (("on", self.on_values), ("off", self.off_values)):
            if any(_same(value, each) for each in values):
                return state
        return "unknown"


def _same(found: Any, listed: bool | int | str) -> bool:
    if isinstance(found, str) and isinstance(listed, str):
        return found.strip().lower() == listed.lower()
    if isinstance(found, bool) or isinstance(listed, bool):
        return found is listed
    return isinstance(found, int | float) and isinstance(listed, int) and found == listed


class Credentials(_Part):
    """A user and the password."""

    user: str
    password: Annotated[str, Field(repr=False)]

    @model_validator(mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        # YAML reads a password of digits as a number.
        if isinstance(value, dict) and type(value.get("password")) is int:
            return value | {"password": str(value["password"])}
        return value


class Auth(_Part):
    """How to be let in: one of the two."""

    basic: Credentials | None = None
    digest: Credentials | None = None

    @model_validator(mode="after")
    def _one(self) -> Auth:
        if (self.basic is None) == (self.digest is None):
            raise ValueError("auth needs `basic` or `digest`, with `user` and `password`")
        return self
