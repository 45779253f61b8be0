"""Both ways to import generated code work, and each loads no more than it needs."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module, resources

import pytest

import jumpstarter_protocol

MODULES = {
    "admin_pb2": "jumpstarter.admin.v1",
    "admin_pb2_grpc": "jumpstarter.admin.v1",
    "client_pb2": "jumpstarter.client.v1",
    "client_pb2_grpc": "jumpstarter.client.v1",
    "jumpstarter_pb2": "jumpstarter.v1",
    "jumpstarter_pb2_grpc": "jumpstarter.v1",
    "kubernetes_pb2": "jumpstarter.v1",
    "kubernetes_pb2_grpc": "jumpstarter.v1",
    "lab_pb2": "jumpstarter.lab.v1",
    "lab_pb2_grpc": "jumpstarter.lab.v1",
    "peer_pb2": "jumpstarter.lab.v1",
    "peer_pb2_grpc": "jumpstarter.lab.v1",
    "router_pb2": "jumpstarter.v1",
    "router_pb2_grpc": "jumpstarter.v1",
}


def loaded(statement: str) -> set[str]:
    """The modules that are loaded after a statement in a new interpreter."""
    code = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_the_same_from_the_top_and_from_its_place(name: str) -> None:
    assert getattr(jumpstarter_protocol, name) is import_module(f"jumpstarter_protocol.{MODULES[name]}.{name}")
    assert name in dir(jumpstarter_protocol)


def test_the_top_lists_all_modules() -> None:
    assert sorted(jumpstarter_protocol.__all__) == sorted(MODULES)


def test_other_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no_such_pb2"):
        _ = jumpstarter_protocol.no_such_pb2


def test_common_is_found_in_its_place() -> None:
    assert import_module("jumpstarter_protocol.jumpstarter.v1.common_pb2").ExporterStatus


def test_importing_the_package_loads_no_generated_code() -> None:
    modules = loaded("import jumpstarter_protocol")
    assert not {name for name in modules if name.startswith(("google", "grpc")) or name.endswith("_pb2")}


def test_messages_load_no_grpc() -> None:
    modules = loaded("from jumpstarter_protocol import router_pb2, jumpstarter_pb2, client_pb2")
    assert "google.protobuf" in modules
    assert not {name for name in modules if name.startswith("grpc")}


def test_a_service_loads_the_messages_that_it_needs_alone() -> None:
    modules = loaded("from jumpstarter_protocol import router_pb2_grpc")
    assert "jumpstarter_protocol.jumpstarter.v1.router_pb2" in modules
    assert "jumpstarter_protocol.jumpstarter.v1.jumpstarter_pb2" not in modules


def test_the_package_is_typed() -> None:
    files = resources.files("jumpstarter_protocol")
    assert files.joinpath("py.typed").is_file()
    for name, place in MODULES.items():
        if not name.endswith("_grpc"):
            stub = files.joinpath(*place.split("."), f"{name}.pyi").read_text(encoding="utf-8")
            assert "from jumpstarter." not in stub  # would be another distribution's package
