"""Async context managers behind blocking ones: errors and interrupts of the body."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from jumpstarter.client.adapters import blocking, plain_errors

ended: list[str] = []


@asynccontextmanager
async def grouped() -> AsyncGenerator[str, None]:
    """A context manager with a task that must be gone in the end."""
    async with anyio.create_task_group() as tg:
        tg.start_soon(anyio.sleep_forever)
        try:
            yield "value"
        finally:
            tg.cancel_scope.cancel()
            ended.append("task")


@pytest.fixture
def portal() -> Iterator[BlockingPortal]:
    ended.clear()
    with start_blocking_portal() as running:
        yield running


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_error_of_the_body_comes_out_as_it_is_and_the_loop_lives_on(portal: BlockingPortal, error: Any) -> None:
    with pytest.raises(type(error)) as caught, plain_errors(portal.wrap_async_context_manager(grouped())):
        raise error

    assert caught.value is error
    assert ended == ["task"]
    assert portal.call(anyio.sleep, 0) is None


def test_normal_end_leaves_the_context(portal: BlockingPortal) -> None:
    with plain_errors(portal.wrap_async_context_manager(grouped())) as value:
        assert value == "value"

    assert ended == ["task"]


def test_error_of_the_context_manager_itself_comes_out(portal: BlockingPortal) -> None:
    @asynccontextmanager
    async def failing() -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            raise OSError("broken")

    with pytest.raises(OSError, match="broken"), plain_errors(portal.wrap_async_context_manager(failing())):
        raise ValueError


def test_context_manager_may_swallow_an_error_but_never_an_interrupt(portal: BlockingPortal) -> None:
    @asynccontextmanager
    async def swallowing() -> AsyncGenerator[None, None]:
        try:
            yield
        except Exception:  # noqa: BLE001
            pass

    with plain_errors(portal.wrap_async_context_manager(swallowing())):
        raise ValueError

    with pytest.raises(KeyboardInterrupt), plain_errors(portal.wrap_async_context_manager(swallowing())):
        raise KeyboardInterrupt


def test_adapter_runs_on_the_loop_of_its_client(portal: BlockingPortal) -> None:
    @blocking
    @asynccontextmanager
    async def adapter(*, client: Any, more: int) -> AsyncGenerator[int, None]:
        yield client.number + more

    with adapter(client=SimpleNamespace(portal=portal, number=1), more=2) as value:
        assert value == 3


def test_adapter_demands_the_client_by_keyword() -> None:
    @blocking
    @asynccontextmanager
    async def adapter(*, client: Any) -> AsyncGenerator[None, None]:
        yield

    with pytest.raises(KeyError, match="client"), adapter():
        pass
