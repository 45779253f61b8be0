"""Serving driver calls: from a request to the driver's method, and from its result or error to the answer."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any, NoReturn
from uuid import uuid4

import grpc
from anyio import CapacityLimiter, Event, create_task_group, from_thread, to_thread
from jumpstarter_protocol import jumpstarter_pb2
from jumpstarter_protocol.jumpstarter.v1.jumpstarter_pb2 import (
    DriverCallResponse,
    StreamingDriverCallResponse,
)

from jumpstarter.common.exceptions import JumpstarterException
from jumpstarter.common.serde import decode_value, write_value

from .decorators import MARKER_DRIVERCALL, MARKER_STREAMING_DRIVERCALL
from .methods import ExportedMethod, MethodNotExported, accepts, find_method

MAX_DETAILS = 3000
"""Characters of an error's text that fit into a gRPC status."""

EXCEPTION_TYPE_KEY = "x-jmp-exception-type"
"""Trailing metadata key that names the class of the exception behind a status."""

STREAM_BATCH = 64
"""Items that a blocking generator may be ahead of the network."""

thread_limiter: ContextVar[CapacityLimiter | None] = ContextVar("thread_limiter", default=None)
"""Limits the worker threads of the session that the current call belongs to."""


async def driver_call(driver: Any, request: jumpstarter_pb2.DriverCallRequest, context: Any) -> DriverCallResponse:
    """Answer a unary call of `driver`; errors become the status of the call."""
    try:
        bound, method = find_method(driver, request.method, MARKER_DRIVERCALL)
        arguments = method.adapt([decode_value(argument) for argument in request.args])
        if method.is_coroutine:
            result = await bound(*arguments)
        else:
            result = await to_thread.run_sync(bound, *arguments, limiter=thread_limiter.get())
        response = DriverCallResponse(uuid=str(uuid4()))
        write_value(response.result, result)
        return response
    except Exception as error:  # noqa: BLE001 (whatever a driver raises is for the client to see)
        await abort_with(context, driver, request, error)


async def streaming_driver_call(
    driver: Any, request: jumpstarter_pb2.StreamingDriverCallRequest, context: Any
) -> AsyncGenerator[StreamingDriverCallResponse, None]:
    """Answer a streaming call of `driver`, item by item; errors become the status of the call."""
    try:
        bound, method = find_method(driver, request.method, MARKER_STREAMING_DRIVERCALL)
        arguments = method.adapt([decode_value(argument) for argument in request.args])
        async with aclosing(_items(bound, method, arguments)) as items:
            async for item in items:
                yield item
    except Exception as error:  # noqa: BLE001 (whatever a driver raises is for the client to see)
        await abort_with(context, driver, request, error)


def _respond(item: Any) -> StreamingDriverCallResponse:
    response = StreamingDriverCallResponse()
    write_value(response.result, item)
    return response


async def _items(
    bound: Callable[..., Any], method: ExportedMethod, arguments: list[Any]
) -> AsyncGenerator[StreamingDriverCallResponse, None]:
    if not method.is_async_generator:
        async with aclosing(_blocking_items(bound, arguments)) as items:
            async for item in items:
                yield item
        return
    async with aclosing(bound(*arguments)) as generator:
        async for item in generator:
            yield _respond(item)


async def _blocking_items(
    bound: Callable[..., Any], arguments: list[Any]
) -> AsyncGenerator[StreamingDriverCallResponse, None]:
    """Run a blocking generator in a thread of its own, at most STREAM_BATCH items ahead."""
    ready: deque[StreamingDriverCallResponse] = deque()
    room = threading.Semaphore(STREAM_BATCH)
    stopped = threading.Event()
    news = Event()
    finished = False
    failure: Exception | None = None

    def wake() -> None:
        news.set()

    def run(generator: Generator[Any, None, None]) -> None:
        try:
            for item in generator:
                room.acquire()
                if stopped.is_set():
                    return
                was_empty = not ready
                ready.append(_respond(item))
                if was_empty:
                    from_thread.run_sync(wake)
        finally:
            generator.close()

    async def produce() -> None:
        nonlocal finished, failure
        try:
            await to_thread.run_sync(lambda: run(bound(*arguments)), limiter=thread_limiter.get())
        except Exception as error:  # noqa: BLE001 (raised below, after the items before it)
            failure = error
        finished = True
        news.set()

    async with create_task_group() as tg:
        tg.start_soon(produce)
        try:
            while True:
                while ready:
                    yield ready.popleft()
                    room.release()
                if finished:
                    break
                news = Event()
                if not ready and not finished:
                    await news.wait()
        finally:
            stopped.set()
            room.release()
    if failure is not None:
        raise failure


def status_of(error: Exception) -> grpc.StatusCode:
    """Return the gRPC status that stands for an exception of a driver."""
    if isinstance(error, MethodNotExported):
        return grpc.StatusCode.NOT_FOUND
    if isinstance(error, NotImplementedError):
        return grpc.StatusCode.UNIMPLEMENTED
    if isinstance(error, ValueError):
        return grpc.StatusCode.INVALID_ARGUMENT
    if isinstance(error, TimeoutError):
        return grpc.StatusCode.DEADLINE_EXCEEDED
    return grpc.StatusCode.UNKNOWN


def details_of(error: BaseException) -> str:
    """Return the text that a client sees for an exception.

    A `KeyError` shows only its key and many exceptions have no text at all; those get the name of
    their class in front.
    """
    if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        return details_of(error.exceptions[0])
    text = str(error)
    if not text or isinstance(error, LookupError | AssertionError | AttributeError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= MAX_DETAILS else text[: MAX_DETAILS - 1] + "…"


async def abort_with(context: Any, driver: Any, request: Any, error: Exception) -> NoReturn:
    """End the call with the status of `error`, having logged it; raises what `context.abort` raises."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, TypeError):
        error = _as_argument_error(driver, request, error)
    logger: logging.Logger = getattr(driver, "logger", None) or logging.getLogger(__name__)
    status = status_of(error)
    logger.log(
        _severity(error, status),
        "%s failed: %s: %s",
        request.method,
        type(error).__name__,
        error,
        exc_info=error if _severity(error, status) is logging.ERROR else None,
    )
    await context.abort(status, details_of(error), ((EXCEPTION_TYPE_KEY, type(error).__name__),))
    raise AssertionError("abort returned")


def _severity(error: Exception, status: grpc.StatusCode) -> int:
    """Return the level to log a failed call with: only what nobody foresaw is an ERROR, and needs its traceback."""
    if status is not grpc.StatusCode.UNKNOWN:
        return logging.DEBUG
    return logging.WARNING if isinstance(error, JumpstarterException | OSError) else logging.ERROR


def _as_argument_error(driver: Any, request: Any, error: TypeError) -> Exception:
    """Tell a call with the wrong number of arguments, the caller's mistake, from a bug in the driver."""
    try:
        method = getattr(driver, request.method)
        problem = accepts(method, [None] * len(request.args))
    except Exception:  # noqa: BLE001 (the original error is the better one)
        return error
    return ValueError(f"{type(driver).__name__}.{request.method}: {problem}") if problem else error
