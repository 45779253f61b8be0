"""What the board is asked to do ends up on its disk, or the failure is named: with a real busybox at a terminal."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pexpect
import pytest
from anyio.from_thread import start_blocking_portal
from jumpstarter.common.exceptions import ArgumentError
from jumpstarter_driver_http.server import application, serving
from jumpstarter_driver_opendal.images import pieces
from jumpstarter_driver_opendal.images.cache import Cache
from jumpstarter_driver_opendal.images.ingest import Ingest
from jumpstarter_driver_uboot.console import Console
from jumpstarter_driver_uboot.dialects import SHELL
from jumpstarter_testbench.requirements import program

from .board import Board, script, sha256_of_zeros
from .bundle import FlasherBundleManifestV1Alpha1
from .conftest import MIB, image_content
from .errors import FlashNonRetryableError, FlashRetryableError
from .image_service import ImageService
from .procedure import find_disk

pytestmark = [pytest.mark.daemon, pytest.mark.need("busybox")]


TOOLS = (
    *("cat", "cp", "cut", "dd", "grep", "ls", "mkdir", "readlink", "rm", "sh", "sha256sum", "sleep", "tail", "tr"),
    *("wc", "wget", "xzcat", "zcat"),
)


class Shell:
    """A board that is a shell on this machine, with the programs of busybox, and the server that it gets files from."""

    def __init__(self, folder: Path, stack: ExitStack, shell: str = "busybox") -> None:
        self.served = folder / "http"
        self.served.mkdir()
        portal = stack.enter_context(start_blocking_portal())
        opened = portal.wrap_async_context_manager(serving(application(self.served), "127.0.0.1", 0))
        _, port = stack.enter_context(opened)
        self.url = f"http://127.0.0.1:{port}"
        (self.served / "board.sh").write_bytes(script())
        self.tools = folder / "bin"
        self.tools.mkdir()
        for name in TOOLS:
            (self.tools / name).symlink_to(program("busybox"))
        if shell == "dash":  # busybox's own shell has the other programs built in
            (self.tools / "sh").unlink()
            (self.tools / "sh").symlink_to("/bin/dash")
        session = pexpect.spawn(
            *(("/bin/dash", []) if shell == "dash" else (program("busybox"), ["sh"])),
            env={"PATH": str(self.tools), "PS1": "# "},
            encoding="utf-8",
            timeout=20,
        )
        stack.callback(session.close, force=True)
        session.expect_exact("# ")
        self.board = Board(Console(session, SHELL, ["#"]), self.url)
        self.board._program = str(folder / "tmp" / "board.sh")
        self.board.install(f"{self.url}/board.sh")


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with ExitStack() as stack:
        yield Shell(tmp_path_factory.mktemp("shell"), stack)


class Desk:
    """The board with a file as its disk."""

    def __init__(self, folder: Path, shell: Shell) -> None:
        self.folder = folder
        self.disk = folder / "disk"
        self.board, self.served, self.url = shell.board, shell.served, shell.url

    def offer(self, content: bytes) -> dict[str, Any]:
        """Put an image where the board finds it."""
        ingest = Ingest(Cache(self.folder / "cache", "1GiB"), "test")
        ingest.feed(content)
        image = ingest.finish()
        ingest.close()
        service = ImageService(Cache(self.folder / "cache", "1GiB"), lambda: self.served)
        return service.offer(service._keep(image)["key"])

    def write(self, offered: dict[str, Any]) -> list[int]:
        """Write an image; return the progress that was told."""
        told: list[int] = []
        self.board.write(str(self.disk), offered["path"], offered["pieces"], told.append)
        return told


@pytest.fixture
def desk(tmp_path: Path, shell: Shell) -> Desk:
    desk = Desk(tmp_path, shell)
    desk.disk.write_bytes(b"\xaa" * (12 * MIB))
    return desk


def test_image_is_written_with_its_zeros_and_nothing_else(desk: Desk):
    content = image_content()
    told = desk.write(desk.offer(content))
    disk = desk.disk.read_bytes()
    assert disk[: len(content)] == content
    assert disk[len(content) :] == b"\xaa" * (12 * MIB - len(content))
    assert told == sorted(told)
    assert told[-1] == len(content)


def test_image_with_an_odd_size_is_written_to_its_last_byte(desk: Desk):
    content = image_content()[: 3 * MIB] + os.urandom(12_345)
    desk.write(desk.offer(content))
    assert desk.disk.read_bytes()[: len(content)] == content
    assert desk.disk.stat().st_size == 12 * MIB


def test_pieces_are_written_in_their_order_and_told_as_one(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pieces.PieceWriter.__init__, "__defaults__", (MIB, None))
    content = image_content()
    offered = desk.offer(content)
    assert len(offered["pieces"]) > 3
    told = desk.write(offered)
    assert desk.disk.read_bytes()[: len(content)] == content
    assert told == sorted(told)
    assert told[-1] == len(content)


def test_piece_whose_transfer_breaks_is_sent_again_and_not_those_before_it(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pieces.PieceWriter.__init__, "__defaults__", (MIB, None))
    content = image_content()
    offered = desk.offer(content)
    place = desk.served / offered["path"]
    third = (place / "00002").read_bytes()
    (place / "00002").unlink()
    commands: list[list[str]] = []
    real = desk.board._run

    def run(command: str, arguments: list[str], *more: Any) -> str:
        commands.append(arguments)
        try:
            return real(command, arguments, *more)
        finally:
            (place / "00002").write_bytes(third)

    monkeypatch.setattr(desk.board, "_run", run)
    desk.write(offered)
    assert desk.disk.read_bytes()[: len(content)] == content
    assert [arguments[2] for arguments in commands] == ["00000", "00002"]


def test_what_was_written_is_verified(desk: Desk):
    offered = desk.offer(image_content())
    desk.write(offered)
    told: list[int] = []
    desk.board.verify(str(desk.disk), offered["path"], offered["pieces"][0], told.append)
    assert told == sorted(told)
    assert len(image_content()) - 2 * MIB < told[-1] <= len(image_content())


@pytest.mark.parametrize("place", [100, 4 * MIB], ids=["data", "zeros"])
def test_one_wrong_byte_on_the_disk_is_found(desk: Desk, place: int):
    offered = desk.offer(image_content())
    desk.write(offered)
    with desk.disk.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(FlashNonRetryableError, match="holds something else than was written"):
        desk.board.verify(str(desk.disk), offered["path"], offered["pieces"][0], print)


def test_disk_that_is_too_small_in_the_middle_of_a_piece_is_named(desk: Desk):
    offered = desk.offer(image_content())
    desk.disk = Path("/dev/full")
    with pytest.raises(FlashNonRetryableError, match=r"can't write piece 00000 to /dev/full: .*No space left"):
        desk.write(offered)


def test_piece_that_is_missing_is_named_and_not_taken_for_written(desk: Desk):
    offered = desk.offer(image_content())
    (desk.served / offered["path"] / "00000").unlink()
    with pytest.raises(FlashRetryableError, match=r"the transfer of piece 00000 broke: .*404"):
        desk.write(offered)


def test_list_that_is_missing_is_named(desk: Desk):
    offered = desk.offer(image_content())
    (desk.served / offered["path"] / "00000.ops").unlink()
    with pytest.raises(FlashRetryableError, match="can't get the list of piece 00000"):
        desk.write(offered)


def test_piece_that_ends_early_is_told_from_a_whole_one(desk: Desk):
    offered = desk.offer(image_content())
    os.truncate(desk.served / offered["path"] / "00000", MIB + 5)
    with pytest.raises(FlashNonRetryableError, match="the data ended after"):
        desk.write(offered)


def test_piece_with_more_than_its_list_is_refused(desk: Desk):
    offered = desk.offer(image_content())
    with (desk.served / offered["path"] / "00000").open("ab") as file:
        file.write(b"x" * MIB)
    with pytest.raises(FlashRetryableError, match="the transfer of piece 00000 broke"):
        desk.write(offered)


def test_disk_that_is_not_there_is_named(desk: Desk):
    with pytest.raises(FlashNonRetryableError, match="the board has no /dev/nothing"):
        desk.board.size("/dev/nothing")


def test_size_of_the_disk_is_told(desk: Desk):
    assert desk.board.size(str(desk.disk)) == 12 * MIB


def test_what_is_no_disk_is_named(desk: Desk):
    with pytest.raises(FlashNonRetryableError, match="is no disk"):
        desk.board.size(str(desk.folder))


@pytest.mark.parametrize("tool", ["dd", "wget", "tr"])
def test_tool_that_the_board_lacks_is_named(tmp_path: Path, tool: str):
    with ExitStack() as stack:
        shell = Shell(tmp_path, stack, "dash")
        (shell.tools / tool).unlink()
        with pytest.raises(FlashNonRetryableError, match=tool):
            shell.board._run("check", [], 30)


def test_server_that_is_gone_is_named(desk: Desk):
    with pytest.raises(FlashRetryableError, match=r"the board can't get http://127\.0\.0\.1:1/board\.sh"):
        desk.board.install("http://127.0.0.1:1/board.sh")


def test_program_that_arrived_incomplete_is_not_run(desk: Desk):
    (desk.served / "short.sh").write_bytes(script()[:-10])
    try:
        with pytest.raises(FlashRetryableError, match=f"of {len(script())} bytes"):
            desk.board.install(f"{desk.url}/short.sh")
    finally:
        desk.board.install(f"{desk.url}/board.sh")


@pytest.mark.parametrize("packer", ["cat", "zcat", "xzcat"])
def test_board_gets_and_unpacks_a_whole_file_itself(desk: Desk, packer: str):
    content = image_content()[MIB : 3 * MIB]
    packed = {"cat": bytes, "zcat": gzip.compress, "xzcat": lzma.compress}[packer](content)
    (desk.served / "image").write_bytes(packed)
    desk.board.stream(str(desk.disk), f"{desk.url}/image", packer, print, 60)
    assert desk.disk.read_bytes()[: len(content)] == content


@pytest.mark.parametrize(
    ("name", "packer", "words"),
    [("missing", "cat", "can't get"), ("image", "zcat", "can't unpack"), ("image", "zstdcat", "no program 'zstdcat'")],
)
def test_file_that_the_board_cannot_get_or_unpack_is_named(desk: Desk, name: str, packer: str, words: str):
    (desk.served / "image").write_bytes(b"no gzip file" * 1000)
    with pytest.raises((FlashNonRetryableError, FlashRetryableError), match=words):
        desk.board.stream(str(desk.disk), f"{desk.url}/{name}", packer, print, 60)


def test_image_that_the_board_gets_itself_and_that_does_not_fit_is_named(desk: Desk):
    (desk.served / "image").write_bytes(image_content())
    with pytest.raises(FlashNonRetryableError, match="can't write to /dev/full"):
        desk.board.stream("/dev/full", f"{desk.url}/image", "cat", print, 60)


def manifest(targets: str = "{disk: /dev/sda, soc: '/sys/class/block#4fb0000'}", default: str = "disk") -> Any:
    return FlasherBundleManifestV1Alpha1.from_string(
        "apiVersion: jumpstarter.dev/v1alpha1\nkind: FlashBundleManifest\nmetadata: {name: x}\n"
        f"spec: {{manufacturer: x, bootcmd: b, default_target: '{default}', targets: {targets}, "
        "kernel: {file: k, address: '0x1'}}"
    )


class Places:
    """A board that has what it is asked for."""

    def disk_at(self, address: str) -> str:
        return f"/dev/at-{address}"

    def partition(self, label: str, disk: str | None = None) -> str:
        return f"/dev/{label}-on-{disk}"


@pytest.mark.parametrize(
    ("partition", "device", "found"),
    [
        (None, None, "/dev/sda"),
        ("soc", None, "/dev/at-4fb0000"),
        (None, "soc", "/dev/at-4fb0000"),
        (None, "/dev/mmcblk1", "/dev/mmcblk1"),
        ("boot_a", None, "/dev/boot_a-on-None"),
        ("boot_a", "soc", "/dev/boot_a-on-/dev/at-4fb0000"),
    ],
)
def test_target_may_be_a_name_of_the_bundle_a_path_or_a_label(partition: str | None, device: str | None, found: str):
    assert find_disk(Places(), manifest(), partition, device) == found  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("partition", "device", "default", "words"),
    [
        (None, "nonsense", "disk", "unknown target 'nonsense'; the bundle has disk, soc"),
        (None, None, "", "name a target"),
        ("a;reboot", None, "disk", "neither a target"),
        (None, "../etc", "disk", "unknown target"),
    ],
)
def test_target_that_is_not_known_is_refused(partition: str | None, device: str | None, default: str, words: str):
    with pytest.raises(ArgumentError, match=words):
        find_disk(Places(), manifest(default=default), partition, device)  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [0, 1, MIB, 3 * MIB + 17])
def test_hash_of_zeros_is_that_of_as_many_bytes(length: int):
    assert sha256_of_zeros(length) == hashlib.sha256(bytes(length)).hexdigest()


@pytest.mark.need("shellcheck")
def test_program_of_the_board_is_clean(tmp_path: Path):
    (tmp_path / "board.sh").write_bytes(script())
    subprocess.run(["shellcheck", "-s", "sh", "-S", "warning", tmp_path / "board.sh"], check=True, timeout=60)
