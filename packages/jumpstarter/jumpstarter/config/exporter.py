"""Exporter configs: which drivers an exporter offers, and how it reaches its controller."""

from __future__ import annotations

import builtins
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, WrapValidator, field_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from .common import CONFIG_API_VERSION, ObjectMeta, PathOnUse, config_path, validate_alias
from .tls import TLSConfigV1Alpha1

if TYPE_CHECKING:
    from jumpstarter.driver import Driver
    from jumpstarter.exporter import Exporter

    from .document import Document

__all__ = [
    "DirectConfigV1Alpha1",
    "ExporterConfigListV1Alpha1",
    "ExporterConfigV1Alpha1",
    "ExporterConfigV1Alpha1DriverInstance",
    "ExporterConfigV1Alpha1DriverInstanceBase",
    "ExporterConfigV1Alpha1DriverInstanceComposite",
    "ExporterConfigV1Alpha1DriverInstanceProxy",
    "FailureDetectionConfigV1Alpha1",
    "HookConfigV1Alpha1",
    "HookInstanceConfigV1Alpha1",
    "ObjectMeta",
]

COMPOSITE = "jumpstarter_driver_composite.driver.Composite"
PROXY = "jumpstarter_driver_composite.driver.Proxy"

_STRICT = ConfigDict(defer_build=True, extra="forbid", populate_by_name=True)


class HookInstanceConfigV1Alpha1(BaseModel):
    """A script that the exporter runs before or after a lease."""

    model_config = _STRICT

    exec_: str | None = Field(default=None, alias="exec")
    """Interpreter; by default chosen by the script."""
    script: str = Field()
    """Commands, or the path of a file."""
    timeout: int = Field(default=120, gt=0)
    """Seconds after which the script is stopped and counts as failed."""
    on_failure: Literal["warn", "endLease", "exit"] = Field(default="warn", alias="onFailure")
    """What a failure leads to: a warning, the end of the lease, or the end of the exporter."""


class HookConfigV1Alpha1(BaseModel):
    """Scripts around each lease."""

    model_config = _STRICT

    before_lease: HookInstanceConfigV1Alpha1 | None = Field(default=None, alias="beforeLease")
    after_lease: HookInstanceConfigV1Alpha1 | None = Field(default=None, alias="afterLease")


class FailureDetectionConfigV1Alpha1(BaseModel):
    """When an exporter that fails again and again is given up."""

    model_config = _STRICT

    max_rapid_failures: int = Field(default=5, gt=0, alias="maxRapidFailures")
    """Failures in a row that end it."""
    rapid_failure_window: int = Field(default=60, gt=0, alias="rapidFailureWindow")
    """Seconds; a run that lasted longer than this starts the count anew."""


class DirectConfigV1Alpha1(BaseModel):
    """Where clients of leases may reach the exporter without a router, if their network lets them."""

    model_config = _STRICT

    listen: str
    """`[HOST:]PORT`; without HOST on all IPv4 interfaces, and `auto` for PORT is a free one."""
    advertise: list[str] = Field(default_factory=list)
    """`HOST` or `HOST:PORT` as clients reach it; by default the addresses that it listens on."""

    @field_validator("listen", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, value: str) -> str:
        parse_listen(value)
        return value

    @field_validator("advertise")
    @classmethod
    def _check_advertise(cls, value: list[str]) -> list[str]:
        for address in value:
            if not address or any(char.isspace() or char in "/@?#" for char in address):
                raise ValueError(f"{address!r} is not of the form HOST or HOST:PORT")
        return value


def parse_listen(value: str) -> tuple[str, int]:
    """Return host and port of `[HOST:]PORT`, where PORT may be `auto` for a free one, which is 0 then.

    Raises:
        ValueError: it is not of that form.
    """
    host, _, port = value.rpartition(":")
    if port == "auto":
        port = "0"
    if not (port.isascii() and port.isdigit() and int(port) <= 65535) or any(char.isspace() for char in host):
        raise ValueError(f"{value!r} is not of the form [HOST:]PORT, with a port up to 65535 or 'auto'")
    return host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port)


class ExporterConfigV1Alpha1DriverInstanceProxy(BaseModel):
    """A driver entry that shows a driver of the tree at a second place."""

    model_config = _STRICT

    ref: str
    """Names from the top of `export` down to the driver, joined by dots."""

    def instantiate(self) -> Driver:
        """Return the driver object."""
        return _driver_tree().instantiate(self)


class ExporterConfigV1Alpha1DriverInstanceComposite(BaseModel):
    """A driver entry that only groups others."""

    model_config = _STRICT

    children: dict[str, ExporterConfigV1Alpha1DriverInstance] = Field(default_factory=dict)

    def instantiate(self) -> Driver:
        """Return the driver object with those of the children."""
        return _driver_tree().instantiate(self)


