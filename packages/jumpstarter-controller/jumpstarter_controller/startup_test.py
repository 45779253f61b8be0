"""What is wrong with a config is told before anything is made or served, in one message."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest
import yaml
from jumpstarter.common.exceptions import ConfigurationError
from pydantic import BaseModel

from . import systemd
from .config_example import EXAMPLE
from .config_file import ControllerConfig, read_config
from .startup import check
from .store.base import StoreError
from .store.sqlite_files import locked


def config(**values: object) -> ControllerConfig:
    """Return a config that listens on free ports."""
    free = {"listen": "127.0.0.1:0", "web": {"listen": ""}, "metrics": {"listen": ""}}
    return ControllerConfig.model_validate({**free, **values})


def refused(folder: Path, **values: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        check(config(**values), folder)
    return caught.value.message


def test_a_good_config_passes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    check(config(), tmp_path / "lab")
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        text = refused(tmp_path, metrics={"listen": address})
    assert text.startswith(f"metrics.listen: can't listen on {address}")
    assert "another program listens there already" in text


def test_one_port_for_two_purposes_is_told_by_both_keys(tmp_path: Path) -> None:
    text = refused(tmp_path, web={"listen": "127.0.0.1:9000"}, metrics={"listen": "127.0.0.1:9000"})
    assert text == "metrics.listen: the port 9000 is that of web.listen too; give each one of its own"


def test_an_endpoint_needs_a_port(tmp_path: Path) -> None:
    assert "endpoint 'lab.example.com:0' needs the port" in refused(tmp_path, endpoint="lab.example.com:0")


def test_a_folder_below_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is a file" in refused(tmp_path / "file" / "lab")


def test_a_folder_where_nobody_can_make_one_is_told() -> None:
    assert "/proc can't be written" in refused(Path("/proc/lab"))


def test_a_folder_of_a_running_lab_is_told_with_its_process(tmp_path: Path) -> None:
    with locked(tmp_path / "lab.db"), pytest.raises(StoreError, match=f"in use by the process {os.getpid()}"):
        check(config(), tmp_path)


def test_a_certificate_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    files = {"certificate": str(tmp_path / "no.crt"), "key": str(tmp_path / "no.key")}
    assert "no.crt can't be read: No such file" in refused(tmp_path, tls=files)


def test_all_mistakes_of_login_providers_are_told_with_their_places(tmp_path: Path) -> None:
    provider = {"issuer": {"url": "http://x", "audiences": ["a"]}, "claimMappings": {"username": {"claim": "sub"}}}
    first, *rest = refused(tmp_path, jwt=[provider]).splitlines()
    assert first == "2 mistakes in login providers:"
    assert rest[0].startswith("  jwt[0].issuer.url: must be an https:// URL")
    assert rest[1].startswith("  jwt[0].claimMappings.username: a claim needs a prefix")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("listen: lab\n", ":1: listen: 'lab' is not of the form host:port"),
        ("router:\n  endpoint: a:b\n", ":2: router.endpoint: 'a:b' is not of the form host:port"),
        ("leases:\n  maxtags: 3\n", ":2: leases.maxtags: unknown key; did you mean 'maxTags'?"),
        ("tokens: {life: soon}\n", ":1: tokens.life:"),
        ("kind: ExporterConfig\n", ":1: kind: this is 'ExporterConfig', but 'ControllerConfig' is needed here"),
    ],
)
def test_O04_a_mistake_in_the_file_is_told_with_line_and_key(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=re.escape(f"{path}{said}")):
        read_config(path)


def test_an_empty_file_is_a_config(tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").touch()
    assert read_config(tmp_path / "lab.yaml") == ControllerConfig()


def test_paths_of_a_file_begin_at_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text("data: kept\ntls: {certificate: a.crt, key: /b.key}\n")
    read = read_config(path)
    assert read.tls is not None
    assert (read.data, read.tls.certificate, read.tls.key) == (tmp_path / "kept", tmp_path / "a.crt", Path("/b.key"))


# --- the example -----------------------------------------------------------------------------------------------------


def uncommented() -> str:
    """Return the example with everything in effect that it shows."""
    lines = []
    for line in EXAMPLE.splitlines():
        found = re.match(r"# ( *(?:- )?[a-z]\w*:(?: .*)?)$", line)
        if found:
            lines.append(found[1])
        elif not line.startswith("#"):
            lines.append(line)
    return "\n".join(lines)


def test_the_example_as_it_is_says_nothing_but_defaults(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(EXAMPLE)
    assert read_config(path) == ControllerConfig()


def test_the_example_shows_every_key(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(uncommented())
    read_config(path)
    said = yaml.safe_load(uncommented())

    def keys(model: type[BaseModel]) -> set[str]:
        return {field.alias or name for name, field in model.model_fields.items()}

    assert said.keys() == keys(ControllerConfig)
    for name, field in ControllerConfig.model_fields.items():
        part = field.annotation
        if isinstance(part, type) and issubclass(part, BaseModel):
            assert said[field.alias or name].keys() <= keys(part)
            if name not in ("web", "metrics"):
                assert said[field.alias or name].keys() == keys(part)


def test_the_reference_shows_the_example() -> None:
    page = Path(__file__).parents[3] / "docs" / "reference" / "controller-config.md"
    assert f"```yaml\n{EXAMPLE}```" in page.read_text()


# --- the service manager ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("abstract", [False, True])
def test_a_service_manager_is_told(abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"@jumpstarter-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0", 1))
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        assert systemd.notify("READY=1", "STATUS=here")
        assert manager.recv(100) == b"READY=1\nSTATUS=here"


def test_without_a_service_manager_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not systemd.notify("READY=1")


def test_a_service_manager_that_is_gone_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not systemd.notify("READY=1")


async def test_signs_of_life_come_as_often_as_they_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import anyio

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "40000")
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(systemd.keep_alive)
                for _ in range(3):
                    await anyio.wait_readable(manager)
                    assert manager.recv(100) == b"WATCHDOG=1"
                tasks.cancel_scope.cancel()
