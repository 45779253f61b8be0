"""The driver against the VNC server of QEMU: pictures, passwords, the viewer in a real browser."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from jumpstarter.client.core import DriverError
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.common.utils import serve
from jumpstarter_driver_network.driver import EchoNetwork, TcpNetwork, UnixNetwork
from jumpstarter_testbench.process import accepts_unix, running
from jumpstarter_testbench.requirements import need, program
from PIL import Image, ImageChops

from .client import VncClient, VNClient
from .driver import Vnc
from .errors import PasswordNeeded, ScreenError

Start = Callable[..., Path]


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[Start]:
    """Start a machine that shows its firmware's screen; the folder with its sockets `vnc` and `qmp`."""
    need("qemu-x86_64")
    with ExitStack() as stack:

        def start(password: str | None = None) -> Path:
            secret = ["-object", f"secret,id=s,data={password}"] if password else []
            vnc = f"unix:{tmp_path}/vnc" + (",password-secret=s" if password else "")
            command = [
                *(program("qemu-system-x86_64"), "-M", "q35", "-accel", "tcg", "-m", "64", "-nodefaults", "-S"),
                *("-name", "testboard", "-display", "none", "-device", "VGA", *secret, "-vnc", vnc),
                *("-qmp", f"unix:{tmp_path}/qmp,server=on,wait=off"),
            ]
            ready = tmp_path / "vnc"
            stack.enter_context(running(command, log=tmp_path / "log", ready=lambda: accepts_unix(ready)))
            return tmp_path

        yield start


def screen(folder: Path) -> Vnc:
    return Vnc(children={"tcp": UnixNetwork(path=str(folder / "vnc"))})


def screendump(folder: Path) -> Image.Image:
    """What QEMU itself says is on the screen."""
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(20)
        monitor.connect(str(folder / "qmp"))
        with monitor.makefile("rw") as lines:
            lines.readline()
            arguments = {"filename": str(folder / "dump.ppm")}
            for command in ({"execute": "qmp_capabilities"}, {"execute": "screendump", "arguments": arguments}):
                lines.write(json.dumps(command) + "\n")
                lines.flush()
                answer = json.loads(lines.readline())
                assert "return" in answer, answer
    return Image.open(folder / "dump.ppm").convert("RGB")


@pytest.mark.device
class TestQemu:
    def test_picture_is_that_of_the_machine_pixel_by_pixel(self, qemu: Start) -> None:
        folder = qemu()
        with serve(screen(folder)) as client:
            image = client.snapshot()

        expected = screendump(folder)
        assert image.size == expected.size
        assert len(image.getcolors(1 << 20)) > 1
        assert ImageChops.difference(image, expected).getbbox() is None

    def test_password_is_asked_for(self, qemu: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        path = tmp_path / "x.png"
        with serve(screen(qemu("hunter2"))) as client:
            with pytest.raises(PasswordNeeded):
                client.snapshot()
            with pytest.raises(ScreenError, match="refused this password"):
                client.snapshot("wrong")
            assert client.snapshot("hunter2").size[0] >= 640

            monkeypatch.delenv("VNC_PASSWORD", raising=False)
            missing = CliRunner().invoke(client.cli(), ["snapshot", "-o", str(path)])
            assert missing.exit_code == 1
            assert "asks for a password: set VNC_PASSWORD" in missing.output
            assert not path.exists()
            monkeypatch.setenv("VNC_PASSWORD", "hunter2")
            assert CliRunner().invoke(client.cli(), ["snapshot", "-o", str(path)]).output == f"{path}\n"
            assert Image.open(path).size[0] >= 640

    def test_viewer_shows_the_screen_in_a_real_browser(
        self, qemu: Start, browse: Callable[[str], Any], tmp_path: Path
    ) -> None:
        with serve(screen(qemu())) as client, client.session() as url:
            page = browse(url)
            page.wait_for("document.getElementById('status').innerText == 'Connected to QEMU (testboard)'")
            page.wait_for("document.querySelector('canvas').width >= 640")
            shot = Image.open(page.screenshot(tmp_path / "viewer.png"))
            assert len(shot.convert("RGB").getcolors(1 << 20) or []) > 4


def test_machine_that_is_off_is_an_error(tmp_path: Path) -> None:
    with serve(screen(tmp_path)) as client, pytest.raises(DriverError, match=r"can't connect to Unix socket .*vnc"):
        client.snapshot()


def test_server_that_says_nothing_is_given_up_in_time() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        serve(Vnc(children={"tcp": TcpNetwork(host="127.0.0.1", port=server.getsockname()[1])})) as client,
        pytest.raises(TimeoutError, match=r"did not send its picture within 0.3 s"),
    ):
        client.snapshot(timeout=0.3)