class ExporterConfigV1Alpha1DriverInstanceBase(BaseModel):
    """A driver entry that names a driver class."""

    model_config = _STRICT

    type: str
    """Dotted path of the driver class."""
    description: str | None = None
    """What the driver is for, shown in the help of its commands."""
    methods_description: dict[str, str] = Field(default_factory=dict)
    """Help texts of commands, by method name."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments for the driver class."""
    children: dict[str, ExporterConfigV1Alpha1DriverInstance] = Field(default_factory=dict)

    def instantiate(self) -> Driver:
        """Return the driver object with those of the children.

        Raises:
            ConfigurationError: the class isn't installed or doesn't take this configuration.
        """
        return _driver_tree().instantiate(self)


def _driver_tree() -> Any:
    # Imported when a driver is wanted: those who only read or write configs don't pay for it.
    from . import driver_tree

    return driver_tree


_FORMS: dict[str, type[BaseModel]] = {
    "type": ExporterConfigV1Alpha1DriverInstanceBase,
    "ref": ExporterConfigV1Alpha1DriverInstanceProxy,
    "children": ExporterConfigV1Alpha1DriverInstanceComposite,
}
_ENTRY_KEYS = ("type", "config", "children", "description", "methods_description", "ref")


def _one_form(value: Any, handler: Any) -> Any:
    """Decide by its keys which of the three forms a driver entry has; each form then checks its own members."""
    if isinstance(value, tuple(_FORMS.values())):
        return value
    if not isinstance(value, Mapping):
        raise PydanticCustomError(
            "driver_entry",
            "a driver is a mapping with 'type' (a driver class), 'ref' (another driver) or 'children' (a group), "
            "not {shown}",
            {"shown": "empty" if value is None else f"the {type(value).__name__} {value!r:.60}"},
        )
    if "type" in value and "ref" in value:
        raise PydanticCustomError(
            "driver_entry", "'type' makes a driver and 'ref' shows another one, so only one of them can be given"
        )
    for key, form in _FORMS.items():
        if key in value:
            return form.model_validate(value)
    raise _no_form(value)


def _no_form(value: Mapping[Any, Any]) -> Exception:
    from difflib import get_close_matches

    for key in value:
        if key not in _ENTRY_KEYS and (near := get_close_matches(str(key), _ENTRY_KEYS, n=1)):
            problem = PydanticCustomError("driver_entry", "unknown key; did you mean '{near}'?", {"near": near[0]})
            details: InitErrorDetails = {"type": problem, "loc": (str(key),), "input": value[key]}
            return ValidationError.from_exception_data("driver", [details])
    return PydanticCustomError(
        "driver_entry",
        "one of 'type', 'ref' and 'children' is needed; found {keys}",
        {"keys": ", ".join(f"'{key}'" for key in value) or "no keys at all"},
    )


class ExporterConfigV1Alpha1DriverInstance(RootModel):
    """A driver entry: a driver class, a group, or a reference to another entry."""

    root: Annotated[
        ExporterConfigV1Alpha1DriverInstanceBase
        | ExporterConfigV1Alpha1DriverInstanceComposite
        | ExporterConfigV1Alpha1DriverInstanceProxy,
        WrapValidator(_one_form),
    ]

    def instantiate(self) -> Driver:
        """Return the driver object with those of the children.

        Raises:
            ConfigurationError: a class isn't installed or doesn't take its configuration.
        """
        return self.root.instantiate()

    @classmethod
    def from_path(cls, path: str | Path) -> ExporterConfigV1Alpha1DriverInstance:
        """Read a driver entry from a YAML file.

        Raises:
            FileNotFoundError: there is no such file.
            ConfigurationError: what is wrong in it, with file, line and key. Also a ValueError.
        """
        from .document import build, read_document

        return build(cls, read_document(Path(path)))

    @classmethod
    def from_str(cls, config: str) -> ExporterConfigV1Alpha1DriverInstance:
        """Read a driver entry from YAML text.

        Raises:
            ConfigurationError: what is wrong in it, with line and key. Also a ValueError.
        """
        from .document import build, parse_document

        return build(cls, parse_document(config, "driver"))


