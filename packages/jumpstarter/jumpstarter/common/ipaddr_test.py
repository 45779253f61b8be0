"""The address of this machine is found or said to be missing."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest

from jumpstarter.common import ipaddr
from jumpstarter.common.ipaddr import get_ip_address, get_minikube_ip


def host_has(monkeypatch: pytest.MonkeyPatch, answer: str | Exception) -> None:
    def lookup(name: str) -> str:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(socket, "gethostbyname", lookup)


def test_the_address_of_the_host_name_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    host_has(monkeypatch, "192.0.2.7")
    assert get_ip_address() == "192.0.2.7"


@pytest.mark.parametrize("answer", ["127.0.1.1", "", socket.gaierror(-2, "unknown"), UnicodeError("label too long")])
def test_without_a_useful_one_the_address_of_the_route_is_taken(
    monkeypatch: pytest.MonkeyPatch, answer: str | Exception
) -> None:
    host_has(monkeypatch, answer)
    monkeypatch.setattr(ipaddr, "_route_address", lambda: "192.0.2.8")
    assert get_ip_address() == "192.0.2.8"


def test_the_route_is_asked_without_a_packet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipaddr, "PROBE", ("127.0.0.1", 53))
    assert ipaddr._route_address() == "127.0.0.1"


def test_a_machine_without_route_gets_any_address_and_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host_has(monkeypatch, socket.gaierror(-2, "unknown"))
    monkeypatch.setattr(ipaddr, "PROBE", ("255.255.255.255", 53))  # not allowed without SO_BROADCAST
    assert get_ip_address(logging.getLogger("mine")) == "0.0.0.0"
    assert [(record.name, record.levelname) for record in caplog.records] == [("mine", "WARNING")]


def program(tmp_path: Path, script: str) -> str:
    path = tmp_path / "minikube"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


async def test_minikube_tells_the_address_of_a_profile(tmp_path: Path) -> None:
    minikube = program(tmp_path, 'echo "192.168.49.2 $*"')
    assert await get_minikube_ip(minikube=minikube) == "192.168.49.2 ip"
    assert await get_minikube_ip("lab", minikube) == "192.168.49.2 ip -p lab"


async def test_what_minikube_says_is_the_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^no such profile$"):
        await get_minikube_ip("lab", program(tmp_path, "echo no such profile >&2; exit 1"))
    with pytest.raises(RuntimeError, match="failed with exit code 3"):
        await get_minikube_ip("lab", program(tmp_path, "exit 3"))


async def test_a_missing_or_silent_minikube_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="is minikube installed"):
        await get_minikube_ip(minikube=str(tmp_path / "absent"))
    monkeypatch.setattr(ipaddr, "MINIKUBE_TIMEOUT", 0.1)
    with pytest.raises(RuntimeError, match=r"no answer within 0\.1 s"):
        await get_minikube_ip(minikube=program(tmp_path, "exec sleep 60"))
