"""Command lines of ssh: where the options end, who logs in, and what an exporter may not have this machine do."""

from __future__ import annotations

import pytest

from .command import UnsafeCommand, checked_command, names_user, split_arguments
from .common import DEFAULT_SSH_COMMAND


@pytest.mark.parametrize(
    ("arguments", "options", "command"),
    [
        ([], [], []),
        (["ls", "-l"], [], ["ls", "-l"]),
        (["-v", "ls", "-v"], ["-v"], ["ls", "-v"]),
        (["-L", "8080:localhost:80", "-N"], ["-L", "8080:localhost:80", "-N"], []),
        (["-L8080:localhost:80", "uptime"], ["-L8080:localhost:80"], ["uptime"]),
        (["-tt", "-o", "LogLevel=DEBUG", "top"], ["-tt", "-o", "LogLevel=DEBUG"], ["top"]),
        (["-vl", "user", "id"], ["-vl", "user"], ["id"]),
        (["--", "-strange"], [], ["-strange"]),
        (["-v", "--", "ls", "--", "x"], ["-v"], ["ls", "--", "x"]),
        (["-o"], ["-o"], []),
    ],
)
def test_options_end_where_ssh_lets_them_end(arguments: list[str], options: list[str], command: list[str]) -> None:
    assert split_arguments(arguments) == (options, command)


@pytest.mark.parametrize("options", [["-l", "root"], ["-lroot"], ["-vl", "root"], ["-o", "User=root"], ["-oUser root"]])
def test_user_among_the_options_is_seen(options: list[str]) -> None:
    assert names_user(options)


@pytest.mark.parametrize("options", [[], ["-v"], ["-o", "UserKnownHostsFile=/dev/null"], ["-i", "l"]])
def test_other_options_name_no_user(options: list[str]) -> None:
    assert not names_user(options)


@pytest.mark.parametrize(
    "command",
    [
        DEFAULT_SSH_COMMAND,
        "ssh",
        "/usr/bin/ssh -4 -o ConnectTimeout=5",
        "sshpass -p secret ssh -o StrictHostKeyChecking=no",
        "sshpass -e ssh -J jump.example",
    ],
)
def test_ssh_and_its_options_pass(command: str) -> None:
    assert " ".join(checked_command(command)) == command


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "is no ssh"),
        ("rm -rf /", "is no ssh"),
        ("sh -c ssh", "is no ssh"),
        ("sshpass -p x rm", "is no ssh"),
        ("sshpass", "is no ssh"),
        ("ssh 'unbalanced", "can't be read"),
        ("ssh evil.example", "must have options only"),
        ("ssh -o ProxyCommand='touch /tmp/x'", "would act on this machine: -o ProxyCommand"),
        ("ssh -oproxycommand=x", "would act on this machine"),
        ("ssh -o 'LocalCommand x' -o PermitLocalCommand=yes", "would act on this machine"),
        ("ssh -vo KnownHostsCommand=x", "would act on this machine"),
        ("ssh -F /tmp/evil", "would act on this machine: -F"),
        ("ssh -E/tmp/x", "would act on this machine: -E"),
        ("ssh -I /tmp/x.so", "would act on this machine: -I"),
        ("sshpass -e ssh -o PKCS11Provider=/tmp/x.so", "would act on this machine"),
    ],
)
def test_what_would_run_something_else_here_is_refused(command: str, message: str) -> None:
    with pytest.raises(UnsafeCommand, match=message):
        checked_command(command)
