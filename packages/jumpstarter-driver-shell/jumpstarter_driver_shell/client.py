"""Client of the shell driver: one callable and one `j` command per configured method."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import click
from jumpstarter.client import DriverClient
from jumpstarter.client.core import DriverError
from jumpstarter.client.decorators import driver_click_group

KEPT_OUTPUT: Final = 1_000_000
"""Characters of each output that a Result keeps, counted from the end."""


class Result(int):
    """What a script came to: its exit status as a number, and the output that was printed while it ran.

    It also unpacks: `stdout, stderr, returncode = client.method()`.
    """

    stdout: str
    stderr: str

    def __new__(cls, returncode: int, stdout: str = "", stderr: str = "") -> Result:
        """Make a result of an exit status and the end of both outputs."""
        result = super().__new__(cls, returncode)
        result.stdout, result.stderr = stdout, stderr
        return result

    @property
    def returncode(self) -> int:
        """The exit status: negative for a death by signal, 199 when the time was over."""
        return int(self)

    def __iter__(self) -> Iterator[Any]:
        """Yield standard output, standard error and the exit status."""
        return iter((self.stdout, self.stderr, int(self)))


@dataclass(kw_only=True)
class ShellClient(DriverClient):
    """Runs the scripts that the exporter's configuration names.

    Each is an attribute to call: `client.name("argument", VARIABLE="value")` prints its output as it comes and returns
    a Result. Names that the class needs for itself are reached with `run_method("name", ...)`.
    """

    def method_names(self) -> list[str]:
        """Return the names of the scripts."""
        names: list[str] | None = self.__dict__.get("_method_names")
        if names is None:
            names = self.__dict__["_method_names"] = [str(name) for name in self.call("get_methods")]
        return names

    def run_method(self, method: str, /, *args: str, **env: str) -> Result:
        """Run a script, print its output as it comes and return its result.

        Args:
            method: a name from method_names().
            args: arguments of the script.
            env: environment variables of the script.

        Raises:
            DriverInvalidArgument: the exporter allows the arguments or variables not; nothing was run.
            DriverError: the script could not be run.
        """
        outputs = ["", ""]
        with closing(self.stream_method(method, *args, **env)) as items:
            for out, err, code in items:
                for position, (text, file) in enumerate(((out, sys.stdout), (err, sys.stderr))):
                    if text:
                        click.echo(text, nl=False, file=file)
                        outputs[position] = (outputs[position] + text)[-KEPT_OUTPUT:]
                if code is not None:
                    return Result(code, *outputs)
        raise DriverError(f"the exporter ended the call of {method} without an exit status")

    def stream_method(
        self, method: str, /, *args: str, **env: str
    ) -> Generator[tuple[str, str, int | None], None, None]:
        """Run a script and yield pieces of its standard output and standard error, at last with its exit status.

        Closing the generator stops the script and all processes that it has started.
        """
        try:
            with closing(self.streamingcall("call_method", method, env, *args)) as items:
                for out, err, code in items:
                    yield out, err, None if code is None else int(code)
        except DriverError as error:
            # Releases before 0.9 serve this as a unary call only.
            status = getattr(error.__cause__, "code", None)
            if status is None or status().name != "NOT_FOUND":
                raise
            out, err, code = self.call("call_method", method, env, *args)
            yield out, err, int(code)

    def __getattr__(self, name: str) -> Any:
        # Names with an underscore are looked up by copy, pickle and the like, which must cause no call.
        if name.startswith("_") or "uuid" not in self.__dict__:
            raise AttributeError(name)
        if name not in self.method_names():
            raise AttributeError(f"method {name} not found in {self.method_names()}")
        return partial(self.run_method, name)

    def cli(self) -> click.Group:
        """Return the `j` group of this driver: a command per method, with the exit status of its script."""

        @driver_click_group(self)
        def base() -> None:
            """Scripts on the exporter."""

        for name in self.method_names():
            base.add_command(self._command(name), name)
        return base

    def _command(self, method: str) -> click.Command:
        @click.command(
            name=method,
            help=self.methods_description.get(method) or f"Run {method} on the exporter.",
            context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
        )
        @click.option(
            "--env", "-e", "variables", multiple=True, metavar="KEY=VALUE", help="Set a variable (repeatable)."
        )
        @click.argument("args", nargs=-1, type=click.UNPROCESSED)
        @click.pass_context
        def command(context: click.Context, variables: tuple[str, ...], args: tuple[str, ...]) -> None:
            status = int(self.run_method(method, *args, **_parse_variables(variables)))
            context.exit(status if status >= 0 else 128 - status)

        return command


def _parse_variables(variables: tuple[str, ...]) -> Mapping[str, str]:
    """Split KEY=VALUE words.

    Raises:
        click.BadParameter: one has no name or no equals sign.
    """
    parsed = {}
    for variable in variables:
        name, equals, value = variable.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{variable!r} is not of the form KEY=VALUE", param_hint="--env")
        parsed[name] = value
    return parsed
