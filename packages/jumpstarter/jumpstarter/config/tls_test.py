"""What the `ca` of a TLS config may be."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from jumpstarter.config.tls import TLSConfigV1Alpha1

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
PACKED = base64.b64encode(PEM.encode()).decode()


def test_default_trusts_the_system() -> None:
    assert TLSConfigV1Alpha1() == TLSConfigV1Alpha1(ca="", insecure=False)


@pytest.mark.parametrize("given", [PACKED, PEM, f"\n{PACKED[:20]}\n{PACKED[20:]}\n"], ids=["base64", "PEM", "folded"])
def test_certificates_become_base64_of_pem(given: str) -> None:
    assert base64.b64decode(TLSConfigV1Alpha1(ca=given).ca).decode() == PEM


def test_file_of_certificates_is_read(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text(PEM)
    assert base64.b64decode(TLSConfigV1Alpha1(ca=str(path)).ca).decode() == PEM


def test_other_base64_is_kept_for_who_uses_it() -> None:
    assert TLSConfigV1Alpha1(ca="dGVzdA==").ca == "dGVzdA=="


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("certificate!", "not base64"),
        ("/no/such/file.pem", "can't read '/no/such/file.pem'"),
        (os.__file__, "holds no PEM certificate"),
    ],
)
def test_what_is_no_certificate_is_refused(given: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        TLSConfigV1Alpha1(ca=given)
