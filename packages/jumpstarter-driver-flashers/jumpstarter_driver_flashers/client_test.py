"""What users ask for is checked before a board is touched, and errors say whether another try may help."""

from __future__ import annotations

import concurrent.futures
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from jumpstarter.client.core import DriverError
from jumpstarter.common.exceptions import ArgumentError, ConfigurationError

from . import client as module
from .client import BaseFlasherClient, FlashError, FlashNonRetryableError, FlashRetryableError
from .client import _get_decompression_command as decompression
from .commands import parse_headers
from .driver_test import flasher, serving


class Recorded(BaseFlasherClient):
    """A client that writes down what it would flash."""

    def __init__(self) -> None:
        self.jobs: Any = None

    def _run_flash(self, jobs: Any, options: Any, bundle: Any) -> None:
        self.jobs, self.options, self.bundle = jobs, options, bundle


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(b"x" * 1000)
    return path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"os_image_checksum": "abc"}, "no SHA-256"),
        ({"headers": {"bad name": "x"}}, "Invalid header name 'bad name': must be an HTTP token"),
        ({"headers": {"a": "x\r\ny: z"}}, "Invalid value of the header 'a'"),
        ({"headers": {"a": "x", "A": "y"}}, "Duplicate header 'A'"),
        ({"bearer_token": "x", "headers": {"authorization": "y"}}, "exclude each other"),
        ({"bmap": "/nowhere.bmap"}, "can't read the block map"),
        ({"cacert_file": "/nowhere.pem"}, "can't read '/nowhere.pem'"),
        ({"direct": True}, "download http"),
        ({"direct": True, "force_exporter_http": True}, "through the exporter and past it"),
        ({"target": "a", "block_device": "b"}, "two names for one thing"),
        ({"method": "magic"}, "unknown method"),
    ],
)
def test_wrong_argument_is_told_before_anything_is_changed(image: Path, arguments: dict[str, Any], words: str):
    client = Recorded()
    with pytest.raises(ArgumentError, match=words):
        client.flash(image, **arguments)
    assert client.jobs is None


def test_missing_image_is_told_before_anything_is_changed():
    client = Recorded()
    with pytest.raises(ArgumentError, match=r"can't read the local file '/nowhere/disk\.img'"):
        client.flash("/nowhere/disk.img")
    assert client.jobs is None


@pytest.mark.parametrize("option", [{"verify": True}, {"headers": {"a": "b"}}, {"os_image_checksum": "0" * 64}])
def test_board_that_downloads_itself_can_do_less(option: dict[str, Any]):
    with pytest.raises(ArgumentError, match="leave 'direct' out"):
        Recorded().flash("http://example.com/disk.img", direct=True, **option)


def test_path_may_be_text_or_a_path(image: Path):
    for path in (image, str(image)):
        client = Recorded()
        client.flash(path, os_image_checksum=f"SHA256:{'A' * 64}", partition="usd", target="/dev/sda")
        (job,) = client.jobs
        assert (job.path, job.sha256, job.partition, job.block_device) == (path, "a" * 64, "usd", "/dev/sda")


def test_several_images_go_to_their_partitions_in_one_go(image: Path):
    client = Recorded()
    client.flash({"boot": image, "root": str(image)}, target="/dev/sda")
    assert [(job.partition, job.block_device) for job in client.jobs] == [("boot", "/dev/sda"), ("root", "/dev/sda")]
    with pytest.raises(ArgumentError, match="empty"):
        client.flash({})
    with pytest.raises(ArgumentError, match="names its partitions itself"):
        client.flash({"boot": image}, partition="x")


# -- command line ------------------------------------------------------------------------------------


