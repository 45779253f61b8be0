"""What U-Boot knows of its network after DHCP."""

from __future__ import annotations

from ipaddress import IPv4Network

from pydantic import BaseModel


class DhcpInfo(BaseModel):
    """The addresses that a board has been given."""

    ip_address: str
    gateway: str
    netmask: str

    @property
    def cidr(self) -> str:
        """The length of the network's prefix, as text; `24` when the mask is none."""
        try:
            return str(IPv4Network(f"0.0.0.0/{self.netmask}").prefixlen)
        except ValueError:
            return "24"

    @property
    def interface(self) -> str:
        """The address with the length of the prefix, as `ip address add` takes it."""
        return f"{self.ip_address}/{self.cidr}"
