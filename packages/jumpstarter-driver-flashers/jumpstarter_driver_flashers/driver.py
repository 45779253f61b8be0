"""The flasher's exporter side: it has the bundle that a board boots, the images, and the servers to get them from."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from anyio import to_thread
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.driver import Driver, export
from jumpstarter_driver_composite.driver import Proxy
from jumpstarter_driver_http.driver import HttpServer
from jumpstarter_driver_opendal.common import parse_size
from jumpstarter_driver_tftp.driver import Tftp
from jumpstarter_driver_uboot.driver import UbootConsole

from .bundle import FlasherBundleManifestV1Alpha1
from .bundle_service import BundleService
from .image_service import FetchRequest, FindRequest, ImageService, ReceiveRequest, read_block_map

__all__ = ["BaseFlasher", "RCarS4Flasher", "TIJ784S4Flasher"]

FLS_PLACES = ("/usr/local/bin/fls-aarch64", "/usr/local/bin/fls")


@dataclass(kw_only=True)
class BaseFlasher(Driver):
    """Writes disk images to a board that boots U-Boot: from there it boots a small Linux, which writes its disk.

    Children `power` and `serial` are those of the board. `uboot`, `tftp` and `http` are made unless they are given.
    """

    driver_type: ClassVar[str] = "storage"

    flasher_bundle: str = "quay.io/jumpstarter-dev/jumpstarter-flasher-test:latest"
    """Reference of an OCI artifact with what the board boots, or the path of a directory with the same files."""
    manifest: str = "manifest.yaml"
    """Name of the manifest in the bundle, which may have several."""
    variant: str | None = None
    """Device tree to boot with; None: the manifest's default."""
    default_target: str | None = None
    """Disk to write, of the manifest's targets, or a path such as `/dev/mmcblk0`; None: the manifest's default."""
    cache_dir: str = "/var/lib/jumpstarter/flasher"
    """Directory that keeps bundles and images; exporters may share it."""
    cache_size: int | str = "50GiB"
    """Bytes that may be kept; what was used longest ago goes first."""
    tftp_dir: str = "/var/lib/tftpboot"
    """Directory of the TFTP server that is made."""
    http_dir: str = "/var/www/html"
    """Directory of the HTTP server that is made, best on the disk of `cache_dir`: files are linked then, not copied."""
    plain_http: bool = False
    """Whether the registry of the bundle speaks HTTP without TLS; `http://` before the reference says the same."""
    cacert: str | None = None
    """Path of a file with authorities (PEM) to trust when images are fetched over HTTPS."""

    tftp: Any = field(init=False, repr=False)
    http: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("serial", "power"):
            if name not in self.children:
                example = f"children: {{{name}: {{ref: board.{name}}}}}"
                raise ConfigurationError(f"{type(self).__name__} needs a child {name!r}, such as '{example}'")
        try:
            parse_size(self.cache_size, "cache_size")
            self._bundles = BundleService(self)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        if self.cacert is not None and not os.path.isfile(self.cacert):
            raise ConfigurationError(f"cacert: there is no file {self.cacert} on the exporter")
        if "tftp" not in self.children:
            self.children["tftp"] = Tftp(root_dir=self.tftp_dir)
        if "http" not in self.children:
            self.children["http"] = HttpServer(root_dir=self.http_dir)
        if "uboot" not in self.children:
            self.children["uboot"] = UbootConsole(
                children={name: _shared(self.children[name]) for name in ("power", "serial")}
            )
        self.tftp, self.http = self.children["tftp"], self.children["http"]
        self._images: ImageService | None = None

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_flashers.client.BaseFlasherClient"

    def close(self) -> None:
        """Release the bundle and the images, and close the children."""
        try:
            if self._images is not None:
                self._images.close()
            self._bundles.close()
        finally:
            super().close()

    # -- the bundle ------------------------------------------------------------------------------

    @export
    async def setup_flasher_bundle(self, force_flash_bundle: str | None = None) -> None:
        """Fetch the bundle, unless it is there, and let the board get kernel, initial file system and device tree.

        Args:
            force_flash_bundle: another bundle, until this is called again.

        Raises:
            RegistryError: the bundle can't be had.
            ValueError: its manifest can't be used, or names files that it doesn't have.
        """
        await self._bundles.set_up(force_flash_bundle)

    @export
    async def use_dtb_variant(self, variant: str) -> None:
        """Boot with another of the bundle's device trees.

        Raises:
            ValueError: there is no such variant; the message lists them.
        """
        await self._bundles.use_variant(variant)

    @export
    async def set_kernel(self, handle: Any, name: str = "kernel") -> None:
        """Boot a kernel that the client sends, instead of the bundle's."""
        async with self.resource(handle) as stream:
            await self._bundles.replace("kernel", name, stream)

    @export
    async def set_initram(self, handle: Any, name: str = "initram") -> None:
        """Boot with an initial file system that the client sends, instead of the bundle's."""
        async with self.resource(handle) as stream:
            await self._bundles.replace("initram", name, stream)

    @export
    async def set_dtb(self, handle: Any, name: str = "board.dtb") -> None:
        """Boot with a device tree that the client sends, instead of the bundle's."""
        async with self.resource(handle) as stream:
            await self._bundles.replace("dtb", name, stream)

    @export
    async def get_flasher_manifest_yaml(self) -> str:
        """Return the text of the manifest."""
        return await self._bundles.text()

    @export
    async def get_kernel_filename(self) -> str:
        """Return the name under which the TFTP server has the kernel."""
        return await self._bundles.file_name("kernel") or ""

    @export
    async def get_initram_filename(self) -> str | None:
        """Return the name under which the TFTP server has the initial file system; None if there is none."""
        return await self._bundles.file_name("initram")

    @export
    async def get_dtb_filename(self) -> str:
        """Return the name under which the TFTP server has the device tree; empty if there is none."""
        return await self._bundles.file_name("dtb") or ""

    @export
    async def get_kernel_address(self) -> str:
        """Return where the kernel goes in memory."""
        return (await self._manifest()).get_kernel_address()

    @export
    async def get_initram_address(self) -> str | None:
        """Return where the initial file system goes in memory; None if there is none."""
        return (await self._manifest()).get_initram_address()

    @export
    async def get_dtb_address(self) -> str | None:
        """Return where the device tree goes in memory; None if there is none."""
        return (await self._manifest()).get_dtb_address()

    @export
    async def get_bootcmd(self) -> str:
        """Return the U-Boot command that boots with the current device tree."""
        return (await self._manifest()).get_boot_cmd(self._bundles.variant)

    @export
    async def get_default_target(self) -> str | None:
        """Return the disk to write as the exporter's config has it; None leaves it to the manifest."""
        return self.default_target

    @export
    async def get_cacert(self) -> str | None:
        """Return the certificates of authorities to trust; None if the config names none."""
        if self.cacert is None:
            return None
        return await to_thread.run_sync(Path(self.cacert).read_text)

    @export
    def setup_fls_binary(self) -> None:
        """Let the board get the program `fls` of this exporter, under the name `fls`.

        Raises:
            ConfigurationError: the exporter has none.
        """
        place = next((each for each in FLS_PLACES if os.path.isfile(each)), None) or shutil.which("fls")
        if place is None:
            raise ConfigurationError(f"the exporter has no fls for boards; install it as {FLS_PLACES[0]}")
        self.http.storage.copy_exporter_file(Path(place), "fls")

    async def _manifest(self) -> FlasherBundleManifestV1Alpha1:
        return await self._bundles.manifest()

    # -- images ----------------------------------------------------------------------------------

    async def _service(self) -> ImageService:
        if self._images is None:
            cache = await self._bundles.cache()
            self._images = ImageService(cache, lambda: Path(self.http.root_dir))
        return self._images

    @export
    async def image_find(self, request: dict[str, Any]) -> dict[str, Any]:
        """Tell what is known of an image that a client has; see `ImageService.find`."""
        return await (await self._service()).find(FindRequest.model_validate(request))

    @export
    async def image_receive(self, handle: Any, request: dict[str, Any], bmap: Any = None) -> dict[str, Any]:
        """Take an image from a client, and its block map if it has one; return what is known of it.

        Raises:
            ImageError: it is damaged, or not the expected one.
            CacheError: there is no room for it.
        """
        wanted = ReceiveRequest.model_validate(request)
        service = await self._service()
        block_map = await self._block_map(bmap)
        async with self.resource(handle) as stream:
            return await service.receive(wanted, stream, block_map)

    @export
    async def image_fetch(self, request: dict[str, Any], bmap: Any = None) -> AsyncGenerator[dict[str, Any], None]:
        """Fetch an image from a web server or registry; yield how far that is, at last what is known of it.

        Raises:
            TransferFailed, TimeoutError, RegistryError: it can't be had.
            ImageError: it is damaged, or not the expected one.
            CacheError: there is no room for it.
        """
        wanted = FetchRequest.model_validate(request)
        service = await self._service()
        if wanted.cacert is None:
            wanted.cacert = await self.get_cacert()
        async with aclosing(service.fetch(wanted, await self._block_map(bmap))) as reports:
            async for report in reports:
                yield report

    async def _block_map(self, handle: Any) -> bytes | None:
        if handle is None:
            return None
        async with self.resource(handle) as stream:
            return await read_block_map(stream)

    @export
    async def image_offer(self, key: str) -> dict[str, Any]:
        """Let the board get an image; see `ImageService.offer`."""
        return await to_thread.run_sync((await self._service()).offer, key)

    @export
    async def image_withdraw(self, path: str) -> None:
        """Take an offered image back. Missing is fine."""
        await to_thread.run_sync((await self._service()).withdraw, path)


def _shared(child: Driver) -> Driver:
    """Return a child for a second parent, which shows it without owning it."""
    return Shared(target=child)


@dataclass(kw_only=True)
class Shared(Proxy):
    """Shows a driver that stands elsewhere in the tree; closing it is left to its real parent."""

    ref: str = "shared"
    target: Driver

    def _resolve(self, root: Driver | None, name: str | None, followed: tuple[Proxy, ...]) -> Driver:
        target = self.target
        return target._follow(root, followed) if isinstance(target, Proxy) and root is not None else target


@dataclass(kw_only=True)
class TIJ784S4Flasher(BaseFlasher):
    """For boards with TI's J784S4."""

    flasher_bundle: str = "quay.io/jumpstarter-dev/jumpstarter-flasher-ti-j784s4:latest"


@dataclass(kw_only=True)
class RCarS4Flasher(BaseFlasher):
    """For boards with Renesas' R-Car S4."""

    flasher_bundle: str = "quay.io/jumpstarter-dev/jumpstarter-flasher-rcar-s4:latest"
