"""The settings of login providers: those of Kubernetes' JWTAuthenticator (apiserver.config.k8s.io/v1beta1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from jumpstarter.common.exceptions import ConfigurationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.alias_generators import to_camel

from .tokens import ISSUER as OWN_ISSUER


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, frozen=True)


def _secure_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme != "https" or not parts.hostname or parts.username or parts.password or parts.fragment:
        raise ValueError("must be an https:// URL without user and fragment")
    return value


class Issuer(_Section):
    """Who signs the tokens, and how one gets the keys."""

    url: str
    discovery_url: str = Field(default="", alias="discoveryURL")
    certificate_authority: str = ""
    """PEM, or the path of a file with it; empty for the roots of the system."""
    audiences: tuple[str, ...] = Field(min_length=1)
    audience_match_policy: Literal["", "MatchAny"] = ""

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        if value == OWN_ISSUER:
            raise ValueError("is the issuer of this server's own tokens")
        if urlsplit(value).query:
            raise ValueError("must not have a query")
        return _secure_url(value)

    @field_validator("discovery_url")
    @classmethod
    def _check_discovery_url(cls, value: str) -> str:
        return _secure_url(value) if value else value

    @model_validator(mode="after")
    def _check_together(self) -> Issuer:
        if self.discovery_url and self.discovery_url == self.url:
            raise ValueError("discoveryURL must differ from url; leave it out")
        if len(self.audiences) > 1 and not self.audience_match_policy:
            raise ValueError("audienceMatchPolicy must be MatchAny when there are several audiences")
        return self


class ClaimOrExpression(_Section):
    """A claim to copy, or an expression."""

    claim: str = ""
    expression: str = ""

    @model_validator(mode="after")
    def _one_of_both(self) -> ClaimOrExpression:
        if self.claim and self.expression:
            raise ValueError("claim and expression exclude each other")
        return self


class PrefixedClaim(ClaimOrExpression):
    """A claim with text to put in front, or an expression."""

    prefix: str | None = None

    @model_validator(mode="after")
    def _prefix_of_a_claim(self) -> PrefixedClaim:
        if self.claim and self.prefix is None:
            raise ValueError('a claim needs a prefix; write prefix: "" for none')
        if not self.claim and self.prefix is not None:
            raise ValueError("a prefix needs a claim")
        return self


class Extra(_Section):
    """An attribute of the user, for rules about users."""

    key: str = Field(min_length=1)
    value_expression: str = Field(min_length=1)


class ClaimMappings(_Section):
    """What claims make the user."""

    username: PrefixedClaim
    groups: PrefixedClaim = PrefixedClaim()
    uid: ClaimOrExpression = ClaimOrExpression()
    extra: tuple[Extra, ...] = ()

    @field_validator("username")
    @classmethod
    def _some_username(cls, value: PrefixedClaim) -> PrefixedClaim:
        if not value.claim and not value.expression:
            raise ValueError("claim or expression is needed")
        return value


class ClaimRule(_Section):
    """What a claim has to be."""

    claim: str = ""
    required_value: str = ""
    expression: str = ""
    message: str = ""

    @model_validator(mode="after")
    def _one_of_both(self) -> ClaimRule:
        if bool(self.claim) == bool(self.expression):
            raise ValueError("either claim or expression is needed")
        if self.expression and self.required_value:
            raise ValueError("requiredValue belongs to claim")
        if self.claim and self.message:
            raise ValueError("message belongs to expression")
        return self


class UserRule(_Section):
    """What the user has to be."""

    expression: str = Field(min_length=1)
    message: str = ""


class JWTAuthenticator(_Section):
    """A login provider."""

    issuer: Issuer
    claim_validation_rules: tuple[ClaimRule, ...] = ()
    claim_mappings: ClaimMappings
    user_validation_rules: tuple[UserRule, ...] = ()

    @model_validator(mode="after")
    def _verified_mail(self) -> JWTAuthenticator:
        """A name out of an address counts only when the provider has verified the address, as with Kubernetes."""
        if "claims.email" in self.claim_mappings.username.expression.replace("claims.email_verified", ""):
            others = [extra.value_expression for extra in self.claim_mappings.extra]
            others += [rule.expression for rule in self.claim_validation_rules]
            if not any("claims.email_verified" in text for text in [self.claim_mappings.username.expression, *others]):
                raise ValueError(
                    "claimMappings.username uses claims.email, so an expression of claimValidationRules, extra or"
                    " username has to look at claims.email_verified"
                )
        return self


def read(entries: Sequence[Mapping[str, Any]]) -> list[JWTAuthenticator]:
    """Check the settings of all login providers.

    Raises:
        ConfigurationError: something is wrong; names the place, as `authentication.jwt[0].issuer.url`.
    """
    found: list[JWTAuthenticator] = []
    for index, entry in enumerate(entries):
        where = f"authentication.jwt[{index}]"
        try:
            authenticator = JWTAuthenticator.model_validate(entry)
        except ValidationError as error:
            lines = [f"{where}{_path(item['loc'])}: {_words(item['msg'])}" for item in error.errors(include_url=False)]
            raise ConfigurationError("\n".join(lines)) from None
        if any(other.issuer.url == authenticator.issuer.url for other in found):
            raise ConfigurationError(f"{where}.issuer.url: {authenticator.issuer.url} is there twice")
        found.append(authenticator)
    return found


def _path(location: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)


def _words(message: str) -> str:
    return message.removeprefix("Value error, ")
