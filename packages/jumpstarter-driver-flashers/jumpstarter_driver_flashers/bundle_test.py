"""Manifests of both forms are read, and a wrong one is told with its place before anything is done with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from .bundle import FlasherBundleManifestV1Alpha1

OLD = """
apiVersion: jumpstarter.dev/v1alpha1
kind: FlashBundleManifest
metadata:
  name: test
spec:
  manufacturer: The Jumpstarter Authors
  link: "https://jumpstarter.dev"
  bootcmd: "booti 0x82000000 - 0x84000000"
  shelltype: "busybox"
  login:
    type: "busybox"
    login_prompt: "login:"
    username: "root"
    password: "password"
    prompt: "#"
  default_target: "usd"
  targets:
    usd: "/sys/class/block#4fb0000"
    emmc: "/sys/class/block#4f80000"
  kernel:
    file: data/kernel
    address: "0x82000000"
  initram:
    file: data/initramfs
    address: 0x83000000
  dtb:
    default: test-dtb
    address: "0x84000000"
    variants:
      test-dtb: data/dtbs/test.dtb
      alternate: data/dtbs/alternate.dtb
"""

NEW = OLD.replace(
    "      alternate: data/dtbs/alternate.dtb\n",
    "      alternate: {file: data/dtbs/alternate.dtb}\n      othercmd: {bootcmd: bootm}\n",
)


def changed(**spec: Any) -> str:
    """Return the manifest with another value of some keys; None leaves the key out."""
    manifest = yaml.safe_load(OLD)
    for key, value in spec.items():
        manifest["spec"].pop(key)
        if value is not None:
            manifest["spec"][key] = value
    return yaml.safe_dump(manifest)


@pytest.mark.parametrize("text", [OLD, NEW], ids=["file names", "structures"])
def test_device_trees_of_both_forms_are_found_by_their_variant(text: str):
    manifest = FlasherBundleManifestV1Alpha1.from_string(text)
    assert manifest.get_dtb_file() == "data/dtbs/test.dtb"
    assert manifest.get_dtb_file("alternate") == "data/dtbs/alternate.dtb"
    assert manifest.get_dtb_address() == "0x84000000"
    assert manifest.get_boot_cmd("alternate") == "booti 0x82000000 - 0x84000000"


def test_variant_may_have_a_boot_command_of_its_own_and_no_file():
    manifest = FlasherBundleManifestV1Alpha1.from_string(NEW)
    assert manifest.get_boot_cmd("othercmd") == "bootm"
    assert manifest.get_dtb_file("othercmd") is None


def test_variant_that_does_not_exist_is_refused_with_those_that_do():
    manifest = FlasherBundleManifestV1Alpha1.from_string(NEW)
    with pytest.raises(ValueError, match=r"'nope'.*test-dtb.*alternate.*othercmd"):
        manifest.get_dtb_file("nope")


def test_kernel_and_initial_file_system_are_found(tmp_path: Path):
    path = tmp_path / "manifest.yaml"
    path.write_text(OLD)
    manifest = FlasherBundleManifestV1Alpha1.from_file(path)
    assert (manifest.get_kernel_file(), manifest.get_kernel_address()) == ("data/kernel", "0x82000000")
    assert manifest.get_initram_file() == "data/initramfs"
    assert (manifest.apiVersion, manifest.kind) == ("jumpstarter.dev/v1alpha1", "FlashBundleManifest")
    assert set(manifest.spec.targets) == {"usd", "emmc"}


def test_address_without_quotes_is_the_same_address():
    assert FlasherBundleManifestV1Alpha1.from_string(OLD).get_initram_address() == "0x83000000"


def test_bundle_may_have_a_kernel_alone_and_no_login():
    manifest = FlasherBundleManifestV1Alpha1.from_string(changed(dtb=None, initram=None, login=None))
    assert manifest.get_dtb_file() is None
    assert manifest.get_dtb_address() is None
    assert manifest.get_initram_file() is None
    assert manifest.get_initram_address() is None
    assert (manifest.spec.login.login_prompt, manifest.spec.login.prompt) == ("login:", "#")
    with pytest.raises(ValueError, match="available"):
        manifest.get_dtb_file("any")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no YAML"),
        ("[]", "can't be used"),
        (OLD.replace("FlashBundleManifest", "Other"), "kind"),
        (changed(kernel=None), "spec.kernel"),
        (changed(kernel={"file": "../../etc/passwd", "address": "0x1"}), "inside of the bundle"),
        (changed(kernel={"file": "/etc/passwd", "address": "0x1"}), "inside of the bundle"),
        (changed(dtb={"default": "x", "address": "0x1", "variants": {"y": "data/y"}}), "'x' is not among .*y"),
        (changed(shelltype="bash"), "shelltype"),
        (changed(targets=["a"]), "targets"),
    ],
)
def test_manifest_that_can_not_be_used_is_refused_with_the_place(text: str, words: str):
    with pytest.raises(ValueError, match=words):
        FlasherBundleManifestV1Alpha1.from_string(text)
