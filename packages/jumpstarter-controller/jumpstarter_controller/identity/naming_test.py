"""Names of accounts that are made of user names."""

import pytest

from .naming import derive_name, is_name, is_service_account


@pytest.mark.parametrize(
    ("username", "name"),
    [
        ("dex:Test.User@Example.com", "test-user-example-com"),
        ("keycloak:alice", "alice"),
        ("plain", "plain"),
        ("dex:a:b", "a-b"),
        ("dex:--a__b--", "a-b"),
        ("dex:" + "x" * 70, "x" * 63),
        ("dex:" + "x" * 62 + ".y", "x" * 62),
        ("dex:ÄÖ", ""),
        ("dex:", ""),
        ("kubernetes:system:serviceaccount:team:builder", "team-builder"),
    ],
)
def test_a_username_gives_the_name_that_published_controllers_derive(username, name):
    assert derive_name(username) == name


def test_a_service_account_is_known_by_its_five_parts():
    assert is_service_account("kubernetes:system:serviceaccount:team:builder")
    assert not is_service_account("system:serviceaccount:team:builder")
    assert not is_service_account("dex:alice")


@pytest.mark.parametrize(("text", "fits"), [("a", True), ("a-1", True), ("", False), ("-a", False), ("A", False)])
def test_a_name_is_a_dns_label(text, fits):
    assert is_name(text) is fits
