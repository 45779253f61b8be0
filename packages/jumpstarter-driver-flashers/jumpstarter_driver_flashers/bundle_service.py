"""The bundle that a board boots for flashing: fetched once, and laid out for its boot loader."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from anyio import Lock, to_thread
from anyio.abc import ObjectStream
from jumpstarter.common.oci import resolve_oci_credentials
from jumpstarter_driver_opendal.images.cache import Cache, Entry
from jumpstarter_driver_opendal.images.registry import Reference, Registry, fetch_artifact
from jumpstarter_driver_opendal.transfer import finish, receive_into

from .bundle import FlasherBundleManifestV1Alpha1

if TYPE_CHECKING:
    from .driver import BaseFlasher

__all__ = ["BundleService", "Part"]

Part = Literal["kernel", "initram", "dtb"]
PARTS: Final[tuple[Part, ...]] = ("kernel", "initram", "dtb")

MAX_PART: Final = 2 << 30
"""Bytes that a client may send for a part; boards have no more room for it."""


class BundleService:
    """The bundle of one flasher.

    Args:
        driver: the flasher, whose configuration says which bundle.

    Raises:
        ValueError: the bundle's reference, or the manifest's name, can't be one.
    """

    def __init__(self, driver: BaseFlasher) -> None:
        self._driver = driver
        self._check(driver.flasher_bundle)
        if Path(driver.manifest).name != driver.manifest:
            raise ValueError(f"manifest {driver.manifest!r} must be the plain name of a file in the bundle")
        self.variant: str | None = driver.variant
        self._lock = Lock()
        self._cache: Cache | None = None
        self._entry: Entry | None = None
        self._folder: Path | None = None
        self._read: FlasherBundleManifestV1Alpha1 | None = None
        self._replaced: dict[Part, str] = {}
        """What a client has sent instead of a part: names on the TFTP server."""

    def _check(self, name: str) -> Reference | Path:
        """Raises: ValueError: it is neither a directory's path nor a reference."""
        if isinstance(name, str) and name.startswith(("/", "./", "../", "~/")):
            return Path(name).expanduser()
        return Reference.parse(name, self._driver.plain_http)

    async def cache(self) -> Cache:
        """Return the cache.

        Raises:
            CacheError: its directory can't be used.
        """
        if self._cache is None:
            self._cache = await to_thread.run_sync(Cache, self._driver.cache_dir, self._driver.cache_size)
        return self._cache

    async def set_up(self, name: str | None = None) -> None:
        """Fetch a bundle, by default that of the configuration, and lay out its files for the board."""
        where = self._check(name or self._driver.flasher_bundle)
        async with self._lock:
            entry: Entry | None = None
            if isinstance(where, Path):
                folder = where
            else:
                credentials = await to_thread.run_sync(resolve_oci_credentials, f"oci://{where}")
                entry = await fetch_artifact(await self.cache(), Registry(where, credentials))
                folder = entry.path
            try:
                manifest = await to_thread.run_sync(self._load, folder)
            except BaseException:
                if entry is not None:
                    entry.close()
                raise
            self.close()
            self._entry, self._folder, self._read = entry, folder, manifest
            self._replaced.clear()
            for part in PARTS:
                await self._lay_out(part)

    def _load(self, folder: Path) -> FlasherBundleManifestV1Alpha1:
        """Read the manifest, and see that all it names is there."""
        try:
            manifest = FlasherBundleManifestV1Alpha1.from_file(folder / self._driver.manifest)
        except FileNotFoundError:
            there = ", ".join(sorted(path.name for path in folder.glob("*.yaml"))) if folder.is_dir() else ""
            raise ValueError(
                f"the flasher bundle {self._driver.flasher_bundle} has no {self._driver.manifest}"
                + (f"; it has {there}" if there else "")
            ) from None
        variants = manifest.spec.dtb.variants.values() if manifest.spec.dtb else ()
        names = [manifest.get_kernel_file(), manifest.get_initram_file(), *(each.file for each in variants)]
        missing = [name for name in names if name and not (folder / name).is_file()]
        if missing:
            raise ValueError(f"the flasher bundle lacks files that its manifest names: {', '.join(missing)}")
        manifest.get_dtb_file(self.variant)
        return manifest

    async def manifest(self) -> FlasherBundleManifestV1Alpha1:
        """Return the manifest; the bundle is fetched if it wasn't yet."""
        if self._read is None:
            await self.set_up()
        assert self._read is not None
        return self._read

    async def text(self) -> str:
        """Return the text of the manifest."""
        await self.manifest()
        assert self._folder is not None
        return await to_thread.run_sync((self._folder / self._driver.manifest).read_text)

    async def use_variant(self, variant: str) -> None:
        """Boot with another device tree.

        Raises:
            ValueError: there is none of that name.
        """
        (await self.manifest()).get_dtb_file(variant)
        self.variant = variant
        self._replaced.pop("dtb", None)
        await self._lay_out("dtb")

    async def file_name(self, part: Part) -> str | None:
        """Return the name of a part on the TFTP server; None if the bundle has no such part."""
        manifest = await self.manifest()
        if part in self._replaced:
            return self._replaced[part]
        file = self._file(manifest, part)
        if file is None:
            return None
        names = [self._file(manifest, each) for each in PARTS]
        alike = [each for each in names if each and Path(each).name == Path(file).name]
        # Two parts may have the same name in different directories.
        return Path(file).name if len(alike) == 1 else file.replace("/", "_")

    def _file(self, manifest: FlasherBundleManifestV1Alpha1, part: Part) -> str | None:
        if part == "kernel":
            return manifest.get_kernel_file()
        if part == "initram":
            return manifest.get_initram_file()
        return manifest.get_dtb_file(self.variant)

    async def _lay_out(self, part: Part) -> None:
        name = await self.file_name(part)
        file = self._file(await self.manifest(), part)
        if name is not None and file is not None:
            assert self._folder is not None
            await to_thread.run_sync(self._driver.tftp.storage.copy_exporter_file, self._folder / file, name)

    async def replace(self, part: Part, name: str, stream: ObjectStream[bytes]) -> None:
        """Take a part from a client.

        Raises:
            ValueError: the bundle has no such part, so its boot command has no use for it; or the name can't be one.
        """
        manifest = await self.manifest()
        if part != "kernel" and getattr(manifest.spec, part) is None:
            raise ValueError(f"the bundle boots without {part}, so there is nothing to replace")
        if not name or os.path.basename(name) != name:
            raise ValueError(f"{name!r} is no plain name of a file")
        cache = await self.cache()
        new = await to_thread.run_sync(cache.build)
        try:
            path = new.path / "part"
            await _save(stream, path)
            target = f"client-{part}-{name}"
            await to_thread.run_sync(self._driver.tftp.storage.copy_exporter_file, path, target)
            self._replaced[part] = target
        finally:
            await finish(new.close)

    def close(self) -> None:
        """Allow the bundle to be removed from the cache."""
        entry, self._entry = self._entry, None
        self._folder = self._read = None
        if entry is not None:
            entry.close()


async def _save(stream: ObjectStream[bytes], path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    written = 0

    def write(data: bytes) -> Any:
        nonlocal written
        written += len(data)
        if written > MAX_PART:
            raise ValueError(f"a part of a bundle may have {MAX_PART} bytes at most")
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    try:
        await receive_into(stream, write)
    finally:
        os.close(descriptor)
