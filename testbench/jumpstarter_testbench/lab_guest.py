"""The lab guest: a virtual machine with the kernel features that the host lacks, in which marked tests run.

The guest's root is the host's own root, read-only over 9p below a layer in memory, so the same Python, tools and
checkout are there. One boot runs all tests marked `lab_guest` in one pytest process inside; what it reports is replayed
on the host, test by test. Its kernel is Debian's general one, whose modules offer CAN, video, USB gadgets, GPIO
adapters and Bluetooth without hardware.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from jumpstarter_testbench import guest
from jumpstarter_testbench.components import components, find_program
from jumpstarter_testbench.devices import guest_cache
from jumpstarter_testbench.process import Process, ProcessError

COMPONENTS = ("busybox", "kmod", "qemu-x86_64", "squashfs")
KERNEL = "linux-image-amd64"
MODULES = ("virtio_pci", "virtio_net", "virtio_blk", "9p", "9pnet_virtio", "overlay", "squashfs")

INSIDE = "TESTBENCH_LAB_GUEST"
"""The environment variable that is `1` inside the guest."""

REPORTS = "TESTBENCH_LAB_REPORTS"
"""The environment variable that names the file in which pytest inside the guest leaves its reports."""

TIMEOUT = 900
"""Seconds for the boot and all tests inside."""

UNUSED_INSIDE = (
    *("bin/ruff", "bin/uv"),
    *("babel", "botocore", "grimp", "moto", "mypy", "mypyc", "pip", "setuptools", "sphinx", "sphinxcontrib"),
    *("pywt", "scipy", "scipy.libs"),
    *("*__mypyc.*.so",),
)
"""What the guest's copy of the environment leaves out, for speed: tools that no test inside runs."""

_INIT = """#!/bin/busybox sh
# Puts the host's root below a layer in memory and hands over to the script of the run.
/bin/busybox mkdir -p /usr/bin /usr/sbin /sbin
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do
    insmod "/lib/modules/$module.ko" || echo "lab guest: module $module can't be loaded"
done < /lib/modules/order
mkdir -p /host /layer /new
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro root /host
mount -t tmpfs -o size=1g tmpfs /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work overlay /new
mount -t tmpfs tmpfs /new/run
mount -t tmpfs tmpfs /new/tmp
chmod 1777 /new/tmp
mkdir /new/run/lab
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 lab /new/run/lab
for name in proc sys dev; do mount --move /$name /new/$name; done
exec switch_root /new /bin/sh /run/lab/start
"""

_START = """#!/bin/sh
# Runs pytest inside the guest and switches the guest off.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p /dev/pts /dev/shm /lib/modules /run/lock
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /lib/modules
mkdir "/lib/modules/$(uname -r)"
mount --bind "$LAB_MODULES" "/lib/modules/$(uname -r)"
mount -t squashfs -o ro /dev/vda "$LAB_VENV"
mount -t debugfs debugfs /sys/kernel/debug
ip link set lo up
cd "$LAB_ROOT" || exit
setsid -w "$LAB_VENV/bin/python" -m pytest -p no:cacheprovider @/run/lab/tests > /run/lab/pytest.log 2>&1 < /dev/null
echo $? > /run/lab/exit-code
sync
echo o > /proc/sysrq-trigger
sleep 60
"""


class LabGuestError(RuntimeError):
    """The guest can't be made or didn't finish; the message says why and ends with what it printed."""


def inside() -> bool:
    """Tell whether this process runs in the lab guest."""
    return os.environ.get(INSIDE) == "1"


