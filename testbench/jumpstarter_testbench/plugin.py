"""The pytest plugin: tiers, what a test needs, and the fixtures that provide it."""

from __future__ import annotations

import pytest

from jumpstarter_testbench import lab_guest
from jumpstarter_testbench.requirements import need

pytest_plugins = [
    "jumpstarter_testbench.browser",
    "jumpstarter_testbench.daemons",
    "jumpstarter_testbench.devices",
    "jumpstarter_testbench.flasher_bundle",
    "jumpstarter_testbench.folder_servers",
    "jumpstarter_testbench.identity_provider",
    "jumpstarter_testbench.kube.fixtures",
    "jumpstarter_testbench.oci_registry",
    "jumpstarter_testbench.serial_ports",
]

MARKERS = {
    "daemon": "runs against daemons on loopback; each is ready within a second",
    "device": "runs against a virtual machine or a boot loader in QEMU; seconds",
    "lab_guest": "runs inside the lab guest, which has the kernel features that the host lacks",
    "slow": "takes more than ten seconds; ./dev test leaves it out unless --all is given",
    "interop": "runs against published releases; ./dev test leaves it out unless --all is given",
    "faults": "puts a whole lab through faults and mostly waits; ./dev test leaves it out unless --all is given",
    "need(*components)": "names components of components.toml; a missing one skips the test, or fails it in CI",
}
"""A test without one of the first three runs in process and needs nothing but Python."""


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers known."""
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    lab_guest.register(config)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip or fail a test whose components aren't all there, before any fixture of it runs."""
    for marker in item.iter_markers("need"):
        need(*marker.args)
    if item.get_closest_marker("lab_guest") and not lab_guest.inside():
        need(*lab_guest.COMPONENTS)
