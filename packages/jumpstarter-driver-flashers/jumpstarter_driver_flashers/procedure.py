"""Flashing a board step by step: U-Boot, a small Linux over TFTP, its shell, the disk. A step that fails is named."""

from __future__ import annotations

import re
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from jumpstarter.client.core import DriverError
from jumpstarter.common.exceptions import ArgumentError

from .arguments import Job, Options, file_name, unpacker
from .board import Board, script
from .bundle import FlasherBundleManifestV1Alpha1
from .errors import FlashError, FlashNonRetryableError, FlashRetryableError
from .progress import Display, Meter
from .transfer import store_quietly

if TYPE_CHECKING:
    from jumpstarter_driver_uboot.client import UbootConsoleClient
    from jumpstarter_driver_uboot.console import Console

    from .client import BaseFlasherClient
    from .transfer import Transfers

__all__ = ["Procedure", "step"]

LOAD_TIMEOUT: Final = 300.0
"""Seconds that U-Boot may take for one file."""

LOGIN_TIMEOUT: Final = 180.0
"""Seconds from the boot command to the login, and from the user's name to the shell."""

COMMAND_TIMEOUT: Final = 60.0
SYNC_TIMEOUT: Final = 1200.0
STREAM_TIMEOUT: Final = 4 * 3600.0
"""Seconds that a board may take for a file that it downloads itself."""

_BOOT_FAILED: Final = (
    r"Kernel panic - not syncing[^\r\n]*",
    r"Bad Linux \w+ Image magic!",
    r"Wrong Image (?:Type|Format)[^\r\n]*",
    r"Bad Magic Number",
    r"ERROR: can't get kernel image!?",
    r"Wrong Ramdisk Image Format",
    r"ERROR: Did not find a cmdline Flattened Device Tree",
    r"### ERROR ### Please RESET the board ###",
    r"Unknown command '[^']*'",
)
"""What U-Boot and Linux say when they can't boot what was loaded."""


@contextmanager
def step(name: str) -> Generator[None, None, None]:
    """Say which step failed."""
    try:
        yield
    except FlashError as error:
        if error.message.startswith("step '"):
            raise
        raise type(error)(f"step '{name}': {error}") from error.__cause__
    except ArgumentError as error:
        raise FlashNonRetryableError(f"step '{name}': {error}") from None
    except (DriverError, RuntimeError, ValueError, OSError) as error:
        raise FlashRetryableError(f"step '{name}': {error}") from error


