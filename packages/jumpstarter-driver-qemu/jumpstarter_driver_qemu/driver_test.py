"""The QEMU driver with real machines: a Linux guest, and U-Boot as firmware."""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from jumpstarter.client.core import DriverError, DriverInvalidArgument, DriverMethodNotImplemented
from jumpstarter.common.owned_directory import LOCK
from jumpstarter.common.utils import serve
from jumpstarter_driver_network.adapters import TcpPortforwardAdapter
from jumpstarter_testbench.guest import write_ext4_image
from jumpstarter_testbench.requirements import need

from jumpstarter_driver_qemu import images
from jumpstarter_driver_qemu.accelerator import resolve
from jumpstarter_driver_qemu.driver import Qemu

BOUND = 60.0
"""Seconds that a guest may take to say something under emulation on a busy machine."""

CONSOLE = "console=tty0 console=ttyS0 panic=-1"
U_BOOT = Path("/usr/lib/u-boot")
MIB = 1 << 20


@contextmanager
def board(guest_files: Any, **config: Any) -> Iterator[Any]:
    """A client of a small Linux machine, which is off."""
    partitions = {"kernel": str(guest_files.kernel), "initrd": str(guest_files.initramfs)}
    partitions.update(config.pop("default_partitions", {}))
    settings = {
        "arch": "x86_64",
        "smp": 1,
        "mem": "256M",
        "append": CONSOLE,
        "default_partitions": partitions,
        **config,
    }
    with serve(Qemu(**settings)) as client:
        yield client


def log_in(session: Any, hostname: str = "demo", username: str = "jumpstarter", password: str = "password") -> None:
    """Log in on the console."""
    session.expect_exact(f"{hostname} login: ", timeout=BOUND)
    session.sendline(username)
    session.expect_exact("assword: ", timeout=BOUND)
    session.sendline(password)
    session.expect_exact(f"{username}@{hostname}:", timeout=BOUND)


def run(session: Any, command: str) -> str:
    """Run a command on the console; return what it printed."""
    session.sendline(f"echo BEG''IN; {command}; echo E''ND")
    session.expect(r"BEGIN\r\n(.*?)END\r\n", timeout=BOUND)
    return str(session.match.group(1).decode())


def qemu_processes(marker: str) -> list[int]:
    """The processes that have `marker` in their command line, QEMU and its guard."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(marker.encode() in word for word in words) and any(b"qemu-system" in word for word in words):
                found.append(int(entry.name))
    return found


def eventually(condition: Callable[[], Any]) -> None:
    """Wait until something is so, for a bounded time."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="class")
def client(guest_files: Any) -> Iterator[Any]:
    """A board that was switched on before anybody connected to its console."""
    with board(
        guest_files,
        hostname="shared",
        username="joe",
        password=12345,
        disk_size="16M",
        disks={"data": {"size": "8M"}},
        hostfwd={"banner": {"guestport": 22}},
    ) as client:
        client.power.on()
        yield client


@pytest.fixture(scope="class")
def session(client: Any) -> Iterator[Any]:
    """The console, logged in."""
    with client.console.pexpect() as session:
        session.expect_exact("Linux version", timeout=BOUND)
        log_in(session, "shared", "joe", "12345")
        yield session


@pytest.mark.device
@pytest.mark.need("qemu-x86_64", "qemu-img")
class TestRunningBoard:
    """One machine that all these tests share."""

    def test_console_misses_nothing_of_the_boot(self, session: Any) -> None:
        # given a console that was connected after the power-on, the fixture found the first line of the kernel
        assert "console=ttyS0" in run(session, "cat /proc/cmdline")

    def test_identity_comes_from_the_seed(self, client: Any, session: Any) -> None:
        assert (client.hostname, client.username, client.password) == ("shared", "joe", "12345")
        assert run(session, "hostname; whoami").split() == ["shared", "joe"]

    def test_emulation_is_the_default(self, client: Any, session: Any) -> None:
        # given that /dev/kvm says nothing about whether it works
        assert "QEMU Virtual CPU" in run(session, "grep 'model name' /proc/cpuinfo")

    def test_disks_have_their_sizes(self, session: Any) -> None:
        sectors = run(session, "cat /sys/block/vda/size /sys/block/vdb/size").split()
        assert sectors == [str(16 * MIB // 512), str(8 * MIB // 512)]
        assert run(session, "cat /sys/block/vdb/serial").strip() == "data"

    def test_ssh_works_without_vsock(self, client: Any, session: Any) -> None:
        with client.shell() as shell:
            assert shell.run("hostname", hide=True, in_stream=False).stdout == "shared\n"

    def test_port_forward_leads_into_the_guest(self, client: Any, session: Any) -> None:
        with client.banner.stream() as stream:
            assert stream.receive().startswith(b"SSH-2.0-dropbear")
        with TcpPortforwardAdapter(client=client.banner) as address, socket.create_connection(address[:2]) as local:
            assert local.recv(100).startswith(b"SSH-2.0-dropbear")
        assert re.fullmatch(r"tcp://127\.0\.0\.1:\d+", client.banner.address())

    def test_screenshot_is_a_picture_of_the_screen(self, client: Any, session: Any, tmp_path: Path) -> None:
        picture = client.screenshot(tmp_path / "screen.png")
        assert picture == (tmp_path / "screen.png").read_bytes()
        assert picture.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = (int.from_bytes(picture[start : start + 4], "big") for start in (16, 20))
        assert (width, height) == (720, 400)

    def test_screenshot_command_writes_a_file(self, client: Any, session: Any, tmp_path: Path) -> None:
        target = tmp_path / "screen.png"
        result = CliRunner().invoke(client.cli(), ["screenshot", str(target)])
        assert result.exit_code == 0
        assert target.stat().st_size > 1000

    def test_vnc_speaks_rfb(self, client: Any, session: Any) -> None:
        with client.vnc.stream() as stream:
            assert stream.receive() == b"RFB 003.008\n"

    def test_paused_machine_goes_on_when_it_is_told_to(self, client: Any, session: Any) -> None:
        assert client.state() == "running"
        client.pause()
        assert client.state() == "paused"
        client.resume()
        assert client.state() == "running"
        assert run(session, "echo alive").strip() == "alive"

    def test_second_power_on_only_warns(self, client: Any, session: Any, caplog: pytest.LogCaptureFixture) -> None:
        client.power.on()
        assert "already powered on" in caplog.text
        assert run(session, "echo same").strip() == "same"
        assert client.power.status() == "on"

    def test_power_cannot_be_measured(self, client: Any) -> None:
        with pytest.raises(DriverMethodNotImplemented, match="no voltage or current"):
            list(client.power.read())

    def test_running_machine_is_not_flashed_or_dumped(self, client: Any, tmp_path: Path) -> None:
        (tmp_path / "image").write_bytes(b"\0" * MIB)
        with pytest.raises(DriverError, match="can't flash while the machine is on: switch it off first"):
            client.flasher.flash(tmp_path / "image")
        with pytest.raises(DriverError, match="can't dump while the machine is on"):
            client.flasher.dump(tmp_path / "dumped")

    def test_reset_starts_the_guest_again(self, client: Any, session: Any) -> None:
        client.reset()
        session.expect_exact("Linux version", timeout=BOUND)
        log_in(session, "shared", "joe", "12345")

    def test_shutdown_lets_the_guest_end_by_itself(
        self, client: Any, session: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        client.shutdown(BOUND)
        assert client.state() == "off"
        assert client.power.status() == "off"
        session.expect_exact("reboot: Power down", timeout=BOUND)

    def test_console_outlives_a_power_cycle(self, client: Any, session: Any) -> None:
        client.power.on()
        log_in(session, "shared", "joe", "12345")


@pytest.mark.device
@pytest.mark.need("qemu-x86_64", "qemu-img", "e2fsprogs")
class TestFlashing:
    """Images of disks."""

    def test_flashed_image_is_what_the_guest_finds(self, guest_files: Any, tmp_path: Path) -> None:
        image = write_ext4_image(tmp_path / "image", 4 * MIB, {"etc/release": b"firmware 1.2\n"})
        packed = tmp_path / "image.gz"
        packed.write_bytes(gzip.compress(image.read_bytes()))
        with board(guest_files, append=f"{CONSOLE} quiet") as client:
            client.flasher.flash(packed)
            with client.console.pexpect() as session:
                client.power.on()
                log_in(session)
                digest = hashlib.sha256(image.read_bytes()).hexdigest()
                assert run(session, "sha256sum /dev/vda").split()[0] == digest
                assert run(session, "mount /dev/vda /mnt; cat /mnt/etc/release").strip() == "firmware 1.2"
                # when the guest writes to its disk
                run(session, "echo used > /mnt/state; umount /mnt; sync")
                client.power.off()
                # then it is still there after a power cycle
                client.power.on()
                log_in(session)
                assert run(session, "mount /dev/vda /mnt; cat /mnt/state").strip() == "used"
                client.power.off()
            # and a dump has it
            client.flasher.dump(tmp_path / "dumped")
            assert b"used\n" in (tmp_path / "dumped").read_bytes()

    def test_default_image_is_never_written(self, guest_files: Any, tmp_path: Path) -> None:
        image = write_ext4_image(tmp_path / "image", 4 * MIB, {"file": b"x"})
        before = hashlib.sha256(image.read_bytes()).hexdigest()
        with board(guest_files, append=f"{CONSOLE} quiet", default_partitions={"root": str(image)}) as client:
            client.flasher.dump(tmp_path / "first")
            assert hashlib.sha256((tmp_path / "first").read_bytes()).hexdigest() == before
            with client.console.pexpect() as session:
                client.power.on()
                log_in(session)
                run(session, "mount /dev/vda /mnt; echo changed > /mnt/file; umount /mnt; sync")
                client.power.off()
            client.flasher.dump(tmp_path / "second")
            assert b"changed\n" in (tmp_path / "second").read_bytes()
        assert hashlib.sha256(image.read_bytes()).hexdigest() == before

    def test_image_that_refers_to_other_files_is_refused(self, guest_files: Any, tmp_path: Path) -> None:
        secret, thief = tmp_path / "secret", tmp_path / "thief"
        secret.write_bytes(b"s" * MIB)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, thief], check=True)
        with board(guest_files) as client:
            with pytest.raises(DriverInvalidArgument, match=r"takes content from another file .*qemu-img convert"):
                client.flasher.flash(thief)
            with pytest.raises(DriverError, match="partition root is empty"):
                client.flasher.dump(tmp_path / "dumped")

    def test_unknown_partition_is_refused_with_the_known_ones(self, guest_files: Any, tmp_path: Path) -> None:
        (tmp_path / "image").write_bytes(b"x")
        with board(guest_files, disks={"data": {"size": "1M"}}) as client:
            with pytest.raises(
                DriverInvalidArgument, match="invalid partition name 'boot': expected one of root, data, bios"
            ):
                client.flasher.flash(tmp_path / "image", target="boot")
            with pytest.raises(DriverInvalidArgument, match=r"invalid partition name '\.\./x'"):
                client.flasher.dump(tmp_path / "dumped", target="../x")

    def test_images_stay_in_the_configured_directory(self, guest_files: Any, tmp_path: Path) -> None:
        (tmp_path / "image").write_bytes(b"y" * MIB)
        for expected in (False, True):
            with board(guest_files, image_dir=str(tmp_path / "kept")) as client:
                assert (tmp_path / "kept" / "root").exists() is expected
                if not expected:
                    client.flasher.flash(tmp_path / "image")
                    with pytest.raises(RuntimeError, match="another exporter, or another machine of this one, uses"):
                        Qemu(image_dir=str(tmp_path / "kept"))

    def test_disk_grows_and_never_shrinks(self, guest_files: Any, tmp_path: Path) -> None:
        (tmp_path / "image").write_bytes(b"z" * 2 * MIB)
        with board(guest_files, image_dir=str(tmp_path / "kept")) as client:
            client.flasher.flash(tmp_path / "image")
            client.set_disk_size("3M")
            client.power.on()
            client.power.off()
            assert (tmp_path / "kept" / "root").stat().st_size == 3 * MIB
            client.set_disk_size("1M")
            with pytest.raises(DriverError, match="Shrinking disk is not supported"):
                client.power.on()
            client.set_disk_size("4096T")
            with pytest.raises(DriverError, match="Not enough disk space"):
                client.power.on()
            with pytest.raises(DriverInvalidArgument, match="Invalid size 'big'"):
                client.set_disk_size("big")

    def test_several_images_are_flashed_by_name(self, guest_files: Any, tmp_path: Path) -> None:
        for name in ("root", "data"):
            (tmp_path / name).write_bytes(name[0].encode() * MIB)
        with board(guest_files, image_dir=str(tmp_path / "kept"), disks={"data": {"size": "1M"}}) as client:
            client.flasher.flash({"root": tmp_path / "root", "data": tmp_path / "data"})
            assert (tmp_path / "kept" / "data").read_bytes() == b"d" * MIB


@pytest.mark.device
@pytest.mark.need("qemu-x86_64", "qemu-img")
class TestFailures:
    """What goes wrong, and what is left behind."""

    def test_qemu_that_refuses_is_quoted(self, guest_files: Any) -> None:
        with board(guest_files, extra_args=["-device", "no-such-device"]) as client:
            with pytest.raises(
                DriverError, match=r"exit status 1\n.*'no-such-device' is not a valid device model name"
            ):
                client.power.on()
            assert client.power.status() == "off"

    def test_failure_with_an_accelerator_names_the_way_out(self, guest_files: Any, monkeypatch: Any) -> None:
        monkeypatch.setattr("jumpstarter_driver_qemu.driver.resolve", lambda *_: "no-such-accelerator")
        with (
            board(guest_files, accel="kvm") as client,
            pytest.raises(DriverError, match=r"(?s)invalid accelerator.*accel: tcg works everywhere"),
        ):
            client.power.on()

    def test_missing_default_image_is_named(self, guest_files: Any) -> None:
        with (
            board(guest_files, default_partitions={"root": "missing.img"}) as client,
            pytest.raises(DriverError, match=r"the default image of root, missing\.img, is no file on the exporter"),
        ):
            client.power.on()

    def test_missing_qemu_is_named(self, guest_files: Any) -> None:
        with (
            board(guest_files, arch="pdp11") as client,
            pytest.raises(DriverError, match=r"qemu-system-pdp11 not found on the exporter\. Install it"),
        ):
            client.power.on()

    def test_foreseen_failure_is_logged_without_a_traceback(
        self, guest_files: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        with board(guest_files) as client, pytest.raises(DriverError, match="the machine is off"):
            client.reset()
        (record,) = [record for record in caplog.records if "system_reset failed" in record.message]
        assert record.levelno == logging.WARNING
        assert record.exc_info is None

    def test_machine_that_is_off_says_so(self, guest_files: Any) -> None:
        with board(guest_files, hostfwd={"web": {"guestport": 80}}) as client:
            for action in (client.screenshot, client.reset, client.pause, client.shutdown):
                with pytest.raises(DriverError, match="the machine is off; switch it on first"):
                    action()
            with pytest.raises(DriverError, match="the machine is off"), client.web.stream():
                pass
            client.power.off()

    def test_killed_qemu_is_noticed_and_can_be_started_again(
        self, guest_files: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        with board(guest_files, hostname="victim") as client:
            client.power.on()
            for pid in qemu_processes("victim"):
                if b"guard_main" not in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
            eventually(lambda: client.state() == "off")
            eventually(lambda: "QEMU ended by itself with exit status -9" in caplog.text)
            client.power.on()
            assert client.state() == "running"

    def test_session_end_leaves_nothing(
        self, guest_files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with board(guest_files, hostname="leaving") as client:
            client.power.on()
            assert qemu_processes("leaving")
            assert list(tmp_path.glob("jumpstarter-qemu-*"))
        assert qemu_processes("leaving") == []
        assert list(tmp_path.glob("jumpstarter-qemu-*")) == []

    def test_killed_exporter_leaves_no_machine(self, guest_files: Any, tmp_path: Path) -> None:
        kernel = str(guest_files.kernel)
        program = f"""
import time
from jumpstarter.common.utils import serve
from jumpstarter_driver_qemu.driver import Qemu
with serve(Qemu(arch="x86_64", hostname="orphan", default_partitions={{"kernel": {kernel!r}}})) as client:
    client.power.on()
    print("on", flush=True)
    time.sleep(1000)
"""
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == "on\n"
            assert len(qemu_processes("orphan")) == 2
            process.kill()
            process.wait()
        eventually(lambda: not qemu_processes("orphan"))
        eventually(lambda: not list(tmp_path.glob("jumpstarter-qemu-*/run-*")))

    def test_directory_of_a_killed_exporter_is_removed_by_the_next_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        abandoned, in_use = tmp_path / "jumpstarter-qemu-dead", Qemu(arch="x86_64")
        abandoned.mkdir()
        (abandoned / LOCK).touch()
        (abandoned / "root").write_bytes(b"large")
        other = Qemu(arch="x86_64")
        try:
            assert not abandoned.exists()
            assert Path(in_use._tmp_dir.name).exists()
        finally:
            in_use.close()
            other.close()


@pytest.mark.device
@pytest.mark.parametrize(
    ("arch", "firmware", "component"),
    [
        ("aarch64", U_BOOT / "qemu_arm64" / "u-boot.bin", "qemu-aarch64"),
        ("x86_64", U_BOOT / "qemu-x86_64" / "u-boot.rom", "qemu-x86_64"),
    ],
)
def test_firmware_is_flashed_and_runs(arch: str, firmware: Path, component: str) -> None:
    need(component, "qemu-img", "u-boot")
    with serve(Qemu(arch=arch, smp=1, mem="512M")) as client:
        client.flasher.flash(firmware, target="bios")
        with client.console.pexpect() as session:
            client.power.on()
            session.expect_exact("Hit any key to stop autoboot", timeout=BOUND)
            session.send("\r")
            session.expect_exact("=> ", timeout=BOUND)
            session.sendline("version")
            session.expect("U-Boot 20", timeout=BOUND)
        client.power.cycle(0)
        client.power.off()


def test_seed_is_what_cloud_init_reads() -> None:
    driver = Qemu(arch="x86_64", hostname="seeded", username="joe", password="s: e'cret")
    try:
        with driver.cidata() as directory:
            meta_data = yaml.safe_load(Path(directory, "meta-data").read_text())
            user_data = Path(directory, "user-data").read_text()
    finally:
        driver.close()
    assert meta_data == {"instance-id": str(driver.uuid), "local-hostname": "seeded"}
    assert user_data.startswith("#cloud-config\n")
    user = yaml.safe_load(user_data)["users"][0]
    assert (user["name"], user["plain_text_passwd"], user["lock_passwd"]) == ("joe", "s: e'cret", False)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"accel": "fast"}, "accel must be one of tcg, kvm, hvf, auto, not 'fast'"),
        ({"smp": 0}, "smp must be a number of processors, not 0"),
        ({"mem": "much"}, "Invalid size 'much'"),
        ({"mem": "4k"}, "needs a mebibyte"),
        ({"disk_size": "-1G"}, "Invalid size '-1G'"),
        ({"default_partitions": {"boot": "x"}}, "invalid partition name 'boot' in default_partitions"),
        ({"hostfwd": {"power": {"guestport": 1}}}, "hostfwd power: the machine has a child of that name already"),
        ({"hostfwd": {"web": {"guestport": 0}}}, "hostfwd web: guestport: Input should be greater than or equal to 1"),
        ({"hostfwd": {"web": {"port": 80}}}, "hostfwd web: guestport: Field required"),
        ({"hostfwd": {"log": {"protocol": "udp", "guestport": 514}}}, "a UDP forward needs a hostport"),
        ({"disks": {"root": {"size": "1M"}}}, "disk 'root': the name must be"),
        ({"disks": {"data": {}}}, "disk data: give it a size or an image"),
        ({"extra_args": "-foo"}, "extra_args must be a list"),
    ],
)
def test_bad_configuration_is_refused_by_name(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Qemu(**config)


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("4k", 4096), ("512M", 512 * MIB), ("1.5g", 1536 * MIB), ("2T", 2 << 40), ("1GiB", 1 << 30)],
)
def test_sizes_have_binary_units(text: str, size: int) -> None:
    assert images.parse_size(text) == size


def test_accelerator_of_another_architecture_is_refused_with_a_reason() -> None:
    with pytest.raises(ValueError, match="accel: kvm can't be used: the guest is riscv64, this machine is"):
        resolve("kvm", "riscv64", "qemu-system-riscv64", None)
    assert resolve("auto", "riscv64", "qemu-system-riscv64", None) == "tcg"


def test_probe_of_a_program_that_fails_means_emulation() -> None:
    assert resolve("auto", "x86_64", "/bin/false", "q35") == "tcg"