class ExporterConfigV1Alpha1(BaseModel):
    """The config of an exporter, one file per exporter."""

    model_config = _STRICT

    BASE_PATH: ClassVar[Path] = cast(Path, PathOnUse(lambda: config_path() / "exporters"))
    """Directory that configs are written to and first read from."""
    SYSTEM_CONFIG_PATH: ClassVar[Path] = Path("/etc/jumpstarter/exporters")
    """Directory of configs that belong to the machine; only read."""

    alias: str = Field(default="default", exclude=True)
    path: Path | None = Field(default=None, exclude=True)

    apiVersion: Literal["jumpstarter.dev/v1alpha1"] = Field(default=CONFIG_API_VERSION)
    kind: Literal["ExporterConfig"] = Field(default="ExporterConfig")
    metadata: ObjectMeta

    endpoint: str | None = Field(default=None)
    """`host:port` of the controller."""
    tls: TLSConfigV1Alpha1 = Field(default_factory=TLSConfigV1Alpha1)
    token: str | None = Field(default=None, repr=False)
    grpcOptions: dict[str, str | int] | None = Field(default_factory=dict)

    description: str | None = Field(default=None)
    """What the exporter is for, shown in the help of its commands."""
    export: dict[str, ExporterConfigV1Alpha1DriverInstance] = Field(default_factory=dict)
    hooks: HookConfigV1Alpha1 = Field(default_factory=HookConfigV1Alpha1)
    failure_detection: FailureDetectionConfigV1Alpha1 = Field(
        default_factory=FailureDetectionConfigV1Alpha1, alias="failureDetection"
    )
    motd: str | None = Field(default=None)
    """Text that clients are shown when they connect."""
    exit_on_lease_end: bool = Field(default=False, alias="exitOnLeaseEnd")
    """End the exporter after its first lease."""
    shutdown: Literal["leave", "off", "reset"] = Field(default="leave")
    """The state that devices are left in at the end of a session: as they are, without power, or reset."""

    direct: DirectConfigV1Alpha1 | None = Field(default=None)
    """Let clients of leases come without a router; by default they can't."""

    # -- files -----------------------------------------------------------------------------------

    @classmethod
    def validate_alias(cls, alias: str) -> None:
        """Raise ConfigurationError unless `alias` can name a config file."""
        validate_alias("exporter", alias)

    @classmethod
    def _get_path(cls, alias: str) -> Path:
        """Where the config `alias` is written to."""
        cls.validate_alias(alias)
        return Path(cls.BASE_PATH) / f"{alias}.yaml"

    @classmethod
    def _get_system_path(cls, alias: str) -> Path:
        cls.validate_alias(alias)
        return Path(cls.SYSTEM_CONFIG_PATH) / f"{alias}.yaml"

    @classmethod
    def user_config_exists(cls, alias: str) -> bool:
        """Whether the user has a config `alias`, not counting those of the machine."""
        return cls._get_path(alias).exists()

    @classmethod
    def resolve_path(cls, alias: str) -> Path:
        """Return the path that `alias` is read from, or would be written to when there is none."""
        path, system = cls._get_path(alias), cls._get_system_path(alias)
        return system if not path.exists() and system.exists() else path

    @classmethod
    def exists(cls, alias: str) -> bool:
        """Whether there is a config `alias`, of the user or of the machine."""
        return cls.resolve_path(alias).exists()

    @classmethod
    def load_path(cls, path: str | Path) -> ExporterConfigV1Alpha1:
        """Read a config file; the environment beats what it says of identity and connection.

        Raises:
            FileNotFoundError: there is no such file.
            ConfigurationError: what is wrong in it, with file, line and key. Also a ValueError.
        """
        from .document import read_document

        path = Path(path)
        try:
            document = read_document(path)
        except FileNotFoundError:
            from jumpstarter.common.exceptions import FileNotFoundError as MissingFile

            raise MissingFile(
                f"Exporter config '{path}' does not exist; 'jmp config exporter list' shows those that do"
            ) from None
        return cls._from_document(document, path)

    @classmethod
    def _from_document(cls, document: Document, path: Path) -> ExporterConfigV1Alpha1:
        from .document import build
        from .environment import EXPORTER, overlay

        data = document.data
        if document.is_mapping:
            data, _ = overlay(data, EXPORTER)
            if data.get("shutdown") is False and document.spelling(("shutdown",)) == "off":
                # YAML 1.1 takes a bare `off` for a boolean; `no` and `false` would be something else, and are refused.
                data = data | {"shutdown": "off"}
        config = build(cls, document, data)
        config.path = path
        return config

    @classmethod
    def load(cls, alias: str) -> ExporterConfigV1Alpha1:
        """Read the config `alias`, of the user or else of the machine; errors as of `load_path`."""
        config = cls.load_path(cls.resolve_path(alias))
        config.alias = alias
        return config

    @classmethod
    def list(cls) -> ExporterConfigListV1Alpha1:
        """Return all configs, sorted by alias; what can't be read is reported in the log and left out."""
        return ExporterConfigListV1Alpha1(items=_load_all(cls))

    @classmethod
    def dump_yaml(cls, config: ExporterConfigV1Alpha1) -> str:
        """Return the text of a config file."""
        from .document import dump

        values = config.model_dump(mode="json", by_alias=True, exclude={"alias", "path"})
        # Members that not every exporter knows are written only when they say something.
        if config.motd is None:
            values.pop("motd")
        if not config.exit_on_lease_end:
            values.pop("exitOnLeaseEnd")
        if config.shutdown == "leave":
            values.pop("shutdown")
        if config.direct is None:
            values.pop("direct")
        return dump(values)

    @classmethod
    def save(cls, config: ExporterConfigV1Alpha1, path: str | Path | None = None) -> Path:
        """Write the config as a whole, readable by its owner alone.

        Args:
            config: what to write; its `path` becomes that of the file.
            path: where to; by default the file of its alias among the user's configs.

        Returns:
            The path of the file.
        """
        from .document import write_secret

        target = cls._get_path(config.alias) if path is None else Path(path)
        write_secret(target, cls.dump_yaml(config))
        config.path = target
        return target

    @classmethod
    def delete(cls, alias: str) -> Path:
        """Remove the user's config `alias`, if there is one.

        Raises:
            ConfigurationError: the config is one of the machine.
        """
        from jumpstarter.common.exceptions import ConfigurationError

        path, system = cls._get_path(alias), cls._get_system_path(alias)
        if not path.exists() and system.exists():
            raise ConfigurationError(
                f"Exporter config '{alias}' is in the system location '{system}' and can't be deleted from here; "
                "remove the file as administrator"
            )
        path.unlink(missing_ok=True)
        return path

    # -- running things --------------------------------------------------------------------------

    def instantiate(self) -> Driver:
        """Return the root driver with everything below it.

        Raises:
            ConfigurationError: a class isn't installed or doesn't take its configuration; with file, line and key.
        """
        return _driver_tree().instantiate_root(self)

    def serve_unix_async(self) -> Any:
        """Serve the drivers to this machine: an async context manager that yields the path of a Unix socket."""
        from .serving import serve_config_unix

        return serve_config_unix(self)

    @contextmanager
    def serve_unix(self) -> Generator[Path, None, None]:
        """Serve the drivers to this machine, from a thread of its own; yields the path of a Unix socket."""
        from .serving import in_portal

        with in_portal(lambda _portal: self.serve_unix_async()) as path:
            yield path

    @asynccontextmanager
    async def create_exporter(self, *, standalone: bool = False) -> AsyncGenerator[Exporter, None]:
        """Yield an exporter for these drivers, which is not serving yet; leaving closes it.

        Args:
            standalone: it will serve clients without a controller, so none has to be configured.

        Raises:
            ConfigurationError: endpoint or token of the controller is missing.
        """
        from .serving import exporter_for

        async with exporter_for(self, standalone=standalone) as exporter:
            yield exporter

    async def serve(self) -> None:
        """Serve the drivers through the controller until cancelled."""
        async with self.create_exporter() as exporter:
            await exporter.serve()


