"""Client of the flasher: it leads a board through the steps of a flash; and the `j` commands."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import click
from jumpstarter.client.core import DriverError, DriverMethodNotImplemented
from jumpstarter.common.exceptions import ArgumentError
from jumpstarter_driver_composite.client import CompositeClient
from jumpstarter_driver_opendal.flasher_client import FlasherClient

from .errors import FlashError, FlashNonRetryableError, FlashRetryableError, categorize, find_in_chain

if TYPE_CHECKING:
    from jumpstarter.client import DriverClient
    from jumpstarter.common.oci import OciCredentials
    from jumpstarter_driver_uboot.common import DhcpInfo

    from .arguments import Job, Options
    from .bundle import FlasherBundleManifestV1Alpha1
    from .progress import Display
    from .transfer import ImageHost

__all__ = ["BaseFlasherClient", "FlashError", "FlashNonRetryableError", "FlashRetryableError"]

RETRY_BASE = 2.0
"""Seconds before the first new try; doubled each time."""

PathBuf = str | os.PathLike[str]


@dataclass(kw_only=True)
class BaseFlasherClient(FlasherClient, CompositeClient):
    """Writes disk images to a board by way of its boot loader and a small Linux in its memory."""

    login_timeout: ClassVar[float] = 180.0
    """Seconds from the boot command to the login, and from there to the shell."""

    known_hashes: dict[str, str] = field(default_factory=dict, init=False, repr=False)
    """SHA-256 of the files that were flashed, by name and version."""
    _manifest: FlasherBundleManifestV1Alpha1 | None = field(default=None, init=False, repr=False)
    _console_debug: bool = field(default=False, init=False, repr=False)
    _dhcp: DhcpInfo | None = field(default=None, init=False, repr=False)
    _redaction_values: set[str] = field(default_factory=set, init=False, repr=False)

    def set_console_debug(self, debug: bool) -> None:
        """Copy the board's console to stdout."""
        self._console_debug = debug

    @property
    def manifest(self) -> FlasherBundleManifestV1Alpha1:
        """The manifest of the bundle that was set up last."""
        from .bundle import FlasherBundleManifestV1Alpha1

        if self._manifest is None:
            self._manifest = FlasherBundleManifestV1Alpha1.from_string(self.call("get_flasher_manifest_yaml"))
        return self._manifest

    @property
    def default_target(self) -> str | None:
        """The disk to write as the exporter's config has it."""
        with suppress(DriverMethodNotImplemented):
            return self.call("get_default_target") or None
        return None

    @cached_property
    def image_host(self) -> ImageHost:
        """Who takes images and lets the board get them."""
        from .transfer import ExporterHost, supports_images

        if supports_images(self):
            return ExporterHost(self)
        from .local_host import LocalHost

        return LocalHost(self)

    # -- flashing --------------------------------------------------------------------------------

    def flash(  # type: ignore[override]
        self,
        path: PathBuf | Mapping[str, PathBuf],
        *,
        partition: str | None = None,
        target: str | None = None,
        block_device: str | None = None,
        operator: Any = None,
        os_image_checksum: str | None = None,
        bmap: PathBuf | bool | None = None,
        verify: bool = False,
        direct: bool = False,
        force_exporter_http: bool = False,
        force_flash_bundle: str | None = None,
        cacert_file: PathBuf | None = None,
        insecure_tls: bool = False,
        plain_http: bool = False,
        headers: Mapping[str, str] | None = None,
        bearer_token: str | None = None,
        oci_username: str | None = None,
        oci_password: str | None = None,
        retries: int = 3,
        power_off: bool = True,
        method: str | None = None,
        fls_version: str | None = None,
        fls_binary_url: str | None = None,
        compression: str | None = None,
    ) -> None:
        """Write an image, or several, to the board's disk.

        Images may be raw, Android sparse, and packed with gzip, xz, zstd or bzip2; that is found out by their content.
        They go through the exporter, which keeps them: flashed again, an image is not transferred again.

        Args:
            path: local file, `http(s)://` or `oci://` URL, which the exporter fetches, path of `operator`, or a mapping
                of such by partition.
            partition: a target of the bundle's manifest, or the label of a partition on the disk.
            target: the same, or a disk: another name of `block_device`.
            block_device: a target of the manifest, or a path such as `/dev/mmcblk0`; None for the default.
            operator: an OpenDAL operator that has the image.
            os_image_checksum: SHA-256 that the image file must have.
            bmap: path of a block map, whose blocks alone are written; None uses one that lies beside a local image.
            verify: read everything back from the disk and compare it.
            direct: let the board download the URL itself, past the exporter; it is not kept and not verified then.
            force_exporter_http: images go through the exporter anyway; kept for callers that ask for it.
            force_flash_bundle: another bundle for this flash.
            cacert_file: file with authorities (PEM) to trust for URLs.
            insecure_tls: trust every server.
            plain_http: the registry of an `oci://` URL speaks HTTP without TLS.
            headers: HTTP headers for URLs.
            bearer_token: token for URLs.
            oci_username: user for a registry, together with
            oci_password: the password; `OCI_USERNAME` and `OCI_PASSWORD` otherwise.
            retries: how often to begin again after a failure that may pass.
            power_off: switch the board off at the end; otherwise it reboots.
            method: `shell` is what there is; `fls` is accepted, and means the same.
            fls_version: not used.
            fls_binary_url: not used.
            compression: not needed.

        Raises:
            ArgumentError: what was asked for can't be done; nothing was changed.
            FlashError: the board was not flashed; the message names the step.
        """
        from .arguments import check_bearer_token, check_headers

        if method not in (None, "shell", "fls"):
            raise ArgumentError(f"unknown method {method!r}; there is 'shell'")
        if direct and force_exporter_http:
            raise ArgumentError("the image can't go through the exporter and past it: leave 'direct' out")
        jobs = self._jobs(path, partition, target, block_device, operator, os_image_checksum, bmap)
        checked = check_headers(headers)
        if (token := check_bearer_token(bearer_token)) is not None:
            if any(name.lower() == "authorization" for name in checked):
                raise ArgumentError("a bearer token and a header 'Authorization' exclude each other")
            checked["Authorization"] = f"Bearer {token}"
        from .arguments import Options

        options = Options(
            headers=checked,
            insecure_tls=insecure_tls,
            cacert=_read_text(cacert_file),
            credentials=self._resolve_oci_credentials(jobs[0].path, oci_username, oci_password),
            plain_http=plain_http,
            direct=direct,
            verify=verify,
            power_off=power_off,
            retries=retries,
        )
        self._check_jobs(jobs, options)
        self._run_flash(jobs, options, force_flash_bundle)

    def _jobs(
        self,
        path: PathBuf | Mapping[str, PathBuf],
        partition: str | None,
        target: str | None,
        block_device: str | None,
        operator: Any,
        checksum: str | None,
        bmap: PathBuf | bool | None,
    ) -> list[Job]:
        """Return the images of a call, checked as far as that is possible here."""
        from .arguments import Job, check_sha256, read_block_map

        if target is not None and block_device is not None and target != block_device:
            raise ArgumentError(f"target {target!r} and block_device {block_device!r} are two names for one thing")
        device = block_device if block_device is not None else target
        if not isinstance(path, Mapping):
            block_map = read_block_map(path, bmap) if operator is None else None
            return [
                Job(
                    path=path,
                    operator=operator,
                    partition=partition,
                    block_device=device,
                    sha256=check_sha256(checksum),
                    block_map=block_map,
                )
            ]
        if partition is not None or checksum is not None or bmap not in (None, False):
            raise ArgumentError("a mapping of images names its partitions itself, and takes no checksum and block map")
        if not path:
            raise ArgumentError("the mapping of images is empty: there is nothing to flash")
        operators = operator if isinstance(operator, Mapping) else dict.fromkeys(path, operator)
        return [
            Job(
                path=image,
                operator=operators.get(name),
                partition=name,
                block_device=device,
                block_map=read_block_map(image, bmap) if operators.get(name) is None else None,
            )
            for name, image in path.items()
        ]

    def _check_jobs(self, jobs: list[Job], options: Options) -> None:
        """Raise ArgumentError for what can be known to fail."""
        from jumpstarter_driver_opendal.offer import check_local_source

        from .arguments import is_url

        for job in jobs:
            if job.operator is None and not is_url(job.path):
                check_local_source(job.path)
            if not options.direct:
                continue
            if not (isinstance(job.path, str) and job.path.startswith(("http://", "https://"))):
                raise ArgumentError("the board itself can download http:// and https:// URLs only: leave 'direct' out")
            if options.headers or options.cacert or options.verify or job.sha256 or job.block_map:
                raise ArgumentError(
                    "headers, tokens, certificates, check sums, block maps and verifying need the way through the "
                    "exporter: leave 'direct' out"
                )

    def _run_flash(self, jobs: list[Job], options: Options, bundle: str | None) -> None:
        from .procedure import Procedure, step
        from .progress import Display
        from .transfer import Transfers

        started = time.monotonic()
        with Display(self.logger) as display, ExitStack() as stack:
            sent = [] if options.direct else jobs
            transfers = stack.enter_context(Transfers(self, sent, options, display))
            display.step("Getting the flasher bundle")
            with step("bundle"):
                self._set_up_bundle(bundle)
            transfers.check()
            stack.enter_context(self._servers())
            self._try_to_flash(Procedure(self, jobs, options, transfers, display), options, display)
            display.step(f"Flashed in {time.monotonic() - started:.1f} s")

    def _try_to_flash(self, procedure: Any, options: Options, display: Display) -> None:
        """Flash, again after failures that may pass; in the end the board is off, unless it worked and reboots."""
        for attempt in range(options.retries + 1):
            try:
                procedure.run()
            except Exception as error:
                failure = categorize(error)
                if isinstance(failure, FlashNonRetryableError) or attempt == options.retries:
                    self._switch_off(display, "after the failure")
                    tries = f" (tried {attempt + 1} times)" if attempt else ""
                    raise FlashError(f"flashing failed{tries}: {failure}") from error
                pause = RETRY_BASE * 2**attempt
                display.step(f"{failure}\nTrying again in {pause:g} s ({options.retries - attempt} tries left)")
                time.sleep(pause)
            except BaseException:
                # Interrupted: the board must not go on writing on its own.
                self._switch_off(display, "as the flash was interrupted")
                raise
            else:
                if options.power_off:
                    with _power_errors():
                        self.children["power"].off()  # type: ignore[attr-defined]
                return

    def _switch_off(self, display: Display, why: str) -> None:
        try:
            self.children["power"].off()  # type: ignore[attr-defined]
            display.step(f"The board was switched off {why}")
        except DriverError as error:
            display.step(f"The board could not be switched off {why}: {error}")

    def _set_up_bundle(self, bundle: str | None = None) -> None:
        self._manifest = None
        self.call("setup_flasher_bundle", bundle)

    @contextmanager
    def _servers(self) -> Generator[None, None, None]:
        """Have the servers run that the board gets files from; those that ran before stay."""
        from .procedure import step

        with ExitStack() as stack:
            for name in ("http", "tftp"):
                server = self.children[name]
                with step("servers"):
                    if not _is_running(server):
                        server.start()  # type: ignore[attr-defined]
                        stack.callback(_stop, server)
            yield

    def _generate_uboot_env(self) -> dict[str, str | None]:
        """Return variables of U-Boot's environment; subclasses may add some."""
        tftp: Any = self.children["tftp"]
        env: dict[str, str | None] = {"serverip": tftp.get_host()}
        if (port := tftp.get_port()) != 69:
            env["tftpdstp"] = str(port)
        return env

    def _files(self) -> list[tuple[str, str, str]]:
        """Return part, name and address of what U-Boot loads."""
        found = []
        for part in ("kernel", "initram", "dtb"):
            name, address = self.call(f"get_{part}_filename"), self.call(f"get_{part}_address")
            if name and address:
                found.append((part, str(name), str(address)))
        return found

    def _bootcmd(self) -> str:
        with suppress(DriverMethodNotImplemented):
            return str(self.call("get_bootcmd"))
        return self.manifest.get_boot_cmd()

    def dump(self, path: Any, **options: Any) -> Any:
        """Not to be had.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("a flasher only writes; to read a disk, use 'busybox-shell'")

    # -- what the board boots --------------------------------------------------------------------

    def use_dtb_variant(self, variant: str) -> None:
        """Boot with another of the bundle's device trees.

        Raises:
            ValueError: there is none of that name.
        """
        self.call("use_dtb_variant", variant)

    def use_kernel(self, path: PathBuf, operator: Any = None) -> None:
        """Boot another kernel than the bundle's, until the bundle is set up anew."""
        self._use("set_kernel", path, operator)

    def use_initram(self, path: PathBuf, operator: Any = None) -> None:
        """Boot with another initial file system than the bundle's, until the bundle is set up anew."""
        self._use("set_initram", path, operator)

    def use_dtb(self, path: PathBuf, operator: Any = None) -> None:
        """Boot with another device tree than the bundle's, until the bundle is set up anew."""
        self._use("set_dtb", path, operator)

    def _use(self, method: str, path: PathBuf, operator: Any) -> None:
        from jumpstarter_driver_opendal.offer import clean_filename, offer

        with offer(self, path, operator, "rb") as handle:
            self.call(method, handle, clean_filename(path))

    # -- shells ----------------------------------------------------------------------------------

    @contextmanager
    def bootloader_shell(self) -> Generator[DriverClient, None, None]:
        """Reboot the board into U-Boot, with its network set up; yield the client of its serial port."""
        from .procedure import at_uboot, step
        from .progress import Display

        with Display(self.logger) as display, ExitStack() as stack:
            with step("bundle"):
                self._set_up_bundle()
            stack.enter_context(self._servers())
            with at_uboot(self, display) as uboot, step("network of U-Boot"):
                self._dhcp = uboot.setup_dhcp()
                uboot.set_env_dict(self._generate_uboot_env())
            with display.paused():
                yield self.children["serial"]

    @contextmanager
    def busybox_shell(self) -> Generator[DriverClient, None, None]:
        """Boot the bundle's Linux and log in; yield the client of the board's serial port, at the shell."""
        from .procedure import at_uboot, boot, step
        from .progress import Display

        with Display(self.logger) as display, ExitStack() as stack:
            with step("bundle"):
                self._set_up_bundle()
            stack.enter_context(self._servers())
            with at_uboot(self, display) as uboot:
                boot(self, uboot, display)
            with display.paused():
                yield self.children["serial"]

    # -- names that scripts know -----------------------------------------------------------------

    def _filename(self, path: PathBuf) -> str:
        from .arguments import file_name

        return file_name(path)

    def _validate_bearer_token(self, token: str | None) -> str | None:
        from .arguments import check_bearer_token

        return check_bearer_token(token)

    def _resolve_oci_credentials(self, path: Any, username: str | None, password: str | None) -> OciCredentials:
        from .arguments import oci_credentials

        return oci_credentials(path, username, password)

    def _curl_header_args(self, headers: Mapping[str, str] | None) -> str:
        from .arguments import curl_header_args

        return curl_header_args(headers or {})

    def _redact_sensitive_values(self, text: str) -> str:
        for value in self._redaction_values:
            text = text.replace(value, "***")
        return text

    def _categorize_exception(self, error: BaseException) -> FlashError:
        return categorize(error)

    def _find_exception_in_chain(self, error: BaseException, kind: type[BaseException]) -> BaseException | None:
        return find_in_chain(error, kind)

    def _resolve_flash_parameters(
        self, file: str | None, partitions: tuple[str, ...], target: str | None
    ) -> list[tuple[str, str | None, str | None]]:
        from .arguments import jobs_of

        return jobs_of(file, partitions, target)

    def cli(self) -> click.Group:
        """Return the `j` commands."""
        from .commands import add_commands

        base = CompositeClient.cli(self)
        add_commands(self, base)
        return base


def _get_decompression_command(name: str) -> str:
    """Return the program that unpacks a file of such a name, as the beginning of a pipeline; empty for none."""
    from .arguments import unpacker

    program = unpacker(name)
    return "" if program == "cat" else f"{program} |"


def _read_text(path: PathBuf | None) -> str | None:
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(f"can't read {os.fspath(path)!r}: {error}") from None


def _is_running(server: Any) -> bool:
    """Tell whether a server runs already; exporters of other releases can't say so of all."""
    with suppress(DriverMethodNotImplemented):
        return bool(server.call("is_running"))
    return False


def _stop(server: Any) -> None:
    with suppress(DriverError):
        server.stop()


@contextmanager
def _power_errors() -> Generator[None, None, None]:
    try:
        yield
    except DriverError as error:
        raise FlashError(f"the image is written, but the board could not be switched off: {error}") from error
