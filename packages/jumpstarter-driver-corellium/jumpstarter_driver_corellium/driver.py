"""The driver of Corellium's virtual devices: power and a serial console."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar
from urllib.parse import urlsplit

import anyio
from anyio import to_thread
from anyio.abc import ObjectStream
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter_driver_network.driver import NetworkInterface, WebsocketNetwork
from jumpstarter_driver_power.common import PowerReading
from jumpstarter_driver_power.driver import VirtualPowerInterface

from .corellium.api import ApiClient
from .corellium.exceptions import CorelliumApiException
from .corellium.types import Instance, Project

__all__ = ["Corellium", "CorelliumConsole", "CorelliumPower"]

RETRIES: Final = 60
"""How often the state of an instance is looked at until it is given up; making and starting one takes minutes."""

INTERVAL: Final = 5.0
"""Seconds between two looks."""

REQUEST_TIMEOUT: Final = 60.0
"""Seconds that a request may take as a whole, before its thread is left to its own time-outs."""

T = TypeVar("T")


@dataclass(kw_only=True)
class Corellium(Driver):
    """A virtual device of Corellium, with the children `power` and `serial`."""

    driver_type: ClassVar[str] = "composite"

    project_id: str
    """Id or name of the project."""
    device_name: str
    """Name or id of the instance; it is made when it is switched on and there is none."""
    device_flavor: str
    """Model of the device, as the service lists it."""
    device_os: str = "1.1.1"
    """Version of the firmware."""
    device_build: str = "Critical Application Monitor (Baremetal)"
    """Build of the firmware."""
    console_name: str = "Primary Compute Non-Secure"
    """Name of the console that `serial` is."""
    ca_file: str | None = None
    """PEM file of the authorities to trust, for a service of one's own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("project_id", "device_name", "device_flavor", "device_os", "device_build", "console_name"):
            # YAML reads a version such as 1.1 as a number.
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
                raise ValueError(f"{name} must be a text, not {value!r}")
            setattr(self, name, str(value))
        if self.ca_file is not None:
            path = Path(self.ca_file).expanduser()
            if not path.is_file():
                raise ValueError(f"ca_file {self.ca_file}: there is no such file")
            self.ca_file = str(path)
        host, token = self.get_env_var("CORELLIUM_API_HOST"), self.get_env_var("CORELLIUM_API_TOKEN")
        CorelliumPower.get_timeout_opts()
        self._api = ApiClient(host, token)
        if self.ca_file is not None:
            self._api.verify = self.ca_file
        self.children["power"] = CorelliumPower(parent=self)
        self.children["serial"] = CorelliumConsole(parent=self, url="")

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_corellium.client.CorelliumClient"

    @property
    def api(self) -> ApiClient:
        """The client of the service."""
        return self._api

    @classmethod
    def get_env_var(cls, name: str) -> str:
        """Return an environment variable, without blanks around it.

        Raises:
            ConfigurationError: it is not set, or empty.
        """
        value = os.environ.get(name)
        if value is None:
            raise ConfigurationError(f'Missing "{name}" environment variable')
        if not value.strip():
            raise ConfigurationError(f'"{name}" environment variable is empty')
        return value.strip()

    def close(self) -> None:
        """Close idle connections to the service."""
        try:
            super().close()
        finally:
            self._api.close()

    def find_project(self) -> Project:
        """Return the project; blocking.

        Raises:
            ValueError: there is none.
        """
        project = self.api.get_project(self.project_id)
        if project is None:
            raise ValueError(f"Unable to fetch project: {self.project_id}. Check `project_id` and the token's rights")
        return project


async def _in_thread(function: Callable[..., T], *args: Any) -> T:
    """Call the service in a worker thread."""
    try:
        with anyio.fail_after(REQUEST_TIMEOUT):
            return await to_thread.run_sync(partial(function, *args), abandon_on_cancel=True)
    except TimeoutError:
        raise TimeoutError(f"no answer from Corellium within {REQUEST_TIMEOUT:g} s") from None


