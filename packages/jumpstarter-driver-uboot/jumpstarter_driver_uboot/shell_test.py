"""The engine on real shells: busybox ash and bash on a terminal of 80 columns, and U-Boot."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pexpect
import pytest
from jumpstarter_testbench.requirements import need, program

from .conftest import BOUND
from .console import Console
from .dialects import SHELL, UBOOT
from .errors import CommandAborted, CommandFailed, ConsoleClosed, ConsoleTimeout

pytestmark = pytest.mark.device


@pytest.fixture(params=["busybox", "bash"])
def shell(request, tmp_path) -> Iterator[Console]:
    """A shell in an empty folder, with a prompt that changes with the folder."""
    need(*(["busybox"] if request.param == "busybox" else ["shells"]))
    words = [program("busybox"), "ash"] if request.param == "busybox" else [program("bash"), "--norc", "--noprofile"]
    env = {"PATH": os.environ["PATH"], "PS1": r"\w # ", "TERM": "vt102", "HOME": str(tmp_path), "HISTFILE": ""}
    session = pexpect.spawn(words[0], words[1:], env=env, cwd=str(tmp_path), timeout=BOUND, dimensions=(24, 80))
    session.delaybeforesend = None
    session.delayafterclose = session.delayafterterminate = session.ptyproc.delayafterclose = 0.01
    session.ptyproc.delayafterterminate = 0.01
    session.expect_exact("# ")
    try:
        yield Console(session, SHELL)
    finally:
        session.close(force=True)


def test_output_and_status(shell: Console) -> None:
    assert shell.run("echo '# '; echo \"it's\" $((1 + 1)); false").lines == ["# ", "it's 2"]
    assert shell.run("sh -c 'exit 42'").status == 42
    with pytest.raises(CommandFailed, match="No such file"):
        shell.run("ls /nowhere", check=True)


def test_a_command_works_in_the_shell_itself(shell: Console) -> None:
    shell.run("mkdir sub; cd sub; export WORD='two words'", check=True)
    assert shell.run('basename "$PWD"; echo "$WORD"').lines == ["sub", "two words"]


def test_quoted_words_arrive_as_they_are(shell: Console) -> None:
    words = ["a'b", 'a"b', "a\\b", "$HOME `id` !x", "a;b#c&d|e", "ü€", "  ", "*"]
    command = f"printf '[%s]\\n' {' '.join(map(SHELL.quote, words))}"
    assert shell.run(command).lines == [f"[{word}]" for word in words]


def test_long_commands_arrive_whole(shell: Console) -> None:
    # given a line far longer than busybox edits, with quotes in it
    text = "it's 0123456789 " * 300
    assert shell.run(f"printf %s {SHELL.quote(text)} | wc -c").lines[0].strip() == str(len(text))


def test_background_jobs_and_comments_are_commands(shell: Console) -> None:
    assert shell.run("sleep 0.01 & wait # for it").status == 0
    assert shell.run("echo after").lines[-1] == "after"


def test_what_is_not_complete_is_told(shell: Console) -> None:
    # busybox gives the whole line up, bash goes on with a status
    with pytest.raises((CommandAborted, CommandFailed), match="syntax error"):
        shell.run("if true; then", check=True)
    assert shell.run("echo after").lines == ["after"]


def test_a_program_that_waits_for_input_is_interrupted(shell: Console) -> None:
    with pytest.raises(ConsoleTimeout, match="'cat' did not end"):
        shell.run("cat", timeout=0.5)
    assert shell.run("echo after").lines == ["after"]


def test_messages_between_the_lines_do_not_desynchronise(shell: Console) -> None:
    # given something that writes to the same terminal, as the kernel does
    shell.run("(while sleep 0.01; do echo '[  1.0] message'; done) & noise=$!")
    for number in range(4):
        assert f"line {number}" in shell.run(f"echo line {number}").lines
    shell.run("kill $noise; wait")
    assert "quiet" in shell.run("echo quiet").lines


def test_a_terminal_without_echo(shell: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jumpstarter_driver_uboot.console.ECHO_WAIT", 1.0)
    shell.run("stty -echo")
    assert shell.run("echo one").lines == ["one"]
    shell.run("stty echo")
    assert shell.run("echo two").lines == ["two"]


def test_the_end_of_the_shell_is_told(shell: Console) -> None:
    with pytest.raises(ConsoleClosed):
        shell.run("exit 3")


def test_a_serial_session_that_is_text_works_too() -> None:
    need("busybox")
    session = pexpect.spawn(program("busybox"), ["ash"], encoding="utf-8", timeout=BOUND)
    session.delaybeforesend = None
    try:
        session.expect("[#$] ")
        assert Console(session, SHELL).run("echo ü").lines == ["ü"]
    finally:
        session.close(force=True)


def test_u_boot_on_a_session_that_is_text(uboot: Any) -> None:
    console = Console(uboot.console, UBOOT)
    assert console.run("echo one; printenv bootdelay; false").lines == ["one", "bootdelay=2"]
    assert console.run("false").status == 1


def test_the_engine_needs_nothing_of_jumpstarter() -> None:
    code = "import sys, jumpstarter_driver_uboot.console; sys.exit('jumpstarter' in sys.modules)"
    subprocess.run([program("python3"), "-c", code], check=True, timeout=BOUND, env={"PYTHONPATH": ":".join(_path())})


def _path() -> list[str]:
    import sys

    return [each for each in sys.path if each]
