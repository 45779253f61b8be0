"""The probe-rs driver: flash, read and debug microcontrollers through a debug probe."""

from __future__ import annotations

import re
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, Final

import anyio
from anyio import to_thread
from anyio.abc import ObjectStream
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.common.owned_directory import OwnedDirectory
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter_driver_opendal.driver import store
from jumpstarter_driver_opendal.transfer import finish, interruptible

from . import tool
from .common import FORMATS, MAX_BYTES, WIDTHS
from .tool import ProbeRsError

__all__ = ["ProbeRs", "ProbeRsError", "TemporaryFilename"]

MAX_FIRMWARE: Final = 256 << 20
"""Bytes of a firmware file; the debug information in an ELF file is most of it."""

GDB_START: Final = 30.0
"""Seconds that the GDB server may take to attach to the target."""

_SELECTOR: Final = re.compile(r"[0-9a-fA-F]{1,4}:[0-9a-fA-F]{1,4}(-\d+)?(:.*)?")
_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]+|\d+")


class TemporaryFilename:
    """A context manager with the path of a file that doesn't exist yet, and is removed in the end."""

    def __init__(self, suffix: str = "") -> None:
        self._suffix = suffix
        self._directory: OwnedDirectory | None = None

    def __enter__(self) -> str:
        self._directory = OwnedDirectory("jumpstarter-probe-rs-")
        return str(self._directory.path / f"firmware{self._suffix}")

    def __exit__(self, *_: object) -> None:
        if self._directory is not None:
            self._directory.close()
            self._directory = None


