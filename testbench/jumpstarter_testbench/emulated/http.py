"""What emulated devices with a web interface have in common: a server on loopback, and ways to misbehave."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from .certificates import LOOPBACK, Certificate


@dataclass(frozen=True)
class Request:
    """What a client sent."""

    method: str
    target: str
    """Path and query, as they came."""
    body: bytes
    headers: dict[str, str]
    """By names in lower case."""
    client: str
    """Address of the client."""

    @property
    def path(self) -> str:
        """The path without the query."""
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        """The parameters of the query."""
        return {key: values[-1] for key, values in parse_qs(urlsplit(self.target).query, True).items()}


@dataclass(frozen=True)
class Answer:
    """What the device sends back."""

    body: bytes | str = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class HttpDevice:
    """A device with a web interface; a context manager that serves it in threads."""

    def __init__(self, certificate: Certificate | None = None) -> None:
        """Prepare the server; it listens at once and answers inside of the context.

        Args:
            certificate: for `https://`.
        """
        self.requests: list[Request] = []
        """All requests so far."""
        self.instead: Callable[[Request], Answer | None] | None = None
        """Answers instead of the device, unless it returns None."""
        self.awake = threading.Event()
        """Cleared, the device takes requests and says nothing."""
        self.awake.set()
        self.heard = threading.Event()
        """Set when a request comes."""
        device = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def log_message(self, *_: Any) -> None:
                """Say nothing on stderr."""

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {key.lower(): value for key, value in self.headers.items()}
                request = Request(self.command, self.path, body, headers, self.client_address[0])
                device.requests.append(request)
                device.heard.set()
                if not device.awake.wait(30) or device._closing:
                    self.close_connection = True
                    return
                answer = device.instead(request) if device.instead is not None else None
                with device._lock:
                    answer = answer or device.answer(request)
                content = answer.body.encode() if isinstance(answer.body, str) else answer.body
                self.send_response(answer.status)
                for key, value in {"Content-Type": "text/html", **answer.headers}.items():
                    self.send_header(key, value)
                if answer.status != 204:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_: Any) -> None:
                """Clients that go away are part of the tests."""

        self._lock = threading.Lock()
        self._closing = False
        self._server = Server((LOOPBACK, 0), Handler)
        self._scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.file, certificate.key)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
            self._scheme = "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def host(self) -> str:
        """Address and port."""
        return f"{LOOPBACK}:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        """The root of the web interface."""
        return f"{self._scheme}://{self.host}"

    def answer(self, request: Request) -> Answer:
        """Answer as the device does; one request at a time."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self.awake.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