@dataclass(frozen=True, kw_only=True)
class LabGuest:
    """What the guest is started from."""

    kernel: Path
    initramfs: Path
    modules: Path
    environment: Path
    """The virtual environment as a squashfs image: read over 9p, an import would take five times as long."""
    root: Path
    venv: Path

    def run(self, tests: Sequence[str], folder: Path, timeout: float = TIMEOUT) -> None:
        """Boot, run the tests with these node ids, and wait for the guest to switch itself off.

        The reports are in `folder`/reports then, one JSON object per line, and what pytest printed in pytest.log.

        Raises:
            LabGuestError: the guest or pytest inside ended early, or not in time.
        """
        share = folder / "share"
        share.mkdir()
        (share / "tests").write_text("".join(f"{test}\n" for test in tests))
        variables = {
            "LAB_MODULES": str(self.modules),
            "LAB_ROOT": str(self.root),
            "LAB_VENV": str(self.venv),
            "HOME": str(Path.home()),
            "JMP_REQUIRE_REAL": os.environ.get("JMP_REQUIRE_REAL", ""),
            INSIDE: "1",
            REPORTS: "/run/lab/reports",
        }
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
        (share / "start").write_text(exports + _START)
        process = Process(self._command(share), log=folder / "console.log")
        try:
            process.wait(timeout)
        except ProcessError as error:
            raise LabGuestError(f"the lab guest did not finish within {timeout:g} s. {_tail(share)}") from error
        finally:
            process.stop()
        if not (share / "exit-code").exists():
            raise LabGuestError(f"the lab guest went down before pytest had ended. {_tail(share)}{_console(folder)}")

    def _command(self, share: Path) -> list[str]:
        emulator = find_program("qemu-system-x86_64")
        if emulator is None:
            raise LabGuestError("qemu-system-x86_64 is not installed")
        return [
            *(emulator, "-M", "q35", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "2048", "-cpu", "max"),
            *("-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"),
            *("-kernel", str(self.kernel), "-initrd", str(self.initramfs)),
            *("-append", "console=ttyS0 quiet panic=-1 oops=panic"),
            *("-virtfs", "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap"),
            *("-virtfs", f"local,path={_escaped(share)},mount_tag=lab,security_model=none"),
            *("-drive", f"file={_escaped(self.environment)},format=raw,if=virtio,readonly=on"),
        ]


def prepare(config: pytest.Config) -> LabGuest:
    """Make what the guest needs, as far as it isn't there from an earlier run.

    Raises:
        LabGuestError: something can't be downloaded or made.
    """
    cache = guest_cache(config)
    try:
        material = guest.fetch(cache, KERNEL)
        initramfs = _write_initramfs(cache / "lab-initramfs.gz", material)
    except guest.GuestError as error:
        raise LabGuestError(str(error)) from error
    modules = material.modules
    if not (modules / "modules.dep").exists():
        base = modules.parent.parent.parent
        _run([find_program("depmod") or "depmod", "-b", str(base), material.release])
    venv = Path(sys.prefix)
    return LabGuest(
        kernel=material.kernel,
        initramfs=initramfs,
        modules=modules,
        environment=_pack_environment(cache, venv),
        root=config.rootpath,
        venv=venv,
    )


def _write_initramfs(target: Path, material: guest.Material) -> Path:
    buffer = io.BytesIO()
    with guest.CpioWriter(buffer) as archive:
        for directory in ("proc", "sys", "dev"):
            archive.directory(directory)
        archive.device("dev/console", 0o600, 5, 1)
        archive.file("bin/busybox", guest.userland_file(material, "busybox").read_bytes(), 0o755)
        archive.symlink("bin/sh", "busybox")
        archive.file("init", _INIT.encode(), 0o755)
        guest.add_modules(archive, material, MODULES)
    content = gzip.compress(buffer.getvalue(), compresslevel=1, mtime=0)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        file.write(content)
    return Path(file.name).replace(target)


