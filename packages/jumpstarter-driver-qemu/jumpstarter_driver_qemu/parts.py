"""The parts of a virtual machine that clients see as its children: power, flasher, console and TCP ports."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import anyio
from anyio import to_thread
from anyio.abc import ByteStream, ObjectStream
from jumpstarter.driver import Driver, FlasherInterface, export, exportstream
from jumpstarter_driver_network.driver import NetworkInterface
from jumpstarter_driver_power.common import PowerReading
from jumpstarter_driver_power.driver import PowerInterface
from jumpstarter_driver_pyserial.exclusive import Exclusive
from jumpstarter_driver_pyserial.streams import MailboxStream

from .machine import MachineError
from .settings import Hostfwd

if TYPE_CHECKING:
    from .driver import Qemu

CHUNK: Final = 1 << 20
"""Bytes of an image that are moved at a time."""


@dataclass(kw_only=True)
class QemuPower(PowerInterface, Driver):
    """The supply of the machine; switching it off is a cut, as with a board."""

    parent: Qemu

    @export
    async def on(self) -> None:
        """Switch the machine on; returns when QEMU runs it.

        Raises:
            MachineError: it can't be started; the message holds what QEMU said.
        """
        await _in_thread(self.parent.power_on)

    @export
    async def off(self) -> None:
        """Cut the power."""
        if not self.parent.is_on():
            self.logger.warning("already powered off, ignoring request")
        await _in_thread(self.parent.power_off)

    @export(watch=True)
    async def read(self) -> AsyncGenerator[PowerReading, None]:
        """Not to be had from a virtual machine."""
        raise NotImplementedError("a virtual machine has no voltage or current to measure")
        yield

    @export(watch=True)
    async def status(self) -> str:
        """Return `on` or `off`."""
        return "on" if self.parent.is_on() else "off"

    def close(self) -> None:
        """Cut the power."""
        self.parent.power_off()
        super().close()


@dataclass(kw_only=True)
class QemuFlasher(FlasherInterface, Driver):
    """Writes and reads the images of a machine that is off."""

    driver_type: ClassVar[str] = "storage"

    parent: Qemu

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_qemu.client.QemuFlasherClient"

    @export
    async def flash(self, source: Any, partition: str | None = None) -> None:
        """Write an image to a partition; gzip, xz, bz2 and zstd are unpacked by their signature.

        The image replaces the old one when it is complete; when something goes wrong, that stays.

        Args:
            source: a resource handle, or an `oci://` URL.
            partition: name of the partition; None is `root`.

        Raises:
            ValueError: there is no such partition, or the image can't be a disk of the machine.
            MachineError: the machine is on.
        """
        if isinstance(source, str):
            async with aclosing(self.flash_oci(source, partition)) as items:
                async for _ in items:
                    pass
            return
        from jumpstarter.streams.encoding import AutoDecompressIterator

        async with (
            self._replacing(partition) as new,
            self.resource(source) as stream,
            await anyio.open_file(new, "wb") as file,
        ):
            async for chunk in AutoDecompressIterator(source=_chunks(stream)):
                await file.write(chunk)

    @export
    async def flash_oci(
        self,
        oci_url: str,
        partition: str | None = None,
        oci_username: str | None = None,
        oci_password: str | None = None,
    ) -> AsyncGenerator[tuple[str, str, int | None], None]:
        """Write an image from a registry to a partition, with the program `fls` on the exporter.

        Yields pieces of its standard output and standard error, at last with its exit status 0.

        Raises:
            ValueError: the URL is none of a registry, or half of the credentials is missing.
            RuntimeError: `fls` is missing, failed, or took too long; or the machine is on.
        """
        from .registry import check_url, fetch_image

        check_url(oci_url, oci_username, oci_password)
        async with self._replacing(partition) as new:
            items = fetch_image(
                oci_url,
                new,
                username=oci_username,
                password=oci_password,
                timeout=self.parent.flash_timeout,
                version=self.parent.fls_version,
                binary_url=self.parent.fls_custom_binary_url,
                allow_custom=self.parent.fls_allow_custom_binaries,
            )
            async with aclosing(items):
                async for item in items:
                    yield item

    @asynccontextmanager
    async def _replacing(self, partition: str | None) -> AsyncGenerator[Path, None]:
        """Yield a file to write an image to; it becomes that of the partition when the body succeeds."""
        target = self.parent.validate_partition(partition)
        self._require_off("flash")
        descriptor, name = tempfile.mkstemp(prefix=f"{target.name}.", dir=target.parent)
        os.close(descriptor)
        try:
            yield Path(name)
            await to_thread.run_sync(self.parent.replace_image, target.name, Path(name))
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)

    @export
    async def dump(self, target: Any, partition: str | None = None) -> None:
        """Read what a partition holds; a disk that began as a default image comes as a raw one.

        Raises:
            ValueError: there is no such partition.
            FileNotFoundError: nothing was flashed, and there is no default image.
            MachineError: the machine is on.
        """
        self.parent.validate_partition(partition)
        self._require_off("dump")
        with tempfile.TemporaryDirectory(prefix="dump-", dir=self.parent._tmp_dir.name) as scratch:
            readable = partial(self.parent.readable_image, partition, Path(scratch, "image"))
            image = await to_thread.run_sync(readable)
            async with self.resource(target) as stream, await anyio.open_file(image, "rb") as file:
                while chunk := await file.read(CHUNK):
                    await stream.send(chunk)

    def _require_off(self, what: str) -> None:
        if self.parent.is_on():
            raise MachineError(f"can't {what} while the machine is on: switch it off first (power off)")


@dataclass(kw_only=True)
class QemuConsole(Driver):
    """The first serial port of the machine. It outlives power cycles, and keeps what nobody has read yet."""

    driver_type: ClassVar[str] = "serial"

    parent: Qemu

    def __post_init__(self) -> None:
        super().__post_init__()
        self._owner = Exclusive("the console")

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_pyserial.client.PySerialClient"

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[ObjectStream[bytes], None]:
        """Connect to the console, one connection at a time; the machine may be off."""
        async with self._owner.acquired(), MailboxStream(self.parent._console, self._write, self.logger) as stream:
            yield stream

    def _write(self, data: bytes) -> None:
        machine = self.parent._running
        if machine is None or not machine.running:
            # As with a board without power, nobody listens.
            self.logger.warning("%d bytes of input are lost: the machine is off", len(data))
            return
        with suppress(OSError):
            machine.write_console(data)


@dataclass(kw_only=True)
class QemuForward(NetworkInterface, Driver):
    """A TCP port of the guest."""

    parent: Qemu
    name_: str
    forward: Hostfwd
    port: int = field(init=False, default=0)
    """The port on the exporter, once the machine runs."""

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[ByteStream, None]:
        """Connect to the port of the guest.

        Raises:
            MachineError: the machine is off.
        """
        self.parent.running_machine()
        async with await anyio.connect_tcp(self._host(), self.port) as stream:
            yield stream

    @export(watch=True)
    async def address(self) -> str:
        """Return `tcp://IP:port` on the exporter.

        Raises:
            MachineError: the machine is off.
        """
        self.parent.running_machine()
        return f"tcp://{self._host()}:{self.port}"

    def _host(self) -> str:
        return "127.0.0.1" if self.forward.hostaddr in ("", "0.0.0.0") else self.forward.hostaddr


async def _chunks(stream: ObjectStream[bytes]) -> AsyncGenerator[bytes, None]:
    async for chunk in stream:
        yield chunk


async def _in_thread(function: Callable[[], None]) -> None:
    """Run a step that must not be left half done: a cancelled caller waits for its end."""
    with anyio.CancelScope(shield=True):
        await to_thread.run_sync(function)
