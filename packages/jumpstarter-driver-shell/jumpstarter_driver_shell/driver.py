"""The shell driver: scripts from the exporter's configuration that clients run by name."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from jumpstarter.driver import Driver, export

from .script import Item, collect, run_script

BLOCKED_ENV_VARS: Final = {"LD_PRELOAD", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "BASH_ENV", "KUBECONFIG", "HOME"}
"""Environment variables that a client may not set, because they decide what code the exporter runs."""

BLOCKED_ENV_PREFIXES: Final = ("LD_", "BASH_FUNC_")
"""Beginnings of further names that a client may not set."""

UNARY_LIMIT: Final = 1_000_000
"""Characters of each output that a unary call returns; the answer must fit into one message."""

DEFAULT_COMMAND: Final = "echo Hello"


@dataclass(frozen=True, kw_only=True)
class Method:
    """One script that clients may run."""

    command: str
    timeout: float
    description: str | None = None

    @classmethod
    def from_config(cls, name: str, config: Any, timeout: float) -> Method:
        """Read one entry of `methods`: a script, or a mapping with `command`, `description` and `timeout`.

        Raises:
            ValueError: the entry can't work; the message names it.
        """
        if isinstance(config, str):
            config = {"command": config}
        if not isinstance(config, Mapping):
            raise ValueError(f"method {name!r}: expected a script or a mapping, not {config!r}")
        unknown = sorted(map(str, set(config) - {"command", "description", "timeout"}))
        if unknown:
            known = "known are command, description, timeout"
            raise ValueError(f"method {name!r}: unknown key {', '.join(unknown)}; {known}")
        command = config.get("command", DEFAULT_COMMAND)
        if not isinstance(command, str) or not command.strip():
            raise ValueError(f"method {name!r}: the script is empty or no text: {command!r}")
        description = config.get("description")
        if description is not None and not isinstance(description, str):
            raise ValueError(f"method {name!r}: the description is no text: {description!r}")
        own_timeout = config.get("timeout")
        return cls(
            command=command,
            timeout=_seconds(timeout if own_timeout is None else own_timeout, f"method {name!r}"),
            description=description,
        )


@dataclass(kw_only=True)
class Shell(Driver):
    """Runs scripts on the exporter that its configuration names, with arguments and variables from the client."""

    driver_type: ClassVar[str] = "shell"

    system_requirements: ClassVar[dict[str, str]] = {
        "bash": "apt-get install bash, or set `shell` to another one",
    }

    methods: dict[str, Any]
    """Script by method name, or a mapping with `command`, `description` and `timeout`."""
    shell: list[str] = field(default_factory=lambda: ["bash", "-c"])
    """Program and options that take the script as the next argument."""
    timeout: float = 300
    """Seconds that a call may take, unless the method has a time of its own."""
    cwd: str | None = None
    """Directory that the scripts run in; that of the exporter unless given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _seconds(self.timeout, "the shell driver")
        if not self.shell or not all(isinstance(part, str) and part for part in self.shell):
            raise ValueError(f"shell must be a list of words such as [bash, -c], not {self.shell!r}")
        if self.cwd is not None:
            self.cwd = os.path.expanduser(os.fspath(self.cwd))
        if not isinstance(self.methods, Mapping):
            raise ValueError(f"methods must map names to scripts, not {self.methods!r}")
        self._methods: dict[str, Method] = {}
        for name, config in self.methods.items():
            if not isinstance(name, str) or not name or name.startswith("-") or any(map(str.isspace, name)):
                raise ValueError(f"{name!r} can't be the name of a method: it must be one word without a leading dash")
            self._methods[name] = Method.from_config(name, config, self.timeout)
        described = {name: method.description for name, method in self._methods.items() if method.description}
        self.methods_description = {**described, **self.methods_description}

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_shell.client.ShellClient"

    @export(watch=True)
    async def get_methods(self) -> list[str]:
        """Return the names of the methods in the order of the configuration."""
        return list(self._methods)

    @export
    async def call_method(self, method: str, env: Any = None, *args: Any) -> AsyncGenerator[Item, None]:
        """Run a script; yield its output as it comes and its exit status in the last item.

        The script sees `method` as `$0` and the arguments as `$1` and on.

        Args:
            method: a name from get_methods().
            env: variables beside those of the exporter itself.
            args: text, or numbers, which become text.

        Raises:
            ValueError: no such method, or an argument or variable that is not allowed; nothing was run.
        """
        entry, command, environment = self._prepare(method, env, args)
        self.logger.info("running %s %s", method, list(args) if args else "")
        items = run_script(command, env=environment, cwd=self.cwd, timeout=entry.timeout)
        async with aclosing(items):
            async for item in items:
                if item[2] is not None:
                    self.logger.info("%s ended with exit status %d", method, item[2])
                yield item

    @export
    async def call_method_unary(self, method: str, env: Any = None, *args: Any) -> tuple[str, str, int]:
        """Run a script; return its standard output, standard error and exit status when it has ended.

        Of each output the last UNARY_LIMIT characters are kept.
        """
        return await collect(self.call_method(method, env, *args), UNARY_LIMIT)

    async def DriverCall(self, request: Any, context: Any) -> Any:
        """Serve a unary call; clients of older releases call `call_method` that way."""
        if request.method == "call_method":
            request = type(request)(uuid=request.uuid, method="call_method_unary", args=request.args)
        return await super().DriverCall(request, context)

    def _prepare(self, method: str, env: Any, args: tuple[Any, ...]) -> tuple[Method, list[str], dict[str, str]]:
        """Check everything that comes from the client; return what to run."""
        entry = self._methods.get(method)
        if entry is None:
            raise ValueError(f"method {method} not found in {list(self._methods)}")
        environment = {**os.environ, **_checked_variables(env or {})}
        words = [_text(argument, f"argument {number} of {method}") for number, argument in enumerate(args, start=1)]
        if self.cwd is not None and not os.path.isdir(self.cwd):
            raise ValueError(f"the working directory {self.cwd} of the shell driver does not exist on the exporter")
        return entry, [*self.shell, entry.command, method, *words], environment


def _checked_variables(env: Any) -> dict[str, str]:
    if not isinstance(env, Mapping):
        raise ValueError(f"environment variables must be a mapping of names to text, not {env!r}")
    for name in env:
        if not isinstance(name, str) or not (name.isidentifier() and name.isascii()):
            raise ValueError(f"{name!r} can't be the name of an environment variable")
        if name in BLOCKED_ENV_VARS or name.startswith(BLOCKED_ENV_PREFIXES):
            raise ValueError(f"environment variable {name} is blocked for security reasons")
    return {name: _text(value, f"environment variable {name}") for name, value in env.items()}


def _text(value: Any, what: str) -> str:
    """Return text as it is and numbers as text; numbers travel as floats, so whole ones lose their point."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError(f"{what} must be text or a number, not {value!r}")
    if "\0" in value:
        raise ValueError(f"{what} contains a zero byte, which no program can be given")
    return value


def _seconds(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{what}: timeout must be a number of seconds above 0, not {value!r}")
    return float(value)
