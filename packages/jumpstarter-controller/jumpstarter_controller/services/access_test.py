"""The table of access knows every rpc there is, and names are taken apart strictly."""

from __future__ import annotations

import pytest

from ..errors import Code, Refused
from ..model.records import Key, Kind
from .access import ACCESS, check_namespace, parse_key, parse_namespace
from .assembly import DESCRIPTORS


def test_table_lists_every_rpc_of_every_service_and_nothing_else() -> None:
    there = {f"/{service.full_name}/{method.name}" for service in DESCRIPTORS for method in service.methods}
    assert set(ACCESS) == there


def test_fields_that_are_checked_exist_in_the_requests() -> None:
    for service in DESCRIPTORS:
        for method in service.methods:
            message = method.input_type
            for part in filter(None, ACCESS[f"/{service.full_name}/{method.name}"].field.split(".")):
                field = message.fields_by_name[part]
                message = field.message_type


@pytest.mark.parametrize("rpc", [name for name, access in ACCESS.items() if Kind.CLIENT in access.kinds])
def test_rpcs_of_clients_name_a_namespace_or_are_about_the_caller(rpc: str) -> None:
    access = ACCESS[rpc]
    assert bool(access.field) == (not rpc.startswith("/jumpstarter.v1."))


def test_names_are_taken_apart() -> None:
    assert parse_namespace("namespaces/default") == "default"
    assert parse_key("namespaces/default/leases/x", Kind.LEASE) == Key(Kind.LEASE, "default", "x")


@pytest.mark.parametrize(
    "text", ["", "default", "namespaces/", "namespace/default", "namespaces/a/leases", "a" * 10_000]
)
def test_bad_names_of_namespaces_are_refused_with_what_was_expected_and_found(text: str) -> None:
    with pytest.raises(Refused) as caught:
        parse_namespace(text)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert "namespaces/{namespace}" in caught.value.message
    assert (text[:50] or "nothing") in caught.value.message
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "namespaces/default/leases",
        "namespaces/default/leases/",
        "namespaces//leases/x",
        "namespaces/default/exporters/x",
        "namespaces/default/leases/x/y",
    ],
)
def test_bad_names_of_leases_are_refused(text: str) -> None:
    with pytest.raises(Refused) as caught:
        parse_key(text, Kind.LEASE)
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert "namespaces/{namespace}/leases/{name}" in caught.value.message


def test_A06_names_of_other_namespaces_are_refused() -> None:
    own = Key(Kind.CLIENT, "a", "alice")
    check_namespace("a", own)
    with pytest.raises(Refused, match="namespace mismatch") as caught:
        check_namespace("b", own)
    assert caught.value.code is Code.PERMISSION_DENIED
