"""Flashing from registries, with a program in the place of `fls` that does what it is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jumpstarter.client.core import DriverError, DriverInvalidArgument
from jumpstarter.common.utils import serve

from jumpstarter_driver_qemu.driver import Qemu

URL = "oci://registry.example.com/org/image:1"

FLS = """#!/bin/sh
# Takes the place of fls: "from-url URL FILE".
echo "fetching $2 as ${FLS_REGISTRY_USERNAME:-nobody}:$FLS_REGISTRY_PASSWORD"
case $2 in
*:broken) echo "manifest unknown" >&2; echo half > "$3"; exit 4 ;;
*:slow) echo $$ > "$3.pid"; exec sleep 300 ;;
esac
printf 'firmware' > "$3"
echo written >&2
"""


@pytest.fixture(autouse=True)
def fls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program on the search path, and no credentials from the machine that runs the test."""
    program = tmp_path / "bin" / "fls"
    program.parent.mkdir()
    program.write_text(FLS)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    for name in ("OCI_USERNAME", "OCI_PASSWORD", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return program


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """The directory of the machine's images."""
    return tmp_path / "images"


@pytest.fixture
def client(images: Path) -> Iterator[Any]:
    """A client of a machine's flasher."""
    with serve(Qemu(image_dir=str(images), flash_timeout=0.5)) as client:
        yield client.flasher


def test_image_becomes_that_of_the_partition(client: Any, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert client.flash_oci(URL, "bios") == 0
    assert (images / "bios").read_bytes() == b"firmware"
    assert capsys.readouterr() == (f"fetching {URL} as nobody:\n", "written\n")


def test_flash_takes_the_url_too(client: Any, images: Path) -> None:
    client.flash(URL, target="bios")
    assert (images / "bios").read_bytes() == b"firmware"


def test_unary_call_takes_the_url_too(client: Any, images: Path) -> None:
    client.call("flash", URL, "bios")
    assert (images / "bios").read_bytes() == b"firmware"


def test_output_is_streamed_with_the_status_last(client: Any) -> None:
    items = list(client.streamingcall("flash_oci", URL, "bios"))
    assert items[-1] == ["", "", 0]
    assert "".join(out for out, _, _ in items) == f"fetching {URL} as nobody:\n"


def test_given_credentials_win_over_those_of_the_environment(
    client: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OCI_USERNAME", "joe")
    monkeypatch.setenv("OCI_PASSWORD", "one")
    client.flash_oci(URL, "bios")
    client.flash_oci(URL, "bios", username="ann", password="two")
    assert capsys.readouterr().out == f"fetching {URL} as joe:one\nfetching {URL} as ann:two\n"


def test_failure_is_quoted_and_changes_nothing(client: Any, images: Path) -> None:
    client.flash_oci(URL, "bios")
    with pytest.raises(DriverError, match="fls flash failed with exit status 4: manifest unknown"):
        client.flash_oci(URL.replace(":1", ":broken"), "bios")
    assert (images / "bios").read_bytes() == b"firmware"
    assert sorted(path.name for path in images.iterdir()) == [".lock", "bios"]


def test_late_program_is_stopped(client: Any) -> None:
    with pytest.raises(DriverError, match=r"fls flash timed out after 0\.5 s"):
        client.flash_oci(URL.replace(":1", ":slow"), "bios")


def test_missing_program_is_named(client: Any, fls: Path) -> None:
    fls.unlink()
    with pytest.raises(DriverError, match="fls command not found"):
        client.flash_oci(URL, "bios")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("https://example.com/image",), "OCI URL must start with oci://"),
        ((URL, "bios", "joe"), "OCI authentication requires both"),
        ((URL, "boot"), "invalid partition name 'boot'"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(client: Any, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(DriverInvalidArgument, match=message):
        list(client.streamingcall("flash_oci", *arguments))


def test_custom_program_must_be_allowed(images: Path) -> None:
    with (
        serve(Qemu(image_dir=str(images), fls_custom_binary_url="http://127.0.0.1:1/fls")) as client,
        pytest.raises(DriverError, match="a custom FLS binary is not allowed"),
    ):
        client.flasher.flash_oci(URL, "bios")
