"""The probe-rs driver with a program that behaves as probe-rs does, in the versions that differ."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from click.testing import CliRunner
from jumpstarter.client.core import DriverError
from jumpstarter.common.exceptions import ArgumentError, ConfigurationError
from jumpstarter.common.utils import serve
from jumpstarter.config.exporter import ExporterConfigV1Alpha1DriverInstance
from opendal import Operator

from .client import ProbeRsClient
from .driver import ProbeRs, TemporaryFilename
from .tool import ProbeRsError, words_of

BOUND = 20.0
ELF = b"\x7fELF" + bytes(range(60))


class Tool:
    """The program, and the probe and target behind it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "probe-rs"
        source = Path(__file__).with_name("emulation.py").read_text()
        self.path.write_text(f"#!{sys.executable} -IS\n{source}")
        self.path.chmod(0o755)
        self._state = folder / "state.json"
        self.started = folder / "started"
        state = {
            "version": [0, 29],
            "probes": ["1366:0105:000760"],
            "chips": ["nRF52840_xxAA"],
            "memory": {},
            "calls": [],
        }
        self._state.write_text(json.dumps(state))

    def set(self, **changes: Any) -> None:
        self._state.write_text(json.dumps(json.loads(self._state.read_text()) | changes))

    @property
    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self._state.read_text())
        return state

    def flash(self, size: int, address: int = 0x08000000) -> bytes:
        memory = self.state["memory"]
        return bytes(memory.get(str(address + offset), 0xFF) for offset in range(size))


@pytest.fixture
def tool(tmp_path: Path) -> Tool:
    return Tool(tmp_path)


@pytest.fixture
def client(tool: Tool) -> Iterator[ProbeRsClient]:
    with serve(ProbeRs(probe_rs_path=str(tool.path))) as client:
        yield client


@pytest.fixture
def elf(tmp_path: Path) -> Path:
    path = tmp_path / "firmware.elf"
    path.write_bytes(ELF)
    return path


def test_settings_reach_the_program(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tool.path.parent}:{os.environ['PATH']}")
    driver = ProbeRs(
        probe="1366:0105:000760", chip="nRF52840_xxAA", protocol="swd", connect_under_reset=True, speed=4000
    )
    with serve(driver) as client:
        client.info()
    call = tool.state["calls"][0]
    assert call["argv"] == ["info"]
    assert call["env"] == {
        "PROBE_RS_NON_INTERACTIVE": "true",
        "PROBE_RS_COLOR": "false",
        "PROBE_RS_PROBE": "1366:0105:000760",
        "PROBE_RS_CHIP": "nRF52840_xxAA",
        "PROBE_RS_PROTOCOL": "swd",
        "PROBE_RS_SPEED": "4000",
        "PROBE_RS_CONNECT_UNDER_RESET": "true",
    }
    # and the rest of the environment is there too
    assert str(tool.path.parent) in call["path"]


def test_info_list_reset_erase(tool: Tool, client: ProbeRsClient) -> None:
    assert "ARM Chip" in client.info()
    assert "[0]: J-Link -- 1366:0105:000760" in client.list_probes()
    assert client.reset() == ""
    tool.set(memory={"0": 1})
    client.erase()
    assert tool.state["memory"] == {}


def test_download_is_for_elf_unless_told(tool: Tool, client: ProbeRsClient, elf: Path) -> None:
    client.download_file(str(elf))
    assert tool.flash(len(ELF)) == ELF
    *options, path = tool.state["calls"][-1]["argv"][1:]
    assert options == []
    # and the exporter keeps no copy
    assert not Path(path).parent.exists()


def test_download_from_an_operator(tool: Tool, client: ProbeRsClient, elf: Path) -> None:
    client.download(Operator("fs", root=str(elf.parent)), elf.name)
    assert tool.flash(len(ELF)) == ELF


def test_other_formats_go_by_the_name(tool: Tool, client: ProbeRsClient, tmp_path: Path) -> None:
    (tmp_path / "app.bin").write_bytes(b"\1\2\3\4")
    client.download_file(tmp_path / "app.bin", base_address=0x08004000, verify=True, chip_erase=True)
    assert tool.flash(4, 0x08004000) == b"\1\2\3\4"
    assert tool.state["calls"][-1]["argv"][1:-1] == [
        *("--binary-format", "bin", "--base-address", "0x8004000"),
        *("--verify", "--chip-erase"),
    ]
    (tmp_path / "app.hex").write_bytes(b":0400000001020304F2\n")
    client.download_file(tmp_path / "app.hex")
    assert tool.state["calls"][-1]["argv"][1:3] == ["--binary-format", "hex"]


def test_verify_tells_a_difference(tool: Tool, client: ProbeRsClient, elf: Path) -> None:
    client.download_file(elf)
    assert "successful" in client.verify_file(elf)
    tool.set(memory={})
    with pytest.raises(DriverError, match="Verification failed"):
        client.verify_file(elf)


