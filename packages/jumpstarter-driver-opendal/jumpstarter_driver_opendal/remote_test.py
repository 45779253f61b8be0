"""Storage on real services: S3 (moto), WebDAV (wsgidav), Redis, and a plain web server."""

from __future__ import annotations

import os
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from jumpstarter.client.core import DriverError, DriverMethodNotImplemented
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.common.utils import serve

from .driver import Opendal
from .remote import make_operator

pytestmark = [pytest.mark.daemon, pytest.mark.timeout(90)]


@pytest.fixture
def s3_client(s3):
    s3.reset()
    s3.create_bucket("images")
    kwargs = {
        "bucket": "images",
        "endpoint": f"http://127.0.0.1:{s3.port}",
        "region": s3.region,
        "access_key_id": s3.access_key,
        "secret_access_key": s3.secret_key,
        "disable_config_load": True,
    }
    with serve(Opendal(scheme="s3", kwargs=kwargs)) as client:
        yield client


@pytest.fixture
def webdav_client(webdav):
    with serve(Opendal(scheme="webdav", kwargs={"endpoint": f"http://127.0.0.1:{webdav.port}"})) as client:
        yield client
        client.remove_all("/")


@pytest.fixture(params=["s3_client", "webdav_client"])
def client(request):
    return request.getfixturevalue(request.param)


def test_a_file_of_several_parts_comes_back_as_it_was(client, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom((20 << 20) + 5))
    client.write_from_path("dir/file", source)
    client.read_into_path("dir/file", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    assert client.stat("dir/file").content_length == source.stat().st_size


def test_paths_are_listed_and_removed(client):
    client.write_bytes("a/b", b"x")
    client.write_bytes("c", b"x")
    assert {"a/", "c"} <= set(client.list("/"))
    assert "a/b" in set(client.scan("/"))
    assert client.exists("c")
    client.delete("c")
    assert not client.exists("c")
    client.remove_all("a/")
    assert not client.exists("a/b")


def test_a_missing_file_is_told(client):
    with pytest.raises(DriverError, match=r"No such file or directory in \w+ storage \([^<]+\): 'missing'") as caught:
        client.read_bytes("missing")
    assert "Backtrace" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_path_that_leads_out_is_refused(client):
    with pytest.raises(DriverError, match="leads out"):
        client.read_bytes("../other/file")


def test_an_upload_that_fails_leaves_nothing_behind(client, tmp_path):
    def fail() -> None:
        with client.open("file", "wb") as file:
            file.write_bytes(bytes(9 << 20))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not client.exists("file")


def test_presigned_requests_of_s3_can_be_made_by_anybody(s3_client):
    write = s3_client.presign_write("file", 60)
    request = urllib.request.Request(write.url, b"hello", method=write.method, headers=write.headers)
    request.add_header("Content-Type", "application/octet-stream")
    with urllib.request.urlopen(request, timeout=20):
        pass
    assert s3_client.read_bytes("file") == b"hello"
    read = s3_client.presign_read("file", 60)
    with urllib.request.urlopen(read.url, timeout=20) as response:
        assert response.read() == b"hello"
    assert s3_client.presign_stat("file", 60).method == "HEAD"
    assert s3_client.capability().presign_read


def test_files_of_s3_travel_to_the_exporter_directly(s3, s3_client, tmp_path):
    s3_client.write_bytes("image", b"from s3")
    operator = make_operator(
        "s3",
        {
            "bucket": "images",
            "endpoint": f"http://127.0.0.1:{s3.port}",
            "region": s3.region,
            "access_key_id": s3.access_key,
            "secret_access_key": s3.secret_key,
        },
    )
    with serve(Opendal(scheme="fs", kwargs={"root": str(tmp_path)})) as local:
        local.write_from_path("image", "image", operator)
        assert local.read_bytes("image") == b"from s3"
        local.write_bytes("other", b"to s3")
        local.read_into_path("other", "other", operator)
    assert s3_client.read_bytes("other") == b"to s3"


def test_files_of_the_session_are_removed_from_a_service_too(webdav):
    kwargs = {"endpoint": f"http://127.0.0.1:{webdav.port}"}
    with serve(Opendal(scheme="webdav", kwargs=kwargs, remove_created_on_close=True)) as client:
        client.write_bytes("file", b"x")
    with serve(Opendal(scheme="webdav", kwargs=kwargs)) as client:
        assert not client.exists("file")


def test_redis_is_a_storage(redis):
    with serve(Opendal(scheme="redis", kwargs={"endpoint": f"redis://127.0.0.1:{redis.port}"})) as client:
        client.write_bytes("file", b"hello")
        assert client.read_bytes("file") == b"hello"
        client.delete("file")


@pytest.fixture
def web(tmp_path):
    (tmp_path / "file").write_bytes(b"hello")
    (tmp_path / "secret").write_bytes(b"x")

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object, **keywords: object) -> None:
            super().__init__(*arguments, directory=str(tmp_path), **keywords)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_web_server_can_be_read_and_presigned_but_not_written(web):
    with serve(Opendal(scheme="http", kwargs={"endpoint": web})) as client:
        assert client.read_bytes("file") == b"hello"
        assert client.presign_stat("test", 60).model_dump() == {"url": f"{web}/test", "method": "HEAD", "headers": {}}
        assert client.presign_read("test", 60).url == f"{web}/test"
        with pytest.raises(DriverMethodNotImplemented):
            client.presign_write("test", 60)
        with pytest.raises(DriverMethodNotImplemented):
            client.write_bytes("new", b"x")


def test_a_slow_service_does_not_hold_up_other_calls():
    asked = threading.Event()
    answer = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.set()
            answer.wait(20)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        with serve(Opendal(scheme="http", kwargs={"endpoint": endpoint})) as client:
            waiting = threading.Thread(target=client.exists, args=("x",))
            waiting.start()
            assert asked.wait(20)
            started = time.monotonic()
            assert client.capability().read
            assert time.monotonic() - started < 5
            assert waiting.is_alive()
            answer.set()
            waiting.join(20)
        server.shutdown()
        serving.join()


def test_a_service_that_is_not_there_is_told_in_one_line():
    with serve(Opendal(scheme="webdav", kwargs={"endpoint": "http://127.0.0.1:1"})) as client:
        with pytest.raises(DriverError, match="webdav storage") as caught:
            client.stat("file")
        assert len(str(caught.value).splitlines()) == 1


def test_secrets_of_a_wrong_configuration_are_not_told():
    with pytest.raises(ConfigurationError) as caught:
        Opendal(scheme="s3", kwargs={"secret_access_key": "hush", "access_key_id": "me"})
    assert "hush" not in str(caught.value)
