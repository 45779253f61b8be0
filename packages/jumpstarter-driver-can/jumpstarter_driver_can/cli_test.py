"""The commands of `j`, in one process with the exporter, and as programs beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import can
import pytest
from click.testing import CliRunner
from jumpstarter.exporter import Session

from jumpstarter_driver_can import candump
from jumpstarter_driver_can.driver import Can
from jumpstarter_driver_can.driver_test import WAIT, message, wait_until
from jumpstarter_driver_can.frames import Filter, Frame
from jumpstarter_driver_can.isotp_drivers import IsoTpPython


@pytest.fixture
def client(served, channel):
    return served(Can(channel=channel, interface="virtual"))


def run(client, *arguments):
    result = CliRunner().invoke(client.cli(), [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def while_dumping(client, act, *arguments):
    """Run `dump` and do something as soon as it looks at the bus; return what it printed."""
    results = []
    thread = threading.Thread(target=lambda: results.append(run(client, "dump", "-T", WAIT, *arguments)))
    thread.start()
    wait_until(lambda: client.info()["clients"] > 0)
    act()
    thread.join(WAIT)
    return results[0]


class TestText:
    @pytest.mark.parametrize(
        ("text", "line", "log"),
        [
            ("123#DEADBEEF", "can0       123   [4]  DE AD BE EF", "can0 123#DEADBEEF"),
            ("5a1#11.22", "can0       5A1   [2]  11 22", "can0 5A1#1122"),
            ("12345678#", "can0  12345678   [0]", "can0 12345678#"),
            ("1F334455#00", "can0  1F334455   [1]  00", "can0 1F334455#00"),
            ("123#R", "can0       123   [0]  remote request", "can0 123#R"),
            ("00000123#R3", "can0  00000123   [3]  remote request", "can0 00000123#R3"),
            ("123##1" + "AA" * 12, "can0       123  [12]  " + " ".join(["AA"] * 12), "can0 123##1" + "AA" * 12),
        ],
    )
    def test_frames_in_the_forms_of_can_utils(self, text, line, log):
        frame = candump.parse_frame(text)

        assert candump.dump_line(frame, "can0") == line
        assert candump.log_line(frame, "can0") == f"(0.000000) {log}"

    @pytest.mark.parametrize("text", ["", "123", "123#1", "XYZ#00", "123#112233445566778899", "8FF#00", "FFFFFFFF#00"])
    def test_what_is_no_frame_is_refused(self, text):
        with pytest.raises(ValueError, match=r"frame|identifier|digits"):
            candump.parse_frame(text)

    def test_an_error_frame_is_marked(self):
        frame = Frame(arbitration_id=4, is_extended_id=False, is_error_frame=True, dlc=8, data=bytes(8))

        assert candump.dump_line(frame, "can0").startswith("can0  20000004   [8]  00 00")
        assert candump.dump_line(frame, "can0").endswith("ERRORFRAME")

    def test_filters(self):
        assert candump.parse_filter("120:7F0") == Filter(0x120, 0x7F0)
        assert candump.parse_filter("00000120:1FFFFFFF") == Filter(0x120, 0x1FFFFFFF, True)
        with pytest.raises(ValueError, match="ID:MASK"):
            candump.parse_filter("120")

    def test_timestamps(self):
        frames = [Frame(timestamp=stamp) for stamp in (10.0, 10.5, 12.0)]

        def texts(mode):
            times = candump.Timestamps(mode)
            return [times.text(frame) for frame in frames]

        assert texts("absolute") == [" (10.000000)", " (10.500000)", " (12.000000)"]
        assert texts("delta") == [" (000.000000)", " (000.500000)", " (001.500000)"]
        assert texts("zero") == [" (000.000000)", " (000.500000)", " (002.000000)"]


class TestCan:
    def test_send_puts_frames_on_the_bus(self, client, peer):
        assert run(client, "send", "123#DEAD", "12345678#").output == ""

        got = [peer.recv(WAIT) for _ in range(2)]
        assert [(m.arbitration_id, m.is_extended_id, bytes(m.data)) for m in got] == [
            (0x123, False, b"\xde\xad"),
            (0x12345678, True, b""),
        ]
        assert json.loads(run(client, "send", "1#", "-o", "json").output) == {"sent": 1}

    def test_a_bad_frame_is_refused_before_anything_is_sent(self, client, peer):
        result = run(client, "send", "123#DEAD", "123#1")

        assert result.exit_code == 2
        assert "odd number of digits" in result.output
        assert peer.recv(0.05) is None

    def test_dump_prints_lines_of_candump(self, client, peer, channel):
        result = while_dumping(client, lambda: peer.send(message(0x123, b"\xde\xad")), "-n", 1)

        assert result.output == f"  {channel}       123   [2]  DE AD\n"

    def test_dump_shows_what_clients_send_as_well(self, client):
        result = while_dumping(client, lambda: client.send(message(0x111, b"\xaa")), "-n", 1, "-x")

        assert "TX       111   [1]  AA" in result.output

    def test_dump_prints_json_lines(self, client, peer):
        def act():
            peer.send(message(1, b"\x01"))
            peer.send(message(2, b"", is_remote_frame=True))

        lines = while_dumping(client, act, "-n", 2, "-o", "json").output.splitlines()

        one, other = map(json.loads, lines)
        assert (one["id"], one["data"], one["direction"], one["type"]) == (1, "01", "rx", "data")
        assert (other["id"], other["type"]) == (2, "remote")

    def test_dump_filters(self, client, peer):
        def act():
            for ident in (0x100, 0x123, 0x200):
                peer.send(message(ident))

        assert while_dumping(client, act, "-n", 1, "-f", "123:7FF", "-L").output.endswith("123#0102\n")

    def test_dump_begins_with_unread_frames_if_asked(self, client, peer):
        peer.send(message(0x77))
        wait_until(lambda: client.info()["received"] == 1)

        assert run(client, "dump", "-n", 1, "-T", 0).exit_code == 1
        assert "077" in run(client, "dump", "--unread", "-n", 1, "-T", WAIT).output

    def test_too_few_frames_in_time_are_an_error(self, client):
        result = run(client, "dump", "-n", 3, "-T", 0.05)

        assert result.exit_code == 1
        assert "there were 0 frames in 0.05 s, not 3" in result.output
        assert run(client, "dump", "-T", 0.05).exit_code == 0

    def test_the_state_of_the_bus(self, client, channel):
        assert run(client, "state").output == "active\n"
        info = json.loads(run(client, "info", "-o", "json").output)
        assert (info["channel"], info["state"], info["fault"]) == (channel, "ACTIVE", None)
        assert f"channel       {channel}\n" in run(client, "info").output

    def test_periodic_sends_are_kept_listed_and_stopped(self, client, peer):
        uuid = run(client, "send", "-p", 0.01, "--keep", "123#01").output.strip()
        assert peer.recv(WAIT).arbitration_id == 0x123
        assert run(client, "periodic").output == f"{uuid}  every 0.01 s  123#01\n"
        run(client, "stop-periodic", "--all")

        assert run(client, "periodic").output == ""
        wait_until(lambda: peer.recv(0.05) is None)

    def test_periodic_sends_end_with_the_duration(self, client, peer):
        result = run(client, "send", "-p", 0.005, "-d", 0.05, "123#01")

        assert result.exit_code == 0
        assert peer.recv(WAIT).arbitration_id == 0x123
        assert client.info()["periodic"] == 0

    def test_record_and_play(self, client, peer, tmp_path):
        file = tmp_path / "bus.asc"
        thread = threading.Thread(target=run, args=[client, "record", file, "-n", 2, "-T", WAIT])
        thread.start()
        wait_until(lambda: client.info()["clients"] > 0)
        peer.send(message(0x11))
        peer.send(message(0x22))
        thread.join(WAIT)
        run(client, "play", file)

        assert [peer.recv(WAIT).arbitration_id for _ in range(2)] == [0x11, 0x22]

    def test_a_recording_of_unknown_form_is_refused(self, client, tmp_path):
        result = run(client, "record", tmp_path / "bus.nonsense")

        assert result.exit_code == 1
        assert "nonsense" in result.output

    def test_a_bus_that_is_down_is_told(self, adapter, served):
        client = served(Can(channel="can0", interface="slcan", send_timeout=0.05))
        adapter.plugged = False
        wait_until(lambda: client.info()["fault"])
        result = run(client, "send", "123#")

        assert result.exit_code == 1
        assert "Error: CAN bus can0 (slcan) is down" in result.output
        assert run(client, "state").output == "error\n"

    def test_the_commands_need_no_python_can(self):
        code = (
            "import sys; from jumpstarter_driver_can.client import CanClient, IsoTpClient\n"
            "import uuid, contextlib\n"
            "client = CanClient(uuid=uuid.uuid4(), stub=None, portal=None, stack=contextlib.ExitStack())\n"
            "client.cli().get_command(None, 'dump'); client.close()\n"
            "print(sorted({'can', 'isotp', 'pydantic', 'anyio'} & sys.modules.keys()))"
        )
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

        assert found.stdout == "[]\n"


class TestIsoTp:
    @pytest.fixture
    def ecu(self, served, channel):
        """A client, and beside it the connection of a device that answers."""
        served(ecu := IsoTpPython(channel=channel, interface="virtual", address={"txid": 0x7E8, "rxid": 0x7E0}))
        ecu.start()
        return served(IsoTpPython(channel=channel, interface="virtual", address={"txid": 0x7E0, "rxid": 0x7E8})), ecu

    def test_a_request_prints_the_answer(self, ecu):
        client, device = ecu

        def answer():
            if (asked := device.stack.recv(block=True, timeout=WAIT)) is not None:
                device.stack.send(b"\x62" + bytes(asked)[1:] + b"WVWZZZ1KZAW000001")

        device._stop_pump.set()
        device._pump.join()
        thread = threading.Thread(target=answer)
        thread.start()
        result = run(client, "request", "22F190", "-o", "json", "-T", WAIT)
        thread.join()

        assert json.loads(result.output) == {"length": 20, "data": (b"\x62\xf1\x90WVWZZZ1KZAW000001").hex()}

    def test_no_answer_is_an_error(self, ecu):
        client, device = ecu
        device.stop()
        result = run(client, "request", "3E00", "-T", 0.1)

        assert result.exit_code == 1
        assert "no answer within 0.1 s" in result.output

    def test_send_and_recv(self, ecu, tmp_path):
        client, device = ecu
        file = tmp_path / "data"
        file.write_bytes(bytes(range(200)))
        assert run(client, "send", "-i", file).exit_code == 0
        run(client, "start")
        device.stack.send(b"\x01\x02")

        assert run(client, "recv", "-n", 1, "-T", WAIT).output == "01 02\n"
        wait_until(lambda: device._inbox.received == 1)
        assert device._reader.take(1) == [bytes(range(200))]


class TestPrograms:
    """Programs of their own, connected to the exporter as inside `jmp shell`."""

    @pytest.fixture
    def session(self, channel):
        """The environment of such a program; the bus is called `can`."""
        driver = Can(channel=channel, interface="virtual")
        with Session(root_device=driver) as session, session.serve_unix() as path:
            yield os.environ | {"JUMPSTARTER_HOST": str(path), "JMP_DRIVERS_ALLOW": "UNSAFE"}

    def test_the_logger_of_python_can_works_with_the_interface(self, session, peer, tmp_path):
        log = tmp_path / "bus.log"
        command = [sys.executable, "-m", "can.logger", "-i", "jumpstarter", "-c", "", "-f", log]
        with subprocess.Popen(command, env=session, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as it:
            try:
                deadline = time.monotonic() + 60
                while time.monotonic() < deadline and it.poll() is None and not (log.exists() and log.stat().st_size):
                    peer.send(message(0x123, bytes(8)))
                    time.sleep(0.02)
                it.send_signal(signal.SIGINT)
                output = it.communicate(timeout=60)[0]
            finally:
                it.kill()

        assert log.exists(), output
        assert "123#0000000000000000" in log.read_text(), output

    def test_a_killed_client_leaves_nothing_behind(self, session, peer):
        script = (
            "import can, time\n"
            "with can.Bus(interface='jumpstarter') as bus:\n"
            "    bus.send_periodic(can.Message(arbitration_id=0x55, is_extended_id=False), 0.01)\n"
            "    time.sleep(100)\n"
        )
        with subprocess.Popen([sys.executable, "-c", script], env=session) as killed:
            try:
                assert peer.recv(60).arbitration_id == 0x55
            finally:
                killed.kill()
        wait_until(lambda: peer.recv(0.1) is None)

    def test_the_interface_names_the_buses_there_are(self, session, monkeypatch):
        for name in ("JUMPSTARTER_HOST", "JMP_DRIVERS_ALLOW"):
            monkeypatch.setenv(name, session[name])
        with pytest.raises(can.CanInitializationError, match="no CAN bus 'other'"):
            can.Bus(interface="jumpstarter", channel="other")

    def test_without_a_session_the_interface_says_so(self):
        with pytest.raises(can.CanInitializationError, match="jmp shell"):
            can.Bus(interface="jumpstarter", channel="can")
