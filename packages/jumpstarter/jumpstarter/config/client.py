"""Client configs: who a user is to which controller, and what the controller does for that client."""

from __future__ import annotations

import builtins
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, Literal, ParamSpec, Self, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from .common import CONFIG_API_VERSION, ObjectMeta, PathOnUse, config_path, validate_alias
from .env import JMP_LEASE
from .environment import CLIENT, CONNECTION, DRIVERS, UNSAFE, Setting, Shadow, overlay, read, split_allow, uncover
from .shell import ShellConfigV1Alpha1
from .tls import TLSConfigV1Alpha1

if TYPE_CHECKING:
    import grpc
    from anyio.from_thread import BlockingPortal

    from jumpstarter.client import Lease as ClientLease
    from jumpstarter.client.grpc import ClientService, Exporter, ExporterList, Lease, LeaseList

__all__ = [
    "ClientConfigListV1Alpha1",
    "ClientConfigV1Alpha1",
    "ClientConfigV1Alpha1Drivers",
    "ClientConfigV1Alpha1Lease",
    "ObjectMeta",
]

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C")

DEFAULT_DURATION = timedelta(minutes=30)
PAGE_SIZE = 100
"""Objects that are asked for at a time."""


def _blocking_outside_loops(
    method: Callable[Concatenate[C, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[C, P], Any]:
    """Make a coroutine method return its result where no event loop runs, and a coroutine where one does."""

    @wraps(method)
    def either(self: C, *args: P.args, **kwargs: P.kwargs) -> Any:
        from asyncio import get_running_loop

        try:
            get_running_loop()
        except RuntimeError:
            import anyio

            return anyio.run(lambda: method(self, *args, **kwargs))
        return method(self, *args, **kwargs)

    return either


def _fill(data: Any, settings: tuple[Setting, ...], prefix: tuple[str, ...] = ()) -> Any:
    """Add what the environment says of members that `data` leaves out."""
    if not isinstance(data, dict):
        return data
    found = {path[-1]: value for path, value in read(settings).items() if path[:-1] == prefix}
    return {key: value for key, value in found.items() if key not in data} | data


class ClientConfigV1Alpha1Drivers(BaseModel):
    """Which client classes of drivers may be imported; what is not given is taken from the environment."""

    model_config = ConfigDict(defer_build=True, extra="forbid")

    allow: list[str] = Field(default_factory=list)
    """Globs over the dotted path of the class."""
    unsafe: bool = Field(default=False)
    """Import any class that an exporter names."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_environment(cls, data: Any) -> Any:
        return _fill(data, DRIVERS, ("drivers",))

    @field_validator("allow", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return split_allow(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _read_unsafe_member(self) -> Self:
        if UNSAFE in self.allow and not self.unsafe:
            self.unsafe = True
        return self


class ClientConfigV1Alpha1Lease(BaseModel):
    """How long a client waits around leases."""

    model_config = ConfigDict(defer_build=True, extra="forbid")

    acquisition_timeout: int = Field(default=7200, ge=5)
    """Seconds to wait for an exporter to become free."""
    dial_timeout: float = Field(default=30.0, gt=0)
    """Seconds for which connecting to the exporter is tried."""
    retry_timeout: float = Field(default=300.0, ge=0)
    """Seconds for which a new lease is tried when the exporter can't be reached; 0 turns that off."""


class ClientConfigV1Alpha1(BaseModel):
    """The config of a client, one file per client; what is not given is taken from the environment."""

    model_config = ConfigDict(defer_build=True, extra="forbid")

    CLIENT_CONFIGS_PATH: ClassVar[Path] = cast(Path, PathOnUse(lambda: config_path() / "clients"))
    """Directory of the client configs."""

    alias: str = Field(default="default", exclude=True)
    path: Path | None = Field(default=None, exclude=True)

    apiVersion: Literal["jumpstarter.dev/v1alpha1"] = Field(default=CONFIG_API_VERSION)
    kind: Literal["ClientConfig"] = Field(default="ClientConfig")
    metadata: ObjectMeta

    endpoint: str | None = Field(default=None)
    """`host:port` of the controller."""
    tls: TLSConfigV1Alpha1 = Field(default_factory=TLSConfigV1Alpha1)
    token: str | None = Field(default=None, repr=False)
    refresh_token: str | None = Field(default=None, repr=False)
    grpcOptions: dict[str, str | int] | None = Field(default_factory=dict)

    drivers: ClientConfigV1Alpha1Drivers = Field(default_factory=ClientConfigV1Alpha1Drivers)
    shell: ShellConfigV1Alpha1 = Field(default_factory=ShellConfigV1Alpha1)
    leases: ClientConfigV1Alpha1Lease = Field(default_factory=ClientConfigV1Alpha1Lease)

    # What the environment covered when the file was read; saving restores it.
    _shadows: builtins.list[Shadow] = PrivateAttr(default_factory=list)

    def __init__(self, **data: Any) -> None:
        # Spelled out so that type checkers accept a call that leaves members to the environment.
        super().__init__(**data)

    @model_validator(mode="before")
    @classmethod
    def _fill_from_environment(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {"metadata": {}} | _fill(data, (*CONNECTION, *_WHOLE_MEMBERS))

    # -- the controller --------------------------------------------------------------------------

    async def channel(self) -> grpc.aio.Channel:
        """Open a channel to the controller.

        Raises:
            ConfigurationError: endpoint or token is missing.
        """
        from .serving import controller_channel

        return await controller_channel("Client", self)

    @asynccontextmanager
    async def _service(self) -> AsyncGenerator[ClientService, None]:
        """Yield the controller's service for clients; an error tells which config it came about with."""
        from jumpstarter.client.grpc import ClientService
        from jumpstarter.common.exceptions import JumpstarterException

        try:
            async with await self.channel() as channel:
                yield ClientService(channel=channel, namespace=self.metadata.namespace)
        except JumpstarterException as error:
            # For a command that can log in again and repeat what failed.
            if error.get_config() is None:
                error.set_config(self)
            raise

    @contextmanager
    def lease(
        self,
        selector: str | None = None,
        exporter_name: str | None = None,
        lease_name: str | None = None,
        duration: timedelta = DEFAULT_DURATION,
    ) -> Generator[ClientLease, None, None]:
        """Hold a lease while the body runs, from an event loop in a thread of its own; see `lease_async`."""
        from .serving import in_portal

        with in_portal(lambda portal: self.lease_async(selector, exporter_name, lease_name, duration, portal)) as lease:
            yield lease

    @asynccontextmanager
    async def lease_async(
        self,
        selector: str | None,
        exporter_name: str | None,
        lease_name: str | None,
        duration: timedelta,
        portal: BlockingPortal,
        acquisition_timeout: timedelta | None = None,
        retry_timeout: timedelta | None = None,
        dial_timeout: timedelta | None = None,
    ) -> AsyncGenerator[ClientLease, None]:
        """Hold a lease while the body runs.

        Args:
            selector: label selector that the exporter has to match.
            exporter_name: name of the exporter.
            lease_name: an existing lease, which is not released in the end; default `$JMP_LEASE`.
            duration: how long the lease may last, from when the exporter is acquired.
            portal: portal of the event loop that this runs on.
            acquisition_timeout: how long to wait for the exporter; default from the config.
            retry_timeout: how long to try again when the exporter can't be reached; default from
                the environment, then the config.
            dial_timeout: how long to try to connect to the exporter; default likewise.

        Raises:
            LeaseError: no lease could be had; the message says why.
            ConfigurationError: endpoint or token is missing.
        """
        from jumpstarter.client.lease import Lease
        from jumpstarter.common.exceptions import JumpstarterException

        existing = lease_name or os.environ.get(JMP_LEASE) or None
        environment = {path: value for path, value in read(CLIENT).items() if path[0] == "leases" and len(path) == 2}

        def seconds(given: timedelta | None, member: str) -> float:
            if given is not None:
                return given.total_seconds()
            return float(environment.get(("leases", member), getattr(self.leases, member)))

        try:
            async with (
                await self.channel() as channel,
                Lease(
                    channel=channel,
                    duration=duration,
                    selector=selector,
                    requested_exporter_name=exporter_name,
                    name=existing,
                    release=existing is None,
                    portal=portal,
                    namespace=cast(str, self.metadata.namespace),
                    client_name=self.metadata.name,
                    allow=self.drivers.allow,
                    unsafe=self.drivers.unsafe,
                    tls_config=self.tls,
                    grpc_options=self.grpcOptions or {},
                    acquisition_timeout=seconds(acquisition_timeout, "acquisition_timeout"),
                    retry_timeout=seconds(retry_timeout, "retry_timeout"),
                    dial_timeout=seconds(dial_timeout, "dial_timeout"),
                ) as lease,
            ):
                yield lease
        except JumpstarterException as error:
            if error.get_config() is None:
                error.set_config(self)
            raise

    @_blocking_outside_loops
    async def get_exporter(self, name: str, show_hidden_labels: bool = False) -> Exporter:
        """Return one exporter."""
        async with self._service() as service:
            return await service.GetExporter(name=name, show_hidden_labels=show_hidden_labels)

    @_blocking_outside_loops
    async def list_exporters(
        self,
        filter: str | None = None,
        include_leases: bool = False,
        include_online: bool = False,
        include_status: bool = False,
        include_disabled: bool = False,
        page_size: int = PAGE_SIZE,
        show_hidden_labels: bool = False,
    ) -> ExporterList:
        """Return the exporters that match the label selector `filter`.

        Args:
            filter: label selector.
            include_leases: tell the lease that holds each exporter.
            include_online: show whether each exporter is connected.
            include_status: show the status of each exporter.
            include_disabled: list disabled exporters too.
            page_size: how many to ask for at a time.
            show_hidden_labels: include labels that are hidden by default.
        """
        from jumpstarter.client.grpc import ExporterList

        async with self._service() as service:
            exporters = await _all_pages(
                lambda token: service.ListExporters(
                    page_size=page_size, page_token=token, filter=filter, show_hidden_labels=show_hidden_labels
                ),
                lambda page: page.exporters,
            )
            if include_leases:
                leases = await self._list_leases(service, filter=None)
                held = {lease.exporter: lease for lease in leases if lease.is_ready()}
                exporters = [exporter.model_copy(update={"lease": held.get(exporter.name)}) for exporter in exporters]
        return ExporterList(
            exporters=exporters,
            next_page_token=None,
            include_online=include_online,
            include_leases=include_leases,
            include_status=include_status,
            include_disabled=include_disabled,
        )

    @_blocking_outside_loops
    async def list_leases(
        self,
        filter: str | None = None,
        only_active: bool = True,
        page_size: int = PAGE_SIZE,
        tag_filter: str | None = None,
    ) -> LeaseList:
        """Return the leases whose selector asks for what the label selector `filter` says.

        Args:
            filter: label selector.
            only_active: leave out leases that have ended.
            page_size: how many to ask for at a time.
            tag_filter: label selector over the tags.
        """
        from jumpstarter.client.grpc import LeaseList

        async with self._service() as service:
            leases = await self._list_leases(
                service, filter=filter, only_active=only_active, page_size=page_size, tag_filter=tag_filter
            )
        found = LeaseList(leases=leases, next_page_token=None)
        return found.filter_by_selector(filter) if filter else found

    @staticmethod
    async def _list_leases(
        service: ClientService,
        *,
        filter: str | None,
        only_active: bool = True,
        page_size: int = PAGE_SIZE,
        tag_filter: str | None = None,
    ) -> builtins.list[Lease]:
        from jumpstarter.client.selectors import extract_match_labels_filter

        # A lease carries the equality part of its selector as labels; only that can the controller match.
        equality = extract_match_labels_filter(filter) if filter else None
        return await _all_pages(
            lambda token: service.ListLeases(
                page_size=page_size,
                page_token=token,
                filter=equality,
                only_active=only_active,
                tag_filter=tag_filter,
            ),
            lambda page: page.leases,
        )

    @_blocking_outside_loops
    async def create_lease(
        self,
        duration: timedelta,
        selector: str | None = None,
        exporter_name: str | None = None,
        begin_time: datetime | None = None,
        lease_id: str | None = None,
        tags: dict[str, str] | None = None,
        allow_disabled: bool = False,
    ) -> Lease:
        """Ask for a lease; it may have to wait for its exporter.

        Args:
            duration: how long it may last.
            selector: label selector that the exporter has to match.
            exporter_name: name of the exporter.
            begin_time: when it begins; default as soon as the exporter is free.
            lease_id: name of the lease; default chosen by the controller.
            tags: up to ten labels of the lease.
            allow_disabled: take a disabled exporter too.
        """
        async with self._service() as service:
            return await service.CreateLease(
                duration=duration,
                selector=selector,
                exporter_name=exporter_name,
                begin_time=begin_time,
                lease_id=lease_id,
                tags=tags,
                allow_disabled=allow_disabled,
            )

    @_blocking_outside_loops
    async def delete_lease(self, name: str) -> None:
        """End a lease."""
        async with self._service() as service:
            await service.DeleteLease(name=name)

    @_blocking_outside_loops
    async def update_lease(
        self,
        name: str,
        duration: timedelta | None = None,
        begin_time: datetime | None = None,
        client: str | None = None,
    ) -> Lease:
        """Change a lease.

        Args:
            name: the lease.
            duration: how long it may last.
            begin_time: when it begins; can't be changed any more once it has.
            client: name of the client that takes it over.
        """
        async with self._service() as service:
            return await service.UpdateLease(name=name, duration=duration, begin_time=begin_time, client=client)

    @_blocking_outside_loops
    async def rotate_token(self) -> Any:
        """Return a new token of this client: an object with `token` and `expiry`."""
        async with self._service() as service:
            return await service.RotateToken()

    # -- files -----------------------------------------------------------------------------------

    @classmethod
    def _get_path(cls, alias: str) -> Path:
        """Where the config `alias` is."""
        validate_alias("client", alias)
        return Path(cls.CLIENT_CONFIGS_PATH) / f"{alias}.yaml"

    @classmethod
    def ensure_exists(cls) -> None:
        """Create the directory of the client configs."""
        Path(cls.CLIENT_CONFIGS_PATH).mkdir(parents=True, exist_ok=True)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> ClientConfigV1Alpha1:
        """Read a config file; the environment beats what it says.

        Raises:
            FileNotFoundError: there is no such file.
            ConfigurationError: what is wrong in it, with file, line and key. Also a ValueError.
        """
        return cls._read(Path(path), CLIENT)

    @classmethod
    def _read(cls, path: Path, settings: tuple[Setting, ...]) -> ClientConfigV1Alpha1:
        from .document import build, read_document

        try:
            document = read_document(path)
        except FileNotFoundError:
            from jumpstarter.common.exceptions import FileNotFoundError as MissingFile

            raise MissingFile(
                f"Client config '{path}' does not exist; 'jmp config client list' shows those that do, "
                "'jmp login' makes one"
            ) from None
        data, shadows = document.data, builtins.list[Shadow]()
        if document.is_mapping:
            data, shadows = overlay(data, settings)
        config = build(cls, document, data)
        config.alias = path.stem
        config.path = path
        # Compared when saving, so both have to be written in the same way.
        current = config._values()
        config._shadows = [replace(shadow, from_environment=_look_up(current, shadow.path)) for shadow in shadows]
        return config

    @classmethod
    def from_env(cls) -> ClientConfigV1Alpha1:
        """Return the config that the environment alone describes.

        Raises:
            ValueError: name or namespace is not set, or something is wrong.
        """
        return cls()

    @classmethod
    def try_from_env(cls) -> ClientConfigV1Alpha1 | None:
        """Return the config that the environment alone describes, or None when it names no client."""
        try:
            return cls.from_env()
        except ValidationError:
            return None

    @classmethod
    def load(cls, alias: str) -> ClientConfigV1Alpha1:
        """Read the config `alias`; errors as of `from_file`."""
        return cls.from_file(cls._get_path(alias))

    def _values(self) -> dict[str, Any]:
        """What a file says, in order; members that older peers don't know only when they say something."""
        values = self.model_dump(mode="json", exclude={"alias", "path", "shell", "leases"}, exclude_none=True)
        for name, part in (("shell", self.shell), ("leases", self.leases)):
            if said := part.model_dump(mode="json", exclude_defaults=True):
                values[name] = said
        return values

    @classmethod
    def dump_yaml(cls, config: ClientConfigV1Alpha1) -> str:
        """Return the text of a config file; what only the environment says now is not in it."""
        from .document import dump

        values = config._values()
        uncover(values, config._shadows)
        return dump({name: value for name, value in values.items() if value or name not in ("shell", "leases")})

    @classmethod
    def save(cls, config: ClientConfigV1Alpha1, path: str | os.PathLike[str] | None = None) -> Path:
        """Write the config as a whole, readable by its owner alone.

        Args:
            config: what to write; its `path` becomes that of the file.
            path: where to; by default the file of its alias.

        Returns:
            The path of the file.
        """
        from .document import write_secret

        target = cls._get_path(config.alias) if path is None else Path(path)
        write_secret(target, cls.dump_yaml(config))
        config.path = target
        return target

    @classmethod
    def exists(cls, alias: str) -> bool:
        """Whether there is a config `alias`."""
        return cls._get_path(alias).exists()

    @classmethod
    def list(cls) -> ClientConfigListV1Alpha1:
        """Return all configs as their files say, sorted by alias.

        What can't be read is reported in the log and left out.
        """
        import logging

        from jumpstarter.common.exceptions import ConfigurationError

        from .user import current_alias

        configs = []
        for path in sorted(Path(cls.CLIENT_CONFIGS_PATH).glob("*.yaml")):
            try:
                configs.append(cls._read(path, ()))
            except (ConfigurationError, OSError) as error:
                logging.getLogger(__name__).warning("left out of the list: %s", error)
        return ClientConfigListV1Alpha1(currentConfig=current_alias(), items=configs)

    @classmethod
    def delete(cls, alias: str) -> Path:
        """Remove the config `alias`.

        Raises:
            FileNotFoundError: there is none.
        """
        path = cls._get_path(alias)
        try:
            path.unlink()
        except FileNotFoundError:
            from jumpstarter.common.exceptions import FileNotFoundError as MissingFile

            raise MissingFile(f"Client config '{path}' does not exist") from None
        return path


_WHOLE_MEMBERS = tuple(setting for setting in CLIENT if setting.path in (("shell",), ("leases",)))


def _look_up(values: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        values = values.get(step) if isinstance(values, dict) else None
    return values


async def _all_pages(
    fetch: Callable[[str | None], Coroutine[Any, Any, Any]], items: Callable[[Any], builtins.list[Any]]
) -> builtins.list[Any]:
    found: builtins.list[Any] = []
    token: str | None = None
    seen = set()
    while True:
        page = await fetch(token)
        found.extend(items(page))
        token = page.next_page_token or None
        if token is None or token in seen:
            return found
        seen.add(token)


class ClientConfigListV1Alpha1(BaseModel):
    """All client configs of the user."""

    model_config = ConfigDict(defer_build=True, populate_by_name=True)

    api_version: Literal["jumpstarter.dev/v1alpha1"] = Field(alias="apiVersion", default=CONFIG_API_VERSION)
    current_config: str | None = Field(alias="currentConfig")
    items: builtins.list[ClientConfigV1Alpha1]
    kind: Literal["ClientConfigList"] = Field(default="ClientConfigList")

    _HIDDEN: ClassVar[dict[str, Any]] = {"items": {"__all__": {"refresh_token"}}}

    def dump_json(self) -> str:
        """Return JSON with an indent of 4, without refresh tokens."""
        return self.model_dump_json(indent=4, by_alias=True, exclude=self._HIDDEN)

    def dump_yaml(self) -> str:
        """Return YAML with an indent of 2 and sorted keys, without refresh tokens."""
        import yaml

        return yaml.safe_dump(self.model_dump(mode="json", by_alias=True, exclude=self._HIDDEN), indent=2)

    @classmethod
    def rich_add_columns(cls, table: Any) -> None:
        """Add the columns of a table of configs."""
        for column in ("CURRENT", "ALIAS", "ENDPOINT", "PATH"):
            table.add_column(column)

    def rich_add_rows(self, table: Any) -> None:
        """Add a row per config; a star marks the current one."""
        for item in self.items:
            mark = "*" if item.alias == self.current_config else ""
            table.add_row(mark, item.alias, item.endpoint or "", str(item.path))

    def rich_add_names(self, names: builtins.list[str]) -> None:
        """Append the alias of each config."""
        names.extend(item.alias for item in self.items)
