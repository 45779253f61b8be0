"""Pins by gpiozero and lgpio on GPIO lines of Linux: those of a USB adapter with edge events."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from jumpstarter_testbench.cp2112 import Cp2112
from jumpstarter_testbench.requirements import need_module

pytestmark = [
    pytest.mark.lab_guest,
    pytest.mark.skipif(sys.version_info >= (3, 13), reason="lgpio has no wheels for this version of Python"),
]

BOUND = 60

PROGRAM = """
import os, sys
from jumpstarter.common.utils import serve
from jumpstarter_driver_composite.driver import Composite
from jumpstarter_driver_raspberrypi.driver import DigitalInput, DigitalOutput
import gpiozero, jumpstarter_driver_raspberrypi.pins as pins

pins._choose_work_directory()  # lgpio looks for it when it is imported
from gpiozero.pins.lgpio import LGPIOFactory
LGPIOFactory._get_revision = lambda factory: 0xC03112  # a Raspberry Pi 4B
gpiozero.Device._default_pin_factory = staticmethod(lambda: LGPIOFactory(chip=int(sys.argv[1])))

power, led = DigitalOutput(pin="GPIO7"), DigitalInput(pin=5, pull_up=None)
with serve(Composite(children={"power": power, "led": led})) as client:
    print("ready", flush=True)
    for line in sys.stdin:
        print(eval(line), flush=True)
"""
"""An exporter and its client, which evaluate lines; in a process of their own, as lgpio keeps Python's other threads
from running while the kernel waits for the adapter, which is one of them otherwise."""


class Exporter:
    """The program that runs."""

    def __init__(self, chip: str, folder: Path) -> None:
        self._log = folder / "log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, chip.removeprefix("/dev/gpiochip")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                bufsize=1,
                cwd=folder,
            )
        assert self.answer() == "ready"

    def ask(self, expression: str) -> str:
        """The value of an expression with `client`, `power` and `led`."""
        self.tell(expression)
        return self.answer()

    def tell(self, expression: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{expression}\n")

    def answer(self) -> str:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return line.strip()
        raise AssertionError(self._log.read_text())

    def end(self) -> None:
        self._process.communicate(timeout=BOUND)


@pytest.fixture(scope="module")
def adapter() -> Iterator[Cp2112]:
    """An adapter whose chip stands for that of a Raspberry Pi."""
    need_module("lgpio", "lgpio")
    with Cp2112() as adapter:
        yield adapter


@pytest.fixture(scope="module")
def exporter(adapter: Cp2112, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """An exporter with an output at pin 7 and an input at pin 5."""
    exporter = Exporter(adapter.chip(), tmp_path_factory.mktemp("exporter"))
    yield exporter
    exporter.end()


def claimed(adapter: Cp2112) -> list[int]:
    import gpiod

    with gpiod.Chip(adapter.chip()) as chip:
        return [line for line in range(chip.get_info().num_lines) if chip.get_line_info(line).used]


def test_output_is_switched_and_becomes_an_input_in_the_end(adapter: Cp2112, exporter: Exporter) -> None:
    assert adapter.level(7) is None
    exporter.ask("client.power.on()")
    assert (adapter.level(7), exporter.ask("client.power.status()")) == (True, "on")
    exporter.ask("client.power.cycle(0)")
    exporter.ask("client.power.off()")
    assert (adapter.level(7), exporter.ask("client.power.status()")) == (False, "off")

    exporter.ask("power.close()")

    assert adapter.level(7) is None


def test_levels_are_waited_for_and_all_lines_are_given_back(adapter: Cp2112, exporter: Exporter) -> None:
    assert exporter.ask("client.led.wait_for_inactive(0)") == "None"
    exporter.tell(f"client.led.wait_for_active({BOUND})")
    adapter.drive(5, True)
    assert exporter.answer() == "None"
    assert exporter.ask("client.led.read_pin()") == "active"
    assert claimed(adapter) == [5, 7]

    time.sleep(0.3)
    adapter.rest()
    exporter.ask("led.close()")

    assert claimed(adapter) == []
