"""The base class of drivers: what runs on the exporter, beside the device."""

from __future__ import annotations

import logging
from abc import ABCMeta, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from jumpstarter.common.metadata import CLIENT_LABEL, NAME_LABEL, Metadata

from .decorators import MARKER_STREAMCALL
from .methods import MethodNotExported, find_method

if TYPE_CHECKING:
    from anyio.abc import ObjectStream
    from jumpstarter_protocol import jumpstarter_pb2

    from jumpstarter.common.streams import DriverStreamRequest, ResourceStreamRequest

SUPPORTED_CONTENT_ENCODINGS = ("gzip", "xz", "bz2", "zstd")
"""Compressions of a client's file that `Driver.resource` undoes and applies."""

RESOURCE_TIMEOUT = 7200
"""Seconds that a transfer by a presigned request may take unless the driver says otherwise."""


@dataclass(kw_only=True)
class Driver(Metadata, metaclass=ABCMeta):
    """A device, or a group of devices, that clients use through `export`ed methods.

    Subclasses are plain classes, `dataclasses.dataclass(kw_only=True)` or
    `pydantic.dataclasses.dataclass(kw_only=True)` alike; their fields are the driver's configuration.
    Exported functions run in worker threads, exported coroutines and streams on the event loop, so
    attributes are shared between threads.
    """

    # Read by pydantic when a subclass is a pydantic dataclass: loggers and drivers are no pydantic types.
    __pydantic_config__: ClassVar[dict[str, Any]] = {"arbitrary_types_allowed": True}

    driver_type: ClassVar[str] = "other"

    children: dict[str, Driver] = field(default_factory=dict)
    """Drivers below this one, by name."""
    resources: dict[UUID, Any] = field(default_factory=dict, init=False)
    """Open client streams by the UUID in their handles."""
    log_level: str = "INFO"
    """Level of `logger`, a name of the logging module."""
    logger: logging.Logger = field(init=False)
    description: str | None = None
    """What the driver is for, shown in the help of its commands."""
    methods_description: dict[str, str] = field(default_factory=dict)
    """Help texts of commands, by method name."""

    def __post_init__(self) -> None:
        if (further := getattr(super(), "__post_init__", None)) is not None:
            further()
        if isinstance(self.uuid, str):
            self.uuid = UUID(self.uuid)
        self.logger = logging.getLogger(f"driver.{type(self).__name__}")
        self.logger.setLevel(self.log_level)

    @classmethod
    @abstractmethod
    def client(cls) -> str:
        """Return the dotted path of the class that clients use for this driver."""

    def close(self) -> None:
        """Release the device; closes the children, last one first, every one whatever others raise."""
        failures: list[Exception] = []
        for name, child in reversed(list(self.children.items())):
            try:
                child.close()
            except Exception as error:
                self.logger.error("closing %s failed: %s", name, error, exc_info=error)
                failures.append(error)
        if len(failures) == 1:
            raise failures[0]
        if failures:
            raise ExceptionGroup("closing drivers failed", failures)

    def reset(self) -> None:
        """Bring the device into its initial state; resets the children."""
        for child in self.children.values():
            child.reset()

    async def switch_off(self) -> None:
        """Switch off what this driver supplies with power; called at the end of a session whose exporter config asks
        for it (`shutdown: "off"`). Drivers that switch no power have nothing to do; children are asked by themselves.

        Raises:
            Exception: whatever says that the supply may still be on; it is logged.
        """

    def extra_labels(self) -> dict[str, str]:
        """Return labels that the driver adds to its report."""
        return {}

    async def DriverCall(self, request: jumpstarter_pb2.DriverCallRequest, context: Any) -> Any:
        """Serve one call of an exported function."""
        from .dispatch import driver_call

        return await driver_call(self, request, context)

    def StreamingDriverCall(
        self, request: jumpstarter_pb2.StreamingDriverCallRequest, context: Any
    ) -> AsyncGenerator[Any, None]:
        """Serve one call of an exported generator."""
        from .dispatch import streaming_driver_call

        return streaming_driver_call(self, request, context)

    @asynccontextmanager
    async def Stream(
        self, request: DriverStreamRequest | ResourceStreamRequest, context: Any
    ) -> AsyncGenerator[ObjectStream[bytes], None]:
        """Open the stream that a client asks for: of an exported method, or of a resource."""
        if request.kind == "driver":
            bound, _ = find_method(self, request.method, MARKER_STREAMCALL)
            async with bound() as stream:
                yield stream
        elif request.kind == "resource":
            from .resource import offered_stream

            async with offered_stream(self.resources, request.x_jmp_content_encoding) as stream:
                yield stream
        else:
            raise MethodNotExported(f"unknown kind of stream: {request.kind!r}")

    @asynccontextmanager
    async def resource(
        self, handle: Any, timeout: float = RESOURCE_TIMEOUT
    ) -> AsyncGenerator[ObjectStream[bytes], None]:
        """Open the bytes behind a resource handle that came as an argument of a call.

        Args:
            handle: what `resource_async` gave the client: a stream of its own or a presigned request.
            timeout: seconds that a presigned request may take as a whole.

        Raises:
            pydantic.ValidationError: the handle has no known form.
            KeyError: the stream that it names is not open, or was used before.
        """
        from .resource import open_resource

        async with open_resource(self.resources, handle, timeout) as stream:
            yield stream

    def report(
        self, *, root: Driver | None = None, parent: Driver | None = None, name: str | None = None
    ) -> jumpstarter_pb2.DriverInstanceReport:
        """Return what clients and the controller are told about this driver."""
        from jumpstarter_protocol import jumpstarter_pb2

        labels = self.labels | self.extra_labels() | {CLIENT_LABEL: self.client()}
        if name is not None:
            labels[NAME_LABEL] = name
        return jumpstarter_pb2.DriverInstanceReport(
            uuid=str(self.uuid),
            parent_uuid=str(parent.uuid) if parent is not None else None,
            labels=labels,
            description=self.description or None,
            methods_description=self.methods_description,
        )

    def enumerate(
        self, *, root: Driver | None = None, parent: Driver | None = None, name: str | None = None
    ) -> list[tuple[UUID, Driver | None, str | None, Driver]]:
        """Return this driver and all below it as (uuid, parent, name, driver), parents first."""
        if root is None:
            root = self
        found: list[tuple[UUID, Driver | None, str | None, Driver]] = [(self.uuid, parent, name, self)]
        for child_name, child in self.children.items():
            found.extend(child.enumerate(root=root, parent=self, name=child_name))
        return found
