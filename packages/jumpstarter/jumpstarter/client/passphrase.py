"""Client interceptors that send the passphrase a directly reached exporter asks for."""

from __future__ import annotations

from jumpstarter.common.passphrase import PASSPHRASE_METADATA_KEY, passphrase_client_interceptors

passphrase_interceptors = passphrase_client_interceptors

__all__ = ["PASSPHRASE_METADATA_KEY", "passphrase_interceptors"]
