"""The D-Bus protocol module: addresses, and the authentication with another identity."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jumpstarter_driver_network.dbus import MAX_AUTH_LINE, AuthRewriter, default_address, parse_addresses


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("unix:path=/run/dbus/system_bus_socket", "/run/dbus/system_bus_socket"),
        ("unix:path=/tmp/a%20b%2cc,guid=0123", "/tmp/a b,c"),
        ("unix:abstract=/tmp/dbus-X", "\0/tmp/dbus-X"),
        ("tcp:host=192.0.2.1,port=5000", ("192.0.2.1", 5000)),
        ("tcp:host=localhost,port=1,family=ipv4", ("localhost", 1)),
    ],
)
def test_address_leads_to_its_target(text: str, target: object) -> None:
    assert [address.target for address in parse_addresses(text)] == [target]


def test_addresses_are_tried_in_their_order_and_unusable_ones_left_out() -> None:
    addresses = parse_addresses("launchd:env=X;unix:path=/a;tcp:host=h,port=2;unix:tmpdir=/tmp")

    assert [address.target for address in addresses] == ["/a", ("h", 2)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is empty"),
        (";", "it is empty"),
        ("nonsense", "no transport"),
        ("unix:path", "malformed"),
        ("unix:path=/a%2", "malformed"),
        ("unix:path=/a,path=/b", "twice"),
        ("unix:dir=/tmp", "needs either path or abstract"),
        ("unix:path=/a,abstract=b", "needs either path or abstract"),
        ("tcp:port=1", "needs a host"),
        ("tcp:host=h", "needs a port"),
        ("tcp:host=h,port=x", "needs a port"),
        ("tcp:host=h,port=70000", "needs a port"),
        ("tcp:host=h,port=\N{SUPERSCRIPT TWO}", "needs a port"),
        ("unixexec:path=/bin/sh", "not supported"),
    ],
)
def test_address_that_cannot_be_used_says_why(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_addresses(text)


def test_default_addresses_come_from_the_environment_or_the_usual_places() -> None:
    assert default_address("system", {"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/s"}) == "unix:path=/s"
    assert default_address("system", {}) == "unix:path=/run/dbus/system_bus_socket"
    assert default_address("session", {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/x"}) == "unix:path=/x"
    assert default_address("session", {}) == f"unix:path=/run/user/{os.getuid()}/bus"
    with pytest.raises(ValueError, match="unknown kind"):
        default_address("user", {})


def rewritten(*chunks: bytes) -> bytes:
    rewriter = AuthRewriter(1000)
    return b"".join(rewriter.feed(chunk) for chunk in chunks)


UID = b"31303030"  # "1000"


def test_identity_of_the_client_is_replaced() -> None:
    assert rewritten(b"\0AUTH EXTERNAL 30\r\n") == b"\0AUTH EXTERNAL " + UID + b"\r\n"


def test_identity_that_follows_in_a_data_line_is_replaced() -> None:
    assert rewritten(b"\0AUTH EXTERNAL\r\n", b"DATA 30\r\n") == b"\0AUTH EXTERNAL\r\nDATA " + UID + b"\r\n"


def test_client_without_an_identity_keeps_having_none() -> None:
    sent = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n"

    assert rewritten(sent) == sent


def test_other_mechanisms_pass_untouched() -> None:
    sent = b"\0AUTH\r\nAUTH DBUS_COOKIE_SHA1 30\r\nDATA 1234\r\nCANCEL\r\nBEGIN\r\n"

    assert rewritten(sent) == sent


def test_file_descriptors_are_refused_by_a_command_that_no_bus_knows() -> None:
    assert rewritten(b"\0NEGOTIATE_UNIX_FD\r\n") == b"\0NEGOTIATE_NOTHING\r\n"


def test_messages_after_the_authentication_pass_untouched() -> None:
    messages = b"l\1\0\1AUTH EXTERNAL 30\r\n\0"

    assert rewritten(b"\0BEGIN\r\n" + messages, b"AUTH EXTERNAL 30\r\n").endswith(messages + b"AUTH EXTERNAL 30\r\n")


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n", b"\0" + b"A" * (MAX_AUTH_LINE + 1)])
def test_what_is_no_dbus_is_refused(sent: bytes) -> None:
    with pytest.raises(ValueError, match="does not speak D-Bus"):
        rewritten(sent)


@given(st.data())
def test_chunks_may_be_cut_anywhere(data: st.DataObject) -> None:
    sent = b"\0AUTH EXTERNAL 30\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\nl\1\0\1more\r\nbytes"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=8)))
    chunks = [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]

    assert rewritten(*chunks) == rewritten(sent)
