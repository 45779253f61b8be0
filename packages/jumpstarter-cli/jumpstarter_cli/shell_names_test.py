"""Names of `jumpstarter_cli.shell` that live in modules of their own: found there, and replaced there."""

from __future__ import annotations

import subprocess
import sys
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock, patch

import anyio
import pytest

from . import shell

HOMES = ["shell", "shell_direct", "shell_lease", "shell_local", "shell_session", "shell_token"]


@pytest.mark.parametrize("name", shell._PLACES)
def test_a_name_can_be_replaced_and_is_back_afterwards(name: str) -> None:
    before = getattr(shell, name)
    with patch(f"jumpstarter_cli.shell.{name}") as replaced:
        assert getattr(shell, name) is replaced
    assert getattr(shell, name) is before


def test_an_unknown_name_is_an_error_of_the_usual_kind() -> None:
    with pytest.raises(AttributeError, match=r"'jumpstarter_cli.shell' has no attribute 'nonsense'"):
        _ = shell.nonsense


@pytest.mark.parametrize("home", HOMES)
def test_each_module_can_be_the_first_to_be_imported(home: str) -> None:
    subprocess.run([sys.executable, "-c", f"import jumpstarter_cli.{home}"], check=True, timeout=60)


async def test_the_lease_mode_calls_what_was_put_in_its_place() -> None:
    @asynccontextmanager
    async def lease_async(*_: Any, **__: Any) -> Any:
        yield SimpleNamespace(retry_timeout=0, release=True, name="l", lease_ended=False)

    config = SimpleNamespace(token=None, lease_async=lease_async)

    seen = anyio.Event()

    async def monitor(_config: Any, _lease: Any, _scope: Any, state: dict[str, Any]) -> None:
        state["expired_unrecovered"] = True
        seen.set()

    async def session(*_: Any) -> int:
        with anyio.fail_after(10):
            await seen.wait()
        return 3

    with (
        patch("jumpstarter_cli.shell._resolve_lease_from_active_async", AsyncMock(return_value="l")) as resolve,
        patch("jumpstarter_cli.shell._monitor_token_expiry", monitor),
        patch("jumpstarter_cli.shell._run_shell_with_lease_async", session),
        patch("jumpstarter_cli.shell._warn_about_expired_token") as warned,
    ):
        code = await shell._shell_with_signal_handling(config, None, None, None, None, False, (), None)
    assert code == 3
    resolve.assert_awaited_once_with(config)
    warned.assert_called_once_with("l", None)


async def test_the_recovery_of_tokens_calls_what_was_put_in_its_place() -> None:
    with (
        patch("jumpstarter_cli.shell._try_refresh_token", AsyncMock(return_value=False)),
        patch("jumpstarter_cli.shell._try_reload_token_from_disk", AsyncMock(return_value=True)) as reload,
    ):
        assert await shell._attempt_token_recovery(Mock(), None) == "Token reloaded from login."
    reload.assert_awaited_once()


def test_the_warning_of_a_failed_refresh_is_styled_once() -> None:
    with patch("jumpstarter_cli.shell.click") as click:
        shell._warn_refresh_failed(-1)
    assert [call.kwargs for call in click.style.call_args_list] == [{"fg": "red"}]
