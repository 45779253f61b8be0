"""The manifest of a flasher bundle: what a board boots from the network so that its disk can be written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

__all__ = [
    "Dtb",
    "DtbVariant",
    "FileAddress",
    "FlashBundleSpecV1Alpha1",
    "FlasherBundleManifestV1Alpha1",
    "FlasherLogin",
    "ObjectMeta",
]

MAX_MANIFEST = 1 << 20
"""Bytes that a manifest may have."""


def _address(value: Any) -> Any:
    """YAML reads an address without quotes as a number."""
    return hex(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _inside(value: str | None) -> str | None:
    """Files are named relative to the bundle."""
    if value is not None:
        path = PurePosixPath(value)
        if not path.name or path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{value!r} is no name of a file inside of the bundle")
    return value


class FileAddress(BaseModel):
    """A file of the bundle, and where it goes in the board's memory."""

    file: str
    address: str

    _read_address = field_validator("address", mode="before")(_address)
    _check_file = field_validator("file")(_inside)


class DtbVariant(BaseModel):
    """One device tree to choose: a file, a boot command of its own, or both."""

    file: str | None = None
    bootcmd: str | None = None

    _check_file = field_validator("file")(_inside)


class Dtb(BaseModel):
    """The device trees of a bundle."""

    default: str
    address: str
    variants: dict[str, DtbVariant]

    _read_address = field_validator("address", mode="before")(_address)

    @field_validator("variants", mode="before")
    @classmethod
    def _read_variants(cls, value: Any) -> Any:
        """A variant may be just the name of its file."""
        if not isinstance(value, Mapping):
            return value
        return {name: {"file": each} if isinstance(each, str) else each or {} for name, each in value.items()}

    @model_validator(mode="after")
    def _check_default(self) -> Dtb:
        if self.default not in self.variants:
            raise ValueError(
                f"the default {self.default!r} is not among the variants ({', '.join(self.variants) or 'none'})"
            )
        return self


class FlasherLogin(BaseModel):
    """How to get at the shell of the system that was booted. Prompts are regular expressions."""

    login_prompt: str
    username: str | None = None
    password: str | None = None
    prompt: str


class FlashBundleSpecV1Alpha1(BaseModel):
    """What a bundle holds and how it is used."""

    manufacturer: str
    link: str | None = None
    bootcmd: str
    shelltype: Literal["busybox"] = "busybox"
    login: FlasherLogin = Field(default_factory=lambda: FlasherLogin(login_prompt="login:", prompt="#"))
    default_target: str
    targets: dict[str, str]
    kernel: FileAddress
    initram: FileAddress | None = None
    dtb: Dtb | None = None
    preflash_commands: list[str] = Field(default_factory=list)


class ObjectMeta(BaseModel):
    """The name of a bundle."""

    name: str


class FlasherBundleManifestV1Alpha1(BaseModel):
    """A manifest as a whole."""

    apiVersion: Literal["jumpstarter.dev/v1alpha1"] = "jumpstarter.dev/v1alpha1"
    kind: Literal["FlashBundleManifest"] = "FlashBundleManifest"
    metadata: ObjectMeta
    spec: FlashBundleSpecV1Alpha1

    def get_dtb_address(self) -> str | None:
        """Return where device trees go in memory; None if the bundle has none."""
        return self.spec.dtb.address if self.spec.dtb else None

    def get_dtb_file(self, variant: str | None = None) -> str | None:
        """Return the file of a device tree, by default of the default one; None if there is none.

        Raises:
            ValueError: there is no such variant.
        """
        return self._variant(variant).file

    def get_boot_cmd(self, variant: str | None = None) -> str:
        """Return the U-Boot command that boots with a device tree, by default with the default one.

        Raises:
            ValueError: there is no such variant.
        """
        return self._variant(variant).bootcmd or self.spec.bootcmd

    def _variant(self, name: str | None) -> DtbVariant:
        dtb = self.spec.dtb
        if dtb is None and name is None:
            return DtbVariant()
        variants = dtb.variants if dtb else {}
        wanted = dtb.default if dtb and name is None else name
        if wanted not in variants:
            raise ValueError(f"DTB variant {wanted!r} not found in the bundle, available: {list(variants)}")
        return variants[str(wanted)]

    def get_kernel_address(self) -> str:
        """Return where the kernel goes in memory."""
        return self.spec.kernel.address

    def get_kernel_file(self) -> str:
        """Return the file of the kernel."""
        return self.spec.kernel.file

    def get_initram_file(self) -> str | None:
        """Return the file of the initial file system; None if there is none."""
        return self.spec.initram.file if self.spec.initram else None

    def get_initram_address(self) -> str | None:
        """Return where the initial file system goes in memory; None if there is none."""
        return self.spec.initram.address if self.spec.initram else None

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> FlasherBundleManifestV1Alpha1:
        """Read a manifest.

        Raises:
            OSError: it can't be read.
            ValueError: it is none; the message says where it is wrong.
        """
        content = Path(path).read_bytes()
        if len(content) > MAX_MANIFEST:
            raise ValueError(f"{Path(path).name} has more than {MAX_MANIFEST} bytes, so it is no manifest")
        return cls._read(content.decode("utf-8", "replace"), Path(path).name)

    @classmethod
    def from_string(cls, text: str) -> FlasherBundleManifestV1Alpha1:
        """Read a manifest from text.

        Raises:
            ValueError: it is none; the message says where it is wrong.
        """
        return cls._read(text, "the manifest")

    @classmethod
    def _read(cls, text: str, name: str) -> FlasherBundleManifestV1Alpha1:
        try:
            return cls.model_validate(yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise ValueError(f"{name} of the flasher bundle is no YAML: {error}") from None
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
            raise ValueError(f"{name} of the flasher bundle can't be used: {problems}") from None