class TestSession:
    def test_url_is_that_of_the_own_viewer_and_plain(self) -> None:
        for default in (False, True):
            with serve(Vnc(children={"tcp": EchoNetwork()}, default_encrypt=default)) as client:
                with client.session() as url:
                    assert url.startswith("http://127.0.0.1:")
                    assert "encrypt=0" in url
                with client.session(encrypt=True) as url:
                    assert "encrypt=0" in url

    @pytest.mark.parametrize(("default", "given", "flag"), [(False, None, 0), (True, None, 1), (True, False, 0)])
    def test_other_viewers_are_told_about_encryption(self, default: bool, given: bool | None, flag: int) -> None:
        viewer = "https://novnc.com/noVNC/vnc.html"
        with (
            serve(Vnc(children={"tcp": EchoNetwork()}, default_encrypt=default)) as client,
            client.session(given, viewer=viewer) as url,
        ):
            assert url.startswith(f"{viewer}?encrypt={flag}&")

    def test_exporters_without_the_default_serve_this_client(self) -> None:
        with serve(OldVnc(children={"tcp": EchoNetwork()})) as client:
            assert client.get_default_encrypt() is False

    def test_command_prints_the_url_and_ends_when_interrupted(self, tmp_path: Path) -> None:
        script = tmp_path / "vnc.py"
        script.write_text(
            "from jumpstarter.common.utils import serve\n"
            "from jumpstarter_driver_network.driver import EchoNetwork\n"
            "from jumpstarter_driver_vnc.driver import Vnc\n"
            "with serve(Vnc(children={'tcp': EchoNetwork()})) as client:\n"
            "    client.cli().main(['session', '--no-browser'])\n"
        )
        process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        with process:
            line = process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/vnc\.html\?.*\n", line)
            assert process.wait(30) != 0

    def test_viewer_that_is_no_page_is_a_usage_error(self) -> None:
        with serve(Vnc(children={"tcp": EchoNetwork()})) as client:
            result = CliRunner().invoke(client.cli(), ["session", "--no-browser", "--viewer", "javascript:1"])
        assert result.exit_code == 2
        assert "viewer must be an http or https URL" in result.output


class OldVnc(Vnc):
    """A driver of a first release: no default."""

    get_default_encrypt = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"children": {}}, "'tcp' child is required"),
        ({"children": {"tcp": EchoNetwork()}, "default_encrypt": "yes"}, "default_encrypt must be true or false"),
    ],
)
def test_bad_configuration_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Vnc(**config)


def test_client_has_both_spellings_of_its_name() -> None:
    assert VNClient is VncClient


def test_example_of_the_readme_loads(tmp_path: Path) -> None:
    from jumpstarter.config.exporter import ExporterConfigV1Alpha1

    readme = Path(__file__).parent.parent / "README.md"
    example = re.search(r"```yaml\n(apiVersion.*?)```", readme.read_text(), re.DOTALL)
    assert example is not None
    path = tmp_path / "exporter.yaml"
    path.write_text(example[1])

    root = ExporterConfigV1Alpha1.load_path(path).instantiate()

    assert isinstance(root.children["screen"], Vnc)


def test_client_module_imports_nothing_heavy() -> None:
    heavy = {"PIL", "anyio", "aiohttp", "pydantic", "grpc", "cryptography"}
    code = f"import sys, jumpstarter_driver_vnc.client; print(*({heavy!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == []
