"""Makes the material of a small Linux guest: Debian's kernel, an initramfs and disk images, nothing of it installed.

The packages are fetched with ``apt-get download`` and unpacked with ``dpkg-deb`` into a cache folder, so an ordinary
user can do it and the machine stays as it was. The guest reads its host name, user and password from a cloud-init
NoCloud seed (a volume labelled CIDATA), has a login on the serial port and on the screen, an SSH server, DHCP on its
first network card, and powers off when the ACPI power button is pressed.

    material = fetch(Path("~/.cache/guest").expanduser())
    write_initramfs(Path("initramfs.gz"), material)
"""

from __future__ import annotations

import fcntl
import gzip
import io
import lzma
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

KERNEL_METAPACKAGE: Final = "linux-image-cloud-amd64"
USERLAND_PACKAGES: Final = ("busybox-static", "dropbear-bin")

MODULES: Final = (
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "vfat",
    "nls_cp437",
    "nls_ascii",
    "isofs",
    "evdev",
    "button",
)
"""Kernel modules that the guest loads at start, by name; those that they depend on come along."""

DEFAULT_USER: Final = "jumpstarter"
DEFAULT_PASSWORD: Final = "password"
DEFAULT_HOSTNAME: Final = "board"


class GuestError(RuntimeError):
    """Guest material can't be made; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """Unpacked Debian packages that a guest is made of."""

    kernel: Path
    """The compressed kernel image."""
    release: str
    """The kernel's release, as ``uname -r`` prints it."""
    modules: Path
    """The directory of the kernel's modules, ``lib/modules/RELEASE``."""
    userland: Path
    """A root directory with busybox, dropbear and the libraries they need."""


def fetch(cache: Path, kernel: str = KERNEL_METAPACKAGE) -> Material:
    """Download and unpack what a guest needs into ``cache``, at once when it is there already.

    ``kernel`` is the package that depends on the kernel's. Several processes may share one cache: they wait for each
    other.

    Raises:
        GuestError: the machine is no Debian on x86-64, or a package can't be fetched.
    """
    cache = cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / ".lock"):
        kernel_tree = cache / ("kernel" if kernel == KERNEL_METAPACKAGE else kernel)
        if not kernel_tree.exists():
            _require_tools("apt-get", "apt-cache", "dpkg-deb")
            _unpack(kernel_tree, _kernel_packages(kernel))
        userland = cache / "userland"
        if not userland.exists():
            _require_tools("apt-get", "apt-cache", "dpkg-deb")
            _unpack(userland, _with_dependencies(USERLAND_PACKAGES))
    kernels = sorted((kernel_tree / "boot").glob("vmlinuz-*"))
    if not kernels:
        raise GuestError(f"{kernel_tree} holds no kernel. Remove {cache} and start again.")
    release = kernels[-1].name.removeprefix("vmlinuz-")
    modules = next((tree for tree in _under(kernel_tree, f"lib/modules/{release}") if tree.is_dir()), None)
    if modules is None:
        raise GuestError(f"{kernel_tree} holds no modules for {release}. Remove {cache} and start again.")
    return Material(kernel=kernels[-1], release=release, modules=modules, userland=userland)


class CpioWriter:
    """Writes a ``newc`` cpio archive, the format of an initramfs (Linux: Documentation/driver-api/early-userspace).

    Everything belongs to root and has the time stamp 0, so that equal content makes equal archives.
    """

    def __init__(self, target: BinaryIO) -> None:
        """Write to ``target``; call close() (or use ``with``) to add the trailer."""
        self._target = target
        self._inode = 0
        self._known: set[str] = set()

    def __enter__(self) -> CpioWriter:
        """Return the writer."""
        return self

    def __exit__(self, *_: object) -> None:
        """Add the trailer."""
        self.close()

    def directory(self, name: str, mode: int = 0o755) -> None:
        """Add a directory and its parents unless they are there."""
        name = name.strip("/")
        if not name or name in self._known:
            return
        self._entry(name, stat.S_IFDIR | mode, b"")

    def file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        self._entry(name.strip("/"), stat.S_IFREG | mode, content)

    def symlink(self, name: str, target: str) -> None:
        """Add a symbolic link that points to ``target``."""
        self._entry(name.strip("/"), stat.S_IFLNK | 0o777, target.encode())

    def device(self, name: str, mode: int, major: int, minor: int) -> None:
        """Add a character device."""
        self._entry(name.strip("/"), stat.S_IFCHR | mode, b"", major=major, minor=minor)

    def close(self) -> None:
        """Write the trailer and pad the archive to 512 bytes. The target stays open."""
        self._record("TRAILER!!!", 0, b"")
        self._target.write(b"\0" * (-self._written % 512))

    _written = 0

    def _entry(self, name: str, mode: int, content: bytes, *, major: int = 0, minor: int = 0) -> None:
        if name in self._known:
            raise ValueError(f"{name} is in the archive already")
        parent = name.rpartition("/")[0]
        if parent:
            self.directory(parent)
        self._known.add(name)
        self._record(name, mode, content, major=major, minor=minor)

    def _record(self, name: str, mode: int, content: bytes, *, major: int = 0, minor: int = 0) -> None:
        self._inode += 1
        encoded = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        numbers = (self._inode, mode, 0, 0, links, 0, len(content), 0, 0, major, minor, len(encoded), 0)
        header = b"070701" + b"".join(b"%08x" % number for number in numbers) + encoded
        self._write(header)
        self._write(content)

    def _write(self, data: bytes) -> None:
        padded = data + b"\0" * (-len(data) % 4)
        self._target.write(padded)
        self._written += len(padded)


def write_initramfs(
    target: Path,
    material: Material,
    *,
    modules: Iterable[str] = MODULES,
    files: Mapping[str, bytes | Path] | None = None,
    executables: Mapping[str, bytes | Path] | None = None,
) -> Path:
    """Write a gzip-compressed initramfs that boots to a login; return ``target``.

    Args:
        target: the file to write, replaced in one step.
        material: what fetch() returned.
        modules: kernel modules to load at start, in this order after those they need.
        files: further files, by their path in the guest. Scripts in ``etc/board.d/`` run before the login appears.
        executables: the same, with the execute permission.

    Raises:
        GuestError: a module or a program is not in the material.
    """
    buffer = io.BytesIO()
    with CpioWriter(buffer) as archive:
        for directory in ("proc", "sys", "dev/pts", "run", "tmp", "root", "mnt", "var/log", "var/run", "etc/dropbear"):
            archive.directory(directory)
        archive.device("dev/console", 0o600, 5, 1)
        archive.device("dev/null", 0o666, 1, 3)
        archive.file("bin/busybox", userland_file(material, "busybox").read_bytes(), 0o755)
        archive.symlink("bin/sh", "busybox")
        _add_program(archive, material, "dropbear")
        add_modules(archive, material, modules)
        for name, text in _SYSTEM_FILES.items():
            archive.file(name, text.encode())
        for name, text in _SYSTEM_SCRIPTS.items():
            archive.file(name, text.encode(), 0o755)
        for extra, mode in ((files, 0o644), (executables, 0o755)):
            for name, content in (extra or {}).items():
                archive.file(name, content if isinstance(content, bytes) else content.read_bytes(), mode)
    _replace(target, gzip.compress(buffer.getvalue(), compresslevel=1, mtime=0))
    return target


def write_ext4_image(target: Path, size: int, files: Mapping[str, bytes], *, label: str = "") -> Path:
    """Write a raw disk image of ``size`` bytes that is one ext4 file system with ``files`` in it; return ``target``.

    Needs no root privilege (``mke2fs -d``).

    Raises:
        GuestError: mke2fs is missing or refuses, for instance because the files don't fit.
    """
    tool = shutil.which("mke2fs") or next(
        (path for path in ("/usr/sbin/mke2fs", "/sbin/mke2fs") if os.path.exists(path)), None
    )
    if tool is None:
        raise GuestError("mke2fs is missing. Install it: apt-get install e2fsprogs")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ext4-", dir=target.parent) as scratch:
        tree = Path(scratch, "tree")
        tree.mkdir()
        for name, content in files.items():
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        image = Path(scratch, "image")
        with image.open("wb") as file:
            file.truncate(size)
        options = ["-q", "-t", "ext4", "-E", "root_owner=0:0", "-m", "0", *(["-L", label] if label else [])]
        _run([tool, *options, "-d", str(tree), str(image)], "make the file system")
        image.replace(target)
    return target


def write_blank_image(target: Path, size: int) -> Path:
    """Write a raw disk image of ``size`` zero bytes that takes no space; return ``target``."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        file.truncate(size)
    return target


def _kernel_packages(metapackage: str) -> list[str]:
    depends = [name for name in _apt_depends([metapackage]) if re.fullmatch(r"linux-image-\d.*", name)]
    if not depends:
        raise GuestError(f"apt knows no {metapackage}. Run 'apt-get update' on a Debian x86-64 machine and try again.")
    return depends[:1]


def _with_dependencies(packages: Sequence[str]) -> list[str]:
    return sorted(_apt_depends([*packages, "--recurse"]))


def _apt_depends(arguments: Sequence[str]) -> set[str]:
    """Return the packages that apt-cache names, themselves and what they depend on; pure virtual ones are left out."""
    excluded = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    command = ["apt-cache", "depends", *(f"--no-{kind}" for kind in excluded), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    names = re.findall(
        r"^ *(?:\|?(?:Pre)?Depends: )?([a-z0-9][a-z0-9.+-]+)(?::[a-z0-9]+)?$", result.stdout, re.MULTILINE
    )
    if result.returncode != 0 or not names:
        reason = result.stderr.strip().splitlines()[-1:] or ["no answer"]
        raise GuestError(f"apt-cache knows nothing of {' '.join(arguments)} ({reason[0]}). Run 'apt-get update' first.")
    return set(names)


def _unpack(target: Path, packages: Sequence[str]) -> None:
    """Fetch ``packages`` and unpack them all into ``target``, which appears when it is complete."""
    with tempfile.TemporaryDirectory(prefix=f"{target.name}-", dir=target.parent) as scratch:
        _run(["apt-get", "download", "-q", *packages], f"download {' '.join(packages)}", cwd=Path(scratch))
        tree = Path(scratch, "tree")
        tree.mkdir()
        for package in sorted(Path(scratch).glob("*.deb")):
            _run(["dpkg-deb", "-x", str(package), str(tree)], f"unpack {package.name}")
        tree.rename(target)


def _run(command: Sequence[str], purpose: str, *, cwd: Path | None = None) -> None:
    try:
        subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True, timeout=300)
    except subprocess.CalledProcessError as error:
        raise GuestError(f"can't {purpose}: {(error.stderr or error.stdout).strip()}") from error
    except subprocess.TimeoutExpired as error:
        raise GuestError(f"can't {purpose}: no end after {error.timeout:.0f} s") from error


def _require_tools(*names: str) -> None:
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        raise GuestError(
            f"{', '.join(missing)} not found: guest material comes from Debian packages, so this needs Debian."
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _replace(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}-", delete=False) as file:
        file.write(content)
    os.chmod(file.name, 0o644)
    os.replace(file.name, target)


def _under(tree: Path, path: str) -> Iterator[Path]:
    """Yield where a path may lie: Debian moves top-level directories below /usr."""
    yield tree / path
    yield tree / "usr" / path


def userland_file(material: Material, name: str) -> Path:
    """Return where a program lies in the unpacked packages.

    Raises:
        GuestError: it isn't there.
    """
    places = [place for directory in ("bin", "sbin") for place in _under(material.userland, f"{directory}/{name}")]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise GuestError(f"{name} is not in {material.userland}. Remove that folder and start again.")
    return found


def _add_program(archive: CpioWriter, material: Material, name: str) -> None:
    """Add a program with the shared libraries that the unpacked tree's own dynamic linker finds for it."""
    program = userland_file(material, name)
    archive.file(f"bin/{name}", program.read_bytes(), 0o755)
    linker = next(iter(sorted(material.userland.rglob("ld-linux-x86-64.so.2"))), None)
    if linker is None:
        raise GuestError(f"no dynamic linker in {material.userland}. Remove that folder and start again.")
    libraries = ":".join(sorted({str(path.parent) for path in material.userland.rglob("*.so.*")}))
    listing = subprocess.run(
        [linker, "--inhibit-cache", "--library-path", libraries, "--list", program],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    found = re.findall(r"^\s*(\S+) => (.+?)(?: \(0x[0-9a-f]+\))?$", listing, re.MULTILINE)
    for soname, place in found:
        if place == "not found":
            raise GuestError(f"{name} needs {soname}, which is not in {material.userland}")
        archive.file(f"lib/x86_64-linux-gnu/{soname}", Path(place).read_bytes(), 0o755)
    archive.file("lib64/ld-linux-x86-64.so.2", linker.read_bytes(), 0o755)


def add_modules(archive: CpioWriter, material: Material, names: Iterable[str]) -> None:
    """Add kernel modules and a list of them in the order in which they can be loaded."""
    available = {
        path.name.split(".ko")[0].replace("-", "_"): path
        for path in material.modules.rglob("*.ko*")
        if path.suffix in {".ko", ".xz"}
    }
    builtin_list = material.modules / "modules.builtin"
    builtin_lines = builtin_list.read_text().splitlines() if builtin_list.exists() else []
    builtin = {Path(line).name.removesuffix(".ko").replace("-", "_") for line in builtin_lines}
    order: dict[str, bytes] = {}

    def add(name: str) -> None:
        name = name.replace("-", "_")
        if name in order or (name in builtin and name not in available):
            return
        if name not in available:
            raise GuestError(f"kernel {material.release} has no module {name}")
        path = available[name]
        content = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        depends = re.search(rb"\0depends=([^\0]*)\0", content)
        for needed in depends.group(1).decode().split(",") if depends else []:
            if needed:
                add(needed)
        order[name] = content

    for name in names:
        add(name)
    for name, content in order.items():
        archive.file(f"lib/modules/{name}.ko", content)
    archive.file("lib/modules/order", "".join(f"{name}\n" for name in order).encode())


_SYSTEM_SCRIPTS: Final = {
    "init": r"""#!/bin/busybox sh
# Prepares the guest: devices, modules, identity from the seed, network; then hands over to busybox init.
/bin/busybox mkdir -p /usr/bin /usr/sbin /sbin
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts
mount -t devpts -o mode=620 devpts /dev/pts
mount -t tmpfs tmpfs /run
while read -r module; do
    insmod "/lib/modules/$module.ko" 2>/dev/null || echo "init: module $module can't be loaded"
done < /lib/modules/order
mdev -s
/etc/identity
ip link set lo up
if [ -e /sys/class/net/eth0 ]; then
    ip link set eth0 up
    udhcpc -i eth0 -s /etc/udhcpc.script -t 3 -T 1 -A 1 -n -q >/dev/null 2>&1 || echo "init: no DHCP answer on eth0"
fi
for script in /etc/board.d/*; do
    [ -x "$script" ] && "$script"
done
# From here on only emergencies: other messages of the kernel would turn up in the middle of a test's dialogue.
echo 1 > /proc/sys/kernel/printk
exec /bin/busybox init
""",
    "etc/identity": rf"""#!/bin/sh
# Takes host name, user and password from a NoCloud seed, else those that the image was made with.
hostname={DEFAULT_HOSTNAME} user={DEFAULT_USER} password={DEFAULT_PASSWORD}
value() {{ # FILE KEY: the value of the first "KEY: value" line, without quotes
    sed -n "s/^[ -]*$2: *//p" "$1" | head -n 1 | sed "s/^'\(.*\)'\$/\1/; s/^\"\(.*\)\"\$/\1/"
}}
mkdir -p /run/seed
for device in /dev/vd?1 /dev/vd? /dev/sr0; do
    [ -b "$device" ] || continue
    mount -r -t vfat "$device" /run/seed 2>/dev/null || mount -r -t iso9660 "$device" /run/seed 2>/dev/null || continue
    if [ -f /run/seed/meta-data ]; then
        hostname=$(value /run/seed/meta-data local-hostname)
        user=$(value /run/seed/user-data name)
        password=$(value /run/seed/user-data plain_text_passwd)
    fi
    umount /run/seed
done
hostname "$hostname"
echo "127.0.0.1 localhost $hostname" > /etc/hosts
# One user, who may do everything (the seed grants sudo without a password).
echo "$user:x:0:0:$user:/root:/bin/sh" > /etc/passwd
echo "root:x:0:" > /etc/group
echo "$user:$(mkpasswd -m sha256 "$password"):19000:0:99999:7:::" > /etc/shadow
chmod 600 /etc/shadow
""",
    "etc/udhcpc.script": r"""#!/bin/sh
# Configures a network card as the DHCP server says.
case $1 in
bound | renew)
    ip addr flush dev "$interface"
    ip addr add "$ip/${mask:-24}" dev "$interface"
    [ -n "$router" ] && ip route add default via "${router%% *}"
    : > /etc/resolv.conf
    for server in $dns; do echo "nameserver $server" >> /etc/resolv.conf; done
    ;;
esac
exit 0
""",
    "etc/acpi/PWRF/00000080": "#!/bin/sh\nexec poweroff\n",
}

_SYSTEM_FILES: Final = {
    # A program that init starts without a terminal of its own resets the console's, from under getty.
    "etc/inittab": """\
ttyS0::respawn:/bin/getty -L 115200 ttyS0 vt100
tty1::respawn:/bin/getty 38400 tty1 linux
null::respawn:/bin/dropbear -F -R
null::respawn:/bin/acpid -f -l /dev/null
::ctrlaltdel:/bin/reboot
::shutdown:/bin/sync
""",
    "etc/profile": "export PATH=/bin PS1='\\u@\\h:\\w\\$ '\n",
    "etc/shells": "/bin/sh\n",
    "etc/issue": "Virtual board \\n, Linux \\r\n",
    "etc/nsswitch.conf": "passwd: files\nshadow: files\ngroup: files\n",
    "etc/motd": "A small Linux that lives in memory: what you change outside its disks is gone at the next start.\n",
}