def run(client: Any, *arguments: str) -> Any:
    return CliRunner().invoke(client.cli(), list(arguments), standalone_mode=True)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client whose flashes are written down, with a tree of real drivers behind it."""
    calls: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr(BaseFlasherClient, "flash", lambda self, path, **options: calls.append((path, options)))
    with serving(flasher(tmp_path)) as client:
        client.calls = calls
        yield client


def test_flash_command_hands_everything_on(asked: Any, image: Path, tmp_path: Path):
    sums = tmp_path / "sums"
    sums.write_text(f"{'b' * 64}  disk.img\n")
    result = run(
        asked,
        *("flash", str(image), "--target", "usd", "-t", "boot", "--os-image-checksum-file", str(sums)),
        *("--header", "A: b:c", "--bearer", "token", "--retries", "1", "--no-power-off", "--verify", "--no-bmap"),
    )
    assert result.exit_code == 0, result.output
    ((path, options),) = asked.calls
    assert path == str(image)
    wanted = {
        "target": "usd",
        "partition": "boot",
        "os_image_checksum": "b" * 64,
        "headers": {"A": "b:c"},
        "bearer_token": "token",
        "retries": 1,
        "power_off": False,
        "verify": True,
        "bmap": False,
    }
    assert wanted.items() <= options.items()


def test_flash_command_takes_several_images(asked: Any):
    result = run(asked, "flash", "-t", "boot:b.img", "-t", "root:http://x/r.img")
    assert result.exit_code == 0, result.output
    assert asked.calls[0][0] == {"boot": "b.img", "root": "http://x/r.img"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "FILE argument is required"),
        (["disk.img", "-t", "a:b"], "FILE can't be combined"),
        (["-t", "nocolon"], "Invalid target spec 'nocolon'"),
        (["disk.img", "--header", "nocolon"], "Invalid header 'nocolon'"),
        (["disk.img", "--bearer", ""], "Bearer token cannot be empty"),
        (["-t", "a:b", "-t", "c:d", "--os-image-checksum", "x"], "single FILE"),
    ],
)
def test_wrong_command_line_is_told(asked: Any, arguments: list[str], words: str):
    result = run(asked, "flash", *arguments)
    assert result.exit_code != 0
    assert words in result.output
    assert not asked.calls


def test_failed_flash_is_one_message_and_a_status(asked: Any, monkeypatch: pytest.MonkeyPatch):
    def fail(self: Any, path: Any, **options: Any) -> None:
        raise FlashError("flashing failed: step 'login': no")

    monkeypatch.setattr(BaseFlasherClient, "flash", fail)
    result = run(asked, "flash", "disk.img")
    assert result.exit_code == 1
    assert result.output == "Error: flashing failed: step 'login': no\n"


def test_commands_are_there(asked: Any):
    result = run(asked, "--help")
    for name in ("flash", "bootloader-shell", "busybox-shell", "power", "serial", "tftp", "http", "uboot"):
        assert name in result.output


# -- names that scripts know ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "program"),
    [("a.img", ""), ("a.gz", "zcat |"), ("a.gzip", "zcat |"), ("a.XZ", "xzcat |"), ("a.zst", "zstdcat |")],
)
def test_program_that_unpacks_is_known_by_the_name(name: str, program: str):
    assert decompression(name) == program


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/b.img", "b.img"),
        ("https://x/a/b.img?token=1", "b.img"),
        ("oci://quay.io/org/name:tag", "name-tag"),
        (Path("c.img"), "c.img"),
    ],
)
def test_name_of_an_image_is_without_place_and_secrets(path: Any, name: str):
    assert Recorded()._filename(path) == name


@pytest.mark.parametrize("token", ["", "  ", "a b", "ä", "x" * 4097])
def test_bearer_token_that_can_not_be_one_is_refused(token: str):
    with pytest.raises(click.ClickException, match="Bearer token"):
        Recorded()._validate_bearer_token(token)


def test_oci_credentials_come_from_arguments_or_the_environment(monkeypatch: pytest.MonkeyPatch):
    client = Recorded()
    monkeypatch.setenv("OCI_USERNAME", "env")
    monkeypatch.setenv("OCI_PASSWORD", "secret")
    assert client._resolve_oci_credentials("oci://x/y", "me", "pw").username == "me"
    assert client._resolve_oci_credentials("oci://x/y", None, None).username == "env"
    assert not client._resolve_oci_credentials("http://x/y", None, None).is_authenticated
    with pytest.raises(click.ClickException, match="requires both"):
        client._resolve_oci_credentials("oci://x/y", "me", " ")


def test_headers_are_quoted_for_a_shell():
    assert Recorded()._curl_header_args({"A": "it's"}) == """-H 'A: it'"'"'s'"""
    assert parse_headers(("A: b",)) == {"A": "b"}


def test_secrets_are_hidden():
    client = Recorded()
    client._redaction_values = {"secret"}
    assert client._redact_sensitive_values("a secret here") == "a *** here"


def chained(outer: BaseException, cause: BaseException) -> BaseException:
    outer.__cause__ = cause
    return outer


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (FlashRetryableError("x"), False),
        (FlashNonRetryableError("x"), True),
        (RuntimeError("x"), False),
        (ConfigurationError("x"), True),
        (ArgumentError("x"), True),
        (concurrent.futures.CancelledError(), True),
        (chained(RuntimeError("x"), FlashNonRetryableError("y")), True),
        (ExceptionGroup("g", [FlashRetryableError("x"), FlashNonRetryableError("y")]), True),
        (ExceptionGroup("g", [RuntimeError("x"), chained(ValueError("z"), FlashRetryableError("y"))]), False),
    ],
)
def test_errors_say_whether_another_try_may_help(error: BaseException, final: bool):
    found = Recorded()._categorize_exception(error)
    assert isinstance(found, FlashNonRetryableError if final else FlashRetryableError)


def test_unknown_error_is_kept_as_the_cause():
    error = RuntimeError("x")
    found = Recorded()._categorize_exception(error)
    assert found.__cause__ is error


# -- tries -------------------------------------------------------------------------------------------


class Tries:
    """A procedure that fails a number of times."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)

    def run(self) -> None:
        if self.errors:
            raise self.errors.pop(0)


