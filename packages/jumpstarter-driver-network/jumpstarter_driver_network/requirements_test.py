"""What `jmp driver doctor` says of these drivers' needs."""

from __future__ import annotations

import pytest
from jumpstarter_cli_driver.requirements import examine

from .driver import DbusNetwork, TcpNetwork, VsockNetwork


@pytest.mark.parametrize(
    ("driver", "path"), [(VsockNetwork, "/dev/vsock"), (DbusNetwork, "/run/dbus/system_bus_socket")]
)
def test_what_the_kernel_or_a_bus_offers_is_looked_for_but_no_condition(driver, path):
    (finding,) = examine(driver.__name__, lambda: driver)
    assert finding.requirement == path
    assert finding.state in ("ok", "optional")


def test_plain_networks_need_nothing():
    (finding,) = examine("TcpNetwork", lambda: TcpNetwork)
    assert (finding.requirement, finding.state) == ("", "ok")
