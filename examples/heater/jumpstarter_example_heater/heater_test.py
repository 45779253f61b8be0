import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jumpstarter.client.core import DriverError
from jumpstarter.common.utils import serve
from jumpstarter_testbench.process import accepts, running_on_free_port

from jumpstarter_example_heater.driver import Heater


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """The port on which a plate of the module's own listens."""
    with running_on_free_port(
        lambda port: [sys.executable, "-m", "jumpstarter_example_heater.plate", str(port)],
        log=tmp_path_factory.mktemp("plate") / "log",
        ready=lambda port: accepts("127.0.0.1", port),
    ) as port:
        yield port


@pytest.fixture
def heater(port):
    with serve(Heater(host="127.0.0.1", port=port)) as client:
        yield client


def ask_plate(port: int, line: str) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(f"{line}\n".encode())
        return connection.makefile("r").readline().strip()


def test_the_plate_reaches_the_temperature_that_is_set(heater):
    heater.set_temperature(60)

    assert heater.wait_until(60, timeout=30) == pytest.approx(60, abs=0.5)


def test_readings_rise_while_the_plate_heats(heater):
    heater.set_temperature(75)
    readings = heater.readings(0.1)
    first, second = next(readings), next(readings)
    readings.close()

    assert first < second


def test_a_temperature_above_the_limit_is_refused_with_the_limit(heater, port):
    with pytest.raises(DriverError, match="limited to 0 to 80 degrees, so 200 is refused"):
        heater.set_temperature(200)


def test_the_console_reaches_the_plate_itself(heater):
    with heater.stream("console") as stream:
        stream.send(b"WARM UP\n")

        assert stream.receive() == b"ERROR cannot obey 'WARM UP'\n"


def test_the_plate_cools_down_when_the_session_ends(port):
    with serve(Heater(host="127.0.0.1", port=port)) as client:
        client.set_temperature(80)
        hot = client.wait_until(80, tolerance=10, timeout=30)

    deadline = time.monotonic() + 20
    while float(ask_plate(port, "GET")) >= hot:
        assert time.monotonic() < deadline, "the plate stays hot"
        time.sleep(0.05)


def test_a_plate_that_is_away_is_an_error_that_names_the_reason():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        heater = Heater(host="127.0.0.1", port=unused.getsockname()[1])
        with serve(heater) as client, pytest.raises(DriverError, match="refused"):
            client.temperature()


def test_a_limit_that_makes_no_sense_is_refused_before_any_client_comes():
    with pytest.raises(ValueError, match="maximum must be above 0 degrees, not -1"):
        Heater(host="127.0.0.1", maximum=-1)


def test_the_commands_work_in_a_shell(port, tmp_path):
    config = tmp_path / "exporter.yaml"
    template = Path(__file__).parent.parent / "exporter.yaml"
    config.write_text(template.read_text().replace("5025", str(port)))
    programs = Path(sys.executable).parent

    finished = subprocess.run(
        ["jmp", "shell", "--exporter-config", config, "--", "sh", "-c", "j heater set 40 && j heater wait 40"],
        env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert finished.returncode == 0, finished.stderr
    assert float(finished.stdout) == pytest.approx(40, abs=0.5)
