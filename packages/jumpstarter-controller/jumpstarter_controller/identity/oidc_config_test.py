"""The settings of login providers are checked when the server starts."""

import pytest
from jumpstarter.common.exceptions import ConfigurationError

from .oidc_config import read


def entry(issuer=None, **changes):
    return {
        "issuer": {"url": "https://login.example.com", "audiences": ["jumpstarter"], **(issuer or {})},
        "claimMappings": {"username": {"claim": "sub", "prefix": "dex:"}},
        **changes,
    }


def username(**mapping):
    return entry(claimMappings={"username": mapping})


def test_what_published_installations_write_is_understood():
    [found] = read(
        [
            entry(
                {
                    "discoveryURL": "https://inside.example.com/.well-known/openid-configuration",
                    "certificateAuthority": "/etc/ca.pem",
                    "audiences": ["a", "b"],
                    "audienceMatchPolicy": "MatchAny",
                },
                claimValidationRules=[{"claim": "hd", "requiredValue": "example.com"}],
                userValidationRules=[{"expression": "user.username != ''", "message": "no name"}],
            )
        ]
    )

    assert found.issuer.audiences == ("a", "b")
    assert found.issuer.discovery_url.startswith("https://inside")
    assert found.claim_mappings.username.prefix == "dex:"
    assert found.claim_validation_rules[0].required_value == "example.com"


@pytest.mark.parametrize(
    ("settings", "place", "words"),
    [
        ({}, "authentication.jwt[0].issuer", "required"),
        (entry({"url": "http://login.example.com"}), "authentication.jwt[0].issuer.url", "https://"),
        (entry({"url": "https://u:p@login.example.com"}), "authentication.jwt[0].issuer.url", "without user"),
        (entry({"url": "https://localhost:8085"}), "authentication.jwt[0].issuer.url", "own tokens"),
        (entry({"audiences": []}), "authentication.jwt[0].issuer.audiences", "at least 1"),
        (entry({"audiences": ["a", "b"]}), "authentication.jwt[0].issuer", "audienceMatchPolicy must be MatchAny"),
        (entry({"audienceMatchPolicy": "MatchAll"}), "authentication.jwt[0].issuer.audienceMatchPolicy", "MatchAny"),
        (entry({"discoveryURL": "https://login.example.com"}), "authentication.jwt[0].issuer", "must differ"),
        (entry({"color": "red"}), "authentication.jwt[0].issuer.color", "not permitted"),
        (username(claim="sub"), "authentication.jwt[0].claimMappings.username", "needs a prefix"),
        (username(), "authentication.jwt[0].claimMappings.username", "claim or expression is needed"),
        (username(claim="a", prefix="", expression="b"), "authentication.jwt[0].claimMappings.username", "exclude"),
        (username(expression="claims.email"), "authentication.jwt[0]", "claims.email_verified"),
        (entry(claimValidationRules=[{}]), "authentication.jwt[0].claimValidationRules[0]", "claim or expression"),
    ],
)
def test_a_mistake_is_named_with_its_place(settings, place, words):
    with pytest.raises(ConfigurationError) as caught:
        read([settings])

    assert str(caught.value).startswith(f"{place}: ")
    assert words in str(caught.value)


def test_two_providers_have_two_issuers():
    with pytest.raises(ConfigurationError, match=r"authentication\.jwt\[1\]\.issuer\.url: .* is there twice"):
        read([entry(), entry()])
