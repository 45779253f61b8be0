"""Families of power distribution units: what may stand in YAML, and what is filled in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jumpstarter_driver_snmp.families import Family, checked_oid, families, family_of_control, find_family

OWN: dict[str, Any] = {
    "switch_on": {"oid": "1.3.6.1.4.1.99.1.{outlet}", "value": 1},
    "switch_off": {"oid": "1.3.6.1.4.1.99.1.{outlet}", "value": 2},
}


def test_nine_families_are_known() -> None:
    assert list(families()) == [
        "raritan",
        "apc-masterswitch",
        "apc-rpdu",
        "apc-rpdu2",
        "apc-easy-pdu",
        "apc-cpdu",
        "eaton",
        "sentry3",
        "poe",
    ]


@pytest.mark.parametrize("name", families())
def test_a_family_names_the_outlet_everywhere_and_says_what_it_is(name: str) -> None:
    family = families()[name]
    assert family.title
    assert family.state is not None
    for part in (family.switch_on, family.switch_off, family.state):
        assert part.oid.endswith(".{outlet}")
    assert not set(family.state.on_states) & set(family.state.off_states)


def test_placeholders_are_filled_in() -> None:
    outlet = families()["sentry3"].at(outlet=5, unit=2, infeed=3)
    assert outlet.switch_on.oid == "1.3.6.1.4.1.1718.3.2.3.1.11.2.3.5"
    assert outlet.voltage is not None
    assert outlet.voltage.oid == "1.3.6.1.4.1.1718.3.2.3.1.13.2.3.5"


def test_a_family_may_be_described_in_the_config_or_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(
        'switch_on: {oid: ".1.3.6.1.4.1.99.1.{outlet}", value: 1}\n'
        'switch_off: {oid: "1.3.6.1.4.1.99.1.{outlet}", value: 2}\n'
    )
    assert find_family(OWN) == find_family(str(file)) == Family.model_validate(OWN)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("raritain", "use one of raritan, apc-masterswitch"),
        ("/no/such/pdu.yaml", "can't be used"),
        (7, "must be a name"),
        ({}, "switch_on: Field required"),
        (OWN | {"switch_on": {"oid": "1.3.x", "value": 1}}, "is no object identifier"),
        (OWN | {"switch_on": {"oid": "1.3.{slot}", "value": 1}}, "and the placeholders {outlet}"),
        (OWN | {"switch_on": {"oid": "1.3.6", "value": "one"}}, "switch_on.value"),
        (OWN | {"switch_on": {"oid": "1.3.6", "value": 2**31}}, "switch_on.value"),
        (OWN | {True: {"oid": "1.3.6", "value": 1}}, "does not describe"),
        (OWN | {"state": {"oid": "1.3.6", "on_states": [], "off_states": [1]}}, "on_states"),
        (OWN | {"voltage": {"oid": "1.3.6", "scale": 0}}, "voltage.scale"),
        (OWN | {"volts": {"oid": "1.3.6"}}, "volts: Extra inputs"),
    ],
)
def test_a_family_that_can_not_be_used_is_refused(wanted: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("{", r"\{").replace("}", r"\}")):
        find_family(wanted)


@pytest.mark.parametrize("text", ["- 1", "switch_on: [", "\x00", ""])
def test_a_file_that_describes_nothing_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"own\.yaml"):
        find_family(str(file))


@pytest.mark.parametrize("text", ["1.3.6.1", ".1.3.6.1", " 1.3.6 ", "0.0", "2.999.1", "1.3.{unit}.{outlet}"])
def test_object_identifiers_are_numbers_with_dots(text: str) -> None:
    assert checked_oid(text) == text.strip().removeprefix(".")


@pytest.mark.parametrize(
    "text", ["", ".", "1", "3.1", "1.40", "1..3", "1.3.", "1.-3", "1.3.4294967296", "iso.3", "1.3.²"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no object identifier"):
        checked_oid(text)


@pytest.mark.parametrize(
    ("oid", "found"),
    [
        ("1.3.6.1.4.1.13742.6.4.1.2.1.2.1", ("raritan", {"unit": 1})),
        ("1.3.6.1.4.1.13742.6.4.1.2.1.2.3", ("raritan", {"unit": 3})),
        ("1.3.6.1.4.1.318.1.1.4.4.2.1.3", ("apc-masterswitch", {})),
        ("1.3.6.1.4.1.318.1.1.32.5.5.1.4", ("apc-cpdu", {})),
        ("1.3.6.1.4.1.1718.3.2.3.1.11.1.2", ("sentry3", {"unit": 1, "infeed": 2})),
        ("1.3.6.1.2.1.105.1.1.1.3.1", ("poe", {"unit": 1})),
        ("1.3.6.1.4.1.318.1.1.4.4.2.1", None),
        ("1.3.6.1.4.1.534.6.6.7.6.6.1.3.0", None),
        ("1.3.6.1.4.1.99.1", None),
    ],
)
def test_the_object_that_switches_tells_the_family(oid: str, found: Any) -> None:
    assert family_of_control(oid) == found