@pytest.mark.parametrize("version", [(0, 27), (0, 29), (0, 31), (0, 32), (0, 33)])
@pytest.mark.parametrize(("width", "number"), [(8, 20), (16, 9), (32, 9), (64, 5), (32, 1)])
def test_memory_is_read_whatever_the_version_prints(
    tool: Tool, client: ProbeRsClient, version: tuple[int, int], width: int, number: int
) -> None:
    tool.set(version=version, memory={str(0x20000000 + i): (i * 7 + 3) % 256 for i in range(200)})
    if (width, version) == (16, (0, 27)):
        with pytest.raises(DriverError, match="invalid value 'b16'"):
            client.read(width, 0x20000000, number)
        return
    size = width // 8
    data = bytes((i * 7 + 3) % 256 for i in range(200))
    expected = [int.from_bytes(data[i * size : (i + 1) * size], "little") for i in range(number)]
    assert client.read(width, 0x20000000, number) == expected


def test_styles_and_ragged_blanks_are_no_words() -> None:
    assert words_of("20000000: 01 02  03\r\n20000008: 04\n") == ["01", "02", "03", "04"]
    assert words_of("  0102  0304 \n\n 0506\n") == ["0102", "0304", "0506"]
    assert words_of("0x0000000020000000: 0000000000000001\n") == ["0000000000000001"]
    assert words_of("") == []
    with pytest.raises(ProbeRsError, match="no word of memory"):
        words_of("warning: something")


def test_styled_output_is_read(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a version that would colour what it prints, if the setting did not reach it
    tool.set(version=[0, 32], memory={"0": 7})
    with patch.object(ProbeRs, "env_from_cfg", lambda self: {}), serve(ProbeRs(probe_rs_path=str(tool.path))) as client:
        assert client.read(8, 0, 1) == [7]


def test_words_are_written(tool: Tool, client: ProbeRsClient) -> None:
    client.write(32, 0x20000000, [1, 0xDEADBEEF])
    assert client.read(32, 0x20000000, 2) == [1, 0xDEADBEEF]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.read(12, 0, 1), "width must be one of"),
        (lambda c: c.read(32, -4, 1), "address must be"),
        (lambda c: c.read(32, 0, 0), "words must be above 0"),
        (lambda c: c.write(8, 0, [256]), "no word of 8 bits"),
        (lambda c: c.write(8, 0, []), "no word to write"),
    ],
)
def test_arguments_that_can_t_be_are_refused_by_the_client(client: ProbeRsClient, tool: Tool, call, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        call(client)
    assert tool.state["calls"] == []


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("read", ("b32", "--help", "1")),
        ("read", ("b32", "0x0", "9999999")),
        ("read", ("--chip", "0", "1")),
        ("write", ("b8", "0", ["0x100"])),
        ("write", ("b8", "0", ["--speed"])),
    ],
)
def test_what_comes_over_the_wire_never_becomes_an_option(client, tool: Tool, method, arguments) -> None:
    with pytest.raises(DriverError):
        client.call(method, *arguments)
    assert tool.state["calls"] == []


def test_options_that_don_t_fit_are_refused(client: ProbeRsClient, elf: Path, tool: Tool) -> None:
    with pytest.raises(DriverError, match="base_address is for files of format 'bin'"):
        client.download_file(elf, format="elf", base_address=0)
    with pytest.raises(ArgumentError, match="can't read the local file"):
        client.download_file(elf.with_name("missing.elf"))
    elf.write_bytes(b"")
    with pytest.raises(DriverError, match="is empty"):
        client.download_file(elf)
    assert tool.state["calls"] == []


def test_what_probe_rs_says_is_in_the_error(tool: Tool, client: ProbeRsClient, elf: Path) -> None:
    tool.set(probes=[])
    for call in (
        client.info,
        client.reset,
        client.erase,
        lambda: client.download_file(elf),
        lambda: client.read(8, 0, 1),
    ):
        with pytest.raises(DriverError, match=r"failed with status 1:\s+Error: No connected probes were found"):
            call()
    # and when the probe is plugged in, it works
    tool.set(probes=["1366:0105:000760"])
    assert "ARM Chip" in client.info()


def test_a_probe_that_is_in_use_is_told(tool: Tool, client: ProbeRsClient) -> None:
    tool.set(busy=True)
    with pytest.raises(DriverError, match="Resource busy"):
        client.reset()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"probe": "0483:374b"}, "Probe not found"),
        ({"chip": "Z80"}, "Could not find chip 'Z80'"),
        ({"probe_rs_path": "/nowhere/probe-rs"}, r"is not there, or can't be run: install it from https://probe\.rs"),
    ],
)
def test_what_is_not_there_is_told(tool: Tool, config: dict[str, str], message: str) -> None:
    driver = ProbeRs(**{"probe_rs_path": str(tool.path), **config})
    with serve(driver) as client, pytest.raises(DriverError, match=message):
        client.info()


