"""Work in the background that goes through the store: each piece once at a time, and again while the store is away."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable

import anyio
from anyio.abc import TaskGroup

from ..clock import Clock
from ..errors import Code, Refused

logger = logging.getLogger(__name__)

_AT_ONCE = 64
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 10.0

Job = Callable[[], Awaitable[None]]


class Chores:
    """Runs jobs, at most so many at once. A job looks at the world anew each time, so doing it again is harmless.

    Args:
        resumed: is called when the store may be back.
    """

    def __init__(self, clock: Clock, resumed: Callable[[], None] = lambda: None) -> None:
        self._clock = clock
        self._resumed = resumed
        self._todo: OrderedDict[Hashable, tuple[Job, bool]] = OrderedDict()
        self._running: set[Hashable] = set()
        self._paused = False
        self._pause = 0.0
        self._wake = anyio.Event()
        self._idle = anyio.Event()

    @property
    def paused(self) -> bool:
        """Whether the store is away, as far as is known."""
        return self._paused

    @property
    def room(self) -> int:
        """How many more can be done at once."""
        return max(0, _AT_ONCE - len(self._running) - len(self._todo))

    def add(self, key: Hashable, job: Job, *, again: bool = True) -> None:
        """Have a job done. What has the same key is done once, or once more when it is being done right now.

        Args:
            again: do it again when the store is away; else it is forgotten, because it will be decided upon anew.
        """
        self._todo[key] = job, again
        self._wake.set()

    async def idle(self) -> None:
        """Wait until there is nothing to do."""
        while self._todo or self._running:
            self._idle = anyio.Event()
            await self._idle.wait()

    async def run(self) -> None:
        """Do jobs until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                await self._wake.wait()
                self._wake = anyio.Event()
                if not self._paused:
                    self._start(tasks)
                elif not self._running:
                    await self._try()

    async def _try(self) -> None:
        """Wait for a while, then do one job; when it succeeds, or there is none, all others follow."""
        await self._clock.sleep(self._pause)
        if self._todo:
            key, (job, again) = self._todo.popitem(last=False)
            self._running.add(key)
            await self._do(key, job, again)
        else:
            self._paused = False
        if not self._paused:
            self._resumed()
        self._wake.set()

    def _start(self, tasks: TaskGroup) -> None:
        for key in [key for key in self._todo if key not in self._running][: _AT_ONCE - len(self._running)]:
            self._running.add(key)
            tasks.start_soon(self._do, key, *self._todo.pop(key))

    async def _do(self, key: Hashable, job: Job, again: bool) -> None:
        try:
            await job()
        except Refused as refused:
            if refused.code is Code.UNAVAILABLE:
                if not self._pause:
                    logger.warning("%s", refused)
                self._paused = True
                self._pause = min(_LONGEST_PAUSE, self._pause * 2 or _FIRST_PAUSE)
                if again:
                    self._todo.setdefault(key, (job, again))
            else:
                logger.warning("%s could not be done: %s", key, refused)
        except Exception:  # the lab has to go on for everybody else
            logger.exception("%s failed", key)
        else:
            if self._pause:
                logger.warning("The store works again")
            self._paused, self._pause = False, 0.0
        finally:
            self._running.discard(key)
            self._wake.set()
            if not self._todo and not self._running:
                self._idle.set()
