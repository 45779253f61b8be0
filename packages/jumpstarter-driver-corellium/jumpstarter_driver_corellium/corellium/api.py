"""Corellium's REST interface: projects, models, instances and their consoles; blocking, with every request bounded."""

from __future__ import annotations

import json
import time
from typing import Any, Final
from urllib.parse import quote

import requests

from .exceptions import CorelliumApiException
from .types import Device, Instance, Project, taken

CONNECT_TIMEOUT: Final = 10.0
"""Seconds that a connection may take."""

READ_TIMEOUT: Final = 30.0
"""Seconds that an answer may take, as a whole."""

ANSWER_LIMIT: Final = 16 << 20
"""Bytes of an answer that are read."""

SHOWN: Final = 200
"""Characters of an answer that a message shows."""


class ApiClient:
    """A client of the service at one host."""

    def __init__(self, host: str, token: str) -> None:
        """Prepare requests; none is sent yet.

        Args:
            host: name of the service, `HOST[:PORT]`; with `http://` in front the connection is not encrypted.
            token: API token.
        """
        self.host = host
        self.token = token
        self.req = requests.Session()
        """The session that requests go through, with the token in its headers."""
        self.req.headers["Authorization"] = f"Bearer {token}"
        # Else a ~/.netrc that knows the host would replace the token.
        self.req.auth = _unchanged
        self.verify: str | None = None
        """PEM file of the authorities to trust; else those of REQUESTS_CA_BUNDLE or of the system."""

    @property
    def baseurl(self) -> str:
        """Where the paths of requests begin."""
        scheme, separator, rest = self.host.rpartition("://")
        return f"{scheme if separator else 'https'}://{rest.rstrip('/')}/api"

    def close(self) -> None:
        """Close idle connections."""
        self.req.close()

    def get_project(self, project_ref: str = "Default Project") -> Project | None:
        """Return the project of that id or name, or None.

        Raises:
            CorelliumApiException: the service refuses or does not answer.
        """
        found = self._find(self._list("/v1/projects"), project_ref)
        return taken(Project, found) if found else None

    def get_device(self, model: str) -> Device | None:
        """Return the kind of device of that model, or None.

        Raises:
            CorelliumApiException: the service refuses or does not answer.
        """
        for item in self._list("/v1/models"):
            if item.get("model") == model:
                return taken(Device, item)
        return None

    def create_instance(self, name: str, project: Project, device: Device, os_version: str, os_build: str) -> Instance:
        """Make a virtual device; it starts by itself.

        Raises:
            CorelliumApiException: the service refuses or does not answer.
        """
        body = {"name": name, "project": project.id, "flavor": device.flavor, "os": os_version, "osbuild": os_build}
        found = self._send("POST", "/v1/instances", body)
        if not isinstance(found, dict) or not isinstance(found.get("id"), str):
            raise CorelliumApiException("Corellium made an instance, but does not tell its id")
        return taken(Instance, found)

    def get_instance(self, instance_ref: str) -> Instance | None:
        """Return the instance of that id or name, or None.

        Raises:
            CorelliumApiException: the service refuses or does not answer.
        """
        found = self._find(self._list("/v1/instances"), instance_ref)
        return taken(Instance, found) if found else None

    def set_instance_state(self, instance: Instance, instance_state: str) -> None:
        """Have an instance go into a state, such as `on` or `off`; it takes its time.

        Raises:
            CorelliumApiException: the service refuses or does not answer.
        """
        self._send("PUT", f"/v1/instances/{quote(instance.id, safe='')}/state", {"state": instance_state})

    def destroy_instance(self, instance: Instance) -> None:
        """Throw an instance away; it takes its time.

        Raises:
            CorelliumApiException: the service refuses or does not answer.
        """
        self._send("DELETE", f"/v1/instances/{quote(instance.id, safe='')}")

    def get_instance_console_id(self, instance: Instance, console_name: str) -> str | None:
        """Return the id of a console, or None.

        Raises:
            CorelliumApiException: the service refuses or does not answer.
        """
        return self.get_instance_consoles(instance).get(console_name)

    def get_instance_consoles(self, instance: Instance) -> dict[str, str]:
        """Return the ids of an instance's consoles by their names.

        Raises:
            CorelliumApiException: the service refuses or does not answer.
        """
        found = self._send("GET", f"/v1/instances/{quote(instance.id, safe='')}")
        consoles = found.get("consoles") if isinstance(found, dict) else None
        return {
            str(item["name"]): str(item["id"])
            for item in (consoles if isinstance(consoles, list) else [])
            if isinstance(item, dict) and "name" in item and "id" in item
        }

    def get_instance_console_url(self, instance: Instance, console_id: str) -> str | None:
        """Return the address of a console's WebSocket, with the permission in it, or None.

        Raises:
            CorelliumApiException: the service refuses or does not answer.
        """
        kind = console_id.removeprefix("port-")
        path = f"/v1/instances/{quote(instance.id, safe='')}/console"
        found = self._send("GET", path, params={"type": kind})
        url = found.get("url") if isinstance(found, dict) else None
        return url if isinstance(url, str) else None

    @staticmethod
    def _find(items: list[dict[str, Any]], wanted: str) -> dict[str, Any] | None:
        """Return the item of that id, or else of that name."""
        for key in ("id", "name"):
            for item in items:
                if item.get(key) == wanted:
                    return item
        return None

    def _list(self, path: str) -> list[dict[str, Any]]:
        found = self._send("GET", path)
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise CorelliumApiException(f"Corellium's answer to GET {path} is no list")
        return found

    def _send(
        self, method: str, path: str, body: dict[str, Any] | None = None, params: dict[str, str] | None = None
    ) -> Any:
        """Send a request and return what the answer holds; None when it is empty."""
        what = f"{method} {self.baseurl}{path}"
        try:
            with self.req.request(
                method,
                self.baseurl + path,
                json=body,
                params=params,
                timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
                allow_redirects=False,
                stream=True,
                verify=self.verify,
            ) as response:
                content = self._content(what, response)
                status, reason = response.status_code, response.reason
        except requests.exceptions.SSLError as error:
            raise CorelliumApiException(
                f"{what} failed: {error}. For a service with an authority of its own set `ca_file`"
            ) from error
        except requests.exceptions.Timeout as error:
            raise CorelliumApiException(f"no answer to {what} in time. Check CORELLIUM_API_HOST") from error
        except requests.exceptions.RequestException as error:
            raise CorelliumApiException(f"{what} failed: {error}. Check CORELLIUM_API_HOST and the network") from error
        value = _decoded(content)
        if not 200 <= status < 300:
            text = value.get("error") if isinstance(value, dict) else None
            hint = " Check CORELLIUM_API_TOKEN." if status in (401, 403) else ""
            raise CorelliumApiException(f"{text or _excerpt(content) or reason} ({what}: status {status}).{hint}")
        if value is _NOTHING:
            if content.strip():
                raise CorelliumApiException(f"Corellium's answer to {what} is not JSON: {_excerpt(content)}")
            return None
        return value

    def _content(self, what: str, response: requests.Response) -> bytes:
        """Return the body of an answer; a service that sends it drop by drop does not hold us."""
        content, deadline = bytearray(), time.monotonic() + READ_TIMEOUT
        for chunk in response.iter_content(65536):
            content += chunk
            if time.monotonic() > deadline or len(content) > ANSWER_LIMIT:
                raise CorelliumApiException(f"the answer to {what} takes too long or is too large")
        return bytes(content)


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


_NOTHING: Final = object()


def _decoded(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return _NOTHING


def _excerpt(content: bytes) -> str:
    text = " ".join(content.decode("utf-8", "replace").split())
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
