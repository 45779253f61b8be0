"""`jmp controller backup` and `restore`: a lab that goes on while it is copied, and one that goes back."""

from __future__ import annotations

import stat
from pathlib import Path

from anyio import to_thread
from click.testing import CliRunner, Result

from .cli import controller
from .model.records import Kind
from .testing import running_lab


def run(*arguments: str) -> Result:
    return CliRunner().invoke(controller, arguments)


async def test_a_copy_of_a_running_lab_brings_back_what_there_was(tmp_path: Path) -> None:
    copy, data = tmp_path / "copy.db", str(tmp_path / "lab")
    async with running_lab(tmp_path) as lab:
        await lab.client("alice")
        made = await to_thread.run_sync(run, "backup", "--data", data, str(copy))
        assert (made.exit_code, stat.S_IMODE(copy.stat().st_mode)) == (0, 0o600), made.output
        await lab.client("bob")
        refused = await to_thread.run_sync(run, "restore", "--data", data, str(copy))
        assert refused.exit_code == 1
        assert "in use" in refused.output
    restored = run("restore", "--data", data, str(copy))
    assert restored.exit_code == 0, restored.output
    assert "The former file is" in restored.output
    async with running_lab(tmp_path) as lab:
        assert [account.meta.name for account in lab.lab.accounts(Kind.CLIENT)] == ["alice"]


def test_there_has_to_be_a_lab_to_be_copied(tmp_path: Path) -> None:
    result = run("backup", "--data", str(tmp_path), str(tmp_path / "copy.db"))
    assert result.exit_code == 1
    assert f"there is no lab in {tmp_path}" in result.output
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_backup_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database, but long enough to be looked at" * 100)
    result = run("restore", "--data", str(tmp_path / "lab"), str(tmp_path / "text"))
    assert result.exit_code == 1
    assert not (tmp_path / "lab" / "lab.db").exists()
