"""The enums agree with the protocol and cost no protobuf import."""

from __future__ import annotations

import subprocess
import sys

import pytest
from jumpstarter_protocol.jumpstarter.v1 import common_pb2, jumpstarter_pb2

from jumpstarter.common.enums import ExporterStatus, LogSource


@pytest.mark.parametrize(
    ("ours", "wire", "prefix"),
    [
        (ExporterStatus, common_pb2.ExporterStatus, "EXPORTER_STATUS_"),
        (LogSource, common_pb2.LogSource, "LOG_SOURCE_"),
    ],
)
def test_members_are_those_of_the_protocol(ours: type, wire: object, prefix: str) -> None:
    assert {prefix + member.name: member.value for member in ours} == dict(wire.items())


def test_text_is_the_name() -> None:
    assert str(ExporterStatus.LEASE_READY) == f"{ExporterStatus.LEASE_READY}" == "LEASE_READY"


def test_members_travel_through_a_message() -> None:
    message = jumpstarter_pb2.ReportStatusRequest(status=ExporterStatus.LEASE_READY.to_proto())
    assert ExporterStatus.from_proto(message.status) is ExporterStatus.LEASE_READY


def test_a_number_of_a_newer_peer_reads_as_unspecified() -> None:
    assert ExporterStatus.from_proto(99) is ExporterStatus.UNSPECIFIED
    assert LogSource.from_proto(99) is LogSource.UNSPECIFIED


def test_importing_loads_no_protobuf() -> None:
    code = "import sys, jumpstarter.common.enums; sys.exit(any(m.startswith(('google', 'grpc')) for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0
