"""The U-Boot client: a real U-Boot in QEMU, and boards that boot in their own ways."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import pytest
from click.testing import CliRunner
from jumpstarter.client.core import DriverError
from jumpstarter.common.utils import serve
from jumpstarter.driver import export
from jumpstarter_driver_composite.driver import Composite, Proxy
from jumpstarter_driver_power.client import PowerClient
from jumpstarter_driver_power.driver import SyncMockPower
from jumpstarter_driver_pyserial.driver import PySerial
from jumpstarter_driver_qemu.driver import Qemu
from jumpstarter_driver_tftp.driver import Tftp
from pexpect import TIMEOUT

from . import console
from .client import UbootConsoleClient
from .common import ESC
from .conftest import BOUND, Board
from .driver import UbootConsole
from .errors import BoardRestarted, CommandFailed, ConsoleClosed, ConsoleError, ConsoleTimeout, LineTooLong

U_BOOT = Path("/usr/lib/u-boot/qemu_arm64/u-boot.bin")


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Iterator[Any]:
    """An exporter with a virtual board, its U-Boot console and a TFTP server; the board is off."""
    from jumpstarter_testbench.requirements import need

    need("qemu-aarch64", "qemu-img", "u-boot")
    folder = tmp_path_factory.mktemp("tftp")
    (folder / "image.bin").write_bytes(bytes(range(256)) * 1024)
    machine = Qemu(
        arch="aarch64", smp=1, mem="256M", display="none", disk_size="16M", default_partitions={"bios": str(U_BOOT)}
    )
    children = {
        "board": machine,
        "uboot": UbootConsole(children={"power": Proxy(ref="board.power"), "serial": Proxy(ref="board.console")}),
        "tftp": Tftp(root_dir=str(folder), host="127.61.0.1", port=69),
    }
    with serve(Composite(children=children)) as client:
        yield client


@pytest.fixture(scope="class")
def uboot(tree: Any) -> Iterator[UbootConsoleClient]:
    """The client, at the prompt of a board that was power cycled into it."""
    with tree.uboot.reboot_to_console(timeout=60) as client:
        yield client


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


@pytest.mark.device
class TestRealUboot:
    """One boot that all these tests share, except those at the end."""

    def test_commands_have_their_lines_and_status(self, uboot: UbootConsoleClient) -> None:
        lines = uboot.run_command_checked("version")
        assert lines[0].startswith("U-Boot 20")
        assert lines[1] == ""
        assert lines[2].startswith("aarch64-linux-gnu-gcc")
        assert len(lines) == 4
        assert uboot.run_command("echo hello") == b"echo hello\r\nhello\r\n"

    def test_failed_commands_raise_with_their_output(self, uboot: UbootConsoleClient) -> None:
        with pytest.raises(RuntimeError, match="status 1") as caught:
            uboot.run_command_checked("nosuch")
        assert isinstance(caught.value, CommandFailed)
        assert caught.value.output == ["Unknown command 'nosuch' - try 'help'"]
        assert uboot.run_command_checked("nosuch", check=False) == ["Unknown command 'nosuch' - try 'help'"]

    @pytest.mark.parametrize(
        "value", ["plain", "two  words", "it's", 'say "hi"', "back\\slash\\\\", "${x} $y;#", " => ", "ü", ""]
    )
    def test_variables_keep_any_value(self, uboot: UbootConsoleClient, value: str) -> None:
        uboot.set_env("test_value", value)
        assert uboot.get_env("test_value") == value
        uboot.set_env("test_value", None)
        assert uboot.get_env("test_value") is None

    def test_long_values_are_set_whole_or_not_at_all(self, uboot: UbootConsoleClient) -> None:
        uboot.set_env("bootargs", "x" * 400)
        assert uboot.get_env("bootargs") == "x" * 400
        with pytest.raises(LineTooLong, match="characters per line"):
            uboot.set_env("bootargs", "y" * 2000)
        assert uboot.get_env("bootargs") == "x" * 400

    def test_all_variables(self, uboot: UbootConsoleClient) -> None:
        uboot.set_env_dict({"one": "1", "two": "a=b"})
        env = uboot.get_env_dict()
        assert (env["one"], env["two"]) == ("1", "a=b")
        assert "bootcmd" in env

    @pytest.mark.parametrize("name", ["", "a b", "x;reset", "a=b", "a'b"])
    def test_names_that_can_t_be_are_refused(self, uboot: UbootConsoleClient, name: str) -> None:
        with pytest.raises(ValueError, match="can't be the name"):
            uboot.set_env(name, "x")
        with pytest.raises(ValueError, match="can't be the name"):
            uboot.get_env(name)

    def test_values_of_several_lines_are_refused(self, uboot: UbootConsoleClient) -> None:
        with pytest.raises(ValueError, match="can't be typed"):
            uboot.set_env("x", "a\nb")

    def test_time_outs_are_honoured(self, uboot: UbootConsoleClient) -> None:
        with pytest.raises(ConsoleTimeout, match=r"did not end on U-Boot within 0\.3 s"):
            uboot.run_command("sleep 60", timeout=0.3)
        assert uboot.run_command_checked("echo after") == ["after"]

    def test_an_if_without_its_end_is_told(self, uboot: UbootConsoleClient) -> None:
        with pytest.raises(ConsoleError, match="waits for the rest"):
            uboot.run_command("if true; then")
        assert uboot.run_command_checked("echo after") == ["after"]

    def test_dhcp_leaves_autoload_as_it_was(self, uboot: UbootConsoleClient) -> None:
        uboot.set_env("autoload", "yes")
        info = uboot.setup_dhcp()
        assert (info.ip_address, info.gateway, info.netmask, info.cidr) == (
            "10.0.2.15",
            "10.0.2.2",
            "255.255.255.0",
            "24",
        )
        assert uboot.get_env("autoload") == "yes"

    def test_files_come_from_the_tftp_server(self, tree: Any, uboot: UbootConsoleClient) -> None:
        uboot.setup_dhcp()
        try:
            tree.tftp.start()
        except DriverError as error:
            if "ermission" in str(error):
                pytest.skip("port 69 needs root")
            raise
        size = uboot.tftp_load("image.bin", 0x41000000, server="127.61.0.1")
        assert size == 256 * 1024
        assert "crc32 for 41000000 ... 4103ffff ==> " in uboot.run_command_checked("crc32 41000000 ${filesize}")[0]
        with pytest.raises(CommandFailed, match=r"(?i)file not found"):
            uboot.tftp_load("missing.bin", server="127.61.0.1")

    def test_a_reset_during_a_command_is_told(self, tree: Any, uboot: UbootConsoleClient) -> None:
        # given a command that the reset button interrupts
        with pytest.raises(BoardRestarted, match="restarted or left U-Boot"):
            uboot.console.run("echo before; sleep 60", timeout=BOUND, on_text=lambda text: tree.board.reset())
        uboot.p.expect_exact("stop autoboot", timeout=BOUND)
        uboot.p.send(ESC)
        uboot.console.synchronise(BOUND)
        assert uboot.run_command_checked("echo again") == ["again"]

    def test_boot_hands_over_to_what_comes(self, uboot: UbootConsoleClient) -> None:
        uboot.boot("reset", expect="Hit any key to stop autoboot", timeout=BOUND)
        uboot.p.send(ESC)
        assert uboot.run_command_checked("echo again") == ["again"]


@pytest.mark.device
class TestCommandLine:
    """`j uboot` on the board that is still at its prompt; each command connects to the console anew."""

    @pytest.fixture
    def j(self, tree: Any, runner: CliRunner) -> Any:
        return lambda *words: runner.invoke(tree.uboot.cli(), list(words))

    def test_it_does_all_that_the_client_does(self, tree: Any, j: Any) -> None:
        result = j("reboot-to-console", "--timeout", "60", "--debug")
        assert result.exit_code == 0, result.output
        assert "At the prompt of U-Boot 20" in result.stderr
        result = j("run", "echo", "-n", "hello;", "false")
        assert (result.stdout.split(), result.exit_code) == (["hello"], 1)
        assert j("env", "set", "name", "it's").exit_code == 0
        assert j("env", "get", "name").stdout == "it's\n"
        assert json.loads(j("env", "list", "--json").stdout)["name"] == "it's"
        assert "name=it's" in j("env", "list").stdout
        assert j("env", "set", "name").exit_code == 0
        result = j("env", "get", "name")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "'name' is not defined" in result.stderr
        assert j("dhcp").stdout == "10.0.2.15/24 gateway 10.0.2.2\n"
        assert json.loads(j("dhcp", "--json").stdout)["gateway"] == "10.0.2.2"
        result = j("run", "echo 'open")
        assert result.exit_code == 1
        assert "quote that is not closed" in result.stderr
        result = j("tftp-load", "missing", "--server", "127.61.0.9", "--timeout", "0.5")
        assert result.exit_code == 1
        assert "did not end" in result.stderr
        result = j("boot", "reset", "--expect", "stop autoboot")
        assert result.exit_code == 0, result.output
        tree.board.power.off()


@dataclass(kw_only=True)
class BoardPower(SyncMockPower):
    """The supply of a scripted board."""

    board: Any

    @export
    def on(self) -> None:
        """Switch the board on."""
        super().on()
        self.board.switch(True)

    @export
    def off(self) -> None:
        """Switch the board off."""
        super().off()
        self.board.switch(False)


@contextmanager
def client_of(board: Board, **config: Any) -> Iterator[UbootConsoleClient]:
    serial = PySerial(url=f"socket://127.0.0.1:{board.port}", check_present=False)
    driver = UbootConsole(children={"power": BoardPower(board=board), "serial": serial}, **config)
    # The pause of two seconds with the supply off is the power driver's, and tested there.
    at_once = patch.object(PowerClient, "cycle", lambda self, wait=0: (self.off(), self.on()))
    with serve(driver) as client, at_once:
        yield client


class TestReachingThePrompt:
    """Boards that boot in their own ways."""

    @pytest.fixture(autouse=True)
    def near(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """These boards are so near that prompts are complete sooner."""
        monkeypatch.setattr(console, "QUIET", 0.03)

    def test_a_board_that_is_quick_is_stopped(self, scripted: Board) -> None:
        # given a boot delay that would be over before a console is opened after the power cycle
        scripted.boot_delay = 0.3
        with client_of(scripted) as client, client.reboot_to_console():
            assert client.run_command_checked("echo stopped") == ["stopped"]

    def test_a_board_that_is_slow_gets_its_time(self, scripted: Board) -> None:
        scripted.boot_wait = 0.8
        with client_of(scripted, boot_timeout=BOUND) as client, client.reboot_to_console(retries=2):
            assert client.run_command_checked("echo slow") == ["slow"]

    def test_retries_and_timeout_are_limits(self, scripted: Board) -> None:
        scripted.boot_wait = BOUND
        with client_of(scripted) as client:
            with pytest.raises(RuntimeError, match=r"Failed to get U-Boot prompt within 3 tries"):
                client.reboot_to_console(retries=3).__enter__()
            with pytest.raises(RuntimeError, match=r"Failed to get U-Boot prompt within 0.3 s.*showed nothing"):
                client.reboot_to_console(timeout=0.3).__enter__()
            assert "p" not in client.__dict__

    def test_a_board_that_wants_a_word_gets_it(self, scripted: Board) -> None:
        scripted.stop = "stop\r"
        with client_of(scripted, interrupt="stop\r") as client, client.reboot_to_console():
            assert client.run_command_checked("echo keyed") == ["keyed"]

    def test_a_board_that_boots_on_is_told(self, scripted: Board) -> None:
        scripted.stop, scripted.boot_delay = "secret", 0.3
        told = r"has booted on .*Starting kernel.*Set 'interrupt'(.|\n)*login:"
        with client_of(scripted) as client, pytest.raises(RuntimeError, match=told):
            client.reboot_to_console().__enter__()

    def test_nothing_is_sent_before_its_time(self, scripted: Board) -> None:
        # given a ROM loader that takes keys for itself
        scripted.early, scripted.boot_wait = "ROM loader: press any key for the menu\r\n", 0.5
        with client_of(scripted, interrupt_after="autoboot") as client, client.reboot_to_console():
            assert client.run_command_checked("echo here") == ["here"]
        assert scripted.typed_early == ""

    @pytest.mark.parametrize(
        ("prompt", "config"), [("U-Boot> ", {}), ("MX8 # ", {"prompt": "MX8 #"}), ("=> ", {"prompt": "=>"})]
    )
    def test_prompts(self, scripted: Board, prompt: str, config: dict[str, str]) -> None:
        scripted.prompt = prompt
        with client_of(scripted, **config) as client, client.reboot_to_console():
            assert client.run_command_checked("echo prompt") == ["prompt"]

    def test_a_prompt_in_the_boot_messages_is_none(self, scripted: Board) -> None:
        scripted.early, scripted.boot_wait = "SPL: mode => eMMC\r\n=> loading\r\n", 0.5
        with client_of(scripted) as client, client.reboot_to_console():
            assert client.run_command_checked("echo real") == ["real"]

    def test_what_was_said_before_the_power_cycle_does_not_count(self, scripted: Board) -> None:
        # given a board at the login of Linux whose last words are still in the port
        scripted.early, scripted.at_prompt, scripted.boot_delay = "=> Linux version 6\r\nboard login: ", False, 0
        with client_of(scripted) as client:
            client.power.on()
            scripted.early, scripted.boot_delay = "", 2
            with client.reboot_to_console():
                assert client.run_command_checked("echo new") == ["new"]

    def test_a_console_that_the_board_powers_is_opened_again(self, scripted: Board) -> None:
        switch = scripted.switch

        def switch_with_adapter(on: bool) -> None:
            if not on:
                scripted.unplug()
            switch(on)

        scripted.switch = switch_with_adapter  # type: ignore[method-assign]
        with client_of(scripted) as client, client.reboot_to_console():
            assert client.run_command_checked("echo plugged") == ["plugged"]

    def test_a_console_that_is_unplugged_is_told_and_works_again(self, scripted: Board) -> None:
        scripted.commands["pull"] = lambda board: board.unplug() or 0
        with client_of(scripted) as client:
            with client.open_console(), pytest.raises(ConsoleClosed):
                client.run_command("pull")
            with client.open_console():
                assert client.run_command_checked("echo back") == ["back"]

    def test_a_console_in_use_is_told_before_anything_is_switched(
        self, scripted: Board, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("jumpstarter_driver_pyserial.exclusive.RELEASE_WAIT", 0.2)
        with client_of(scripted) as client, client.serial.pexpect():
            with pytest.raises(DriverError, match="in use"):
                client.reboot_to_console().__enter__()
            assert scripted.powered

    def test_the_console_of_linux_is_not_taken_for_u_boot_s(self, scripted: Board) -> None:
        scripted.prompt = "root@board:~# "
        told = r"'root@board:~#', which is none of U-Boot's"
        with client_of(scripted) as client, pytest.raises(ConsoleError, match=told):
            client.open_console().__enter__()

    def test_commands_need_a_console(self, scripted: Board) -> None:
        with client_of(scripted) as client:
            with pytest.raises(RuntimeError, match="Not in a U-Boot console"):
                client.run_command("version")
            assert not hasattr(client, "p")

    def test_tries_go_on_until_one_succeeds(self, scripted: Board, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("jumpstarter_driver_uboot.client.RETRY_PAUSE", 0.01)
        states = iter([1, 1, 0, 1, 1])
        scripted.commands["dhcp"] = lambda board: board.print("trying\r\n") or next(states)
        with client_of(scripted) as client, client.open_console():
            assert client.run_command_checked("dhcp", tries=3) == ["trying"]
            with pytest.raises(CommandFailed):
                client.run_command_checked("dhcp", tries=2)

    def test_dhcp_that_fails_leaves_autoload_as_it_was(self, scripted: Board) -> None:
        scripted.commands["dhcp"] = lambda board: board.print("no answer\r\n") or 1
        with client_of(scripted) as client, client.open_console():
            with pytest.raises(CommandFailed, match="no answer"):
                client.setup_dhcp(tries=1)
            assert "autoload" not in scripted.env
            scripted.commands["dhcp"] = lambda board: 0
            with pytest.raises(ValueError, match="without address and gateway"):
                client.setup_dhcp()


class TestWithoutExporter:
    """A client whose children are objects of a script."""

    @pytest.fixture
    def client(self) -> Any:
        client = object.__new__(UbootConsoleClient)
        client.children = {"power": MagicMock(), "serial": MagicMock()}
        client.logger = MagicMock()
        return client

    @pytest.mark.parametrize("retries", [0, 1, 5])
    def test_each_try_sends_once(self, client: Any, retries: int) -> None:
        session = client.children["serial"].pexpect.return_value.__enter__.return_value
        session.expect_exact.side_effect = TIMEOUT("")
        with (
            patch.object(UbootConsoleClient, "prompt", "=>"),
            pytest.raises(RuntimeError, match="Failed to get U-Boot prompt"),
        ):
            client.reboot_to_console(retries=retries).__enter__()
        client.children["power"].cycle.assert_called_once_with()
        assert session.send.call_args_list == [((ESC,),)] * retries

    def test_the_first_prompt_ends_the_tries(self, client: Any) -> None:
        session = client.children["serial"].pexpect.return_value.__enter__.return_value
        session.expect_exact.side_effect = [TIMEOUT(""), TIMEOUT(""), 0]
        with patch.object(UbootConsoleClient, "prompt", "\n=>"), client.reboot_to_console():
            assert client.p is session
        assert session.send.call_count == 3
        assert not hasattr(client, "p")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"prompt": " "}, "prompt must be a text"),
        ({"prompt": 7}, "prompt must be a text"),
        ({"interrupt": ""}, "interrupt must be a text"),
        ({"interrupt_after": " "}, "interrupt_after must be a text"),
        ({"boot_timeout": 0}, "boot_timeout must be a number of seconds above 0"),
        ({"boot_timeout": "long"}, "boot_timeout must be a number of seconds above 0"),
    ],
)
def test_settings_that_can_t_work_are_refused(config: dict[str, Any], message: str) -> None:
    children = {"power": SyncMockPower(), "serial": PySerial(url="loop://")}
    with pytest.raises(ValueError, match=message):
        UbootConsole(children=children, **config)


@pytest.mark.parametrize("missing", ["power", "serial"])
def test_a_missing_child_is_named(missing: str) -> None:
    children = {"power": SyncMockPower(), "serial": PySerial(url="loop://")}
    del children[missing]
    with pytest.raises(ValueError, match=re.escape(f"needs a child '{missing}'")):
        UbootConsole(children=children)
