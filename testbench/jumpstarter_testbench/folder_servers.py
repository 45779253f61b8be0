"""What drivers that serve a folder to the network have in common: their set-up, the traps in it, and their tests."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, ClassVar

import pytest

HOST = "127.0.0.1"


def folder_server_fixtures(driver: Any) -> tuple[Any, Any, Any]:
    """Make the fixtures `root`, `client` and `started` of a test module: a folder, a client of the driver that
    serves it on a free port of loopback, and the same client when the server is running."""

    @pytest.fixture
    def root(tmp_path: Path) -> Path:
        return tmp_path / "served"

    @pytest.fixture
    def client(root: Path) -> Any:
        with _served(driver, root) as client:
            yield client

    @pytest.fixture
    def started(client: Any) -> Any:
        client.start()
        return client

    return root, client, started


def _served(driver: Any, root: Path, **settings: Any) -> Any:
    # Imported when needed: the plugin must load without the packages under test.
    from jumpstarter.common.utils import serve

    return serve(driver(root_dir=str(root), host=HOST, **({"port": 0} | settings)))


def lay_traps(root: Path) -> None:
    """Put into a folder what must never be served, and a link that may be.

    `secret` lies beside the folder; `link` leads to it and `out` to its directory; `in` leads to `dir/file`;
    `.file.1f.jmp-part` is an upload that isn't complete; opening `fifo` would wait for ever.
    """
    (root.parent / "secret").write_bytes(b"secret")
    (root / "out").symlink_to(root.parent)
    (root / "link").symlink_to(root.parent / "secret")
    (root / "in").symlink_to("dir/file")
    (root / ".file.1f.jmp-part").write_bytes(b"half")
    os.mkfifo(root / "fifo")


class FolderServerTests:
    """Tests of what all such drivers do alike; a subclass beside the driver names it.

    They use the module's fixtures of `folder_server_fixtures`.
    """

    driver: ClassVar[Any]
    transport: ClassVar[socket.SocketKind]

    def socket(self) -> socket.socket:
        """Make a socket of the transport that the driver listens on."""
        return socket.socket(socket.AF_INET, self.transport)

    def test_it_starts_and_stops_and_starts_again(self, client: Any) -> None:
        assert client.get_host() == HOST
        assert client.get_port() == 0
        client.start()
        port = client.get_port()
        client.start()
        assert client.get_port() == port != 0
        client.stop()
        client.stop()
        assert client.get_port() == 0
        client.start()
        assert client.get_port() != 0

    def test_it_tells_whether_it_runs(self, client: Any) -> None:
        assert not client.is_running()
        client.start()
        assert client.is_running()
        client.stop()
        assert not client.is_running()

    def test_it_listens_on_the_configured_address_alone(self, started: Any) -> None:
        with self.socket() as other:
            other.bind(("127.0.0.2", started.get_port()))
        with self.socket() as same, pytest.raises(OSError, match="in use"):
            same.bind((HOST, started.get_port()))

    def test_the_port_is_free_after_the_session(self, root: Path) -> None:
        with _served(self.driver, root) as client:
            client.start()
            port = client.get_port()
        with self.socket() as freed:
            freed.bind((HOST, port))

    def test_a_port_that_is_taken_is_told_and_can_be_tried_again(self, root: Path) -> None:
        from jumpstarter.client.core import DriverError

        with self.socket() as taken:
            taken.bind((HOST, 0))
            port = taken.getsockname()[1]
            with _served(self.driver, root, port=port) as client:
                with pytest.raises(DriverError, match=rf"can't listen on {HOST} port {port}: .*in use"):
                    client.start()
                taken.close()
                client.start()
                assert client.get_port() == port

    def test_uploads_are_removed_at_the_end_and_other_files_stay(self, root: Path) -> None:
        root.mkdir()
        (root / "kernel").write_bytes(b"x")
        with _served(self.driver, root) as client:
            client.storage.write_bytes("upload", b"x")
        assert [path.name for path in root.iterdir()] == ["kernel"]

    def test_uploads_stay_if_the_config_says_so(self, root: Path) -> None:
        with _served(self.driver, root, remove_created_on_close=False) as client:
            client.storage.write_bytes("upload", b"x")
        assert (root / "upload").exists()
