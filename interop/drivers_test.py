"""Each driver package against its published release: our driver with their client, and our client with their driver.

Our drivers are served by a session that notes what the client says on the wire; each note is compared with what the
release is known to say, by name, kind of call and arguments.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tty
from base64 import b64encode
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import yaml
from drivers_peer import DriversPeer, drivers_peer
from jumpstarter_testbench.daemons import own_loopback_address
from processes import PROBE, TIMEOUT
from recording import RecordingSession

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

UNPUBLISHED = ("jumpstarter_driver_video", "jumpstarter_driver_raspberrypi")
"""Packages that the published release doesn't have."""

CYCLE = ["call {}on()", "call {}off()", "call {}off()", "call {}on()"]
"""What the part `power` says first."""

IMAGE = hashlib.sha512(b"image").digest() * 160
"""10 KiB, so that its size is a multiple of the pages and blocks of all devices."""

Device = dict[str, Any] | str


@pytest.fixture(scope="module")
def peer(releases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Generator[DriversPeer, None, None]:
    """The published release, for all tests."""
    with drivers_peer(releases["published"], tmp_path_factory.mktemp("peer")) as running:
        yield running


@dataclass
class Drive:
    """Serves a driver in one release and drives it in the other."""

    peer: DriversPeer
    monkeypatch: pytest.MonkeyPatch
    is_ours: bool
    """Our driver is served and the published client drives it; otherwise it is the other way round."""
    notes: list[str] = field(default_factory=list)
    """What the client said last, if the driver is ours."""

    def __call__(self, part: str, device: Device, **args: Any) -> dict[str, Any]:
        """Drive a device; returns what the client saw."""
        import drive_drivers

        env = {name: value for name, value in os.environ.items() if name.startswith("CORELLIUM_")}
        if self.is_ours:
            with RecordingSession(root_device=drive_drivers.instantiate(device)) as session:
                self.notes = session.notes
                with session.serve_unix() as path:
                    return dict(self.peer("drive", part=part, socket=str(path), args=args))
        path = self.peer("serve", device=device, env=env)
        try:
            self.monkeypatch.setenv("JUMPSTARTER_HOST", path)
            self.monkeypatch.setenv("JMP_DRIVERS_ALLOW", "UNSAFE")
            return drive_drivers.drive(part, args)
        finally:
            self.peer("stop")

    def said(self, *expected: str, in_order: bool = True) -> None:
        """Compare what the published client said to our driver; some things it says at the same time."""
        if self.is_ours:
            assert (self.notes if in_order else sorted(self.notes)) == (list if in_order else sorted)(expected)


@pytest.fixture(params=["published-to-ours", "ours-to-published"])
def drive(request: pytest.FixtureRequest, peer: DriversPeer, monkeypatch: pytest.MonkeyPatch) -> Drive:
    """Client, then driver."""
    monkeypatch.syspath_prepend(str(PROBE))
    return Drive(peer, monkeypatch, request.param == "published-to-ours")


@pytest.fixture
def drive_ours(peer: DriversPeer, monkeypatch: pytest.MonkeyPatch) -> Drive:
    """The published client with our driver, where its device is emulated within this process."""
    monkeypatch.syspath_prepend(str(PROBE))
    return Drive(peer, monkeypatch, is_ours=True)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file to flash."""
    path = tmp_path / "image"
    path.write_bytes(IMAGE)
    return path


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def power_notes(child: str = "", read: bool = True) -> list[str]:
    """What the part `power` says."""
    return [note.format(child) for note in CYCLE] + ([f"streamingcall {child}read()"] if read else [])


def our_drivers() -> dict[str, str]:
    """The client classes of our drivers, by the driver class as configs name it."""
    from jumpstarter_driver_composite.driver import Proxy

    loaded = [(entry.value.replace(":", "."), entry.load()) for entry in entry_points(group="jumpstarter.drivers")]
    return {
        name: driver.client()
        for name, driver in loaded
        # A proxy is reported as what it stands for.
        if name.startswith("jumpstarter_driver_") and not name.startswith(UNPUBLISHED) and driver is not Proxy
    }


def test_drivers_name_the_same_clients_and_the_clients_are_there(peer: DriversPeer) -> None:
    ours = our_drivers()

    theirs = peer("clients", drivers=list(ours))
    there = peer("importable", names=sorted(set(ours.values())))

    assert len(ours) > 35
    assert {name for name, client in theirs.items() if client is None} == set()
    assert {name: client for name, client in ours.items() if client != theirs[name]} == {}
    assert [name for name, is_there in there.items() if not is_there] == []


# -- power ------------------------------------------------------------------------------------------------------------


def test_energenie(drive: Drive) -> None:
    from jumpstarter_testbench.emulated.energenie import EnergenieStrip

    with EnergenieStrip() as strip:
        config = {"host": strip.host, "password": "1", "slot": 2}

        seen = drive(
            "power",
            {"type": "jumpstarter_driver_energenie.driver.EnerGenie", "config": config},
            reads=drive.is_ours,
        )

        assert strip.outlets == [False, True, False, False]
    assert seen == ({"read": "DriverMethodNotImplemented"} if drive.is_ours else {})
    drive.said(*power_notes())


def test_http_power(drive: Drive) -> None:
    from jumpstarter_testbench.emulated.http_plugs import ShellyGen1

    with ShellyGen1("secret") as plug:
        config = {
            "name": "shelly",
            "power_on": {"url": f"{plug.url}/relay/0", "method": "POST", "data": "turn=on"},
            "power_off": {"url": f"{plug.url}/relay/0?turn=off"},
            "power_read": {"url": f"{plug.url}/emeter/0", "voltage_path": "voltage", "current_path": "current"},
            "auth": {"basic": {"user": "admin", "password": "secret"}},
        }

        seen = drive("power", {"type": "jumpstarter_driver_http_power.driver.HttpPower", "config": config})

        assert plug.on
    assert seen == {"read": [236.86, 0.19]}
    drive.said(*power_notes())


@pytest.mark.need("snmpd")
def test_snmp(drive: Drive, pdus: int) -> None:
    from jumpstarter_driver_snmp.conftest import AUTH_KEY, PRIV_KEY, ask_agent

    config = {
        "host": "127.0.0.1",
        "port": pdus,
        "plug": 3,
        "user": "shaaes",
        "auth_protocol": "SHA",
        "auth_key": AUTH_KEY,
        "priv_protocol": "AES",
        "priv_key": PRIV_KEY,
        "timeout": 30.0,
    }

    seen = drive("power", {"type": "jumpstarter_driver_snmp.driver.SNMPServer", "config": config}, reads=drive.is_ours)

    assert ask_agent(pdus, "1.3.6.1.4.1.13742.6.4.1.2.1.3.1.3") == "7"
    assert set(seen) == ({"read"} if drive.is_ours else set())
    drive.said(*power_notes())


@pytest.mark.need("mosquitto")
def test_tasmota(drive: Drive, mosquitto: Any) -> None:
    from jumpstarter_testbench.emulated.tasmota import TasmotaPlug

    topic = f"tasmota_{int(drive.is_ours)}"
    with TasmotaPlug(mosquitto.port, topic) as plug:
        config = {
            "host": "127.0.0.1",
            "port": mosquitto.port,
            "tls": False,
            "timeout": 60.0,
            "cmnd_topic": f"cmnd/{topic}/POWER",
            "stat_topic": f"stat/{topic}/POWER",
        }

        drive(
            "power", {"type": "jumpstarter_driver_tasmota.driver.TasmotaPower", "config": config}, reads=drive.is_ours
        )

        assert [payload for _, payload in plug.commands if payload == "ON"] == ["ON", "ON"]
    drive.said(*power_notes())


def test_noyito_relay(drive: Drive, tmp_path: Path) -> None:
    from jumpstarter_testbench.relay_boards import RelayBoard, SerialPlug

    with SerialPlug(RelayBoard(), tmp_path / "ttyRelay") as plug:
        config = {"port": str(plug.path), "channel": 2}

        seen = drive("relay", {"type": "jumpstarter_driver_noyito_relay.driver.NoyitoPowerSerial", "config": config})

        assert plug.board.commands == [(2, 1), (2, 0)]
    assert seen == {"status": ["on", "off"]}
    drive.said("call on()", "call status()", "call off()", "call status()")


def test_yepkit(drive_ours: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    from jumpstarter_driver_yepkit.emulation import EmulatedYkush
    from jumpstarter_testbench.usb_emulation import EmulatedBus

    bus = EmulatedBus(EmulatedYkush("YK00001"))
    monkeypatch.setattr("jumpstarter.common.usb.make_backend", bus.backend)
    config = {"serial": "YK00001", "port": "2", "default": "off"}

    seen = drive_ours("power", {"type": "jumpstarter_driver_yepkit.driver.Ykush", "config": config})

    assert bus.devices[0].ports == {1: False, 2: True, 3: False}
    assert seen == {"read": "DriverMethodNotImplemented"}
    drive_ours.said(*power_notes())


# -- media and flashers -----------------------------------------------------------------------------------------------


MUX = [
    "call {}host()",
    "call {}dut()",
    "call {}off()",
    'call {}write("<resource>")',
    'call {}read("<resource>")',
    "call {}host()",
    'call {}write("<resource>")',
    "call {}dut()",
    "call {}host()",
    'call {}read("<resource>")',
    "call {}dut()",
]


def mux_notes(child: str = "") -> list[str]:
    """What the part `mux` says."""
    return [note.format(child) for note in MUX]


def test_sdwire(drive_ours: Drive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, image: Path) -> None:
    from jumpstarter_driver_sdwire.emulation import EmulatedSDWire
    from jumpstarter_testbench.usb_emulation import EmulatedBus

    bus = EmulatedBus(EmulatedSDWire("sdw-00001"))
    monkeypatch.setattr("jumpstarter.common.usb.make_backend", bus.backend)
    card = tmp_path / "card"
    card.write_bytes(bytes(1 << 20))
    config = {"serial": "sdw-00001", "storage_device": str(card), "storage_leeway": 0}

    seen = drive_ours(
        "mux",
        {"type": "jumpstarter_driver_sdwire.driver.SDWire", "config": config},
        image=str(image),
        out=str(tmp_path / "out"),
    )

    written = digest(card.read_bytes())
    assert card.read_bytes().startswith(IMAGE)
    assert seen == {"read": written, "dumped": written, "partition": "refused"}
    drive_ours.said(*mux_notes())


def test_dutlink(drive_ours: Drive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, image: Path) -> None:
    from jumpstarter_driver_dutlink.board import Board
    from jumpstarter_driver_dutlink.emulation import EmulatedDutlink, EmulatedShell
    from jumpstarter_testbench.usb_emulation import EmulatedBus

    bus = EmulatedBus(EmulatedDutlink("1a2b3c4d"))
    monkeypatch.setattr("jumpstarter.common.usb.make_backend", bus.backend)
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    path = os.ttyname(theirs)
    monkeypatch.setattr(Board, "tty", lambda self: path)
    stick = tmp_path / "stick"
    stick.write_bytes(bytes(1 << 20))
    config = {"serial": "1a2b3c4d", "storage_device": str(stick), "storage_leeway": 0}
    shell = EmulatedShell(ours, bus.devices[0])
    try:
        seen = drive_ours(
            "dutlink",
            {"type": "jumpstarter_driver_dutlink.driver.Dutlink", "config": config},
            image=str(image),
            out=str(tmp_path / "out"),
        )
    finally:
        shell.close()
        os.close(ours)
        os.close(theirs)

    written = digest(stick.read_bytes())
    assert seen["power"] == {"read": [12.0, 0.42]}
    assert seen["storage"] == {"read": written, "dumped": written, "partition": "refused"}
    drive_ours.said(*power_notes("power."), *mux_notes("storage."), "call power.rescue()", "stream console.connect")


@pytest.fixture
def other_file_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take drives with ext2 too, as not every kernel has FAT."""
    from jumpstarter_driver_opendal import volumes

    monkeypatch.setattr(volumes, "FAT", (*volumes.FAT, "ext2"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a drive needs root")
def test_pi_pico(drive_ours: Drive, tmp_path: Path, other_file_systems: None) -> None:
    from jumpstarter_testbench.board_drives import LoopPlug, Uf2Board, uf2

    image = tmp_path / "blink.uf2"
    image.write_bytes(uf2(IMAGE))
    device = {"type": "jumpstarter_driver_pi_pico.driver.PiPicoFlasher", "config": {"volume_name": "JMP-INTEROP"}}
    with Uf2Board(plug=LoopPlug(tmp_path), label="JMP-INTEROP") as board:
        seen = drive_ours("flasher", device, image=str(image), calls=["bootloader_info", "enter_bootloader"])

        assert board.started.wait(30)
        assert board.flash[: len(IMAGE)] == IMAGE
    assert seen["bootloader_info"]["Board-ID"] == "RPI-RP2"
    drive_ours.said("call bootloader_info()", "call enter_bootloader()", 'call flash("<resource>", null)')
    assert drive_ours("dump", device, out=str(tmp_path / "out")) == {"dump": "DriverMethodNotImplemented"}


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a drive needs root")
def test_stlink_msd(drive_ours: Drive, tmp_path: Path, other_file_systems: None) -> None:
    from jumpstarter_testbench.board_drives import LoopPlug, StlinkBoard

    image = tmp_path / "blink.bin"
    image.write_bytes(b"\x00\x00\x02\x20\x01\x00\x00\x08" + IMAGE)
    device = {"type": "jumpstarter_driver_stlink_msd.driver.StlinkMsdFlasher", "config": {"volume_name": "NOD_INTEROP"}}
    with StlinkBoard(plug=LoopPlug(tmp_path), label="NOD_INTEROP") as board:
        seen = drive_ours("flasher", device, image=str(image), calls=["info"], target="mine.bin")

        assert board.flash == image.read_bytes()
        assert board.programmed == ["mine.bin"]
    assert isinstance(seen["info"], dict)
    drive_ours.said("call info()", 'call flash("<resource>", "mine.bin")')
    assert drive_ours("dump", device, out=str(tmp_path / "out")) == {"dump": "DriverMethodNotImplemented"}


def test_esp32(drive: Drive, tmp_path: Path, image: Path) -> None:
    from jumpstarter_driver_esp32.conftest import _Server

    with closing(_Server()) as server:
        device = {
            "type": "jumpstarter_driver_esp32.driver.Esp32Flasher",
            "config": {"chip": "esp32", "baudrate": 115200},
            "children": {
                "serial": {
                    "type": "jumpstarter_driver_pyserial.driver.PySerial",
                    "config": {"url": server.url, "check_present": False},
                }
            },
        }

        seen = drive("esp32", device, image=str(image), out=str(tmp_path / "out"), brief=not drive.is_ours)

        flashed = server.chip.flash[0x10000 : 0x10000 + len(IMAGE)]
    assert flashed == (bytes([0xFF]) * len(IMAGE) if drive.is_ours else IMAGE)  # it was erased at the end, if not brief
    if drive.is_ours:
        assert seen["dump"] == digest(IMAGE)
        assert "chip" in "".join(seen["info"]).lower()
    drive.said(
        'call flash("<resource>", "0x10000")',
        "call get_chip_info()",
        'call flash("<resource>", "0x20000")',
        'call dump("<resource>", "0x10000:0x2800")',
        "call hard_reset()",
        "call enter_bootloader()",
        "call erase()",
    )


def test_probe_rs(drive: Drive, tmp_path: Path, image: Path) -> None:
    from jumpstarter_driver_probe_rs.driver_test import Tool

    tool = Tool(tmp_path)
    config = {"probe": "1366:0105:000760", "probe_rs_path": str(tool.path), "chip": "nRF52840_xxAA", "protocol": "swd"}
    elf = tmp_path / "firmware.elf"
    elf.write_bytes(b"\x7fELF" + bytes(range(60)))

    seen = drive("probe_rs", {"type": "jumpstarter_driver_probe_rs.driver.ProbeRs", "config": config}, image=str(elf))

    assert seen == {
        "info": True,
        "reset": "",
        "erase": True,
        "download": True,
        "read": [0x7F, 0x45, 0x4C, 0x46],
        "words": [0x464C457F],
    }
    drive.said(
        "call info()",
        "call reset_target()",
        "call erase()",
        'call download("<resource>")',
        'call read("b8", "0x8000000", "4")',
        'call read("b32", "0x8000000", "1")',
    )


# -- virtual devices, lines, networks ---------------------------------------------------------------------------------


def test_corellium(drive_ours: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    from jumpstarter_testbench.emulated.corellium import CorelliumService

    config = {"project_id": "Default Project", "device_name": "board", "device_flavor": "kronos"}
    with CorelliumService() as service:
        monkeypatch.setenv("CORELLIUM_API_HOST", service.url)
        monkeypatch.setenv("CORELLIUM_API_TOKEN", service.token)
        monkeypatch.setenv("CORELLIUM_API_INTERVAL", "0.01")

        seen = drive_ours("corellium", {"type": "jumpstarter_driver_corellium.driver.Corellium", "config": config})

        assert not service.machines
    assert seen == {"read": "DriverMethodNotImplemented"}
    drive_ours.said(
        "call power.on()",
        "stream serial.connect",
        "call power.off(false)",
        "call power.on()",
        "call power.off(true)",
        "streamingcall power.read()",
    )


@pytest.mark.need("ssh")
def test_ssh(drive: Drive, sshd: Any) -> None:
    device = {
        "type": "jumpstarter_driver_ssh.driver.SSHWrapper",
        "config": {"default_username": sshd.user, "ssh_identity_file": str(sshd.key)},
        "children": {
            "tcp": {
                "type": "jumpstarter_driver_network.driver.TcpNetwork",
                "config": {"host": sshd.host, "port": sshd.port},
            }
        },
    }

    seen = drive("ssh", device)

    assert seen == {"forwarded": [7, "out\n", True], "direct": [7, "out\n", True]}
    settings = ["call get_ssh_identity()", "call get_ssh_command()", "call get_default_username()"]
    drive.said(*settings, "stream tcp.connect", "call tcp.address()", *settings)


@pytest.mark.need("ustreamer")
def test_ustreamer_and_imagehash(drive: Drive, tmp_path: Path) -> None:
    config: dict[str, Any] = {"args": {"device": str(tmp_path / "no-camera")}}
    if drive.is_ours:
        config["offline"] = "picture"
    device = {"type": "jumpstarter_driver_ustreamer.driver.UStreamer", "config": config}

    seen = drive("ustreamer", device)

    assert seen["ok"] is True
    assert seen["resolution"] == seen["size"] == [640, 480]
    assert seen["http"].startswith("200")
    drive.said("call state()", "call snapshot()", "stream connect")

    assert drive("imagehash", device, reference=str(tmp_path / "reference.png")) == {"alike": True}


def test_vnc(drive: Drive) -> None:
    device = {
        "type": "jumpstarter_driver_vnc.driver.Vnc",
        "config": {"default_encrypt": False},
        "children": {"tcp": {"type": "jumpstarter_driver_network.driver.EchoNetwork"}},
    }

    seen = drive("vnc", device)

    assert seen == {"encrypt": False, "session": True}
    drive.said("call get_default_encrypt()")


def frame(method: str, data: bytes, identifier: int, *, is_extended_id: bool) -> str:
    """The beginning of a call with a frame, in its form on the wire."""
    fields = {
        "arbitration_id": float(identifier),
        "bitrate_switch": False,
        "channel": None,
        "data": b64encode(data).decode(),
        "dlc": float(len(data)),
        "error_state_indicator": False,
        "is_error_frame": False,
        "is_extended_id": is_extended_id,
        "is_fd": False,
        "is_remote_frame": False,
        "is_rx": True,
        "timestamp": 0.0,
    }
    text = json.dumps(fields)
    return f"call {method}(" + (f"[{text}]" if "periodic" in method else text)


def test_can(drive: Drive) -> None:
    seen = drive("can", "can")

    assert seen.pop("isotp") == {
        "question": True,
        "answer": True,
        "nothing": None,
        "available": False,
        "transmitting": True,
    }
    assert seen == {
        "standard": [0x123, False, b"standard".hex()],
        "extended": [0x12345, True, b"extended".hex()],
        "periodic": [[7, False, b"again".hex()]] * 2,
        "filtered": True,
        "protocol": 1,
        "channel_info": True,
        "state": "ACTIVE",
        "flush": "DriverMethodNotImplemented",
        "timeout": True,
    }
    if drive.is_ours:
        # How often a frame is asked for depends on what arrives in between.
        asked = [note for note in drive.notes if "_recv_internal" in note]
        assert [note for note in asked if not re.fullmatch(r"call far\._recv_internal\([0-9.]+\)", note)] == []
        drive.notes = [note for note in drive.notes if note not in asked]
    drive.said(
        frame("near.send", b"standard", 0x123, is_extended_id=False) + ", null)",
        frame("near.send", b"extended", 0x12345, is_extended_id=True) + ", 5.0)",
        frame("near._send_periodic_internal", b"again", 7, is_extended_id=False) + ", 0.05, null, true)",
        'call near._stop_task("<uuid>")',
        'call far._apply_filters([{"can_id": 85.0, "can_mask": 2047.0, "extended": false}])',
        frame("near.send", b"no", 0x54, is_extended_id=False) + ", null)",
        frame("near.send", b"yes", 0x55, is_extended_id=False) + ", null)",
        "call far._apply_filters(null)",
        "call near.protocol()",
        "call near.channel_info()",
        "call near.state()",
        "call near.flush_tx_buffer()",
        'call ecu.set_address({"address_extension": null, "addressing_mode": 0.0, "functional_id": null, '
        '"physical_id": null, "rx_only": false, "rxid": 800.0, "source_address": null, "target_address": null, '
        '"tx_only": false, "txid": 801.0})',
        "call tester.start()",
        "call ecu.start()",
        f'call tester.send({{"data": "{b64encode(bytes(range(100))).decode()}"}}, null, null)',
        "call ecu.recv(true, 60.0)",
        'call ecu.send({"data": "b2s="}, 0.0, 1.0)',
        "call tester.recv(true, 60.0)",
        "call ecu.recv(false, null)",
        "call ecu.available()",
        "call tester.transmitting()",
        "call tester.stop_sending()",
        "call tester.stop_receiving()",
        "call tester.stop()",
        "call ecu.stop()",
        "call near.shutdown()",
        "call far.shutdown()",
    )


@pytest.mark.lab_guest
def test_gpiod(drive: Drive) -> None:
    from jumpstarter_testbench.viperboard import Viperboard

    with Viperboard() as adapter:
        adapter.drive(1, True)
        children = {"output": ("DigitalOutput", 3), "switch": ("PowerSwitch", 4)}
        if drive.is_ours:
            # The published driver of inputs wants edge events, which this adapter doesn't have.
            children["input"] = ("DigitalInput", 1)

        seen = drive(
            "lines",
            {
                "children": {
                    name: {
                        "type": f"jumpstarter_driver_gpiod.driver.{kind}",
                        "config": {"device": adapter.chip(), "line": line},
                    }
                    for name, (kind, line) in children.items()
                }
            },
        )

    assert seen.pop("output") == ["ACTIVE", "INACTIVE"]
    assert seen.pop("switch") == "DriverMethodNotImplemented"
    assert seen == (
        {"input": "ACTIVE", "inactive": "DriverError", "edge": "DriverError", "bad edge": "DriverInvalidArgument"}
        if drive.is_ours
        else {}
    )
    drive.said(
        *("call output.on()", "call output.read_pin()", "call output.off()", "call output.read_pin()"),
        *power_notes("switch."),
        *("call input.wait_for_active(60.0)", "call input.read_pin()", "call input.wait_for_inactive(0.05)"),
        *('call input.wait_for_edge("falling", 0.05)', 'call input.wait_for_edge("sideways", 0.05)'),
    )


# -- boot loaders -----------------------------------------------------------------------------------------------------


UBOOT = "/usr/lib/u-boot/qemu_arm64/u-boot.bin"


def board() -> dict[str, Any]:
    """A virtual board with U-Boot."""
    config = {"arch": "aarch64", "smp": 1, "mem": "1G", "default_partitions": {"bios": UBOOT}}
    return {"type": "jumpstarter_driver_qemu.driver.Qemu", "config": config}


BOARD_PARTS = {"power": {"ref": "board.power"}, "serial": {"ref": "board.console"}}


@pytest.mark.need("qemu-aarch64", "u-boot")
def test_uboot(drive: Drive) -> None:
    uboot = {"type": "jumpstarter_driver_uboot.driver.UbootConsole", "children": BOARD_PARTS}

    seen = drive("uboot", {"children": {"board": board(), "uboot": uboot}})

    assert seen == {
        "prompt": "=>",
        "command": True,
        "checked": ["checked"],
        "get_env": "hello world",
        "unset": None,
        "other": "1",
        "dhcp": ["10.0.2.15", "10.0.2.2", "255.255.255.0"],
    }
    drive.said(
        "call board.power.off()",
        "call board.power.on()",
        "call uboot.get_prompt()",
        "stream board.console.connect",
        "call board.power.off()",
        in_order=False,
    )


@pytest.mark.need("qemu-aarch64", "u-boot")
@pytest.mark.skipif(os.geteuid() != 0, reason="TFTP's port 69 needs root")
def test_flashers(drive_ours: Drive, flasher_bundle: Path, tmp_path: Path) -> None:
    flasher = {
        "type": "jumpstarter_driver_flashers.driver.BaseFlasher",
        "config": {"flasher_bundle": str(flasher_bundle), "cache_dir": str(tmp_path / "cache")},
        "children": BOARD_PARTS
        | {
            "tftp": {
                "type": "jumpstarter_driver_tftp.driver.Tftp",
                "config": {"root_dir": str(tmp_path / "tftp"), "host": own_loopback_address()},
            },
            "http": {
                "type": "jumpstarter_driver_http.driver.HttpServer",
                "config": {"root_dir": str(tmp_path / "http"), "host": "127.0.0.1", "port": 0},
            },
        },
    }
    calls: dict[str, list[Any]] = {
        "setup_flasher_bundle": [None],
        "get_flasher_manifest_yaml": [],
        "get_kernel_filename": [],
        "get_kernel_address": [],
        "get_initram_filename": [],
        "get_initram_address": [],
        "get_dtb_filename": [],
        "get_dtb_address": [],
        "get_bootcmd": [],
        "get_default_target": [],
        "get_cacert": [],
        "use_dtb_variant": ["nope"],
    }

    seen = drive_ours("flashers", {"children": {"board": board(), "flasher": flasher}}, calls=calls)

    manifest = yaml.safe_load(seen.pop("get_flasher_manifest_yaml"))
    assert seen.pop("manifest") == manifest["metadata"]["name"]
    assert seen.pop("get_bootcmd") == manifest["spec"]["bootcmd"]
    assert seen == {
        "setup_flasher_bundle": None,
        "get_kernel_filename": Path(manifest["spec"]["kernel"]["file"]).name,
        "get_kernel_address": manifest["spec"]["kernel"]["address"],
        "get_initram_filename": Path(manifest["spec"]["initram"]["file"]).name,
        "get_initram_address": manifest["spec"]["initram"]["address"],
        "get_dtb_filename": "",
        "get_dtb_address": None,
        "get_default_target": None,
        "get_cacert": None,
        "use_dtb_variant": "DriverInvalidArgument",
        "children": ["http", "power", "serial", "tftp", "uboot"],
    }
    drive_ours.said(
        *(f"call flasher.{name}({', '.join(map(json.dumps, args))})" for name, args in calls.items()),
        "call flasher.get_flasher_manifest_yaml()",
        "call flasher.setup_flasher_bundle()",
        "call flasher.http.start()",
        "call flasher.tftp.start()",
        "call board.power.off()",
        "call board.power.on()",
        "call flasher.uboot.get_prompt()",
        "stream board.console.connect",
        "stream board.console.connect",
        "call flasher.http.stop()",
        "call flasher.tftp.stop()",
        "call board.power.off()",
        in_order=False,
    )


# -- servers, shells, machines ----------------------------------------------------------------------------------------


def test_shell(drive: Drive) -> None:
    config = {"methods": {"greet": 'echo "$GREETING $1"; exit 3'}}

    seen = drive("shell", {"type": "jumpstarter_driver_shell.driver.Shell", "config": config})

    assert seen["methods"] == ["greet"]
    assert seen["code"] == 3
    assert seen["streamed"] == ["Hello Ada\n", 3]
    assert seen["unknown"] == "DriverInvalidArgument"
    assert seen["unary"] == (["Hello Ada\n", "", 3] if drive.is_ours else None)


@pytest.mark.parametrize("kind", ["http", "tftp"])
def test_servers_of_files(drive: Drive, kind: str, tmp_path: Path) -> None:
    config = {"root_dir": str(tmp_path / "root"), "host": "127.0.0.1", "port": 0}
    if kind == "tftp" and not drive.is_ours:
        from processes import free_port

        config["port"] = free_port()
    driver = {"http": "HttpServer", "tftp": "Tftp"}[kind]

    seen = drive("server", {"type": f"jumpstarter_driver_{kind}.driver.{driver}", "config": config}, url=kind == "http")

    assert seen == {"host": "127.0.0.1", "port": True, "url": kind == "http", "read": True}
    assert drive.notes[:3] == (["call start()", "call get_host()", "call get_port()"] if drive.is_ours else [])


def test_qemu(drive: Drive, tmp_path: Path, image: Path) -> None:
    config = {"arch": "x86_64", "hostname": "h", "username": "u", "password": "p"}

    seen = drive(
        "qemu",
        {"type": "jumpstarter_driver_qemu.driver.Qemu", "config": config},
        image=str(image),
        out=str(tmp_path / "out"),
        keywords=["target"] if drive.is_ours else ["target", "partition"],
    )
    count = 1 if drive.is_ours else 2

    assert seen == {
        "who": ["h", "u", "p"],
        "bad size": "DriverInvalidArgument",
        "dump": [digest(IMAGE)] * (1 + count),
        "partition": ["DriverInvalidArgument"] * count,
        "children": ["console", "flasher", "power", "vnc"],
    }
    drive.said(
        'call set_disk_size("64M")',
        'call set_memory_size("256M")',
        'call flasher.flash("<resource>", null)',
        'call flasher.dump("<resource>", null)',
        "call get_hostname()",
        "call get_username()",
        "call get_password()",
        'call set_memory_size("much")',
        'call flasher.flash("<resource>", "bios")',
        'call flasher.dump("<resource>", "bios")',
        'call flasher.flash("<resource>", "nope")',
    )
