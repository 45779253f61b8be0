"""Tasmota's topics and payloads."""

from __future__ import annotations

import json

import pytest

from jumpstarter_driver_tasmota.topics import Topics, energy


def topics(command: str = "cmnd/plug/POWER", state: str = "stat/plug/POWER", lwt: str | None = None) -> Topics:
    return Topics.of(command, state, lwt)


@pytest.mark.parametrize(
    ("state", "lwt"),
    [
        ("stat/plug/POWER", "tele/plug/LWT"),
        ("house/plug/stat/POWER2", "house/plug/tele/LWT"),
        ("plug/power", None),
        ("stat/stat/POWER", None),
    ],
)
def test_the_topic_of_presence_follows_from_that_of_the_state(state: str, lwt: str | None) -> None:
    assert topics(state=state).lwt == lwt


def test_the_topic_of_presence_can_be_given_or_taken_away() -> None:
    assert topics(lwt="away/plug").lwt == "away/plug"
    assert topics(lwt="").lwt is None


@pytest.mark.parametrize(
    ("topic", "payload", "state"),
    [
        ("stat/plug/POWER", b"ON", "on"),
        ("stat/plug/POWER", b"off", "off"),
        ("stat/plug/POWER", b" 1 ", "on"),
        ("stat/plug/POWER", b"TRUE", "on"),
        ("stat/plug/POWER", b"0", "off"),
        ("stat/plug/POWER", b'{"POWER":"ON"}', "on"),
        ("stat/plug/POWER", b'{"power":"Off"}', "off"),
        ("stat/plug/POWER1", b"ON", "on"),
        ("stat/plug/RESULT", b'{"POWER":"ON"}', "on"),
        ("stat/plug/RESULT", b'{"POWER1":"OFF"}', "off"),
        ("stat/plug/RESULT", b'{"POWER2":"ON"}', None),
        ("stat/plug/RESULT", b'{"Dimmer":50}', None),
        ("stat/plug/RESULT", b"ON", None),
        ("stat/plug/POWER", b"BLINK", None),
        ("stat/plug/POWER", b"", None),
        ("stat/plug/POWER", b"\xff\xfe", None),
        ("stat/plug/POWER", b"{broken", None),
        ("stat/plug/POWER", b'{"POWER":["ON"]}', None),
        ("stat/other/POWER", b"ON", None),
    ],
)
def test_states_are_told_in_several_ways(topic: str, payload: bytes, state: str | None) -> None:
    assert topics().power_state(topic, payload) == state


def test_only_the_own_relay_counts() -> None:
    second = topics("cmnd/plug/POWER2", "stat/plug/POWER2")

    assert second.relay == 2
    assert second.power_state("stat/plug/RESULT", b'{"POWER2":"ON"}') == "on"
    assert second.power_state("stat/plug/RESULT", b'{"POWER1":"ON"}') is None
    assert second.power_state("stat/plug/RESULT", b'{"POWER":"ON"}') is None
    assert second.power_state("stat/plug/POWER1", b"ON") is None


def payload(**values: object) -> bytes:
    return json.dumps({"StatusSNS": {"Time": "2026-02-03T04:05:06", "ENERGY": values}}).encode()


def test_measurements_are_those_of_the_meter() -> None:
    assert energy(payload(Voltage=231, Current=0.25, Power=51), 1) == {"voltage": 231, "current": 0.25, "power": 51}


def test_measurements_of_several_relays_are_told_apart() -> None:
    found = energy(payload(Voltage=231, Current=[0.1, 0.2], Power=[20, 40]), 2)
    assert found == {"voltage": 231, "current": 0.2, "power": 40}


def test_a_device_without_a_meter_measures_nothing() -> None:
    assert energy(b'{"StatusSNS":{"Time":"2026-02-03T04:05:06"}}', 1) is None
    assert energy(payload(Total=3.1), 1) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"StatusSNS":3}',
        payload(Voltage="many", Current=1),
        payload(Voltage=True, Current=1),
        payload(Voltage=231, Current=[]),
    ],
)
def test_measurements_that_are_none_are_an_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        energy(content, 1)
