"""Addresses: written, split and resolved."""

from __future__ import annotations

import pytest

from jumpstarter_driver_network.client import _parse_address, _strip_scheme
from jumpstarter_driver_network.driver import (
    _format_address,
    _is_ipv4_address,
    _is_ipv6_address,
    _resolve_hostname,
)


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("tcp://192.0.2.1:22", "192.0.2.1", "22"),
        ("192.0.2.1:22", "192.0.2.1", "22"),
        ("udp://[2001:db8::1]:53", "2001:db8::1", "53"),
        ("[2001:db8::1]", "2001:db8::1", ""),
        ("2001:db8::1", "2001:db8::1", ""),
        ("board.example", "board.example", ""),
        ("board.example:8080", "board.example", "8080"),
        ("ws://board.example:80/console?x=1", "board.example", "80"),
        ("", "", ""),
    ],
)
def test_parse_address(address: str, host: str, port: str) -> None:
    assert _parse_address(address) == (host, port)


@pytest.mark.parametrize(
    ("address", "bare"), [("tcp://h:1", "h:1"), ("h:1", "h:1"), ("ws://h/p://q", "h/p://q"), ("", "")]
)
def test_strip_scheme(address: str, bare: str) -> None:
    assert _strip_scheme(address) == bare


@pytest.mark.parametrize(
    ("host", "formatted"),
    [("192.0.2.1", "192.0.2.1:22"), ("2001:db8::1", "[2001:db8::1]:22"), ("board.example", "board.example:22")],
)
def test_format_address(host: str, formatted: str) -> None:
    assert _format_address(host, 22) == formatted


def test_kinds_of_addresses_are_told_apart() -> None:
    assert _is_ipv4_address("127.0.0.1")
    assert not _is_ipv4_address("::1")
    assert _is_ipv6_address("::1")
    assert not _is_ipv6_address("[::1]")
    assert not _is_ipv6_address("localhost")


def test_host_name_is_resolved_and_address_is_not_touched() -> None:
    assert _resolve_hostname("localhost") in ("127.0.0.1", "::1")
    assert _resolve_hostname("::1") == "::1"


@pytest.mark.parametrize("name", ["does-not-exist.invalid", "", "." * 300, "a" * 300])
def test_name_without_an_address_stays_as_it_is(name: str) -> None:
    assert _resolve_hostname(name) in (name, "127.0.0.1", "::1", "0.0.0.0")