class ExporterConfigListV1Alpha1(BaseModel):
    """All exporter configs of this machine and user."""

    model_config = ConfigDict(defer_build=True, populate_by_name=True)

    api_version: Literal["jumpstarter.dev/v1alpha1"] = Field(alias="apiVersion", default=CONFIG_API_VERSION)
    items: builtins.list[ExporterConfigV1Alpha1]
    kind: Literal["ExporterConfigList"] = Field(default="ExporterConfigList")

    def dump_json(self) -> str:
        """Return JSON with an indent of 4."""
        return self.model_dump_json(indent=4, by_alias=True)

    def dump_yaml(self) -> str:
        """Return YAML with an indent of 2 and sorted keys."""
        import yaml

        return yaml.safe_dump(self.model_dump(mode="json", by_alias=True), indent=2)

    @classmethod
    def rich_add_columns(cls, table: Any) -> None:
        """Add the columns of a table of configs."""
        for column in ("ALIAS", "PATH"):
            table.add_column(column)

    def rich_add_rows(self, table: Any) -> None:
        """Add a row per config."""
        for item in self.items:
            table.add_row(item.alias, str(item.path))

    def rich_add_names(self, names: builtins.list[str]) -> None:
        """Append the alias of each config."""
        names.extend(item.alias for item in self.items)


def _load_all(kind: type[ExporterConfigV1Alpha1]) -> builtins.list[ExporterConfigV1Alpha1]:
    import logging

    from jumpstarter.common.exceptions import ConfigurationError

    found: dict[str, Path] = {}
    for directory in (kind.SYSTEM_CONFIG_PATH, kind.BASE_PATH):
        try:
            found |= {path.stem: path for path in Path(directory).glob("*.yaml") if path.is_file()}
        except OSError as error:
            logging.getLogger(__name__).warning("can't list exporter configs: %s", error)
    configs = []
    for alias in sorted(found):
        try:
            config = kind.load_path(found[alias])
        except (ConfigurationError, OSError) as error:
            logging.getLogger(__name__).warning("left out of the list: %s", error)
            continue
        config.alias = alias
        configs.append(config)
    return configs