class Procedure:
    """One try to flash a board.

    Args:
        client: the flasher.
        jobs: the images.
        options: how they are written.
        transfers: the images on their way.
        display: shows how it goes.
    """

    def __init__(
        self, client: BaseFlasherClient, jobs: list[Job], options: Options, transfers: Transfers, display: Display
    ) -> None:
        self._client, self._jobs, self._options = client, jobs, options
        self._transfers, self._display = transfers, display

    def run(self) -> None:
        """Flash.

        Raises:
            FlashError: it did not work; the message names the step.
        """
        client = self._client
        with ExitStack() as stack:
            uboot = stack.enter_context(at_uboot(client, self._display))
            self._transfers.check()
            shell = boot(client, uboot, self._display)
            self._transfers.check()
            url = stack.enter_context(self._program())
            self._network(shell)
            board = Board(shell, url.rpartition("/")[0].rpartition("/")[0])
            with step("network of the flasher's Linux"):
                board.install(url)
            for job in self._jobs:
                self._flash(board, job)
            self._finish(shell)

    @contextmanager
    def _program(self) -> Generator[str, None, None]:
        """Let the board get its program; yield the URL."""
        from secrets import token_hex

        storage = self._client.http.storage  # type: ignore[attr-defined]
        name = f"jumpstarter-{token_hex(8)}"
        with step("servers"):
            store_quietly(storage, f"{name}/board.sh", script())
            base = self._client.http.get_url()  # type: ignore[attr-defined]
        try:
            yield f"{base}/{name}/board.sh"
        finally:
            with suppress(DriverError):
                storage.remove_all(f"{name}/")

    def _network(self, shell: Console) -> None:
        """Bring the board's network up. A bundle may do so itself, so failures show when the network is used."""
        self._display.step("Getting the board's network up")
        dhcp = self._client._dhcp
        with step("preflash commands"):
            if dhcp is not None:
                shell.run(f"export dhcp_addr={shell.dialect.quote(dhcp.ip_address)}", check=True)
                shell.run(f"export gw_addr={shell.dialect.quote(dhcp.gateway)}", check=True)
            shell.run("dmesg -n 1", timeout=COMMAND_TIMEOUT)
            for command in self._client.manifest.spec.preflash_commands:
                result = shell.run(command, timeout=COMMAND_TIMEOUT)
                if result.status != 0:
                    self._display.step(
                        f"WARNING: the preflash command {command!r} ended with status {result.status}: "
                        f"{' / '.join(result.lines[-3:])}"
                    )
        with step("network of the flasher's Linux"):
            card = (
                "if [ -e /sys/class/net/eth0 ]; then card=eth0; "
                "else for c in /sys/class/net/*/device; do card=${c%/device}; card=${card##*/}; done; fi; "
                'ip link set "$card" up 2>/dev/null; udhcpc -i "$card" -n -q -t 10 -T 2'
            )
            result = shell.run(card, timeout=COMMAND_TIMEOUT)
            if result.status != 0:
                self._display.step(
                    f"WARNING: the board's Linux got no address by DHCP: {' / '.join(result.lines[-3:])}"
                )

    # -- images ----------------------------------------------------------------------------------

    def _flash(self, board: Board, job: Job) -> None:
        with step("target"):
            disk = self._disk(board, job)
            room = board.size(disk)
        if self._options.direct and isinstance(job.path, str) and job.path.startswith(("http://", "https://")):
            self._stream(board, job, disk)
            return
        if not self._transfers.is_done(job):
            self._display.step(f"Waiting for {job.shown}")
        image = self._transfers.wait(job)
        size = int(image["size"])
        with step("target"):
            if size > room:
                raise FlashNonRetryableError(
                    f"{job.shown} is for a disk of {size} bytes, {disk} has {room}; nothing was written"
                )
        with step("image"):
            offered = self._client.image_host.offer(image["key"])
        try:
            self._write(board, job, disk, offered, int(image["covered"]))
            if self._options.verify:
                self._verify(board, job, disk, offered, int(image["covered"]))
        finally:
            with suppress(DriverError):
                self._client.image_host.withdraw(offered["path"])

    def _write(self, board: Board, job: Job, disk: str, offered: dict[str, Any], covered: int) -> None:
        meter = self._display.meter(f"writing {job.shown} to {disk}", covered)
        with step("write"):
            board.write(disk, offered["path"], offered["pieces"], meter.update)
        meter.finish()

    def _verify(self, board: Board, job: Job, disk: str, offered: dict[str, Any], covered: int) -> None:
        meter = self._display.meter(f"verifying {disk}", covered)
        before = 0
        with step("verify"):
            for piece in offered["pieces"]:
                board.verify(disk, offered["path"], piece, partial(_advance, meter, before))
                before += int(piece["size"]) + int(piece["zeros"])
                meter.update(before)
        meter.finish()

    def _stream(self, board: Board, job: Job, disk: str) -> None:
        """The board gets the image itself; nobody knows how much that will be."""
        meter = self._display.meter(f"writing {job.shown} to {disk}")
        with step("write"):
            board.stream(disk, str(job.path), unpacker(file_name(job.path)), meter.update, STREAM_TIMEOUT)
        meter.finish()

    def _disk(self, board: Board, job: Job) -> str:
        """Return the path of the disk or partition that an image goes to.

        Raises:
            ArgumentError: there is no such target.
            FlashError: the board doesn't have it.
        """
        return find_disk(board, self._client.manifest, job.partition, job.block_device or self._client.default_target)

    def _finish(self, shell: Console) -> None:
        self._display.step("Storing what was written")
        with step("sync"):
            shell.run("sync", timeout=SYNC_TIMEOUT, check=True)
            if not self._options.power_off:
                self._display.step("Rebooting the board")
                shell.start("reboot || reboot -f")
                self._wait_for_reboot(shell)

    def _wait_for_reboot(self, shell: Console) -> None:
        from jumpstarter_driver_uboot.errors import ConsoleError

        try:
            shell.wait_for(r"reboot: Restarting system|U-Boot |Hit any key to stop autoboot", COMMAND_TIMEOUT)
        except ConsoleError:
            self._display.step("The board didn't reboot by itself, so its power is cycled")
            self._client.power.cycle()  # type: ignore[attr-defined]


def _advance(meter: Meter, before: int, done: int) -> None:
    meter.update(before + done)


def find_disk(
    board: Board, manifest: FlasherBundleManifestV1Alpha1, partition: str | None, block_device: str | None
) -> str:
    """Return the path of the disk or partition that is meant.

    Args:
        board: is asked where its disks are.
        manifest: has targets by name.
        partition: a target, or the label of a partition.
        block_device: a target, or a path below `/dev`; None for the manifest's default.

    Raises:
        ArgumentError: there is no such target.
        FlashError: the board doesn't have it.
    """
    targets = manifest.spec.targets
    if partition is not None and partition in targets:
        return _place(board, targets[partition])
    name = block_device or (None if partition is not None else manifest.spec.default_target)
    disk: str | None = None
    if name:
        place = targets.get(name, name)
        if not place.startswith(("/dev/", "/sys/class/block#")):
            raise ArgumentError(f"unknown target {name!r}; the bundle has {', '.join(targets) or 'none'}")
        disk = _place(board, place)
    if partition is None:
        if disk is None:
            raise ArgumentError(f"name a target; the bundle has no default one, only {', '.join(targets) or 'none'}")
        return disk
    if not re.fullmatch(r"[\w.+ -]{1,36}", partition):
        raise ArgumentError(
            f"{partition!r} is neither a target of the bundle ({', '.join(targets) or 'none'}) nor a partition's label"
        )
    return board.partition(partition, disk)


