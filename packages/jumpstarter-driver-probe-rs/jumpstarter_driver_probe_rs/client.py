"""Client of debug probes, and the `j` commands."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import click
from jumpstarter.client import DriverClient
from jumpstarter.client.decorators import driver_click_group
from jumpstarter.common.exceptions import ArgumentError

from .common import FORMAT_OF_SUFFIX, FORMATS, WIDTHS

if TYPE_CHECKING:
    from jumpstarter_driver_opendal.common import PathBuf
    from opendal import Operator


@dataclass(kw_only=True)
class ProbeRsClient(DriverClient):
    """A debug probe and the target at it."""

    def info(self) -> str:
        """Return what probe-rs says of the probe and the target.

        Raises:
            DriverError: it failed; the message has what probe-rs said. So do all methods here.
        """
        return str(self.call("info"))

    def list_probes(self) -> str:
        """Return the probes at the exporter, one line each."""
        return str(self.call("list"))

    def reset(self) -> str:
        """Reset the target, which then runs its firmware."""
        return str(self.call("reset_target"))

    def erase(self) -> str:
        """Erase all of the target's flash."""
        return str(self.call("erase"))

    def download(
        self,
        operator: Operator | None,
        path: PathBuf,
        *,
        format: str | None = None,
        base_address: int | None = None,
        verify: bool = False,
        chip_erase: bool = False,
    ) -> str:
        """Program a firmware file of an operator's storage; `reset` starts it.

        Args:
            operator: where the file is; None for a local file, or an http(s) URL that the exporter fetches.
            path: the file.
            format: `bin`, `elf`, `hex`, `idf` or `uf2`; None goes by the name of the file, else it is the target's own.
            base_address: where a `bin` file goes.
            verify: read the flash back and compare.
            chip_erase: erase all of the flash first.
        """
        format = format or _format_of(path, base_address)
        with self._offered(operator, path) as handle:
            if format is None and not verify and not chip_erase:
                return str(self.call("download", handle))
            return str(self.call("download", handle, format, _hex(base_address), verify, chip_erase))

    def download_file(
        self,
        filepath: PathBuf,
        *,
        format: str | None = None,
        base_address: int | None = None,
        verify: bool = False,
        chip_erase: bool = False,
    ) -> str:
        """Program a local firmware file, or what an http(s) URL has; see `download`."""
        return self.download(
            None, filepath, format=format, base_address=base_address, verify=verify, chip_erase=chip_erase
        )

    def verify_file(self, filepath: PathBuf, *, format: str | None = None, base_address: int | None = None) -> str:
        """Compare the target's flash with a firmware file; a difference is a DriverError."""
        format = format or _format_of(filepath, base_address)
        with self._offered(None, filepath) as handle:
            return str(self.call("verify", handle, format, _hex(base_address)))

    def read(self, width: int, address: int, words: int) -> list[int]:
        """Read memory.

        Args:
            width: bits of a word: 8, 16, 32 or 64.
            address: of the first word.
            words: how many.

        Raises:
            ArgumentError: an argument can't be used.
            DriverError: it failed.
        """
        _check(width, address)
        if words <= 0:
            raise ArgumentError(f"the number of words must be above 0, not {words}")
        return [int(word, 16) for word in self.call("read", f"b{width}", hex(address), str(words)) if word]

    def write(self, width: int, address: int, values: Sequence[int]) -> str:
        """Write words to memory (not to flash); the arguments are as for `read`."""
        _check(width, address)
        for value in values:
            if not 0 <= value < 1 << width:
                raise ArgumentError(f"{value:#x} is no word of {width} bits")
        if not values:
            raise ArgumentError("there is no word to write")
        return str(self.call("write", f"b{width}", hex(address), [hex(value) for value in values]))

    @contextmanager
    def gdb_server(self, host: str = "127.0.0.1", port: int = 0) -> Generator[tuple[str, int], None, None]:
        """Listen on a local port for a GDB; yield its address. One GDB at a time has the target."""
        from jumpstarter_driver_network.adapters import TcpPortforwardAdapter

        with TcpPortforwardAdapter(client=self, method="gdb", local_host=host, local_port=port) as address:
            yield address[0], address[1]

    def _offered(self, operator: Operator | None, path: PathBuf) -> AbstractContextManager[Any]:
        from jumpstarter_driver_opendal.offer import offer

        return offer(self, path, operator, "rb")

    def cli(self) -> click.Group:
        """Return the `j` group of this driver."""

        @driver_click_group(self)
        def base() -> None:
            """Debug probe: flash, read and debug the target."""

        self._add_target(base)
        self._add_files(base)
        self._add_memory(base)
        self._add_gdb(base)
        return base

    def _add_target(self, base: click.Group) -> None:
        @base.command()
        def info() -> None:
            """Print what probe-rs says of the probe and the target."""
            _print(self.info())

        @base.command(name="list")
        def list_probes() -> None:
            """Print the probes at the exporter."""
            _print(self.list_probes())

        @base.command()
        def reset() -> None:
            """Reset the target, which then runs its firmware."""
            _print(self.reset())

        @base.command()
        def erase() -> None:
            """Erase all of the target's flash."""
            _print(self.erase())

    def _add_files(self, base: click.Group) -> None:
        @base.command()
        @click.argument("file")
        @_FORMAT
        @_BASE_ADDRESS
        @click.option("--verify", is_flag=True, help="Read the flash back and compare.")
        @click.option("--chip-erase", is_flag=True, help="Erase all of the flash first.")
        @click.option("--reset", is_flag=True, help="Start the firmware then.")
        def download(
            file: str, format: str | None, base_address: int | None, verify: bool, chip_erase: bool, reset: bool
        ) -> None:
            """Program the target with FILE, a local file or an http(s) URL."""
            _print(
                self.download_file(file, format=format, base_address=base_address, verify=verify, chip_erase=chip_erase)
            )
            if reset:
                _print(self.reset())

        @base.command()
        @click.argument("file")
        @_FORMAT
        @_BASE_ADDRESS
        def verify(file: str, format: str | None, base_address: int | None) -> None:
            """Compare the target's flash with FILE; fail if they differ."""
            _print(self.verify_file(file, format=format, base_address=base_address))

    def _add_memory(self, base: click.Group) -> None:
        @base.command()
        @click.argument("width", type=Number())
        @click.argument("address", type=Number())
        @click.argument("words", type=Number())
        def read(width: int, address: int, words: int) -> None:
            """Print WORDS words of WIDTH bits (8, 16, 32, 64) from ADDRESS on, in hexadecimal."""
            click.echo(" ".join(f"{word:0{width // 4}x}" for word in self.read(width, address, words)))

        @base.command()
        @click.argument("width", type=Number())
        @click.argument("address", type=Number())
        @click.argument("values", type=Number(), nargs=-1, required=True)
        def write(width: int, address: int, values: tuple[int, ...]) -> None:
            """Write the words VALUES of WIDTH bits to memory from ADDRESS on."""
            _print(self.write(width, address, values))

    def _add_gdb(self, base: click.Group) -> None:
        @base.command()
        @click.argument("port", type=click.IntRange(0, 65535), default=1337)
        @click.option("--host", default="127.0.0.1", show_default=True, help="Local address to listen on.")
        def gdb(port: int, host: str) -> None:
            """Serve GDB on a local PORT until it is interrupted."""
            from threading import Event

            with self.gdb_server(host, port) as address:
                click.echo(f"target extended-remote {address[0]}:{address[1]}")
                click.echo("Ctrl-C ends it.", err=True)
                try:
                    Event().wait()
                except KeyboardInterrupt:
                    return


class Number(click.ParamType):
    """A number, decimal or with 0x."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number."""
        if isinstance(value, int):
            return value
        try:
            return int(value, 0)
        except ValueError:
            self.fail(f"{value!r} is not a number such as 1024 or 0x20000000", param, ctx)


_FORMAT = click.option(
    "--format", type=click.Choice(FORMATS), help="Format of FILE.  [default: by its name, else the target's own]"
)
_BASE_ADDRESS = click.option("--base-address", type=Number(), help="Where a file of format bin goes.")


def _print(text: str) -> None:
    if text.strip():
        click.echo(text.rstrip("\n"))


def _hex(address: int | None) -> str | None:
    return None if address is None else hex(address)


def _format_of(path: PathBuf, base_address: int | None) -> str | None:
    name = str(path).partition("?")[0]
    return "bin" if base_address is not None else FORMAT_OF_SUFFIX.get(PurePath(name).suffix.lower())


def _check(width: int, address: int) -> None:
    if width not in WIDTHS:
        raise ArgumentError(f"width must be one of {', '.join(map(str, WIDTHS))}, not {width}")
    if address < 0:
        raise ArgumentError(f"address must be 0 or above, not {address}")