class Said:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def step(self, text: str) -> None:
        self.lines.append(text)


class Power:
    def __init__(self) -> None:
        self.offs = 0

    def off(self) -> None:
        self.offs += 1


@pytest.fixture
def trying(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(module, "RETRY_BASE", 0.001)
    client = Recorded()
    client.children = {"power": Power()}  # type: ignore[dict-item]
    return client


def attempt(client: Any, *errors: BaseException, retries: int = 3, power_off: bool = True) -> Said:
    from .arguments import Options

    said = Said()
    client._try_to_flash(Tries(*errors), Options(retries=retries, power_off=power_off), said)
    return said


def test_failure_that_passes_is_told_and_tried_again(trying: Any):
    said = attempt(trying, FlashRetryableError("step 'login': no"), RuntimeError("y"))
    assert "step 'login': no\nTrying again in 0.001 s (3 tries left)" in said.lines
    assert trying.children["power"].offs == 1


def test_failure_that_stays_is_raised_at_once_and_the_board_is_switched_off(trying: Any):
    with pytest.raises(FlashError, match="flashing failed: step 'target': no"):
        attempt(trying, FlashNonRetryableError("step 'target': no"))
    assert trying.children["power"].offs == 1


def test_tries_are_counted(trying: Any):
    with pytest.raises(FlashError, match=r"flashing failed \(tried 3 times\): z"):
        attempt(trying, *[FlashRetryableError("z")] * 5, retries=2)


def test_interrupted_flash_switches_the_board_off(trying: Any):
    with pytest.raises(KeyboardInterrupt):
        attempt(trying, KeyboardInterrupt())
    assert trying.children["power"].offs == 1


def test_board_that_is_to_reboot_stays_on(trying: Any):
    attempt(trying, power_off=False)
    assert trying.children["power"].offs == 0


def test_power_that_can_not_be_switched_off_at_the_end_is_told(trying: Any, monkeypatch: pytest.MonkeyPatch):
    def fail() -> None:
        raise DriverError("relay stuck")

    monkeypatch.setattr(trying.children["power"], "off", fail)
    with pytest.raises(FlashError, match="is written, but the board could not be switched off: relay stuck"):
        attempt(trying)