def _place(board: Board, place: str) -> str:
    kind, found, address = place.partition("/sys/class/block#")
    if found and not kind:
        return board.disk_at(address)
    return place


@contextmanager
def at_uboot(client: BaseFlasherClient, display: Display) -> Generator[UbootConsoleClient, None, None]:
    """Reboot the board into U-Boot."""
    uboot: UbootConsoleClient = client.children["uboot"]  # type: ignore[assignment]
    display.step("Rebooting the board into U-Boot")
    with ExitStack() as stack:
        with step("U-Boot prompt"):
            stack.enter_context(uboot.reboot_to_console(debug=client._console_debug))
        yield uboot


def boot(client: BaseFlasherClient, uboot: UbootConsoleClient, display: Display) -> Console:
    """Boot the bundle's Linux from U-Boot and log in; return a console at its shell.

    Raises:
        FlashError: it did not work; the message names the step.
    """
    manifest = client.manifest
    display.step("Getting U-Boot's network up")
    with step("network of U-Boot"):
        client._dhcp = uboot.setup_dhcp()
        uboot.set_env_dict(client._generate_uboot_env())
    for part, name, address in client._files():
        display.step(f"Loading the {part} {name} to {address}")
        with step(f"load {part}"):
            _load(client, uboot, name, address)
    command = client._bootcmd()
    display.step(f"Booting: {command}")
    with step("boot"):
        uboot.boot(command)
    with step("login"):
        return _log_in(client, uboot, manifest, command, display)


def _load(client: BaseFlasherClient, uboot: UbootConsoleClient, name: str, address: str) -> None:
    from jumpstarter_driver_uboot.errors import CommandFailed

    started = time.monotonic()
    try:
        size = uboot.tftp_load(name, address, timeout=LOAD_TIMEOUT)
    except CommandFailed as error:
        if "file not found" in str(error).lower():
            raise FlashNonRetryableError(f"the TFTP server doesn't have {name!r}: {error}") from None
        raise
    wanted = client.tftp.storage.stat(name).content_length  # type: ignore[attr-defined]
    if size != wanted:
        raise FlashRetryableError(f"U-Boot loaded {size} bytes of {name!r}, which has {wanted}")
    client.logger.debug("%s: %d bytes in %.1f s", name, size, time.monotonic() - started)


def _log_in(
    client: BaseFlasherClient,
    uboot: UbootConsoleClient,
    manifest: FlasherBundleManifestV1Alpha1,
    command: str,
    display: Display,
) -> Console:
    from jumpstarter_driver_uboot.console import Console
    from jumpstarter_driver_uboot.dialects import SHELL
    from jumpstarter_driver_uboot.errors import ConsoleTimeout

    login, console = manifest.spec.login, uboot.console
    limit = client.login_timeout

    def wait(pattern: str, what: str) -> str:
        try:
            seen = console.wait_for("|".join((*_BOOT_FAILED, f"(?:{pattern})")), timeout=limit)
        except ConsoleTimeout as error:
            raise FlashRetryableError(f"no {what} came within {limit:g} s after {command!r}. {error}") from None
        if any(re.fullmatch(failed, seen.strip()) for failed in _BOOT_FAILED):
            raise FlashNonRetryableError(f"{command!r} did not boot the bundle: {seen.strip()!r}")
        return seen

    if login.username is not None:
        wait(login.login_prompt, f"login prompt ({login.login_prompt!r})")
        display.step(f"Logging in as {login.username}")
        uboot.p.sendline(login.username)
    if login.password is not None:
        wait("ssword:", "question for the password")
        uboot.p.sendline(login.password)
    wait(login.prompt, f"shell prompt ({login.prompt!r})")
    shell = Console(uboot.p, SHELL, [login.prompt])
    if login.password is not None:
        shell.redact.add(login.password)
    try:
        shell.synchronise(COMMAND_TIMEOUT)
        shell.run("stty cols 500 2>/dev/null; :", timeout=COMMAND_TIMEOUT)
    except ConsoleTimeout as error:
        raise FlashRetryableError(f"no shell answers after the login. {error}") from None
    return shell
