"""Sending the requests of an exporter config: bounded in time and size, with redirects that can't lead astray."""

from __future__ import annotations

import base64
import json
import re
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import anyio

from .common import BadAnswer, HttpPowerError
from .config import BODY_METHODS, Auth, Endpoint

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

MAX_REDIRECTS: Final = 5
ANSWER_LIMIT: Final = 1 << 20
"""Bytes of an answer that are read."""
SHOWN: Final = 200
"""Characters of an answer that a message shows."""


@dataclass(frozen=True, kw_only=True)
class Web:
    """How requests are sent."""

    timeout: float
    """Seconds that a request may take, its redirects included."""
    auth: Auth | None = None
    ca_file: str | None = None
    """PEM file of the authorities to trust instead of those of the system."""
    insecure_tls: bool = False
    """Accept any certificate."""

    async def send(self, endpoint: Endpoint) -> str:
        """Send a request and return the text of the answer.

        Raises:
            HttpPowerError: there is no answer, or it is an error; the message shows no secrets of the request.
        """
        import aiohttp

        try:
            with anyio.fail_after(self.timeout):
                return await self._send(endpoint)
        except TimeoutError:
            raise HttpPowerError(
                f"no answer to {endpoint.shown} within {self.timeout:g} s. "
                "Check address and network, or raise `timeout`"
            ) from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise HttpPowerError(
                f"{endpoint.shown} failed: the certificate is not trusted ({error.certificate_error}). "
                "Name the authority's certificate in `ca_file`"
            ) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error, HttpPowerError):
                raise
            raise HttpPowerError(f"{endpoint.shown} failed: {_reason(error)}. Check that the device is there") from None

    async def _send(self, endpoint: Endpoint) -> str:
        import aiohttp
        from yarl import URL

        headers = dict(endpoint.headers)
        if self.auth is not None and self.auth.basic is not None:
            pair = f"{self.auth.basic.user}:{self.auth.basic.password}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None),
            connector=aiohttp.TCPConnector(force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
        ) as session:
            url, method = URL(endpoint.url, encoded=True), endpoint.method
            for _ in range(MAX_REDIRECTS + 1):
                async with session.request(
                    method,
                    url,
                    data=_body(endpoint, headers) if method in BODY_METHODS else None,
                    headers=headers,
                    allow_redirects=False,
                    ssl=await anyio.to_thread.run_sync(self._tls) if url.scheme == "https" else True,
                    middlewares=self._middlewares(),
                ) as response:
                    if response.status not in (301, 302, 303, 307, 308):
                        return await _answer(endpoint, response)
                    target = _redirected(endpoint, url, response)
                    if response.status == 303:
                        method = "GET"
                    elif response.status in (301, 302) and method != "GET":
                        raise HttpPowerError(
                            f"{endpoint.shown} is redirected with status {response.status}, which would lose the "
                            f"command. Put the new address into the exporter config: {_shown(target)}"
                        )
                    url = target
        raise HttpPowerError(f"{endpoint.shown} is redirected more than {MAX_REDIRECTS} times")

    def _middlewares(self) -> tuple[Any, ...]:
        """Return what answers challenges: new for each address, for it keeps to the first one."""
        import aiohttp

        if self.auth is None or self.auth.digest is None:
            return ()
        return (aiohttp.DigestAuthMiddleware(self.auth.digest.user, self.auth.digest.password),)

    def _tls(self) -> ssl.SSLContext:
        """Return the TLS settings; blocking, as it reads the authorities."""
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.insecure_tls:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _body(endpoint: Endpoint, headers: dict[str, str]) -> bytes | None:
    if endpoint.data is None:
        return None
    if isinstance(endpoint.data, str):
        return endpoint.data.encode()
    if not any(name.lower() == "content-type" for name in headers):
        headers["Content-Type"] = "application/json"
    return json.dumps(endpoint.data).encode()


async def _answer(endpoint: Endpoint, response: aiohttp.ClientResponse) -> str:
    """Return the text of an answer that is no redirection."""
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > ANSWER_LIMIT:
            raise HttpPowerError(f"the answer to {endpoint.shown} has more than {ANSWER_LIMIT} bytes")
    text = content.decode(response.get_encoding() if response.charset else "utf-8", "replace")
    if response.status == 401:
        raise HttpPowerError(f"{endpoint.shown}: the device wants other credentials (status 401). Check `auth`")
    if not 200 <= response.status < 300:
        raise HttpPowerError(f"{endpoint.shown} was refused with status {response.status}: {excerpt(text)}")
    return text


def _redirected(endpoint: Endpoint, url: URL, response: aiohttp.ClientResponse) -> URL:
    """Return where a redirection leads: the same place, or its encrypted one; nobody else gets the credentials."""
    from yarl import URL

    location = response.headers.get("Location")
    if not location:
        raise HttpPowerError(f"{endpoint.shown} is redirected with status {response.status}, but to nowhere")
    target = url.join(URL(location, encoded=True))
    encrypts = url.scheme == "http" and target.scheme == "https"
    if target.host != url.host or not (target.origin() == url.origin() or encrypts):
        raise HttpPowerError(
            f"{endpoint.shown} is redirected to another place, which is not followed. If that is right, put the new "
            f"address into the exporter config: {_shown(target)}"
        )
    return target


def _shown(url: URL) -> str:
    return str(url.with_user(None).with_query(None).with_fragment(None))


def _reason(error: BaseException) -> str:
    """Return why a request failed; aiohttp puts whole addresses into its messages, with what is secret in them."""
    return re.sub(r"\?[^\s'\"]+", "?...", str(error)) or type(error).__name__


def excerpt(text: str) -> str:
    """Return the beginning of an answer for a message, in one line."""
    line = " ".join(text.split())
    return repr(line if len(line) <= SHOWN else line[:SHOWN] + "...")


def value_at(endpoint: Endpoint, text: str, path: str) -> Any:
    """Return what lies at a dotted path of a JSON answer; numbers index lists.

    Raises:
        BadAnswer: it is no JSON, or nothing lies there.
    """
    try:
        value = json.loads(text)
    except ValueError:
        raise BadAnswer(f"the answer to {endpoint.shown} is not JSON: {excerpt(text)}") from None
    for part in path.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise BadAnswer(f"the answer to {endpoint.shown} has no {path} (missing: {part}): {excerpt(text)}")
    return value
