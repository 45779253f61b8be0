"""A table of power outlets behind snmpd, as a program for its `pass_persist` directive.

The protocol (snmpd.conf(5), PASS_PERSIST): snmpd writes PING and expects PONG; `get` or `getnext` and an OID are
answered with OID, type and value, or NONE; `set`, an OID and a line with type and value with DONE or an error word.
An empty line follows each set, which must not be taken for the end of the input.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

ON, OFF = 1, 2


def main(base: str, count: int, read: Callable[[], str], write: Callable[[str], object]) -> None:
    """Answer requests until the input ends; outlets are `base`.1 to `base`.`count`, all off at first."""
    outlets = {f"{base}.{number}": OFF for number in range(1, count + 1)}
    order = list(outlets)

    def show(oid: str | None) -> None:
        write(f"{oid}\ninteger\n{outlets[oid]}\n" if oid in outlets else "NONE\n")

    while line := read():
        match line.strip():
            case "PING":
                write("PONG\n")
            case "get":
                show(read().strip())
            case "getnext":
                asked = _number(read().strip(), base)
                show(order[asked] if asked < count else None)
            case "set":
                oid, (kind, _, value) = read().strip(), read().strip().partition(" ")
                if oid not in outlets:
                    write("not-writable\n")
                elif kind != "integer":
                    write("wrong-type\n")
                elif value not in (str(ON), str(OFF)):
                    write("wrong-value\n")
                else:
                    outlets[oid] = int(value)
                    write("DONE\n")


def _number(oid: str, base: str) -> int:
    """The number of the outlet that an OID names or lies behind; 0 before the first."""
    rest = oid.removeprefix(base).strip(".")
    first = rest.partition(".")[0]
    return int(first) if first else 0


if __name__ == "__main__":

    def flushed(text: str) -> None:
        """Write an answer at once: snmpd waits for it."""
        sys.stdout.write(text)
        sys.stdout.flush()

    main(sys.argv[1], int(sys.argv[2]), sys.stdin.readline, flushed)
