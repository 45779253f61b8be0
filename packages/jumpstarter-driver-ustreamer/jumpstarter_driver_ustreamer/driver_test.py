"""The driver with the real program: without a camera, killed, misconfigured; and in the lab guest with a camera."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from jumpstarter.client.core import DriverError
from jumpstarter.common.utils import serve
from jumpstarter.driver import export
from jumpstarter_cli_driver.requirements import examine
from jumpstarter_testbench.requirements import program
from PIL import Image

from .common import UStreamerState
from .driver import UStreamer, find_ustreamer

real = [pytest.mark.daemon, pytest.mark.need("ustreamer")]


def without_camera(tmp_path: Path, **options: Any) -> UStreamer:
    """A driver whose camera is not plugged in."""
    return UStreamer(args={"device": str(tmp_path / "no-camera")}, **options)


def children_of(pid: int) -> list[int]:
    """Processes that a process has started."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def ended(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "ZX"


def eventually(condition: Callable[[], Any], what: str, timeout: float = 90) -> Any:
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def shown() -> Iterator[tuple[UStreamer, Any]]:
    """A driver that shows the picture of the program itself, and its client."""
    driver = UStreamer(offline="picture")
    with serve(driver) as client:
        yield driver, client


class TestWithoutCamera:
    pytestmark = real

    def test_program_starts_when_somebody_looks_and_ends_with_the_session(self) -> None:
        driver = UStreamer()
        with serve(driver) as client:
            assert driver.process is None
            assert client.state().ok
            assert driver.process is not None
            assert driver.socketp is not None
            pid, folder = driver.process.pid, driver.socketp.parent
            assert folder.stat().st_mode & 0o077 == 0

        assert ended(pid)
        assert not folder.exists()

    def test_state_is_that_of_the_program(self, tmp_path: Path) -> None:
        with serve(without_camera(tmp_path)) as client:
            state = client.state()

        assert isinstance(state, UStreamerState)
        assert (state.ok, state.online, state.width, state.height) == (True, False, 640, 480)
        assert state.result.encoder.type == "CPU"
        assert state.result.source.resolution.width == 640
        assert "there is no" in (state.reason or "")

    def test_exporter_that_has_no_camera_at_all_shows_the_picture_of_the_program(self) -> None:
        if os.path.exists("/dev/video0"):
            pytest.skip("this machine has a camera")
        with serve(UStreamer()) as client:
            assert client.snapshot().size == (640, 480)

    def test_camera_that_is_not_plugged_in_is_an_error(self, tmp_path: Path) -> None:
        with serve(without_camera(tmp_path)) as client:
            with pytest.raises(DriverError, match=r"the camera delivers no picture: there is no .*/no-camera"):
                client.snapshot()
            with pytest.raises(DriverError, match="the camera delivers no picture"):
                client.call("snapshot")

    def test_picture_instead_of_an_error_is_a_matter_of_configuration(self, tmp_path: Path) -> None:
        blank = tmp_path / "blank.jpg"
        Image.new("RGB", (80, 60), "blue").save(blank, "JPEG")
        driver = UStreamer(args={"device": str(tmp_path / "none"), "blank": str(blank)}, offline="picture")

        with serve(driver) as client:
            assert client.snapshot().size == (80, 60)

    def test_killed_program_is_started_again(self) -> None:
        driver = UStreamer(offline="picture")
        with serve(driver) as client:
            client.snapshot()
            assert driver.process is not None
            (pid,) = children_of(driver.process.pid)
            os.kill(pid, signal.SIGKILL)
            assert client.snapshot().size == (640, 480)
            assert client.state().ok

    def test_live_stream_ends_when_the_program_is_killed_and_can_be_opened_again(self) -> None:
        import anyio

        driver = UStreamer(offline="picture")
        with serve(driver) as client:
            for _ in range(2):
                with client.stream() as stream:
                    stream.send(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    assert stream.receive().startswith(b"HTTP/1.0 200 OK")
                    assert driver.process is not None
                    os.kill(children_of(driver.process.pid)[0], signal.SIGKILL)
                    with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                        while stream.receive():
                            pass

    def test_option_that_the_program_does_not_know_is_told_in_its_words(self) -> None:
        with serve(UStreamer(args={"no-such-option": 1})) as client:
            with pytest.raises(DriverError, match=r"ended with exit status 1.*\n.*unrecognized option") as caught:
                client.snapshot()
            assert "Check args in the exporter config" in str(caught.value)

    def test_program_that_does_not_answer_is_given_up(self, tmp_path: Path) -> None:
        silent = tmp_path / "silent"
        silent.write_text("#!/bin/sh\necho starting\nexec sleep 600\n")
        silent.chmod(0o755)
        driver = UStreamer(executable=str(silent), start_timeout=0.5)
        with serve(driver) as client:
            with pytest.raises(DriverError, match=r"did not listen within 0.5 s. It said:\nstarting"):
                client.state()
            assert driver.process is None

    def test_several_callers_share_one_program(self, shown: tuple[UStreamer, Any]) -> None:
        from concurrent.futures import ThreadPoolExecutor

        driver, client = shown
        with ThreadPoolExecutor(8) as pool:
            sizes = {image.size for image in pool.map(lambda _: client.snapshot(), range(16))}
            assert driver.process is not None
            assert len(children_of(driver.process.pid)) == 1

        assert sizes == {(640, 480)}

    def test_no_program_is_left_when_the_exporter_is_killed(self) -> None:
        code = """if True:
            import sys
            from jumpstarter.common.utils import serve
            from jumpstarter_driver_ustreamer.driver import UStreamer
            driver = UStreamer()
            with serve(driver) as client:
                client.state()
                guard = driver.process.pid
                print(guard, open(f"/proc/{guard}/task/{guard}/children").read(), driver.socketp, flush=True)
                sys.stdin.read()
        """
        exporter = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert exporter.stdout is not None
        guard, child, socket = exporter.stdout.readline().split()
        assert not ended(int(child))

        exporter.kill()
        exporter.communicate()

        eventually(lambda: ended(int(child)) and ended(int(guard)), "the program ends")
        eventually(lambda: not Path(socket).parent.exists(), "its directory is removed")

    def test_exporter_without_standard_output_starts_it(self) -> None:
        code = """if True:
            from jumpstarter.common.utils import serve
            from jumpstarter_driver_ustreamer.driver import UStreamer
            with serve(UStreamer()) as client:
                assert client.state().ok
        """
        subprocess.run(["sh", "-c", '"$0" -c "$1" <&- >&- 2>&-', sys.executable, code], check=True, timeout=60)

    def test_commands(self, shown: tuple[UStreamer, Any], tmp_path: Path) -> None:
        _, client = shown
        path = tmp_path / "x.jpg"
        state = CliRunner().invoke(client.cli(), ["state"], catch_exceptions=False).output
        assert re.match(r"offline\nreason: .*\nresolution: 640x480\n", state)
        parsed = json.loads(CliRunner().invoke(client.cli(), ["state", "--json"], catch_exceptions=False).output)
        assert parsed["result"]["encoder"]["quality"] == 80
        assert CliRunner().invoke(client.cli(), ["snapshot", "-o", str(path)]).exit_code == 0
        assert Image.open(path).size == (640, 480)

    @pytest.mark.device
    def test_page_shows_the_stream_in_a_real_browser(
        self, shown: tuple[UStreamer, Any], browse: Callable[[str], Any], tmp_path: Path
    ) -> None:
        with shown[1].player() as url:
            page = browse(url)
            page.wait_for("document.getElementById('picture').naturalWidth === 640")
            page.wait_for("document.getElementById('status').textContent.startsWith('offline')")
            assert page.screenshot(tmp_path / "page.png").stat().st_size > 5000


class OldUStreamer(UStreamer):
    """A driver of a published release: no pieces, no path."""

    snapshot_chunks = None  # type: ignore[assignment]
    stream_path = None  # type: ignore[assignment]

    @export
    async def state(self) -> Any:
        state = await super().state()
        return {"ok": state.ok, "result": state.result.model_dump()}


@pytest.mark.daemon
@pytest.mark.need("ustreamer")
def test_exporters_of_published_releases_serve_this_client() -> None:
    with serve(OldUStreamer(offline="picture")) as client:
        assert client.snapshot().size == (640, 480)
        assert (client.state().ok, client.state().width, client.stream_path()) == (True, 640, "/stream")


# -- configuration ----------------------------------------------------------------------------------------------------


def test_missing_program_is_told_when_the_config_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(FileNotFoundError, match="Install it: apt-get install ustreamer"):
        find_ustreamer()
    with pytest.raises(FileNotFoundError, match="Install it: apt-get install ustreamer"):
        UStreamer()


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"executable": "/nowhere/ustreamer"}, FileNotFoundError, "the program /nowhere/ustreamer does not exist"),
        ({"executable": "/bin/true", "args": {"unix": "x"}}, ValueError, "the driver chooses the socket"),
        ({"executable": "/bin/true", "start_timeout": 0}, ValueError, "start_timeout must be above 0"),
        ({"executable": "/bin/true", "start_timeout": "1"}, ValueError, "start_timeout must be a number"),
        ({"executable": "/bin/true", "offline": "maybe"}, ValueError, "offline must be error or picture"),
    ],
)
def test_bad_configuration_is_refused(config: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        UStreamer(**config)


def test_example_of_the_readme_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jumpstarter.config.exporter import ExporterConfigV1Alpha1

    monkeypatch.setattr("jumpstarter_driver_ustreamer.driver.shutil.which", lambda name: f"/usr/bin/{name}")
    readme = Path(__file__).parent.parent / "README.md"
    example = re.search(r"```yaml\n(apiVersion.*?)```", readme.read_text(), re.DOTALL)
    assert example is not None
    path = tmp_path / "exporter.yaml"
    path.write_text(example[1])

    root = ExporterConfigV1Alpha1.load_path(path).instantiate()

    assert isinstance(root.children["video"], UStreamer)


def test_what_the_driver_needs_is_known_to_the_doctor() -> None:
    found = {finding.requirement: finding for finding in examine("UStreamer", lambda: UStreamer)}

    assert set(found) == {"ustreamer", "/dev/video0"}
    assert found["/dev/video0"].state in ("ok", "optional")


# -- a camera ---------------------------------------------------------------------------------------------------------

VIDEO = Path("/dev/video0")
VIVID = Path("/sys/bus/platform/drivers/vivid")
CAMERA = {"device": str(VIDEO), "resolution": "320x180"}


@pytest.fixture(scope="module")
def camera() -> None:
    """The kernel's virtual camera, at 25 pictures per second."""
    subprocess.run([program("modprobe"), "vivid", "n_devs=1"], check=True, capture_output=True, timeout=60)
    eventually(VIDEO.exists, "the camera appears")


def shade(image: Image.Image) -> int:
    """How many colours are in a picture: the test picture of the camera has many, the one without a signal has few."""
    return len(image.convert("P", palette=Image.Palette.ADAPTIVE, colors=16).getcolors() or [])


@pytest.mark.lab_guest
@pytest.mark.need("ustreamer")
class TestWithCamera:
    def test_picture_and_state_are_those_of_the_camera(self, camera: None) -> None:
        with serve(UStreamer(args=CAMERA, start_timeout=90)) as client:
            image = client.snapshot()
            assert shade(image) >= 8
            # 25 on a machine of its own; the guest is emulated, beside other tests.
            state = eventually(lambda: (state := client.state()).fps > 0 and state, "pictures arrive")
            assert state.online
            assert (state.width, state.height) == image.size
            assert state.reason is None

    def test_live_stream_has_moving_pictures(self, camera: None) -> None:
        from jumpstarter_driver_video.mjpeg import MjpegReader

        with serve(UStreamer(args=CAMERA, start_timeout=90)) as client:
            client.snapshot()
            reader, pictures = MjpegReader("boundarydonotcross"), set[bytes]()
            with client.stream() as stream:
                stream.send(f"GET {client.stream_path()} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                while len(pictures) < 10:
                    pictures.update(reader.feed(stream.receive()))
        assert all(Image.open(io.BytesIO(picture)).size for picture in pictures)

    def test_busy_camera_is_told_and_works_when_it_is_free(self, camera: None) -> None:
        first = UStreamer(args=CAMERA, start_timeout=90)
        second = UStreamer(args=CAMERA, start_timeout=90)
        with serve(second) as waiting:
            with serve(first) as holding:
                holding.snapshot()
                with pytest.raises(DriverError, match=r"/dev/video0: .*[Bb]usy"):
                    waiting.snapshot()

            def snapshot() -> Any:
                try:
                    return waiting.snapshot()
                except DriverError:
                    return None

            assert shade(eventually(snapshot, "the camera is free")) >= 8

    def test_unplugged_camera_is_told_and_works_when_it_is_back(self, camera: None) -> None:
        with serve(UStreamer(args=CAMERA, start_timeout=90)) as client:
            client.snapshot()
            (VIVID / "unbind").write_text("vivid.0")
            try:
                eventually(lambda: not VIDEO.exists(), "the camera disappears")

                def refusal() -> str | None:
                    try:
                        client.snapshot()
                    except DriverError as error:
                        return str(error)
                    return None

                assert "there is no /dev/video0" in eventually(refusal, "the driver notices")
                assert not client.state().online
            finally:
                (VIVID / "bind").write_text("vivid.0")
            eventually(VIDEO.exists, "the camera is back")

            def snapshot() -> Any:
                try:
                    return client.snapshot()
                except DriverError:
                    return None

            assert shade(eventually(snapshot, "pictures come again")) >= 8