def test_a_program_that_hangs_is_ended(tool: Tool) -> None:
    tool.set(hang={"info": 60})
    with serve(ProbeRs(probe_rs_path=str(tool.path), timeout=0.5)) as client:
        with pytest.raises(DriverError, match=r"'probe-rs info' did not end within 0.5 s"):
            client.info()
        assert "0105" in client.list_probes()
    assert _processes(tool) == []


def test_nothing_runs_on_when_the_session_ends(tool: Tool) -> None:
    tool.set(hang={"erase": 60})
    with serve(ProbeRs(probe_rs_path=str(tool.path))) as client:
        failures: list[BaseException] = []

        def erase() -> None:
            try:
                client.erase()
            except BaseException as error:  # noqa: BLE001 (what is raised depends on what ends first)
                failures.append(error)

        thread = threading.Thread(target=erase)
        thread.start()
        _eventually(tool.started.exists)
    thread.join(BOUND)
    assert failures
    _eventually(lambda: not _processes(tool))


def test_calls_wait_for_each_other(tool: Tool, client: ProbeRsClient) -> None:
    # given one probe, and calls that would disturb each other
    tool.set(memory={"0": 5})
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(client.read(8, 0, 1))) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(BOUND)
    assert answers == [[5]] * 4
    assert len(tool.state["calls"]) == 4


def test_gdb_has_a_stream(tool: Tool, client: ProbeRsClient) -> None:
    with client.gdb_server() as address, socket.create_connection(address, BOUND) as gdb:
        gdb.settimeout(BOUND)
        gdb.sendall(b"$?#3f")
        assert gdb.recv(100) == b"+$?#3f"
    _eventually(lambda: not _processes(tool))
    assert "0105" in client.list_probes()


def test_gdb_without_a_probe_is_told(tool: Tool, client: ProbeRsClient) -> None:
    tool.set(probes=[])
    with pytest.raises(DriverError, match=r"'probe-rs gdb' did not start(.|\n)*No connected probes"):
        client.stream("gdb").__enter__()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"probe": "jlink"}, "probe must be VID:PID"),
        ({"probe": 4660}, "put it into quotes"),
        ({"chip": ""}, "chip must be text"),
        ({"protocol": "i2c"}, "'swd' or 'jtag'"),
        ({"speed": 0}, "speed must be"),
        ({"speed": "fast"}, "speed must be"),
        ({"timeout": 0}, "timeout must be"),
        ({"flash_timeout": "long"}, "flash_timeout must be"),
    ],
)
def test_settings_that_can_t_work_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ProbeRs(**config)


def test_probes_of_all_kinds_are_taken() -> None:
    for probe in ("0483:374b", "1366:0105:000760123456", "303a:1001-2", "303a:1001-2:7C:DF:A1", "2e8a:000c:"):
        assert ProbeRs(probe=probe).env_from_cfg()["PROBE_RS_PROBE"] == probe


def test_every_call_goes_through_one_place() -> None:
    # given scripts that replace it
    with patch.object(ProbeRs, "_run_cmd", return_value="11 22\n33 44\n") as run, serve(ProbeRs()) as client:
        assert client.info() == "11 22\n33 44\n"
        assert client.read(8, 0, 4) == [0x11, 0x22, 0x33, 0x44]
        run.return_value = ""
        assert client.reset() == ""
    assert [call.args[0] for call in run.call_args_list] == [["info"], ["read", "b8", "0x0", "4"], ["reset"]]


def test_temporary_files_are_gone_afterwards() -> None:
    with TemporaryFilename() as path:
        Path(path).write_bytes(b"x")
    assert not Path(path).exists()


class TestCommandLine:
    @pytest.fixture
    def j(self, client: ProbeRsClient) -> Any:
        return lambda *words: CliRunner().invoke(client.cli(), list(words))

    def test_it_does_all_that_the_client_does(self, tool: Tool, j: Any, elf: Path) -> None:
        assert "ARM Chip" in j("info").output
        assert "0105" in j("list").output
        assert j("download", str(elf), "--reset").exit_code == 0
        assert [call["argv"][0] for call in tool.state["calls"][-2:]] == ["download", "reset"]
        assert j("verify", str(elf)).output == "Verification successful\n"
        assert j("write", "16", "0x20000000", "1", "0xffff").exit_code == 0
        assert j("read", "16", "0x20000000", "2").output == "0001 ffff\n"
        assert j("read", "32", "536870912", "1").output == "ffff0001\n"
        assert j("reset").output == ""
        assert j("erase").exit_code == 0

    def test_bad_arguments_are_told(self, j: Any) -> None:
        assert "is not a number" in j("read", "32", "ram", "1").output
        assert j("download", "x", "--format", "zip").exit_code == 2


def test_the_config_of_the_readme_loads() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    config = yaml.safe_load(readme.partition("```yaml\n")[2].partition("```")[0])
    driver = ExporterConfigV1Alpha1DriverInstance.model_validate({"children": config["export"]}).instantiate()
    assert isinstance(driver.children["probe"], ProbeRs)
    driver.close()


def _processes(tool: Tool) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(tool.path).encode() in words:
                found.append(int(entry.name))
    return found


def _eventually(condition: Any) -> None:
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
