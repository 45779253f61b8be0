"""The completion scripts, and real shells that use them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from jumpstarter_testbench.process import python_program

from . import completion as completion_module
from .conftest import TIMEOUT
from .jmp import jmp


@pytest.mark.parametrize(
    ("shell", "texts"),
    [
        ("bash", ["complete -o nosort -F _jmp_completion jmp", "_j_completion j"]),
        ("zsh", ["compdef _jmp_completion jmp", "compdef _j_completion j"]),
        ("fish", ["--command jmp", "--command j "]),
    ],
)
def test_the_script_completes_both_programs(shell: str, texts: list[str]) -> None:
    result = CliRunner().invoke(jmp, ["completion", shell])
    assert result.exit_code == 0
    for text in texts:
        assert text in result.stdout


@pytest.mark.parametrize("args", [[], ["tcsh"]])
def test_another_shell_is_a_usage_error(args: list[str]) -> None:
    assert CliRunner().invoke(jmp, ["completion", *args]).exit_code == 2


def test_a_shell_that_the_library_does_not_know_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completion_module, "get_completion_class", lambda _: None)
    result = CliRunner().invoke(jmp, ["completion", "bash"])
    assert result.exit_code == 1
    assert "Unsupported shell" in result.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash: apt-get install bash")
def test_bash_completes_commands_and_aliases(tmp_path: Path, process_env: dict[str, str]) -> None:
    (tmp_path / "clients").mkdir()
    (tmp_path / "clients" / "lab-one.yaml").touch()
    python_program(tmp_path / "jmp", "from jumpstarter_cli.jmp import jmp\njmp(prog_name='jmp')\n")
    script = (
        f'PATH="{tmp_path}:$PATH"\n'
        'eval "$(jmp completion bash)"\n'
        'complete_line() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _jmp_completion jmp; '
        'echo "${COMPREPLY[@]}"; }\n'
        "complete_line jmp she\n"
        "complete_line jmp config client use ''\n"
    )
    env = process_env | {"JMP_CLIENT_CONFIG_HOME": str(tmp_path)}
    result = subprocess.run(
        ["bash", "-c", script], env=env, capture_output=True, text=True, timeout=TIMEOUT, check=True
    )
    assert result.stdout.splitlines() == ["shell", "lab-one"]
