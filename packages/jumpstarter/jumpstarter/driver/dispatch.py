"""Serving driver calls: from a request to the driver's method, and from its result or error to the answer."""

from __future__ import annotations

import logging
import threading
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
from .methods import MethodNotExported, accepts, find_method

MAX_DETAILS = 3000
"""Characters of an error's text that fit into a gRPC status."""

EXCEPTION_TYPE_KEY = "x-jmp-exception-type"
"""Trailing metadata key that names the class of the exception behind a status."""

TOLD_TO_CLIENT = "told_to_client"
"""Attribute of the log records of failures that a client learns of as well."""

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
        if method.is_async_generator:
            async with aclosing(bound(*arguments)) as items:
                async for item in items:
                    yield _respond(item)
        else:
            async with aclosing(_blocking_items(bound, arguments)) as responses:
                async for response in responses:
                    yield response
    except Exception as error:  # noqa: BLE001 (whatever a driver raises is for the client to see)
        await abort_with(context, driver, request, error)


def _respond(item: Any) -> StreamingDriverCallResponse:
    response = StreamingDriverCallResponse()
    write_value(response.result, item)
    return response


async def _blocking_items(
    bound: Callable[..., Any], arguments: list[Any]
) -> AsyncGenerator[StreamingDriverCallResponse, None]:
    """Run a blocking generator in a thread of its own, at most STREAM_BATCH items ahead."""
    producer = _Producer(lambda: bound(*arguments))
    async with create_task_group() as tg:
        tg.start_soon(producer.run)
        try:
            while batch := await producer.next():
                for item in batch:
                    yield item
        finally:
            producer.stop()
    if producer.failure is not None:
        raise producer.failure


class _Producer:
    """Takes the items of a blocking generator in a thread and hands them over to the event loop in batches."""

    def __init__(self, create: Callable[[], Generator[Any, None, None]]) -> None:
        self._create = create
        self._ready: list[StreamingDriverCallResponse] = []
        self._room = threading.Semaphore(STREAM_BATCH)
        self._stopped = threading.Event()
        self._news = Event()
        self._finished = False
        self.failure: Exception | None = None

    async def run(self) -> None:
        """Run the generator to its end, or until `stop`."""
        try:
            await to_thread.run_sync(self._run, limiter=thread_limiter.get())
        except Exception as error:  # noqa: BLE001 (raised by the consumer, after the items before it)
            self.failure = error
        self._finished = True
        self._news.set()

    def _run(self) -> None:
        generator = self._create()
        try:
            for item in generator:
                self._room.acquire()
                if self._stopped.is_set():
                    return
                response = _respond(item)
                was_empty = not self._ready
                self._ready.append(response)
                if was_empty:
                    from_thread.run_sync(self._wake)
        finally:
            generator.close()

    def _wake(self) -> None:
        self._news.set()

    async def next(self) -> list[StreamingDriverCallResponse]:
        """Return the items that are there, waiting for one at least; empty at the end."""
        if not self._ready and not self._finished:
            self._news = Event()
            # The thread may have finished an item just before the event was made.
            if not self._ready and not self._finished:
                await self._news.wait()
        batch, self._ready = self._ready, []
        if batch:
            self._room.release(len(batch))
        return batch

    def stop(self) -> None:
        """Have the thread end at its next item, as nobody wants more."""
        self._stopped.set()
        self._room.release()


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
        extra={TOLD_TO_CLIENT: True},
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
