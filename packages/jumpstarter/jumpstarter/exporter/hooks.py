"""The scripts of an exporter that prepare its devices before a lease and tidy up after it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from jumpstarter.common import HOOK_WARNING_PREFIX
from jumpstarter.common.enums import ExporterStatus, LogSource

from .logging import current_session
from .script import (
    DRAIN_MAX_EMPTY_POLLS,
    DRAIN_TIMEOUT_SECONDS,
    MAX_DRAIN_BYTES,
    PtyState,
    ScriptTimeout,
    command_for,
    run_script,
)

if TYPE_CHECKING:
    from .lease_context import LeaseContext

__all__ = [
    "DRAIN_MAX_EMPTY_POLLS",
    "DRAIN_TIMEOUT_SECONDS",
    "MAX_DRAIN_BYTES",
    "HookExecutionError",
    "HookExecutor",
    "PtyState",
]

logger = logging.getLogger(__name__)

HookType = Literal["before_lease", "after_lease"]
OnFailure = Literal["warn", "endLease", "exit"]

_NAMES: dict[HookType, str] = {"before_lease": "beforeLease", "after_lease": "afterLease"}
_SOURCES: dict[HookType, LogSource] = {
    "before_lease": LogSource.BEFORE_LEASE_HOOK,
    "after_lease": LogSource.AFTER_LEASE_HOOK,
}


class HookInstance(Protocol):
    """What is read of one hook of the config."""

    @property
    def exec_(self) -> str | None: ...
    @property
    def script(self) -> str: ...
    @property
    def timeout(self) -> int: ...
    @property
    def on_failure(self) -> OnFailure: ...


class HookConfig(Protocol):
    """What is read of the `hooks` of the config."""

    @property
    def before_lease(self) -> HookInstance | None: ...
    @property
    def after_lease(self) -> HookInstance | None: ...


@dataclass
class HookExecutionError(Exception):
    """A hook failed whose failure is not to be ignored."""

    message: str
    on_failure: OnFailure
    hook_type: HookType

    def __str__(self) -> str:
        return self.message

    def should_shutdown_exporter(self) -> bool:
        """Tell whether the exporter has to end."""
        return self.on_failure == "exit"

    def should_end_lease(self) -> bool:
        """Tell whether the lease has to end; it does too when the exporter ends."""
        return self.on_failure in ("endLease", "exit")


@dataclass(kw_only=True)
class HookExecutor:
    """Runs the hooks of one exporter config."""

    config: HookConfig

    def has_hook(self, hook_type: HookType) -> bool:
        """Tell whether there is anything to run."""
        return self._hook(hook_type) is not None

    def _hook(self, hook_type: HookType) -> HookInstance | None:
        hook = self.config.before_lease if hook_type == "before_lease" else self.config.after_lease
        return hook if hook is not None and hook.script.strip() else None

    async def execute_before_lease_hook(self, lease_scope: LeaseContext) -> str | None:
        """Run the hook before a lease.

        Args:
            lease_scope: the lease; its hook socket is where the script finds the drivers.

        Returns:
            What went wrong if the config says to go on nevertheless, else None.

        Raises:
            HookExecutionError: it failed, and the lease or the exporter must end.
        """
        return await self.execute("before_lease", lease_scope)

    async def execute_after_lease_hook(self, lease_scope: LeaseContext) -> str | None:
        """Run the hook after a lease; see `execute_before_lease_hook`."""
        return await self.execute("after_lease", lease_scope)

    async def execute(self, hook_type: HookType, lease_scope: LeaseContext) -> str | None:
        """Run a hook; see `execute_before_lease_hook`."""
        hook = self._hook(hook_type)
        if hook is None:
            return None
        problem = await self._run(hook_type, hook, lease_scope)
        if problem is None:
            return None
        message = f"the {_NAMES[hook_type]} hook {problem}"
        if hook.on_failure == "warn":
            return message
        raise HookExecutionError(message, hook.on_failure, hook_type)

    async def _run(self, hook_type: HookType, hook: HookInstance, lease_scope: LeaseContext) -> str | None:
        """Run a hook, its lines going to the log of the session; return how it failed."""
        # A name per hook, so that lines of the one are never taken for lines of the other.
        lines = logging.getLogger(f"{__name__}.{hook_type}")
        session = lease_scope.session
        if session is not None:
            session.add_logger_source(lines.name, _SOURCES[hook_type])
        working_for = current_session.set(session)
        try:
            lines.info("the %s hook starts", _NAMES[hook_type])
            problem = await _problem_of(hook, lease_scope, lambda line: lines.info("%s", line))
            if problem is None:
                lines.info("the %s hook succeeded", _NAMES[hook_type])
            else:
                level = logging.WARNING if hook.on_failure == "warn" else logging.ERROR
                lines.log(level, "the %s hook %s", _NAMES[hook_type], problem)
        finally:
            current_session.reset(working_for)
        return problem

    async def run_before_lease_hook(
        self,
        lease_scope: LeaseContext,
        report_status: Callable[[ExporterStatus, str], Awaitable[Any]],
        shutdown: Callable[..., Any],
        request_lease_release: Callable[[], Awaitable[Any]] | None = None,
    ) -> None:
        """Run the hook before a lease as a whole: report its states, let the clients in, act on a failure.

        Args:
            lease_scope: the lease.
            report_status: takes each state and a message.
            shutdown: called with `exit_code=1`, `wait_for_lease_exit=True` and `should_unregister=True` when the
                exporter must end.
            request_lease_release: ends the lease.
        """
        try:
            if self.has_hook("before_lease"):
                await report_status(ExporterStatus.BEFORE_LEASE_HOOK, "running the beforeLease hook")
            warning = await self.execute_before_lease_hook(lease_scope)
        except HookExecutionError as error:
            lease_scope.skip_after_lease_hook = True
            await report_status(ExporterStatus.BEFORE_LEASE_HOOK_FAILED, error.message)
            await _act_on(error, shutdown, request_lease_release)
        else:
            if lease_scope.is_active():
                await report_status(ExporterStatus.LEASE_READY, warning_text(warning) or "ready")
        finally:
            lease_scope.before_lease_hook.set()

    async def run_after_lease_hook(
        self,
        lease_scope: LeaseContext,
        report_status: Callable[[ExporterStatus, str], Awaitable[Any]],
        shutdown: Callable[..., Any],
        request_lease_release: Callable[[], Awaitable[Any]] | None = None,
    ) -> None:
        """Run the hook after a lease as a whole; see `run_before_lease_hook`."""
        lease_scope.after_lease_hook_started.set()
        try:
            if self.has_hook("after_lease"):
                await report_status(ExporterStatus.AFTER_LEASE_HOOK, "running the afterLease hook")
            warning = await self.execute_after_lease_hook(lease_scope)
        except HookExecutionError as error:
            await report_status(ExporterStatus.AFTER_LEASE_HOOK_FAILED, error.message)
            await _act_on(error, shutdown, request_lease_release)
        else:
            await report_status(ExporterStatus.AVAILABLE, warning_text(warning) or "available")
            if request_lease_release is not None:
                await request_lease_release()
        finally:
            lease_scope.after_lease_hook_done.set()


async def _problem_of(hook: HookInstance, lease_scope: LeaseContext, emit: Callable[[str], None]) -> str | None:
    """Run the script of a hook; return how it failed."""
    try:
        status = await run_script(
            command_for(hook.script, hook.exec_),
            environment=_environment(lease_scope),
            timeout=hook.timeout,
            emit=emit,
        )
    except ScriptTimeout:
        return f"timed out after {hook.timeout} seconds"
    except OSError as error:
        return f"could not be started: {error}"
    return f"failed with exit code {status}" if status else None


async def _act_on(
    error: HookExecutionError,
    shutdown: Callable[..., Any],
    request_lease_release: Callable[[], Awaitable[Any]] | None,
) -> None:
    if error.should_shutdown_exporter():
        shutdown(exit_code=1, wait_for_lease_exit=True, should_unregister=True)
    elif request_lease_release is not None:
        await request_lease_release()


def warning_text(warning: str | None) -> str:
    """Return the status message that has clients print a warning; empty without one."""
    return f"{HOOK_WARNING_PREFIX}{warning}" if warning else ""


def _environment(lease_scope: LeaseContext) -> dict[str, str]:
    environment = dict(os.environ)
    environment.pop("PS1", None)
    # The commands of this installation are found even when it is no part of the exporter's own path.
    folder, path = os.path.dirname(sys.executable), environment.get("PATH", os.defpath)
    if folder not in path.split(os.pathsep):
        path = f"{path}{os.pathsep}{folder}"
    environment |= {
        "PATH": path,
        "JUMPSTARTER_HOST": lease_scope.hook_socket_path,
        "JMP_DRIVERS_ALLOW": "UNSAFE",
        "LEASE_NAME": lease_scope.lease_name,
        "CLIENT_NAME": lease_scope.client_name,
        "TERM": "dumb",
        "DEBIAN_FRONTEND": "noninteractive",
        "GIT_TERMINAL_PROMPT": "0",
    }
    return environment
