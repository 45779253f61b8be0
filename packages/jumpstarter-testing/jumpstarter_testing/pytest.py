"""The test class that gives its tests a client of a device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import pytest

if TYPE_CHECKING:
    from jumpstarter.client import DriverClient
    from jumpstarter.config.client import ClientConfigV1Alpha1

__all__ = ["JumpstarterTest"]


class JumpstarterTest:
    """Inherit from this class, and the tests of the class share one client of one device.

    Inside a `jmp shell` (`JUMPSTARTER_HOST` is set) that is the device of the shell. Elsewhere a device is leased
    for the class, through the client config that `jmp` would use, and given back when the last test has run.

        class TestBoard(JumpstarterTest):
            selector = "board=rpi4"

            def test_power(self, client):
                client.power.on()
    """

    selector: ClassVar[str | None] = None
    """Label selector of the device to lease, such as `board=rpi4,camera`. Unused inside a shell and for the lease
    that `JMP_LEASE` names."""

    @pytest.fixture(scope="class")
    @classmethod
    def client(cls) -> Iterator[DriverClient]:
        """The root client of the device tree, open for all tests of the class."""
        if os.environ.get("JUMPSTARTER_HOST"):
            from jumpstarter.utils.env import env

            with env() as client:
                yield client
            return

        if not cls.selector and not os.environ.get("JMP_LEASE"):
            pytest.fail(
                f"{cls.__name__} names no device to lease. Give the class a selector (selector = 'board=rpi4'), "
                "set JMP_LEASE to the name of a lease that you hold, or run the tests inside `jmp shell`.",
                pytrace=False,
            )
        with _client_config().lease(selector=cls.selector) as lease, lease.connect() as client:
            yield client


def _client_config() -> ClientConfigV1Alpha1:
    """The config that `jmp` itself would take, else the one with the alias `default`."""
    from jumpstarter.config.client import ClientConfigV1Alpha1
    from jumpstarter.config.user import current_client

    if (config := current_client()) is not None:
        return config
    if ClientConfigV1Alpha1.exists("default"):
        return ClientConfigV1Alpha1.load("default")
    pytest.fail(
        "no client config to lease a device with: the environment names none, and no client is current. Log in with "
        "`jmp login`, choose one with `jmp config client use NAME`, or run the tests inside `jmp shell`.",
        pytrace=False,
    )
