"""The web interface of EnerGenie power strips (EG-PMS2-LAN and similar), as requests and answers.

A strip knows one session at a time and binds it to the address of the caller. It has to be ended, or nobody else gets
in until the strip forgets it:

| step   | request                                | answer                                              |
|--------|----------------------------------------|-----------------------------------------------------|
| log in | `POST /login.html`, form `pw=PASSWORD` | always 200; a page with a "Log Out" link when it worked |
| switch | `POST /`, form `cteSLOT=1` or `=0`     | 200                                                 |
| state  | `GET /energenie.html`                  | a page with `var sockstates = [1,0,0,0];`           |
| leave  | `GET /login.html`                      | 200                                                 |
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio

from .common import EnerGenieError

if TYPE_CHECKING:
    import aiohttp

SLOTS: Final = 4
"""Outlets of a strip."""

BUSY_INTERVAL: Final = 0.5
"""Seconds between two attempts to get in while somebody else has the session."""

LEAVE_TIMEOUT: Final = 3.0
"""Seconds that ending the session may take; it is done whatever happened before."""

PAGE_LIMIT: Final = 1 << 18
"""Bytes of a page that are read; the strip's have a few thousand."""

_LOGGED_IN = re.compile(r"login\.html[^<>]*>\s*(?:<[^<>]*>\s*)*Log\s*Out", re.IGNORECASE)
_PASSWORD_FORM = re.compile(r"<input[^>]*\bname\s*=\s*[\"']?pw\b", re.IGNORECASE)
_STATES = re.compile(r"sockstates\s*=\s*\[([01](?:\s*,\s*[01])*)\s*\]")


class StripSession:
    """A session with a strip; made by `session`."""

    def __init__(self, http: aiohttp.ClientSession, base_url: str) -> None:
        """Use `session` instead."""
        self._http = http
        self._base_url = base_url

    async def switch(self, slot: int, on: bool) -> None:
        """Send the command for one outlet; the strip's answer says nothing about the result.

        Raises:
            EnerGenieError: the strip did not take the request.
        """
        await self.request("POST", "/", {f"cte{slot}": "1" if on else "0"})

    async def states(self) -> list[bool]:
        """Return which outlets are on, the first one first.

        Raises:
            EnerGenieError: the strip does not answer, or its page shows no states.
        """
        page = await self.request("GET", "/energenie.html")
        found = _STATES.search(page)
        states = [value.strip() == "1" for value in found[1].split(",")] if found else []
        if len(states) != SLOTS:
            raise EnerGenieError(
                f"the page of the power strip {self._base_url} shows no states of {SLOTS} outlets. "
                "Somebody else may have ended the session; otherwise this is another kind of device."
            )
        return states

    async def log_in(self, password: str, patience: float) -> None:
        """Get the session, within `patience` seconds when somebody else has it.

        Raises:
            EnerGenieError: the password is wrong, or the session is not to be had.
        """
        deadline = anyio.current_time() + patience
        while not _LOGGED_IN.search(page := await self.request("POST", "/login.html", {"pw": password})):
            if _PASSWORD_FORM.search(page):
                raise EnerGenieError(f"the power strip {self._base_url} does not accept the password. Check `password`")
            if anyio.current_time() + BUSY_INTERVAL > deadline:
                raise EnerGenieError(
                    f"the power strip {self._base_url} did not let us in within {patience:g} s. It has one session at "
                    "a time: log out in browsers and other programs that use it."
                )
            await anyio.sleep(BUSY_INTERVAL)

    async def log_out(self) -> None:
        """End the session.

        Raises:
            EnerGenieError: the strip does not answer.
        """
        await self.request("GET", "/login.html")

    async def request(self, method: str, path: str, form: dict[str, str] | None = None) -> str:
        """Send a request and return the page that is the answer.

        Raises:
            EnerGenieError: there is none, or it is an error.
        """
        import aiohttp

        what = f"{method} {self._base_url}{path}"
        try:
            async with self._http.request(method, self._base_url + path, data=form, allow_redirects=False) as response:
                if response.status != 200:
                    raise EnerGenieError(f"the power strip refused {what}: HTTP status {response.status}")
                page = bytearray()
                async for chunk in response.content.iter_any():
                    page += chunk
                    if len(page) > PAGE_LIMIT:
                        raise EnerGenieError(f"the answer to {what} is too large for a page of a power strip")
                return page.decode("utf-8", "replace")
        except TimeoutError:
            raise EnerGenieError(
                f"no answer to {what} within {self._http.timeout.total:g} s. Check `host` and the network"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise EnerGenieError(f"{what} failed: {error}. Check `host`, power and network of the strip") from error


@asynccontextmanager
async def session(base_url: str, password: str, timeout: float) -> AsyncGenerator[StripSession, None]:
    """Log in, and out at the end, also when that is a failure or a cancellation.

    Args:
        base_url: `http://` and the host.
        password: the strip's; it travels in the clear, which is all that the strip can do.
        timeout: seconds that each request may take, and that a busy strip is waited for.

    Raises:
        EnerGenieError: the strip does not let us in.
    """
    import aiohttp

    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=timeout),
        connector=aiohttp.TCPConnector(force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as http:
        strip = StripSession(http, base_url)
        try:
            # From the first request on the strip may count us in, though its answer may not have reached us.
            await strip.log_in(password, timeout)
            yield strip
        finally:
            with anyio.move_on_after(LEAVE_TIMEOUT, shield=True):
                try:
                    await strip.log_out()
                except EnerGenieError:
                    # The strip ends forgotten sessions by itself; what failed before is the better message.
                    pass
