"""Tests of an engine control unit. They use the bus that Jumpstarter gives them as any other bus of python-can.

Inside `jmp shell` they test the control unit of that session; otherwise the simulated one of exporter.yaml.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import can
import cantools.tester
import pytest
import udsoncan
import yaml
from jumpstarter.common.utils import env, serve
from jumpstarter.config.exporter import ExporterConfigV1Alpha1DriverInstance
from udsoncan.exceptions import NegativeResponseException

from jumpstarter_example_automotive.diagnostics import COOLANT, VIN, uds_client
from jumpstarter_example_automotive.driver import SimulatedEcu
from jumpstarter_example_automotive.ecu import OVERHEATED, database

WAIT = 20
"""Seconds that something may take that takes a few milliseconds."""

EXPORTER = Path(__file__).parent.parent / "exporter.yaml"


@pytest.fixture(scope="module")
def bench():
    """The bench with the control unit, switched on."""
    if os.environ.get("JUMPSTARTER_HOST"):
        opened = env()
    else:
        export = yaml.safe_load(EXPORTER.read_text())["export"]
        opened = serve(
            ExporterConfigV1Alpha1DriverInstance.from_str(yaml.safe_dump({"children": export})).instantiate()
        )
    with opened as client:
        client.ecu.on()
        yield client
        client.ecu.off()


@pytest.fixture
def bus(bench):
    with bench.can as bus:
        yield bus


@pytest.fixture
def uds(bus):
    with uds_client(bus) as client:
        yield client


@pytest.fixture(scope="module")
def signals():
    return database()


def engine_data(bus, signals, until):
    """Return the first signals of the engine for which `until` is true."""
    message = signals.get_message_by_name("EngineData")
    bus.set_filters([{"can_id": message.frame_id, "can_mask": 0x7FF, "extended": False}])
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        frame = bus.recv(WAIT)
        assert frame is not None, "the control unit is silent"
        if until(values := message.decode(frame.data)):
            return values
    raise AssertionError(f"that did not happen within {WAIT} s; the last signals were {values}")


def press_pedal(bus, signals, percent):
    message = signals.get_message_by_name("ThrottleRequest")
    bus.send(
        can.Message(
            arbitration_id=message.frame_id, is_extended_id=False, data=message.encode({"PedalPosition": percent})
        )
    )


class TestSignals:
    def test_the_engine_idles_after_power_on(self, bus, signals):
        press_pedal(bus, signals, 0)
        values = engine_data(bus, signals, lambda values: values["EngineState"] == "Idle")

        assert values["EngineSpeed"] == pytest.approx(800, abs=800)

    def test_the_engine_follows_the_pedal(self, bus, signals):
        press_pedal(bus, signals, 50)

        values = engine_data(bus, signals, lambda values: values["EngineSpeed"] > 3500)

        assert values["EngineState"] == "Running"
        press_pedal(bus, signals, 0)
        engine_data(bus, signals, lambda values: values["EngineSpeed"] < 900)

    def test_no_frame_is_missing(self, bus, signals):
        counters = [engine_data(bus, signals, lambda _: True)["Counter"] for _ in range(50)]

        assert counters == [(counters[0] + number) % 256 for number in range(50)]

    def test_the_tester_of_cantools_works_on_the_bus(self, bus, signals):
        press_pedal(bus, signals, 0)
        tester = cantools.tester.Tester("ECU", signals, bus)
        tester.start()
        try:
            assert tester.expect("EngineData", {"EngineState": "Idle"}, timeout=WAIT) is not None
        finally:
            tester.stop()
            # Tester leaves its notifier running, and a bus has one at a time.
            for notifier in can.Notifier.find_instances(bus):
                notifier.stop()


class TestDiagnostics:
    def test_the_vehicle_tells_its_number(self, uds):
        assert uds.read_data_by_identifier(VIN).service_data.values[VIN].startswith("WJMP")

    def test_the_temperature_is_that_of_the_signals(self, uds, bus):
        assert -40 <= uds.read_data_by_identifier(COOLANT).service_data.values[COOLANT] <= 215

    def test_the_number_can_be_written_by_those_who_have_the_key(self, uds, bench):
        before = uds.read_data_by_identifier(VIN).service_data.values[VIN]
        uds.change_session(udsoncan.services.DiagnosticSessionControl.Session.extendedDiagnosticSession)
        with pytest.raises(NegativeResponseException, match="SecurityAccessDenied"):
            uds.write_data_by_identifier(VIN, "WJMPZZZ00CAN99999")
        uds.unlock_security_access(1)
        uds.write_data_by_identifier(VIN, "WJMPZZZ00CAN99999")
        assert uds.read_data_by_identifier(VIN).service_data.values[VIN] == "WJMPZZZ00CAN99999"
        uds.write_data_by_identifier(VIN, before)

    def test_a_wrong_key_is_refused(self, uds):
        uds.change_session(3)
        uds.request_seed(1)
        with pytest.raises(NegativeResponseException, match="InvalidKey"):
            uds.send_key(2, b"\x00\x00\x00\x00")
        uds.ecu_reset(1)

    def test_security_access_needs_the_extended_session(self, uds):
        uds.change_session(1)
        with pytest.raises(NegativeResponseException, match="ServiceNotSupportedInActiveSession"):
            uds.request_seed(1)

    def test_what_there_is_not_is_refused(self, uds):
        uds.config["data_identifiers"][0xDEAD] = udsoncan.AsciiCodec(1)
        with pytest.raises(NegativeResponseException, match="RequestOutOfRange"):
            uds.read_data_by_identifier(0xDEAD)

    def test_an_overheated_engine_limps_until_the_trouble_code_is_cleared(self, uds, bench, signals):
        def codes():
            return [code.id for code in uds.get_dtc_by_status_mask(0xFF).service_data.dtcs]

        uds.clear_dtc(0xFFFFFF)
        press_pedal(bench.can, signals, 100)
        deadline = time.monotonic() + WAIT
        while OVERHEATED not in codes():
            assert time.monotonic() < deadline
            uds.tester_present()
        press_pedal(bench.can, signals, 0)
        while uds.read_data_by_identifier(COOLANT).service_data.values[COOLANT] > 100:
            assert time.monotonic() < deadline
        uds.clear_dtc(0xFFFFFF)

        assert codes() == []


class TestBench:
    def test_a_control_unit_without_power_is_silent(self, bench, bus):
        bench.ecu.off()
        while bus.recv(0.2) is not None:
            continue
        assert bus.recv(0.2) is None
        bench.ecu.on()
        assert bus.recv(WAIT) is not None

    def test_the_connection_of_the_exporter_answers_too(self, bench):
        bench.uds.start()
        try:
            bench.uds.send(b"\x22\xf1\x90")

            assert bench.uds.recv(block=True, timeout=WAIT)[:3] == b"\x62\xf1\x90"
        finally:
            bench.uds.stop()

    def test_a_recording_has_all_there_was(self, bus, tmp_path):
        log = tmp_path / "drive.asc"
        with can.Logger(log) as writer:
            frames = [bus.recv(WAIT) for _ in range(10)]
            for frame in frames:
                writer(frame)

        with can.LogReader(log) as reader:
            assert [bytes(frame.data) for frame in reader] == [bytes(frame.data) for frame in frames]

    def test_a_vehicle_number_that_is_none_is_refused_before_any_client_comes(self):
        with pytest.raises(ValueError, match="17 letters and digits"):
            SimulatedEcu(interface="virtual", channel="x", vin="short")


@pytest.mark.skipif("JUMPSTARTER_HOST" in os.environ, reason="runs a session of its own")
def test_the_commands_work_in_a_shell():
    script = "j ecu on && j uds request 22F190 -o json && j can dump -n 1 -T 20 -f 100:7FF && j ecu off"
    programs = Path(sys.executable).parent

    finished = subprocess.run(
        ["jmp", "shell", "--exporter-config", EXPORTER, "--", "sh", "-c", script],
        env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert finished.returncode == 0, finished.stderr
    answer, frame = finished.stdout.splitlines()
    assert bytes.fromhex(json.loads(answer)["data"]) == b"\x62\xf1\x90WJMPZZZ00CAN00001"
    assert frame.startswith("  powertrain       100   [8]  ")