def _pack_environment(cache: Path, venv: Path) -> Path:
    """Pack the virtual environment, again only when something was installed since."""
    target = cache / "environment.sqfs"
    newest = max(path.stat().st_mtime for path in (venv, *venv.glob("lib/python*/site-packages"), venv / "bin"))
    if target.exists() and target.stat().st_mtime > newest:
        return target
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        image = Path(folder, "image")
        exclusions = [name if "/" in name else f"... {name}" for name in UNUSED_INSIDE]
        Path(folder, "exclusions").write_text("".join(f"{line}\n" for line in exclusions))
        options = ["-quiet", "-no-progress", "-comp", "gzip", "-Xcompression-level", "1", "-wildcards"]
        program = find_program("mksquashfs") or "mksquashfs"
        _run([program, str(venv), str(image), *options, "-ef", str(Path(folder, "exclusions"))])
        return image.replace(target)


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    except (subprocess.SubprocessError, OSError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip()
        raise LabGuestError(f"{command[0]} failed: {reason}") from error


def _escaped(path: Path) -> str:
    """A path inside a QEMU option, where a comma is doubled."""
    return str(path).replace(",", ",,")


def _tail(share: Path) -> str:
    log = share / "pytest.log"
    if not log.exists():
        return "pytest had not started."
    return "The end of pytest's output:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-30:])


def _console(folder: Path) -> str:
    lines = (folder / "console.log").read_text(errors="replace").splitlines()[-20:]
    return "\nThe end of its console:\n" + "\n".join(lines)


class Relay:
    """On the host: runs the marked tests in the guest and replays what it reports."""

    def __init__(self, config: pytest.Config) -> None:
        """Do nothing yet: the guest boots for the first test that needs it."""
        self._config = config
        self._reports: dict[str, list[pytest.TestReport]] = {}
        self._has_run = False
        self._problem = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Give the first marked test, which waits for all of them, the time that this takes."""
        for item in items:
            if item.get_closest_marker("lab_guest"):
                item.add_marker(pytest.mark.timeout(TIMEOUT + 300))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Replay the guest's reports on a marked test; where there is no guest, let the setup say so."""
        if item.get_closest_marker("lab_guest") is None or not _components_there():
            return None
        if not self._has_run:
            self._has_run = True
            marked = [other.nodeid for other in item.session.items if other.get_closest_marker("lab_guest")]
            try:
                self._run(marked)
            except LabGuestError as error:
                self._problem = str(error)
        hook = item.ihook
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports.get(item.nodeid) or [self._missing(item)]:
            hook.pytest_runtest_logreport(report=report)
        # The test before this one has left what both of them share for this one to tear down.
        call = pytest.CallInfo.from_call(lambda: item.session._setupstate.teardown_exact(nextitem), when="teardown")
        if call.excinfo is not None:
            hook.pytest_runtest_logreport(report=pytest.TestReport.from_item_and_call(item, call))
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _run(self, tests: list[str]) -> None:
        lab_guest = prepare(self._config)
        with tempfile.TemporaryDirectory(prefix="jmp-lab-") as scratch:
            folder = Path(scratch)
            try:
                lab_guest.run(tests, folder)
            finally:
                self._read_reports(folder / "share" / "reports")
                self._keep_logs(folder)

    def _read_reports(self, path: Path) -> None:
        for line in path.read_text().splitlines() if path.exists() else []:
            report = self._config.hook.pytest_report_from_serializable(config=self._config, data=json.loads(line))
            if isinstance(report.longrepr, list):  # the place and reason of a skip, a tuple before JSON
                report.longrepr = tuple(report.longrepr)
            self._reports.setdefault(report.nodeid, []).append(report)

    def _keep_logs(self, folder: Path) -> None:
        """Keep the logs next to the cached material; those of the next run replace them."""
        target = guest_cache(self._config) / "lab-logs"
        target.mkdir(parents=True, exist_ok=True)
        for log in (folder / "console.log", folder / "share" / "pytest.log"):
            if log.exists():
                shutil.copyfile(log, target / log.name)

    def _missing(self, item: pytest.Item) -> pytest.TestReport:
        return pytest.TestReport(
            nodeid=item.nodeid,
            location=item.location,
            keywords={},
            outcome="failed",
            longrepr=self._problem or "pytest inside the lab guest did not report this test",
            when="setup",
        )


def _components_there() -> bool:
    known = components()
    return not any(known[name].missing() for name in COMPONENTS)


class Reporter:
    """Inside the guest: writes each report to the file that the host reads, at once."""

    def __init__(self, config: pytest.Config, path: Path) -> None:
        """Append to `path`."""
        self._config = config
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write one report."""
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        with self._path.open("a") as file:
            file.write(json.dumps(data) + "\n")


def register(config: pytest.Config) -> None:
    """Add the half of the plugin that belongs to the side on which pytest runs."""
    if not inside():
        config.pluginmanager.register(Relay(config), "lab-guest-relay")
    elif path := os.environ.get(REPORTS):
        config.pluginmanager.register(Reporter(config, Path(path)), "lab-guest-reporter")
