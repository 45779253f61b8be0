"""The exporter's side: the bundle is laid out for the board, images are kept, and nothing is left behind."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from jumpstarter.client.core import DriverError
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.common.utils import serve
from jumpstarter.config.exporter import ExporterConfigV1Alpha1DriverInstance
from jumpstarter_driver_composite.driver import Composite, Proxy
from jumpstarter_driver_http.driver import HttpServer
from jumpstarter_driver_opendal.images.cache import Cache
from jumpstarter_driver_opendal.images.ingest import find_image
from jumpstarter_driver_power.driver import MockPower
from jumpstarter_driver_pyserial.driver import PySerial
from jumpstarter_driver_tftp.driver import Tftp
from jumpstarter_testbench.oci_registry import OciRegistry, digest_of

from .bundle_test import NEW
from .driver import BaseFlasher, RCarS4Flasher, TIJ784S4Flasher
from .image_service import ImageService

FILES = {
    "manifest.yaml": NEW.encode(),
    "other.yaml": NEW.replace("name: test", "name: other").encode(),
    "data/kernel": bytes(1024),
    "data/initramfs": bytes(2048),
    "data/dtbs/test.dtb": bytes(3072),
    "data/dtbs/alternate.dtb": bytes(100),
}


def board() -> dict[str, Any]:
    return {"power": MockPower(), "serial": PySerial(url="loop://")}


def flasher(folder: Path, registry: OciRegistry | None = None, **config: Any) -> BaseFlasher:
    """Return a flasher for a board that is never switched on."""
    if registry is not None:
        config.setdefault("flasher_bundle", f"http://{registry.address}/org/bundle:latest")
    servers = {
        "tftp": Tftp(root_dir=str(folder / "tftp"), host="127.0.0.1", port=0),
        "http": HttpServer(root_dir=str(folder / "http"), host="127.0.0.1", port=0),
    }
    children = {**board(), **servers, **config.pop("children", {})}
    return BaseFlasher(cache_dir=str(folder / "cache"), children=children, **config)


@contextmanager
def serving(driver: BaseFlasher) -> Iterator[Any]:
    with serve(driver) as client:
        yield client


@pytest.fixture
def pushed(oci_registry: OciRegistry) -> OciRegistry:
    oci_registry.push("org/bundle", "latest", FILES)
    return oci_registry


@pytest.mark.parametrize("missing", ["power", "serial"])
def test_board_without_power_or_console_is_a_wrong_configuration(tmp_path: Path, missing: str):
    children = board()
    del children[missing]
    with pytest.raises(ConfigurationError, match=f"needs a child '{missing}'"):
        BaseFlasher(children=children)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"flasher_bundle": "not a reference"}, "no reference"),
        ({"manifest": "../manifest.yaml"}, "plain name"),
        ({"cache_size": "a lot"}, "cache_size"),
        ({"cacert": "/nowhere/ca.pem"}, "/nowhere/ca.pem"),
    ],
)
def test_wrong_setting_is_told_when_the_configuration_is_read(tmp_path: Path, config: dict[str, Any], words: str):
    with pytest.raises(ConfigurationError, match=words):
        flasher(tmp_path, **config)


def test_servers_and_boot_loader_console_are_made_unless_given(tmp_path: Path):
    driver = BaseFlasher(
        children=board(), tftp_dir=str(tmp_path / "tftp"), http_dir=str(tmp_path / "http"), cache_dir=str(tmp_path)
    )
    assert set(driver.children) == {"power", "serial", "tftp", "http", "uboot"}
    with serve(driver) as client:
        assert client.uboot.prompt.strip() == "=>"
        client.uboot.power.on()
        assert client.power.status() == "on"
    assert not list(tmp_path.glob("tftp/*"))


@pytest.mark.parametrize(("kind", "name"), [(TIJ784S4Flasher, "ti-j784s4"), (RCarS4Flasher, "rcar-s4")])
def test_drivers_of_boards_name_their_bundles(kind: type[BaseFlasher], name: str):
    assert kind.__dataclass_fields__["flasher_bundle"].default == (
        f"quay.io/jumpstarter-dev/jumpstarter-flasher-{name}:latest"
    )


def test_bundle_is_laid_out_for_the_board(tmp_path: Path, pushed: OciRegistry):
    with serving(flasher(tmp_path, pushed)) as client:
        client.call("setup_flasher_bundle")
        storage = client.tftp.storage
        assert len(storage.read_bytes("kernel")) == 1024
        assert len(storage.read_bytes("initramfs")) == 2048
        assert len(storage.read_bytes("test.dtb")) == 3072
        assert client.manifest.spec.kernel.file == "data/kernel"
        assert client._files() == [
            ("kernel", "kernel", "0x82000000"),
            ("initram", "initramfs", "0x83000000"),
            ("dtb", "test.dtb", "0x84000000"),
        ]
        assert client.call("get_bootcmd") == "booti 0x82000000 - 0x84000000"
        assert client.call("get_default_target") is None
        assert client.call("get_cacert") is None
    assert not list((tmp_path / "tftp").iterdir())


def test_bundle_is_fetched_once_for_all_sessions(tmp_path: Path, pushed: OciRegistry):
    for _ in range(2):
        with serving(flasher(tmp_path, pushed)) as client:
            client.call("setup_flasher_bundle")
    assert len(pushed.pulls()) == len(FILES)


def test_device_tree_of_another_variant_is_loaded(tmp_path: Path, pushed: OciRegistry):
    with serving(flasher(tmp_path, pushed)) as client:
        client.use_dtb_variant("alternate")
        assert client.call("get_dtb_filename") == "alternate.dtb"
        assert len(client.tftp.storage.read_bytes("alternate.dtb")) == 100
        client.use_dtb_variant("othercmd")
        assert client.call("get_dtb_filename") == ""
        assert client.call("get_bootcmd") == "bootm"
        assert [part for part, _, _ in client._files()] == ["kernel", "initram"]
        with pytest.raises(ValueError, match=r"nope.*test-dtb"):
            client.use_dtb_variant("nope")


def test_variant_and_manifest_of_the_configuration_are_used(tmp_path: Path, pushed: OciRegistry):
    with serving(
        flasher(tmp_path, pushed, variant="alternate", manifest="other.yaml", default_target="emmc")
    ) as client:
        assert client.manifest.metadata.name == "other"
        assert client.call("get_dtb_filename") == "alternate.dtb"
        assert client.default_target == "emmc"


def test_variant_of_the_configuration_that_the_bundle_lacks_is_told(tmp_path: Path, pushed: OciRegistry):
    with (
        serving(flasher(tmp_path, pushed, variant="nope")) as client,
        pytest.raises(ValueError, match="'nope' not found"),
    ):
        client.call("setup_flasher_bundle")


def test_bundle_of_one_flash_does_not_stay(tmp_path: Path, pushed: OciRegistry):
    pushed.push("org/forced", "v1", {**FILES, "manifest.yaml": FILES["other.yaml"]})
    with serving(flasher(tmp_path, pushed)) as client:
        client._set_up_bundle(f"http://{pushed.address}/org/forced:v1")
        assert client.manifest.metadata.name == "other"
        client._set_up_bundle()
        assert client.manifest.metadata.name == "test"


def test_bundle_may_be_a_directory(tmp_path: Path):
    for name, content in FILES.items():
        (tmp_path / "bundle" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "bundle" / name).write_bytes(content)
    with serving(flasher(tmp_path, flasher_bundle=str(tmp_path / "bundle"))) as client:
        assert client.call("get_kernel_filename") == "kernel"


def test_parts_of_the_same_name_do_not_hide_each_other(tmp_path: Path, oci_registry: OciRegistry):
    text = NEW.replace("data/kernel", "linux/image").replace("data/initramfs", "ram/image")
    oci_registry.push(
        "org/bundle", "latest", {**FILES, "manifest.yaml": text.encode(), "linux/image": b"kernel", "ram/image": b"ram"}
    )
    with serving(flasher(tmp_path, oci_registry)) as client:
        client.call("setup_flasher_bundle")
        assert client.tftp.storage.read_bytes(client.call("get_kernel_filename")) == b"kernel"
        assert client.tftp.storage.read_bytes(client.call("get_initram_filename")) == b"ram"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"other.yaml": b"x"}, r"has no manifest.yaml; it has other.yaml"),
        ({"manifest.yaml": b"kind: x"}, "can't be used"),
        ({name: content for name, content in FILES.items() if "alternate" not in name}, "lacks .*alternate.dtb"),
    ],
)
def test_bundle_that_can_not_be_used_is_told(
    tmp_path: Path, oci_registry: OciRegistry, files: dict[str, bytes], words: str
):
    oci_registry.push("org/bundle", "latest", files)
    with serving(flasher(tmp_path, oci_registry)) as client, pytest.raises(ValueError, match=words):
        client.call("setup_flasher_bundle")


def test_bundle_with_a_damaged_file_is_refused(tmp_path: Path, pushed: OciRegistry):
    pushed.corrupt.add(digest_of(FILES["data/kernel"]))
    with serving(flasher(tmp_path, pushed)) as client, pytest.raises(DriverError, match="arrived damaged"):
        client.call("setup_flasher_bundle")


def test_registry_without_tls_must_be_asked_for(tmp_path: Path, pushed: OciRegistry):
    name = f"{pushed.address}/org/bundle:latest"
    with (
        serving(flasher(tmp_path, flasher_bundle=name)) as client,
        pytest.raises(DriverError, match="needs http:// before its name"),
    ):
        client.call("setup_flasher_bundle")
    with serving(flasher(tmp_path, flasher_bundle=name, plain_http=True)) as client:
        client.call("setup_flasher_bundle")


@pytest.mark.parametrize("part", ["kernel", "initram", "dtb"])
def test_client_may_send_parts_of_its_own(tmp_path: Path, pushed: OciRegistry, part: str):
    own = tmp_path / "own"
    own.write_bytes(b"my own")
    with serving(flasher(tmp_path, pushed)) as client:
        getattr(client, f"use_{part}")(own)
        name = client.call(f"get_{part}_filename")
        assert client.tftp.storage.read_bytes(name) == b"my own"
        client._set_up_bundle()
        assert client.call(f"get_{part}_filename") != name


def test_fls_of_the_exporter_is_offered_or_its_lack_is_told(
    tmp_path: Path, pushed: OciRegistry, monkeypatch: pytest.MonkeyPatch
):
    from . import driver as module

    monkeypatch.setattr(module, "FLS_PLACES", (str(tmp_path / "fls"),))
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with serving(flasher(tmp_path, pushed)) as client:
        with pytest.raises(DriverError, match="has no fls"):
            client.call("setup_fls_binary")
        (tmp_path / "fls").write_bytes(b"program")
        client.call("setup_fls_binary")
        assert client.http.storage.read_bytes("fls") == b"program"


def test_offered_image_disappears_with_the_session(tmp_path: Path, pushed: OciRegistry):
    content = gzip.compress(b"x" * 100_000)
    with serving(flasher(tmp_path, pushed)) as client:
        from jumpstarter_driver_opendal.sources import BytesIOStream

        stream = BytesIOStream(BytesIO(content))
        with client.portal.wrap_async_context_manager(client.resource_async(stream)) as handle:
            image = client.call("image_receive", handle, {"name": "x"})
        assert (image["size"], image["compression"]) == (100_000, "gzip")
        offered = client.call("image_offer", image["key"])
        client.http.start()
        assert (tmp_path / "http" / offered["path"] / "00000").read_bytes() == b"x" * 100_000
    assert not list((tmp_path / "http").iterdir())


def test_offered_image_of_a_killed_exporter_is_removed_by_the_next_one(tmp_path: Path):
    script = (
        "import os; from pathlib import Path\n"
        "from jumpstarter_driver_flashers.image_service import ImageService\n"
        "from jumpstarter_driver_opendal.images.cache import Cache\n"
        "from jumpstarter_driver_opendal.images.ingest import Ingest\n"
        f"folder = Path({str(tmp_path)!r}); cache = Cache(folder / 'cache', '1GiB')\n"
        "ingest = Ingest(cache, 'x'); ingest.feed(b'x' * 100000); image = ingest.finish()\n"
        "service = ImageService(cache, lambda: folder / 'http')\n"
        "print(service.offer(service._keep(image)['key'])['path'], image.key, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60).stdout
    path, key = said.split()
    assert (tmp_path / "http" / path / "00000").exists()
    cache = Cache(tmp_path / "cache", "1GiB")
    image = find_image(cache, key.partition("-")[2])
    assert image is not None
    service = ImageService(cache, lambda: tmp_path / "http")
    service.offer(service._keep(image)["key"])
    assert not (tmp_path / "http" / path).exists()
    service.close()
    assert not list((tmp_path / "http").iterdir())


def test_image_of_another_session_is_not_offered(tmp_path: Path, pushed: OciRegistry):
    with (
        serving(flasher(tmp_path, pushed)) as client,
        pytest.raises(DriverError, match="not taken in this session"),
    ):
        client.call("image_offer", "image1-../../../etc/passwd")


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("image_find", [{"size": -1, "name": "x"}]),
        ("image_find", ["x"]),
        ("image_receive", [None, {"offset": "x"}]),
    ],
)
def test_malformed_requests_are_refused(tmp_path: Path, method: str, arguments: list[Any]):
    with serving(flasher(tmp_path)) as client, pytest.raises(ValueError, match="validation error"):
        client.call(method, *arguments)


def test_example_of_the_readme_is_a_valid_configuration(tmp_path: Path):
    text = (Path(__file__).parents[1] / "README.md").read_text()
    block = text.split("```yaml\n")[1].split("```")[0]
    export = yaml.safe_load(block)["export"]
    config = export["flasher"]
    for key in ("cache_dir", "tftp_dir", "http_dir"):
        config["config"][key] = str(tmp_path / key)
    driver = ExporterConfigV1Alpha1DriverInstance.model_validate(config).instantiate()
    tree = Composite(children={"board": Composite(children=board()), "flasher": driver})
    assert isinstance(driver.children["power"], Proxy)
    with serve(tree) as client:
        assert client.flasher.power.status() == "off"
