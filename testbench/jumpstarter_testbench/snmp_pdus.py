"""Power distribution units of nine families behind snmpd, as a program for its `pass_persist` directive.

The objects and their values are written down here from the manufacturers' MIBs, apart from those of any driver. Each
family has outlets 1 to 8, all off at first. Outlet 7 takes its time: it reports a state between on and off (where the
family has one, else the old one) to the first PENDING questions. Outlet 8 takes commands and stays off.

The protocol of `pass_persist` is told in snmp_outlets.py. `python snmp_pdus.py FAMILY` serves one family; the object
below which it lies is `SUBTREES[FAMILY]`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field

OUTLETS = range(1, 9)
SLOW, WELDED = 7, 8
PENDING = 3

SUBTREES = {
    "raritan": "1.3.6.1.4.1.13742.6",
    "apc-masterswitch": "1.3.6.1.4.1.318.1.1.4",
    "apc-rpdu": "1.3.6.1.4.1.318.1.1.12",
    "apc-rpdu2": "1.3.6.1.4.1.318.1.1.26",
    "apc-easy-pdu": "1.3.6.1.4.1.318.1.1.30",
    "apc-cpdu": "1.3.6.1.4.1.318.1.1.32",
    "eaton": "1.3.6.1.4.1.534.6.6.7",
    "sentry3": "1.3.6.1.4.1.1718.3.2.3",
    "poe": "1.3.6.1.2.1.105",
}

Oid = tuple[int, ...]


def oid(text: str) -> Oid:
    """The numbers of an object identifier."""
    return tuple(int(part) for part in text.strip().strip(".").split("."))


@dataclass
class Outlet:
    """The state object of one outlet."""

    number: int
    on: int
    off: int
    between: int | None = None
    """What it reports on the way; None for the old state."""
    value: int = 0
    coming: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.value = self.off

    def switch(self, on: bool) -> None:
        """Take a command."""
        if self.number == WELDED:
            return
        target = self.on if on else self.off
        if self.number == SLOW and target != self.value:
            self.coming = [self.value if self.between is None else self.between] * PENDING
        self.value = target

    def show(self) -> int:
        """What a GET sees."""
        return self.coming.pop() if self.coming else self.value


class Unit:
    """The objects of one family."""

    def __init__(self, family: str) -> None:
        self.states: dict[Oid, Outlet] = {}
        self.commands: dict[Oid, tuple[Outlet, dict[int, bool]]] = {}
        self.values: dict[Oid, int] = {}
        for number in OUTLETS:
            getattr(self, "_" + family.replace("-", "_"))(number)
        self.order = sorted({*self.states, *self.commands, *self.values})

    def get(self, name: Oid) -> int | None:
        """The value of an object; None when there is none."""
        if name in self.states:
            return self.states[name].show()
        if name in self.commands:
            return 0
        return self.values.get(name)

    def set(self, name: Oid, value: int) -> str:
        """Write an object; return `pass_persist`'s word for the outcome."""
        if name not in self.commands:
            return "not-writable"
        outlet, meanings = self.commands[name]
        if value not in meanings:
            return "wrong-value"
        outlet.switch(meanings[value])
        return "DONE"

    def _same_object(self, base: str, number: int, on: int, off: int) -> None:
        """State and command are one object, as with most of APC's units."""
        outlet = Outlet(number, on=on, off=off)
        name = oid(f"{base}.{number}")
        self.states[name] = outlet
        self.commands[name] = (outlet, {on: True, off: False})

    def _raritan(self, number: int) -> None:
        outlet = Outlet(number, on=7, off=8, between=9)
        for pdu in (1,):
            self.commands[oid(f"1.3.6.1.4.1.13742.6.4.1.2.1.2.{pdu}.{number}")] = (outlet, {1: True, 0: False})
            self.states[oid(f"1.3.6.1.4.1.13742.6.4.1.2.1.3.{pdu}.{number}")] = outlet
            for sensor, value, digits in ((1, 1500, 3), (4, 2305, 1), (5, 340, 0)):
                self.values[oid(f"1.3.6.1.4.1.13742.6.5.4.3.1.4.{pdu}.{number}.{sensor}")] = value
                self.values[oid(f"1.3.6.1.4.1.13742.6.3.5.4.1.7.{pdu}.{number}.{sensor}")] = digits

    def _apc_masterswitch(self, number: int) -> None:
        self._same_object("1.3.6.1.4.1.318.1.1.4.4.2.1.3", number, on=1, off=2)

    def _apc_rpdu(self, number: int) -> None:
        self._same_object("1.3.6.1.4.1.318.1.1.12.3.3.1.1.4", number, on=1, off=2)

    def _apc_rpdu2(self, number: int) -> None:
        outlet = Outlet(number, on=2, off=1)
        self.commands[oid(f"1.3.6.1.4.1.318.1.1.26.9.2.4.1.5.{number}")] = (outlet, {1: True, 2: False})
        self.states[oid(f"1.3.6.1.4.1.318.1.1.26.9.2.3.1.5.{number}")] = outlet
        self.values[oid("1.3.6.1.4.1.318.1.1.26.6.3.1.6.1")] = 229
        self.values[oid(f"1.3.6.1.4.1.318.1.1.26.9.4.3.1.6.{number}")] = 15
        self.values[oid(f"1.3.6.1.4.1.318.1.1.26.9.4.3.1.7.{number}")] = 340

    def _apc_easy_pdu(self, number: int) -> None:
        self._same_object("1.3.6.1.4.1.318.1.1.30.6.2.1.4", number, on=1, off=2)

    def _apc_cpdu(self, number: int) -> None:
        self._same_object("1.3.6.1.4.1.318.1.1.32.5.5.1.4", number, on=2, off=1)

    def _eaton(self, number: int) -> None:
        outlet = Outlet(number, on=1, off=0, between=3)
        base = "1.3.6.1.4.1.534.6.6.7.6"
        self.commands[oid(f"{base}.6.1.3.0.{number}")] = (outlet, {0: False})
        self.commands[oid(f"{base}.6.1.4.0.{number}")] = (outlet, {0: True})
        self.states[oid(f"{base}.6.1.2.0.{number}")] = outlet
        self.values[oid(f"{base}.3.1.2.0.{number}")] = 231400
        self.values[oid(f"{base}.4.1.3.0.{number}")] = 512
        self.values[oid(f"{base}.5.1.3.0.{number}")] = 117

    def _sentry3(self, number: int) -> None:
        outlet = Outlet(number, on=1, off=0)
        base = "1.3.6.1.4.1.1718.3.2.3.1"
        self.commands[oid(f"{base}.11.1.1.{number}")] = (outlet, {1: True, 2: False})
        self.states[oid(f"{base}.10.1.1.{number}")] = outlet
        self.values[oid(f"{base}.7.1.1.{number}")] = 87
        self.values[oid(f"{base}.13.1.1.{number}")] = 1204
        self.values[oid(f"{base}.14.1.1.{number}")] = 102

    def _poe(self, number: int) -> None:
        self._same_object("1.3.6.1.2.1.105.1.1.1.3.1", number, on=1, off=2)


def main(family: str, read: Callable[[], str], write: Callable[[str], object]) -> None:
    """Answer requests until the input ends."""
    unit = Unit(family)

    def show(name: Oid | None) -> None:
        value = None if name is None else unit.get(name)
        write("NONE\n" if value is None else f".{'.'.join(map(str, name or ()))}\ninteger\n{value}\n")

    while line := read():
        match line.strip():
            case "PING":
                write("PONG\n")
            case "get":
                show(oid(read()))
            case "getnext":
                asked = oid(read())
                show(next((name for name in unit.order if name > asked), None))
            case "set":
                name, (kind, _, value) = oid(read()), read().strip().partition(" ")
                write((unit.set(name, int(value)) if kind == "integer" else "wrong-type") + "\n")


if __name__ == "__main__":

    def flushed(text: str) -> None:
        """Write an answer at once: snmpd waits for it."""
        sys.stdout.write(text)
        sys.stdout.flush()

    main(sys.argv[1], sys.stdin.readline, flushed)