@dataclass(kw_only=True)
class CorelliumPower(VirtualPowerInterface, Driver):
    """The power of a virtual device."""

    parent: Corellium = field(repr=False)

    @classmethod
    def get_timeout_opts(cls) -> dict[str, Any]:
        """Return how often (`retries`) and how far apart (`interval`, seconds) an instance's state is looked at.

        Raises:
            ConfigurationError: an environment variable is no such number.
        """
        retries = _number_from("CORELLIUM_API_RETRIES", RETRIES, least=1, most=100_000)
        interval = _number_from("CORELLIUM_API_INTERVAL", INTERVAL, least=0, most=3600)
        return {"retries": int(retries), "interval": interval}

    @export
    async def on(self) -> None:
        """Switch the device on, making it when there is none; return when it is on.

        Raises:
            ValueError: there is no such project or kind of device.
            CorelliumApiException: the service refuses, does not answer, or the device fails.
            TimeoutError: the device isn't on in time.
        """
        parent, api = self.parent, self.parent.api
        project = await _in_thread(parent.find_project)
        device = await _in_thread(api.get_device, parent.device_flavor)
        if device is None:
            raise ValueError(f"Unable to find a device for this model: {parent.device_flavor}. Check `device_flavor`")
        instance = await _in_thread(api.get_instance, parent.device_name)
        if instance is None:
            instance = await _in_thread(
                api.create_instance, parent.device_name, project, device, parent.device_os, parent.device_build
            )
        elif instance.state != "on":
            await _in_thread(api.set_instance_state, instance, "on")
        await self.wait_instance(instance, Instance(id=instance.id, state="on"))
        await self.confirm("on")

    @export
    async def off(self, destroy: bool = False) -> None:
        """Switch the device off, and throw it away with `destroy`; a device that isn't there is off.

        Raises:
            ValueError: there is no such project.
            CorelliumApiException: the service refuses, does not answer, or the device fails.
            TimeoutError: the device isn't off, or gone, in time.
        """
        parent, api = self.parent, self.parent.api
        await _in_thread(parent.find_project)
        instance = await _in_thread(api.get_instance, parent.device_name)
        if instance is None:
            self.logger.info("there is no instance %s, nothing to switch off", parent.device_name)
            return
        if instance.state != "off" and not (destroy and instance.state == "error"):
            await _in_thread(api.set_instance_state, instance, "off")
            await self.wait_instance(instance, Instance(id=instance.id, state="off"))
        if destroy:
            await _in_thread(api.destroy_instance, instance)
            await self.wait_instance(instance, None)
        await self.confirm("off")

    @export(watch=True)
    async def status(self) -> str:
        """Return `on`, `off` (also when there is no device), or `unknown` while it is on the way.

        Raises:
            CorelliumApiException: the service refuses or does not answer.
        """
        instance = await _in_thread(self.parent.api.get_instance, self.parent.device_name)
        if instance is None:
            return "off"
        return instance.state if instance.state in ("on", "off") else "unknown"

    @export(watch=True)
    async def read(self) -> AsyncGenerator[PowerReading, None]:
        """Not to be had from a virtual device."""
        raise NotImplementedError("a virtual device has no voltage or current to measure")
        yield

    async def wait_instance(self, current: Instance, desired: Instance | None) -> None:
        """Wait until an instance is as desired; None is gone.

        Raises:
            CorelliumApiException: the instance fails.
            TimeoutError: it takes longer than `get_timeout_opts` allows.
        """
        options = self.get_timeout_opts()
        found: Instance | None = current
        for attempt in range(options["retries"]):
            if attempt:
                await anyio.sleep(options["interval"])
            found = await _in_thread(self.parent.api.get_instance, current.id)
            if found == desired:
                return
            if found is None:
                raise CorelliumApiException(f"the instance {self.parent.device_name} is gone; somebody deleted it")
            # One that had failed before may still say so for a moment.
            if found.state == "error" and desired is not None and current.state != "error":
                raise CorelliumApiException(
                    f"the instance {self.parent.device_name} is in the state error; look at it in Corellium's web "
                    "page, or throw it away with `off --destroy`"
                )
        wanted = "gone" if desired is None else desired.state
        raise TimeoutError(
            f"the instance {self.parent.device_name} is not {wanted} after {options['retries']} looks every "
            f"{options['interval']:g} s, but {found.state if found else 'gone'}. Set CORELLIUM_API_RETRIES higher"
        )


def _number_from(name: str, default: float, *, least: float, most: float) -> float:
    """Return the number in an environment variable.

    Raises:
        ConfigurationError: it is none, or out of range.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value) or not least <= value <= most:
        raise ConfigurationError(f'"{name}" environment variable must be a number from {least} to {most}, not {text!r}')
    return value


@dataclass(kw_only=True)
class CorelliumConsole(NetworkInterface, Driver):
    """A serial console of a virtual device."""

    driver_type: ClassVar[str] = "serial"

    parent: Corellium = field(repr=False)
    url: str = field(default="", repr=False, compare=False)
    """Address of the console, with the permission in it; the service is asked each time, what is set is ignored."""
    baudrate: int = 115200
    """A virtual device has no such thing; accepted for the likeness with serial ports."""

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_pyserial.client.PySerialClient"

    def console_url(self) -> str:
        """Ask the service for the address of the console; blocking.

        Raises:
            ValueError: there is no such project, device or console.
            CorelliumApiException: the service refuses or does not answer.
        """
        parent, api = self.parent, self.parent.api
        parent.find_project()
        instance = api.get_instance(parent.device_name)
        if instance is None:
            raise ValueError(f"there is no instance {parent.device_name}; switch it on first")
        console = api.get_instance_console_id(instance, parent.console_name)
        if console is None:
            known = ", ".join(api.get_instance_consoles(instance)) or "none yet; they appear when the device is on"
            raise ValueError(
                f"the instance {parent.device_name} has no console {parent.console_name}. Check `console_name`: "
                f"there are {known}"
            )
        url = api.get_instance_console_url(instance, console)
        if not url or not url.startswith(("ws://", "wss://")):
            raise ValueError(f"Corellium gave no address for the console {parent.console_name}")
        return url

    @exportstream
    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[ObjectStream[bytes], None]:
        """Open the console.

        Raises:
            ValueError: there is no such project, device or console.
            CorelliumApiException: the service refuses or does not answer.
            ConnectionError: the console can't be opened.
        """
        url = await _in_thread(self.console_url)
        console = WebsocketNetwork(url=url, ca_file=self.parent.ca_file)
        async with AsyncExitStack() as stack:
            try:
                stream = await stack.enter_async_context(console.connect())
            except (ConnectionError, TimeoutError) as error:
                shown = f"{urlsplit(url).scheme}://{urlsplit(url).netloc}/..."
                raise type(error)(str(error).replace(url, shown)) from None
            yield stream


def _ask_for_url(console: CorelliumConsole) -> str:
    return console.console_url()


# Set after the fact, for the dataclass takes `url` as an argument although nobody's value is used.
CorelliumConsole.url = property(_ask_for_url, lambda _console, _value: None)  # type: ignore[assignment]