@dataclass(kw_only=True)
class ProbeRs(Driver):
    """A debug probe and the target at it, by the program probe-rs."""

    driver_type: ClassVar[str] = "debug"
    system_requirements: ClassVar[dict[str, str]] = {"probe-rs": "cargo install probe-rs-tools --locked"}

    probe: str | None = None
    """Which probe: `VID:PID`, `VID:PID:SERIAL` or `VID:PID-INTERFACE`, in hexadecimal; None for the only one."""
    probe_rs_path: str = "probe-rs"
    chip: str | None = None
    """Name of the target chip; None leaves it to what probe-rs detects."""
    protocol: str | None = None
    """`swd` or `jtag`."""
    connect_under_reset: bool = False
    speed: int | None = None
    """Clock of the probe in kHz."""
    timeout: float = 60.0
    """Seconds that a command may take."""
    flash_timeout: float = 600.0
    """Seconds that erasing and programming may take."""

    _busy: anyio.Lock = field(init=False, repr=False, default_factory=anyio.Lock)
    _stop: threading.Event | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("probe", "chip", "protocol"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise ConfigurationError(f"ProbeRs: {name} must be text (put it into quotes), not {value!r}")
        if self.probe is not None and not _SELECTOR.fullmatch(self.probe):
            raise ConfigurationError(
                f"ProbeRs: probe must be VID:PID or VID:PID:SERIAL in hexadecimal, as 'probe-rs list' prints it, "
                f"not {self.probe!r}"
            )
        if self.protocol is not None and self.protocol.lower() not in ("swd", "jtag"):
            raise ConfigurationError(f"ProbeRs: protocol must be 'swd' or 'jtag', not {self.protocol!r}")
        if self.speed is not None and (
            isinstance(self.speed, bool) or not isinstance(self.speed, int) or self.speed <= 0
        ):
            raise ConfigurationError(f"ProbeRs: speed must be a number of kHz above 0, not {self.speed!r}")
        for name in ("timeout", "flash_timeout"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value <= 0:
                raise ConfigurationError(f"ProbeRs: {name} must be a number of seconds above 0, not {value!r}")

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_probe_rs.client.ProbeRsClient"

    def close(self) -> None:
        """End what runs."""
        try:
            if self._stop is not None:
                self._stop.set()
        finally:
            super().close()

    def env_from_cfg(self) -> dict[str, str]:
        """Return the settings as probe-rs takes them from its environment."""
        env = {"PROBE_RS_NON_INTERACTIVE": "true", "PROBE_RS_COLOR": "false"}
        for name in ("probe", "chip", "protocol", "speed"):
            if (value := getattr(self, name)) is not None:
                env[f"PROBE_RS_{name.upper()}"] = str(value)
        if self.connect_under_reset:
            env["PROBE_RS_CONNECT_UNDER_RESET"] = "true"
        return env

    @export
    async def info(self) -> str:
        """Return what probe-rs says of the probe and the target."""
        return await self._run(["info"])

    @export
    async def list(self) -> str:
        """Return the probes that are connected, one line each."""
        return await self._run(["list"])

    @export
    async def reset_target(self) -> str:
        """Reset the target, which then runs its firmware."""
        return await self._run(["reset"])

    @export
    async def erase(self) -> str:
        """Erase all of the target's flash."""
        self.logger.info("erasing the whole flash")
        return await self._run(["erase"])

    @export
    async def download(
        self,
        src: Any,
        format: str | None = None,
        base_address: str | None = None,
        verify: bool = False,
        chip_erase: bool = False,
    ) -> str:
        """Program a firmware file; the target is left halted until it is reset.

        Args:
            src: the file.
            format: `bin`, `elf`, `hex`, `idf` or `uf2`; None for the target's own, mostly ELF.
            base_address: where a `bin` file goes.
            verify: read the flash back and compare.
            chip_erase: erase all of the flash first, not just what is programmed.

        Raises:
            ProbeRsError: it failed; the message has what probe-rs said.
            ValueError: the options don't fit together.
        """
        options = _file_options(format, base_address)
        options += ["--verify"] if verify else []
        options += ["--chip-erase"] if chip_erase else []
        return await self._with_file("download", src, format, options)

    @export
    async def verify(self, src: Any, format: str | None = None, base_address: str | None = None) -> str:
        """Compare the target's flash with a firmware file.

        Raises:
            ProbeRsError: they differ, or it failed.
            ValueError: the options don't fit together.
        """
        return await self._with_file("verify", src, format, _file_options(format, base_address))

    @export
    async def read(self, width: str, address: str, words: str) -> Sequence[str]:
        """Read memory.

        Args:
            width: `b8`, `b16`, `b32` or `b64`.
            address: of the first word, decimal or with `0x`.
            words: how many.

        Returns:
            The words in hexadecimal.

        Raises:
            ProbeRsError: it failed, or probe-rs printed something else.
            ValueError: an argument can't be used.
        """
        number = _checked(width, address, words)
        found = tool.words_of(await self._run(["read", width, address, words]))
        if len(found) != number:
            raise ProbeRsError(f"'probe-rs read' printed {len(found)} words of {number}")
        return found

    @export
    async def write(self, width: str, address: str, values: Sequence[str]) -> str:
        """Write words to memory (not to flash).

        Args:
            width: as for `read`.
            address: of the first word.
            values: the words, decimal or with `0x`.

        Raises:
            ProbeRsError: it failed.
            ValueError: an argument can't be used.
        """
        _checked(width, address, str(len(values)))
        for value in values:
            if not _NUMBER.fullmatch(value) or int(value, 0) >> int(width[1:]):
                raise ValueError(f"{value!r} is no word of {width[1:]} bits")
        return await self._run(["write", width, address, *values])

    @exportstream
    @asynccontextmanager
    async def gdb(self) -> AsyncGenerator[ObjectStream[bytes], None]:
        """Connect to a GDB server for the target, which has the probe until the connection ends.

        Raises:
            ProbeRsError: it did not start; the message has what probe-rs said.
        """
        program = await to_thread.run_sync(tool.find, self.probe_rs_path)
        async with self._busy:
            server = await to_thread.run_sync(tool.GdbServer, program, self.env_from_cfg())
            try:
                async with await _connected(server) as stream:
                    yield stream
            finally:
                await finish(server.close)

    # -- running ---------------------------------------------------------------------------------

    async def _with_file(self, command: str, src: Any, format: str | None, options: Sequence[str]) -> str:
        temporary = TemporaryFilename(f".{format}" if format else "")
        path = await to_thread.run_sync(temporary.__enter__)
        try:
            async with self.resource(src) as stream:
                size = await store(stream, Path(path), MAX_FIRMWARE)
            if size == 0:
                raise ValueError("the firmware file is empty")
            self.logger.info("%s: %d bytes", command, size)
            return await self._run([command, *options, path])
        finally:
            await finish(lambda: temporary.__exit__(None, None, None))

    async def _run(self, words: Sequence[str]) -> str:
        """Run a command when the one before it has ended; a call that is cancelled ends it."""
        async with self._busy:

            def work(stop: threading.Event) -> str:
                self._stop = stop
                try:
                    return self._run_cmd([*words])
                finally:
                    self._stop = None

            return await interruptible(work)

    def _run_cmd(self, cmd: Sequence[str]) -> str:
        """Run probe-rs with these arguments; return what it prints."""
        limit = self.flash_timeout if cmd[0] in ("download", "erase", "verify") else self.timeout
        return tool.run(tool.find(self.probe_rs_path), cmd, self.env_from_cfg(), limit, self._stop)


async def _connected(server: tool.GdbServer) -> Any:
    """Connect to a GDB server as soon as it listens.

    Raises:
        ProbeRsError: it ended, or doesn't listen in time.
    """
    from jumpstarter.streams.sockets import connect_tcp

    with anyio.move_on_after(GDB_START):
        while server.runs():
            try:
                return await connect_tcp("127.0.0.1", server.port)
            except OSError:
                await anyio.sleep(0.1)
    raise ProbeRsError(f"'probe-rs gdb' did not start{server.reason()}")


def _file_options(format: str | None, base_address: str | None) -> list[str]:
    if format is not None and format not in FORMATS:
        raise ValueError(f"the format of a firmware file must be one of {', '.join(FORMATS)}, not {format!r}")
    options = ["--binary-format", format] if format is not None else []
    if base_address is not None:
        if format != "bin":
            raise ValueError("base_address is for files of format 'bin'; others hold their addresses")
        if not _NUMBER.fullmatch(base_address):
            raise ValueError(f"base_address must be a number such as 0x08000000, not {base_address!r}")
        options += ["--base-address", base_address]
    return options


def _checked(width: str, address: str, words: str) -> int:
    """Return the number of words.

    Raises:
        ValueError: an argument can't be used.
    """
    if width not in {f"b{bits}" for bits in WIDTHS}:
        raise ValueError(f"width must be b8, b16, b32 or b64, not {width!r}")
    if not isinstance(address, str) or not _NUMBER.fullmatch(address) or int(address, 0) >> 64:
        raise ValueError(f"address must be a number such as 0x20000000, not {address!r}")
    number = int(words) if isinstance(words, str) and words.isdecimal() else 0
    if not 0 < number * int(width[1:]) // 8 <= MAX_BYTES:
        raise ValueError(f"the number of words must be above 0, and not more than {MAX_BYTES} bytes, not {words!r}")
    return number
