"""Clients that write images to a device and read it back, also by way of a storage mux."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from jumpstarter.client import DriverClient
from jumpstarter.client.decorators import driver_click_group
from jumpstarter.common.exceptions import ArgumentError, JumpstarterException

from .mux_client import StorageMuxClient
from .offer import COMPRESSIONS, check_local_source, is_url, offer

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from opendal import Operator

    from .common import PathBuf

__all__ = ["FlasherClient", "FlasherClientInterface", "MediumLeftAtHost", "StorageMuxFlasherClient", "one_target"]


class FlasherClientInterface(metaclass=ABCMeta):
    """What every client that flashes has."""

    @abstractmethod
    def flash(
        self,
        path: PathBuf | Mapping[str, PathBuf],
        *,
        target: str | None = None,
        partition: str | None = None,
        operator: Operator | Mapping[str, Operator] | None = None,
        compression: str | None = None,
    ) -> Any:
        """Write an image to the device."""

    @abstractmethod
    def dump(
        self,
        path: PathBuf,
        *,
        target: str | None = None,
        partition: str | None = None,
        operator: Operator | None = None,
        compression: str | None = None,
    ) -> Any:
        """Read the device into a file."""

    def cli(self) -> click.Group:
        """Return the `j` commands of a flasher."""
        from .commands import add_flasher_commands

        @driver_click_group(self)  # type: ignore[arg-type]
        def base() -> None:
            """Write images to the device and read them back."""

        add_flasher_commands(base, self)
        return base


@dataclass(kw_only=True)
class FlasherClient(FlasherClientInterface, DriverClient):
    """A flasher on the exporter."""

    def flash(
        self,
        path: PathBuf | Mapping[str, PathBuf],
        *,
        target: str | None = None,
        partition: str | None = None,
        operator: Operator | Mapping[str, Operator] | None = None,
        compression: str | None = None,
        via_client: bool = False,
    ) -> Any:
        """Write an image to the device, or several to its parts.

        Args:
            path: local file, `http(s)://` URL which the exporter fetches itself, path of `operator`, or a mapping of
                such by target, which are written in its order.
            target: part of the device, where it has several.
            partition: the older name of `target`.
            operator: where the image is, if not on this machine; a mapping by target if `path` is one.
            compression: how the image is compressed (gzip, xz, bz2 or zstd); its plain bytes are written.
            via_client: fetch URLs here, as the exporter can't reach them.

        Returns:
            What the driver returned; for a mapping, a mapping by target.

        Raises:
            ArgumentError: the arguments contradict each other, or a local image can't be read; nothing was changed.
        """
        target = one_target(target, partition)
        images = self._images(path, target, operator)
        check_compression(compression)
        for image, where in images.values():
            if where is None and not is_url(image):
                check_local_source(image)
        results = {
            name: self._write_image(offer(self, image, where, "rb", compression, via_client), name)
            for name, (image, where) in images.items()
        }
        return results if isinstance(path, Mapping) else results[target]

    def dump(
        self,
        path: PathBuf,
        *,
        target: str | None = None,
        partition: str | None = None,
        operator: Operator | None = None,
        compression: str | None = None,
    ) -> Any:
        """Read the device, or a part of it, into a file, which appears when it is complete.

        Args:
            path: local file, or path of `operator`.
            target: part of the device, where it has several.
            partition: the older name of `target`.
            operator: where the file is to be, if not on this machine.
            compression: how to compress the file (gzip, xz, bz2 or zstd).

        Raises:
            ArgumentError: the arguments contradict each other, or the local file can't be written.
        """
        target = one_target(target, partition)
        self._check_target(target)
        check_compression(compression)
        return self._read_image(offer(self, path, operator, "wb", compression), target)

    def _images(
        self,
        path: PathBuf | Mapping[str, PathBuf],
        target: str | None,
        operator: Operator | Mapping[str, Operator] | None,
    ) -> dict[str | None, tuple[PathBuf, Operator | None]]:
        """The images by target, each with the operator that has it.

        Raises:
            ArgumentError: the arguments contradict each other, or ask for what the device hasn't.
        """
        self._check_target(target)
        if not isinstance(path, Mapping):
            if isinstance(operator, Mapping):
                raise ArgumentError("a mapping of operators needs a mapping of images, with the same targets")
            return {target: (path, operator)}
        if target is not None:
            raise ArgumentError("'target' can't be combined with a mapping of images, which names the targets itself")
        if not path:
            raise ArgumentError("the mapping of images is empty: there is nothing to flash")
        operators = operator if isinstance(operator, Mapping) else dict.fromkeys(path, operator)
        return {name: (image, operators.get(name)) for name, image in path.items()}

    def _check_target(self, target: str | None) -> None:
        """Raises: ArgumentError: the device can't have such a part."""

    def _write_image(self, image: AbstractContextManager[Any], target: str | None) -> Any:
        """Write an offered image to a part of the device."""
        with image as handle:
            return self.call("flash", handle, target)

    def _read_image(self, file: AbstractContextManager[Any], target: str | None) -> Any:
        """Read a part of the device into an offered file."""
        with file as handle:
            return self.call("dump", handle, target)


class MediumLeftAtHost(JumpstarterException):
    """Writing a medium failed; it was not given to the device."""


@dataclass(kw_only=True)
class StorageMuxFlasherClient(FlasherClient, StorageMuxClient):
    """A storage mux that is used as a flasher: the medium is written on the exporter and then given to the device.

    A medium has no parts, so targets and mappings of images are refused. If writing fails, the medium stays with the
    exporter (`MediumLeftAtHost`): the device doesn't boot from half an image. After reading the device gets it in any
    case.
    """

    def _images(
        self,
        path: PathBuf | Mapping[str, PathBuf],
        target: str | None,
        operator: Operator | Mapping[str, Operator] | None,
    ) -> dict[str | None, tuple[PathBuf, Operator | None]]:
        self._check_target(target)
        if isinstance(path, Mapping) or isinstance(operator, Mapping):
            raise ArgumentError("a storage mux has one medium: give a single image")
        return super()._images(path, target, operator)

    def _check_target(self, target: str | None) -> None:
        if target is not None:
            raise ArgumentError("a storage mux has one medium without parts: leave 'target' and 'partition' out")

    def _write_image(self, image: AbstractContextManager[Any], target: str | None) -> None:
        self.host()
        try:
            with image as handle:
                self.write(handle)
        except ArgumentError:
            raise
        except JumpstarterException as error:
            raise MediumLeftAtHost(
                "could not write the medium. It stays connected to the exporter; flash again, or connect it to the "
                "device with 'dut'"
            ) from error
        self.dut()

    def _read_image(self, file: AbstractContextManager[Any], target: str | None) -> None:
        self.host()
        try:
            with file as handle:
                self.read(handle)
        finally:
            self.dut()

    def cli(self, base: click.Group | None = None) -> click.Group:
        """Return the `j` commands of a flasher and of a storage mux."""
        return StorageMuxClient.cli(self, base if base is not None else FlasherClient.cli(self))


def one_target(target: str | None, partition: str | None) -> str | None:
    """The part of the device that was asked for, under its newer or its older name.

    Raises:
        ArgumentError: both were given, and differ.
    """
    if target is not None and partition is not None and target != partition:
        raise ArgumentError(f"target {target!r} and partition {partition!r} are two names for one thing; give one")
    return partition if target is None else target


def check_compression(compression: str | None) -> None:
    if compression is not None and compression not in COMPRESSIONS:
        raise ArgumentError(f"unknown compression {compression!r}, use one of {', '.join(COMPRESSIONS)}")
