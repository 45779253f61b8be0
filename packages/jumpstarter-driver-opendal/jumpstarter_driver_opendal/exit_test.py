"""Programs that use storage end with status 0, however soon after their last operation they end.

The opendal library's async operations leave threads behind that crash a process at its end in a good part of the runs;
every path that uses the library is run many times here.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from jumpstarter.exporter import Session
from jumpstarter_driver_composite.driver import Composite

from .driver import MockFlasher, MockStorageMuxFlasher, Opendal

RUNS = 25
AT_A_TIME = 8

PREAMBLE = """
import sys
from contextlib import ExitStack
from anyio.from_thread import start_blocking_portal
from jumpstarter.client.client import client_from_path

def main(socket, url, directory, run):
    with start_blocking_portal() as portal, ExitStack() as stack:
        opened = client_from_path(socket, portal, stack, [], True)
        with portal.wrap_async_context_manager(opened) as client:
            operation(client, url, directory, run)
"""

OPERATIONS = {
    "write-from-path": "client.storage.write_from_path(f'a{run}', f'{directory}/image')",
    "read-into-path": "client.storage.read_into_path('image', f'{directory}/b{run}')",
    "write-from-path of a URL": "client.storage.write_from_path(f'c{run}', f'{url}/image')",
    "write-from-path of an operator": (
        "from opendal import Operator; "
        "client.storage.write_from_path(f'd{run}', 'image', Operator('fs', root=directory))"
    ),
    "write-from-path of an operator that presigns": (
        "from opendal import Operator; "
        "client.storage.write_from_path(f'e{run}', 'image', Operator('http', endpoint=url))"
    ),
    "read-into-path of an operator": (
        "from opendal import Operator; "
        "client.storage.read_into_path('image', f'f{run}', Operator('fs', root=directory))"
    ),
    "flash": "client.flasher.flash(f'{directory}/image', target=run)",
    "flash of a compressed URL": "client.flasher.flash(f'{url}/image.gz', target=run, compression='gzip')",
    "dump": "client.flasher.dump(f'{directory}/g{run}', target='image')",
    "write-local-file": "client.mux.write_local_file(f'{directory}/image')",
    "the exporter's own presign-read": (
        "from jumpstarter.common.utils import serve; from jumpstarter_driver_opendal.driver import Opendal; "
        "served = serve(Opendal(scheme='http', kwargs={'endpoint': url})); "
        "storage = served.__enter__(); storage.presign_read('image', 60); served.__exit__(None, None, None)"
    ),
    "the exporter's own storage": (
        "from jumpstarter.common.utils import serve; from jumpstarter_driver_opendal.driver import Opendal; "
        "served = serve(Opendal(scheme='memory', kwargs={})); "
        "storage = served.__enter__(); storage.write_bytes('x', b'x'); served.__exit__(None, None, None)"
    ),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A session to connect to, a web server, and a directory with images that both know."""
    import gzip

    directory = tmp_path_factory.mktemp("exit")
    (directory / "image").write_bytes(b"image" * 1000)
    (directory / "image.gz").write_bytes(gzip.compress(b"image" * 1000))

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object, **keywords: object) -> None:
            super().__init__(*arguments, directory=str(directory), **keywords)

        def log_message(self, *_: object) -> None:
            pass

    root = tmp_path_factory.mktemp("root")
    (root / "image").write_bytes(b"stored")
    device = Composite(
        children={
            "storage": Opendal(scheme="fs", kwargs={"root": str(root)}),
            "flasher": MockFlasher(),
            "mux": MockStorageMuxFlasher(),
        }
    )
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web,
        Session(root_device=device) as session,
        session.serve_unix() as socket,
    ):
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        place = [str(socket), f"http://127.0.0.1:{web.server_address[1]}", str(directory)]
        assert run(place, "client.flasher.flash(f'{directory}/image', target='image')", 0) == (0, "")
        yield place
        web.shutdown()
        thread.join()


def run(place: list[str], operation: str, number: int) -> tuple[int, str]:
    """Run a program that does one operation and ends; returns its status and what it said."""
    code = f"{PREAMBLE}\ndef operation(client, url, directory, run):\n    {operation}\n\nmain(*sys.argv[1:])\n"
    command = [sys.executable, "-c", code, *place, str(number)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_program_ends_with_status_0_every_time(place, name):
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        results = list(pool.map(lambda number: run(place, OPERATIONS[name], number), range(RUNS)))
    assert [result for result in results if result[0] != 0] == []


@pytest.mark.parametrize("name", ["write-from-path of an operator that presigns", "flash of a compressed URL"])
def test_a_program_ends_with_status_0(place, name):
    assert run(place, OPERATIONS[name], 1000) == (0, "")
