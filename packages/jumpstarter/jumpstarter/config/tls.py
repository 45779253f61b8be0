"""Trust settings of a TLS connection, as configs hold them."""

from jumpstarter.common.tls import TLSConfigV1Alpha1

__all__ = ["TLSConfigV1Alpha1"]
