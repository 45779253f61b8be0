"""The µStreamer driver: a camera or an HDMI grabber on the exporter, by the program `ustreamer`."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import anyio
from anyio import CancelScope, to_thread
from jumpstarter.driver import Driver, export, exportstream
from jumpstarter.streams.sockets import SocketByteStream
from jumpstarter.streams.unix import connect_unix
from jumpstarter_driver_video.common import MAX_PICTURE
from jumpstarter_driver_video.driver import JpegSource, VideoError

from .arguments import DEFAULT_DEVICE, IGNORED, command_options, device_of
from .common import UStreamerState
from .daemon import Daemon

if TYPE_CHECKING:
    import aiohttp

__all__ = ["UStreamer", "UStreamerState", "find_ustreamer"]

HTTP_TIMEOUT: Final = 10.0
"""Seconds that µStreamer may take to answer."""

POLL: Final = 0.05
"""Seconds between two looks at a µStreamer or a camera that is about to start."""

END_MARGIN: Final = 1.0
"""Seconds within which the end of a process shows after its connections broke."""

INSTALL: Final = "apt-get install ustreamer, dnf install ustreamer, or https://github.com/pikvm/ustreamer"


def find_ustreamer() -> str:
    """Return the path of the program.

    Raises:
        FileNotFoundError: it isn't on the search path.
    """
    path = shutil.which("ustreamer")
    if path is None:
        raise FileNotFoundError(f"ustreamer not found on the exporter's PATH. Install it: {INSTALL}")
    return path


@dataclass(kw_only=True)
class UStreamer(JpegSource, Driver):
    """A V4L2 device, whose pictures `ustreamer` serves to this driver alone.

    The program is started when somebody looks for the first time, started again when it was killed, and ended with the
    session. What is wrong with the camera is an error of the call that wanted a picture.
    """

    system_requirements: ClassVar[dict[str, str]] = {
        "ustreamer": INSTALL,
        f"{DEFAULT_DEVICE}?": "plug in the camera, or name it in args (device); the exporter's user needs group video",
    }

    executable: str = field(default_factory=find_ustreamer)
    """Path of the program."""
    args: dict[str, Any] = field(default_factory=dict)
    """Options of the program by their long names: text, numbers, or true for an option without a value."""
    start_timeout: float = 10
    """Seconds that the program, and then its camera, may take to start."""
    offline: Literal["error", "picture"] | None = None
    """What a snapshot is while the camera delivers nothing: an error, or the picture that the program shows instead. By
    default an error, unless there never was a camera: none is configured, and there is no /dev/video0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._options = command_options(self.args)
        for name in IGNORED:
            if name in self.args:
                self.logger.warning("args: %s has no effect: the driver reaches µStreamer by a socket of its own", name)
        if isinstance(self.start_timeout, bool) or not isinstance(self.start_timeout, int | float):
            raise ValueError(f"start_timeout must be a number of seconds, not {self.start_timeout!r}")
        if not 0 < self.start_timeout <= 600:
            raise ValueError(f"start_timeout must be above 0 and at most 600 seconds, not {self.start_timeout!r}")
        if self.offline not in (None, "error", "picture"):
            raise ValueError(f"offline must be error or picture, not {self.offline!r}")
        self.executable = os.fspath(self.executable)
        if shutil.which(self.executable) is None:
            raise FileNotFoundError(f"the program {self.executable} does not exist or can't be run. Install: {INSTALL}")
        self._device = device_of(self.args)
        self._daemon: Daemon | None = None
        self._closed = False
        self._starting = anyio.Lock()
        self._seen_online = False

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_ustreamer.client.UStreamerClient"

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The running program under its guard; None before anybody has looked."""
        return self._daemon.process if self._daemon is not None else None

    @property
    def socketp(self) -> Path | None:
        """The socket of the running program; None before anybody has looked."""
        return self._daemon.socket if self._daemon is not None else None

    def close(self) -> None:
        """End the program."""
        self._closed = True
        try:
            super().close()
        finally:
            daemon, self._daemon = self._daemon, None
            if daemon is not None:
                daemon.stop()

    # -- what clients may ask -----------------------------------------------------------------------------------------

    @export(watch=True)
    async def state(self) -> UStreamerState:
        """Return what µStreamer says of itself and its source."""
        _, body = await self._get("/state")
        state = UStreamerState.model_validate_json(body)
        self._seen_online = self._seen_online or state.online
        if not state.online:
            state.reason = self._why_offline()
        return state

    @export(watch=True)
    async def stream_path(self) -> str:
        """Return the path of the live stream, for requests over `connect`."""
        return "/stream"

    @exportstream(watch=True)
    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[SocketByteStream, None]:
        """Open a connection to the HTTP server of µStreamer."""
        try:
            stream = await self._connect_to(await self._running())
        except _Ended:
            stream = await self._connect_to(await self._running())
        async with stream:
            yield stream

    async def picture(self) -> bytes:
        """Return a picture as it is now.

        A camera that has just been started may take `start_timeout` until its first picture.

        Raises:
            VideoError: the camera delivers nothing.
        """
        while True:
            daemon = await self._running()
            headers, body = await self._get("/snapshot")
            online = headers.get("X-UStreamer-Online", "true").lower() == "true"
            if online:
                self._seen_online = True
                return body
            if self._placeholder_will_do():
                self.logger.warning("the camera is offline, so this is the picture of µStreamer itself")
                return body
            # What will not get better by waiting is told at once.
            hopeless = not self._device_exists() or "busy" in daemon.camera_error
            if hopeless or time.monotonic() - daemon.started > self.start_timeout:
                raise VideoError(f"the camera delivers no picture: {self._why_offline()}")
            await anyio.sleep(POLL)

    # -- the program --------------------------------------------------------------------------------------------------

    def _placeholder_will_do(self) -> bool:
        if self.offline is not None:
            return self.offline == "picture"
        return self._device is None and not self._seen_online and not self._device_exists()

    def _device_exists(self) -> bool:
        return os.path.exists(self._device or DEFAULT_DEVICE)

    def _why_offline(self) -> str:
        device = self._device or DEFAULT_DEVICE
        if not self._device_exists():
            return f"there is no {device} on the exporter. Plug in the camera, or correct the option device in args"
        said = self._daemon.camera_error if self._daemon is not None else ""
        hint = ""
        if "busy" in said:
            hint = f". Another program uses {device}"
        elif "Permission" in said or not os.access(device, os.R_OK | os.W_OK):
            hint = f". The exporter's user may not use {device}: add it to the group video"
        return f"{device}: {said or 'µStreamer waits for its first picture'}{hint}"

    async def _running(self) -> Daemon:
        """Return the program, started if need be, when it answers.

        Raises:
            VideoError: it doesn't start; the message holds what it said.
        """
        async with self._starting:
            old = self._daemon
            if old is not None and old.status is None:
                return old
            if old is not None:
                self.logger.warning("µStreamer has ended with %s; it is started again", _status(old.status or 0))
                await self._stop(old)
            if self._closed:
                raise VideoError("the session has ended")
            with CancelScope(shield=True):
                command = [self.executable, *self._options]
                try:
                    daemon = self._daemon = await to_thread.run_sync(Daemon, command, self.logger)
                except OSError as error:
                    raise VideoError(f"{self.executable} can't be started: {error.strerror or error}") from None
            try:
                if self._closed:
                    raise VideoError("the session has ended")
                await self._wait_for_socket(daemon)
            except BaseException:
                await self._stop(daemon)
                raise
            return daemon

    async def _stop(self, daemon: Daemon) -> None:
        with CancelScope(shield=True):
            await to_thread.run_sync(daemon.stop)
        if self._daemon is daemon:
            self._daemon = None

    async def _wait_for_socket(self, daemon: Daemon) -> None:
        deadline = anyio.current_time() + self.start_timeout
        while anyio.current_time() < deadline:
            if daemon.status is not None:
                words = await to_thread.run_sync(daemon.last_words)
                raise VideoError(
                    f"µStreamer can't start: it ended with {_status(daemon.status)}. Check args in the exporter "
                    f"config. It said:\n{words}"
                )
            try:
                stream = await connect_unix(daemon.socket)
            except OSError:
                await anyio.sleep(POLL)
            else:
                await stream.aclose()
                return
        raise VideoError(f"µStreamer did not listen within {self.start_timeout:g} s. It said:\n{daemon.last_words()}")

    async def _get(self, path: str) -> tuple[Mapping[str, str], bytes]:
        """Return headers and body of what µStreamer has at `path`; of a new one, if it was killed in between.

        Raises:
            VideoError: it doesn't answer, or with an error.
        """
        try:
            return await self._get_from(await self._running(), path)
        except _Ended as error:
            self.logger.debug("%s: once more", error)
            return await self._get_from(await self._running(), path)

    async def _get_from(self, daemon: Daemon, path: str) -> tuple[Mapping[str, str], bytes]:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=HTTP_TIMEOUT)
        connector = aiohttp.UnixConnector(str(daemon.socket), force_close=True)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.get(f"http://localhost{path}") as response,
            ):
                if response.status != 200:
                    raise VideoError(f"µStreamer answered {path} with status {response.status}")
                return response.headers, await _whole(response)
        except TimeoutError:
            raise VideoError(f"µStreamer did not answer {path} within {HTTP_TIMEOUT:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            why = await self._ended_by_now(daemon)
            if why is not None:
                raise _Ended(f"{why} before it answered {path}; the next call starts it again") from None
            raise VideoError(f"µStreamer did not answer {path}: {error or type(error).__name__}") from None

    async def _connect_to(self, daemon: Daemon) -> SocketByteStream:
        try:
            return await connect_unix(daemon.socket)
        except OSError as error:
            if (why := await self._ended_by_now(daemon)) is not None:
                raise _Ended(f"{why}; the next call starts it again") from None
            raise VideoError(f"µStreamer can't be reached: {error.strerror or error}") from None

    async def _ended_by_now(self, daemon: Daemon) -> str | None:
        """Return a sentence about a program that has ended, which shows a moment later than its connections break."""
        status = await to_thread.run_sync(daemon.wait, END_MARGIN)
        return None if status is None else f"µStreamer has ended with {_status(status)}"


class _Ended(VideoError):
    """The program ended in the middle of a request."""


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for data in response.content.iter_chunked(1 << 20):
        body += data
        if len(body) > MAX_PICTURE:
            raise VideoError(f"the picture is larger than {MAX_PICTURE} bytes")
    return bytes(body)


def _status(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"
