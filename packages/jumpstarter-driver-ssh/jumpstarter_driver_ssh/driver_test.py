"""Logins with OpenSSH's own programs against OpenSSH's server, through the exporter and directly."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest
from click.testing import CliRunner
from jumpstarter.client.core import DriverError
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.common.utils import serve
from jumpstarter.driver import export
from jumpstarter_driver_network.driver import TcpNetwork
from jumpstarter_testbench.daemons import SshServer
from jumpstarter_testbench.requirements import program

from .agent_test import KINDS, generate
from .client import SSHCommandRunOptions, SSHCommandRunResult
from .command import UnsafeCommand
from .driver import SSHWrapper

AS_TEXT = SSHCommandRunOptions()


def wrapper(sshd: SshServer, **config: Any) -> SSHWrapper:
    """The driver for the server, with its key."""
    config = {"default_username": sshd.user, "ssh_identity_file": str(sshd.key)} | config
    return SSHWrapper(children={"tcp": TcpNetwork(host=sshd.host, port=sshd.port)}, **config)


def tcp() -> dict[str, Any]:
    return {"tcp": TcpNetwork(host="127.0.0.1", port=1)}


@pytest.fixture
def client(sshd: SshServer) -> Iterator[Any]:
    """A client of the server."""
    with serve(wrapper(sshd)) as found:
        yield found


@pytest.fixture
def private_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which everything temporary is made."""
    folder = tmp_path / "t"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def host_key(sshd: SshServer) -> str:
    return " ".join(sshd.known_hosts.read_text().split()[1:])


pytestmark = [pytest.mark.daemon, pytest.mark.need("ssh")]


class TestRun:
    def test_output_and_exit_status_come_back(self, client: Any) -> None:
        result = client.run(AS_TEXT, ["echo out; echo err >&2; exit 7"])

        assert result == SSHCommandRunResult(return_code=7, stdout="out\n", stderr="err\n")

    def test_output_may_be_bytes(self, client: Any) -> None:
        result = client.run(SSHCommandRunOptions(capture_as_text=False), ["printf '\\377\\0x'"])

        assert result.stdout == b"\xff\0x"

    def test_text_that_is_no_utf8_harms_nobody(self, client: Any) -> None:
        assert client.run(["printf '\\377x'"]).stdout == "\ufffdx"

    def test_direct_connection_goes_to_the_address_of_the_device(self, client: Any, sshd: SshServer) -> None:
        result = client.run(SSHCommandRunOptions(direct=True), ["echo $SSH_CONNECTION"])
        forwarded = client.run(AS_TEXT, ["echo $SSH_CONNECTION"])

        assert result.stdout.split()[3] == forwarded.stdout.split()[3] == str(sshd.port)

    def test_hidden_address_makes_a_direct_connection_go_through_the_exporter(
        self, sshd: SshServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        driver = wrapper(sshd)
        driver.children["tcp"] = TcpNetwork(host=sshd.host, port=sshd.port, enable_address=False)
        with serve(driver) as client:
            assert client.run(SSHCommandRunOptions(direct=True), ["echo hello"]).stdout == "hello\n"

        assert "no direct connection, going through the exporter" in caplog.text

    def test_options_come_before_the_command(self, client: Any) -> None:
        result = client.run(AS_TEXT, ["-o", "SendEnv=LC_X", "-T", "echo", "-n", "a  b"])

        assert result.stdout == "a b"

    def test_user_of_the_caller_wins(self, client: Any) -> None:
        result = client.run(AS_TEXT, ["-l", "nobody-at-all", "true"])

        assert result.return_code == 255
        assert "nobody-at-all@127.0.0.1: Permission denied" in result.stderr

    def test_device_that_does_not_answer_is_an_error_that_says_why(self, caplog: pytest.LogCaptureFixture) -> None:
        with serve(SSHWrapper(children=tcp())) as client:
            assert client.run(AS_TEXT, ["true"]).return_code == 255

        assert "can't connect to TCP 127.0.0.1:1" in caplog.text

    def test_command_that_takes_too_long_is_stopped(self, client: Any) -> None:
        with pytest.raises(TimeoutError, match=r"did not end within 0.5 s"):
            client.run(SSHCommandRunOptions(timeout=0.5), ["sleep 60"])

    def test_missing_ssh_says_what_to_install(self, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nowhere")

        result = client.run(AS_TEXT, ["true"])

        assert result.return_code == 127
        assert result.stderr == "ssh not found. Install it on this machine; on Debian: apt-get install openssh-client"

    def test_several_commands_at_once(self, client: Any) -> None:
        results: list[str] = []
        threads = [
            threading.Thread(target=lambda n=number: results.append(client.run([f"echo {n}"]).stdout))
            for number in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        assert sorted(results) == ["0\n", "1\n", "2\n", "3\n"]


class TestIdentity:
    @pytest.mark.parametrize("kind", KINDS)
    def test_keys_of_all_kinds_log_in_without_leaving_the_exporter(
        self, kind: str, sshd: SshServer, tmp_path: Path, private_tmp: Path
    ) -> None:
        text = generate(tmp_path / "key", *KINDS[kind])
        authorized = sshd.key.parent / "authorized_keys"
        before = authorized.read_text()
        authorized.write_text(before + (tmp_path / "key.pub").read_text())
        try:
            driver = wrapper(sshd, ssh_identity_file=None, ssh_identity=text, share_identity=False)
            with serve(driver) as client:
                assert client.run(AS_TEXT, ["echo in"]).stdout == "in\n"
        finally:
            authorized.write_text(before)

    def test_no_private_key_is_ever_in_a_file_of_the_client(
        self, sshd: SshServer, private_tmp: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[str] = []
        real = subprocess.run

        def look(command: list[str], **options: Any) -> Any:
            seen.extend(path.read_text() for path in private_tmp.rglob("*") if path.is_file())
            return real(command, **options)

        monkeypatch.setattr("jumpstarter_driver_ssh.client.subprocess.run", look)
        with serve(wrapper(sshd)) as client:
            assert client.run(AS_TEXT, ["true"]).return_code == 0

        assert any(text.startswith("ssh-ed25519 ") for text in seen)
        assert not any("PRIVATE" in text for text in seen)

    def test_agent_signs_no_file(self, client: Any, sshd: SshServer, tmp_path: Path) -> None:
        from jumpstarter_driver_network.adapters import UnixPortforwardAdapter

        (tmp_path / "file").write_text("release\n")
        public = sshd.key.with_suffix(".pub")
        command = [program("ssh-keygen"), "-Y", "sign", "-n", "file", "-f", str(public), str(tmp_path / "file")]
        with UnixPortforwardAdapter(client=client, method="ssh_agent") as socket:
            environment = {**os.environ, "SSH_AUTH_SOCK": str(socket)}
            listed = subprocess.run([program("ssh-add"), "-L"], env=environment, capture_output=True, text=True)
            signed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)

        assert listed.stdout.split()[:2] == public.read_text().split()[:2]
        assert signed.returncode != 0
        assert "refused" in signed.stderr

    def test_clients_of_published_releases_get_the_key_unless_it_is_forbidden(self, sshd: SshServer) -> None:
        with serve(wrapper(sshd)) as client:
            assert client.identity == sshd.key.read_text()
        with (
            serve(wrapper(sshd, share_identity=False)) as client,
            pytest.raises(DriverError, match=r"stays on the exporter .* Update jumpstarter-driver-ssh on the client"),
        ):
            client.call("get_ssh_identity")

    def test_key_of_a_published_exporter_is_in_a_private_file_that_is_removed(
        self, sshd: SshServer, private_tmp: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        modes: list[int] = []
        real = subprocess.run

        def look(command: list[str], **options: Any) -> Any:
            path = Path(command[command.index("-i") + 1])
            modes.extend([path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777])
            return real(command, **options)

        monkeypatch.setattr("jumpstarter_driver_ssh.client.subprocess.run", look)
        with serve(OldWrapper(**old_config(sshd))) as client:
            assert client.run(AS_TEXT, ["echo in"]).stdout == "in\n"

        assert modes == [0o600, 0o700]
        assert not [path for path in private_tmp.rglob("*") if path.name == "identity"]

    def test_nothing_is_left_behind(self, sshd: SshServer, private_tmp: Path) -> None:
        with serve(wrapper(sshd, host_keys=[host_key(sshd)])) as client:
            before = set(private_tmp.rglob("*"))
            client.run(AS_TEXT, ["true"])
            client.put(sshd.known_hosts, "/dev/null")
            assert set(private_tmp.rglob("*")) == before

    def test_without_a_key_the_user_s_own_ssh_is_used(self, sshd: SshServer) -> None:
        with serve(wrapper(sshd, ssh_identity_file=None)) as client:
            assert client.run(AS_TEXT, ["-i", str(sshd.key), "echo in"]).stdout == "in\n"
            assert client.identity is None

    def test_key_file_that_changes_is_read_anew(self, sshd: SshServer, tmp_path: Path) -> None:
        path = tmp_path / "key"
        generate(path, "-t", "ed25519")
        with serve(wrapper(sshd, ssh_identity_file=str(path))) as client:
            assert client.run(AS_TEXT, ["-o", "BatchMode=yes", "true"]).return_code == 255
            path.write_text(sshd.key.read_text())
            assert client.run(AS_TEXT, ["true"]).return_code == 0
            path.unlink()
            with pytest.raises(DriverError, match="Failed to read ssh_identity_file"):
                client.run(AS_TEXT, ["true"])


class OldWrapper(SSHWrapper):
    """A driver of a published release: neither an agent nor host keys."""

    ssh_agent = None  # type: ignore[assignment]
    get_ssh_public_key = None  # type: ignore[assignment]
    get_ssh_host_keys = None  # type: ignore[assignment]


def old_config(sshd: SshServer) -> dict[str, Any]:
    children = {"tcp": TcpNetwork(host=sshd.host, port=sshd.port)}
    return {"children": children, "default_username": sshd.user, "ssh_identity_file": str(sshd.key)}


class TestHostKeys:
    def test_device_with_the_right_key_is_let_in(self, sshd: SshServer) -> None:
        with serve(wrapper(sshd, host_keys=[host_key(sshd)])) as client:
            for direct in (False, True):
                assert client.run(SSHCommandRunOptions(direct=direct), ["true"]).return_code == 0

    def test_device_with_another_key_is_refused(self, sshd: SshServer, tmp_path: Path) -> None:
        generate(tmp_path / "other", "-t", "ed25519")
        with serve(wrapper(sshd, host_keys=[(tmp_path / "other.pub").read_text()])) as client:
            result = client.run(AS_TEXT, ["echo leaked"])

        assert result.return_code == 255
        assert result.stdout == ""
        assert "Host key verification failed" in result.stderr

    def test_callers_can_not_switch_the_check_off_by_accident(self, sshd: SshServer, tmp_path: Path) -> None:
        generate(tmp_path / "other", "-t", "ed25519")
        with serve(wrapper(sshd, host_keys=[(tmp_path / "other.pub").read_text()])) as client:
            assert client.run(AS_TEXT, ["-o", "StrictHostKeyChecking=no", "true"]).return_code == 255


class TestCopies:
    def test_files_and_directories_go_there_and_back(self, client: Any, tmp_path: Path) -> None:
        source, target = tmp_path / "a b", tmp_path / "on-device"
        (source / "sub").mkdir(parents=True)
        (source / "sub" / "file").write_bytes(bytes(range(256)))
        target.mkdir()

        client.put(source, f"{target}/copy", recursive=True)
        client.get(f"{target}/copy/sub/file", tmp_path / "back")

        assert (tmp_path / "back").read_bytes() == bytes(range(256))

    def test_failure_is_told_in_the_words_of_scp(self, client: Any, tmp_path: Path) -> None:
        with pytest.raises(DriverError, match=r"scp failed with exit status 1: .*No such file"):
            client.get("/nowhere/at/all", tmp_path / "x")

    def test_program_for_other_tools_reaches_the_device_by_any_name(self, client: Any) -> None:
        with client.ssh_program() as path:
            done = subprocess.run([path, "whatever", "echo in"], capture_output=True, text=True, timeout=60)
        assert done.stdout == "in\n"
        assert not path.exists()


class TestCommands:
    def run(self, client: Any, *arguments: str, capfd: Any) -> tuple[int, str, str]:
        result = CliRunner().invoke(client.cli(), list(arguments), catch_exceptions=False)
        out, err = capfd.readouterr()
        return result.exit_code, out, err + result.output

    def test_exit_status_is_that_of_the_command(self, client: Any, capfd: Any) -> None:
        assert self.run(client, "echo hello; exit 42", capfd=capfd)[:2] == (42, "hello\n")

    def test_direct_and_options_of_ssh(self, client: Any, capfd: Any) -> None:
        assert self.run(client, "--direct", "-T", "echo", "-n", "hello", capfd=capfd)[:2] == (0, "hello")

    def test_own_ssh_command_replaces_that_of_the_exporter(self, sshd: SshServer, capfd: Any) -> None:
        driver = wrapper(sshd, ssh_command="ssh -o ProxyCommand=false")
        with serve(driver) as client:
            with pytest.raises(UnsafeCommand, match="would act on this machine: -o ProxyCommand"):
                client.run(AS_TEXT, ["true"])
            own = "ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
            assert self.run(client, "--ssh-command", own, "echo in", capfd=capfd)[:2] == (0, "in\n")

    def test_scp_takes_paths_of_the_device_with_a_colon(self, client: Any, capfd: Any, tmp_path: Path) -> None:
        (tmp_path / "here").write_text("data")

        assert self.run(client, "--scp", "-q", str(tmp_path / "here"), f":{tmp_path}/there", capfd=capfd)[0] == 0
        assert (tmp_path / "there").read_text() == "data"
        assert self.run(client, "--scp", ":/nowhere", str(tmp_path), capfd=capfd)[0] == 1

    def test_sftp_works_in_batches(self, client: Any, capfd: Any, tmp_path: Path) -> None:
        (tmp_path / "batch").write_text(f"put {tmp_path}/batch {tmp_path}/there\n")

        assert self.run(client, "--sftp", "-b", str(tmp_path / "batch"), capfd=capfd)[0] == 0
        assert (tmp_path / "there").exists()

    @pytest.mark.need("rsync")
    def test_rsync_copies_a_tree(self, client: Any, capfd: Any, tmp_path: Path) -> None:
        (tmp_path / "tree" / "sub").mkdir(parents=True)
        (tmp_path / "tree" / "sub" / "file").write_text("data")

        assert self.run(client, "--rsync", "-a", f"{tmp_path}/tree/", f":{tmp_path}/copy", capfd=capfd)[0] == 0
        assert (tmp_path / "copy" / "sub" / "file").read_text() == "data"


INTERACTIVE = """
import sys
from jumpstarter.common.utils import serve
from jumpstarter_driver_network.driver import TcpNetwork
from jumpstarter_driver_ssh.driver import SSHWrapper
host, port, user, key, *arguments = sys.argv[1:]
children = {"tcp": TcpNetwork(host=host, port=int(port))}
with serve(SSHWrapper(children=children, default_username=user, ssh_identity_file=key)) as client:
    client.cli().main(arguments, prog_name="ssh")
"""


@pytest.fixture
def terminal(sshd: SshServer, tmp_path: Path) -> Iterator[Callable[..., pexpect.spawn]]:
    """Run `j ssh` in a terminal of its own."""
    script = tmp_path / "ssh.py"
    script.write_text(INTERACTIVE)
    started: list[pexpect.spawn] = []

    def start(*arguments: str, **options: Any) -> pexpect.spawn:
        words = [str(script), sshd.host, str(sshd.port), sshd.user, str(sshd.key), *arguments]
        started.append(pexpect.spawn(sys.executable, words, timeout=60, encoding="utf-8", **options))
        return started[-1]

    yield start
    for each in started:
        each.close(force=True)


class TestTerminal:
    def test_shell_has_a_terminal_of_the_right_size(self, terminal: Callable[..., pexpect.spawn]) -> None:
        shell = terminal(dimensions=(31, 97))
        shell.sendline("exec sh")
        shell.sendline("PS1='ready'; stty size; test -t 0 && echo ter''minal")
        shell.expect_exact("31 97")
        shell.expect_exact("terminal")
        shell.expect_exact("ready")
        shell.setwinsize(41, 107)
        shell.sendline("stty size")
        shell.expect_exact("41 107")
        shell.sendline("exit 5")
        shell.expect(pexpect.EOF)
        shell.close()
        assert shell.exitstatus == 5

    def test_interrupt_goes_to_the_command_on_the_device(self, terminal: Callable[..., pexpect.spawn]) -> None:
        shell = terminal("-tt", "trap 'echo interr''upted; exit 9' INT; echo read''y; while :; do sleep 0.1; done")
        shell.expect_exact("ready")
        shell.sendintr()
        shell.expect_exact("interrupted")
        shell.expect(pexpect.EOF)
        shell.close()
        assert shell.exitstatus == 9


# -- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"children": {}}, "'tcp' child is required via ref, or directly as a TcpNetwork driver instance"),
        ({"ssh_identity": "x", "ssh_identity_file": "y"}, "Cannot specify both ssh_identity and ssh_identity_file"),
        ({"ssh_identity_file": "/nowhere/key"}, "Failed to read ssh_identity_file '/nowhere/key': No such file"),
        ({"ssh_identity_file": "/bin/true"}, "Failed to read ssh_identity_file '/bin/true': it is no text"),
        ({"ssh_identity": "hunter2"}, "ssh_identity holds no private key"),
        ({"ssh_command": ""}, "ssh_command must be a command line"),
        ({"host_keys": ["a\nb"]}, "is no public key"),
        ({"host_keys": [5]}, "is no public key"),
        ({"host_keys": 5}, "host_keys must be a list"),
        ({"default_username": 5}, "default_username must be text"),
    ],
)
def test_bad_configuration_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)) as caught:
        SSHWrapper(**({"children": tcp()} | config))
    assert "hunter2" not in str(caught.value)


def test_key_with_a_passphrase_is_refused_when_the_config_is_read(tmp_path: Path) -> None:
    generate(tmp_path / "key", "-t", "ed25519", passphrase="secret")

    with pytest.raises(ConfigurationError, match="protected by a passphrase"):
        SSHWrapper(children=tcp(), ssh_identity_file=str(tmp_path / "key"))


def test_secrets_are_not_in_the_representation() -> None:
    driver = SSHWrapper(
        children=tcp(), ssh_identity="-----BEGIN RSA PRIVATE KEY-----\nx\n-----END RSA PRIVATE KEY-----"
    )
    assert "PRIVATE" not in repr(driver)


class Hostile(SSHWrapper):
    """An exporter that wants clients to run its commands."""

    answer: Any = ""

    @export
    async def get_ssh_command(self) -> str:
        return str(self.answer)


@pytest.mark.parametrize("command", ["touch {}", "ssh -o ProxyCommand='touch {}'", "ssh -o 'LocalCommand touch {}'"])
def test_exporter_can_not_have_the_client_run_programs(command: str, tmp_path: Path) -> None:
    driver = Hostile(children=tcp())
    driver.answer = command.format(tmp_path / "owned")
    with serve(driver) as client, pytest.raises(UnsafeCommand):
        client.run(AS_TEXT, ["true"])

    assert not (tmp_path / "owned").exists()


def test_example_of_the_readme_loads(tmp_path: Path) -> None:
    from jumpstarter.config.exporter import ExporterConfigV1Alpha1

    generate(tmp_path / "key", "-t", "ed25519")
    readme = Path(__file__).parent.parent / "README.md"
    example = re.search(r"```yaml\n(apiVersion.*?)```", readme.read_text(), re.DOTALL)
    assert example is not None
    path = tmp_path / "exporter.yaml"
    path.write_text(example[1].replace("/etc/jumpstarter/board.key", str(tmp_path / "key")))

    root = ExporterConfigV1Alpha1.load_path(path).instantiate()

    assert isinstance(root.children["ssh"], SSHWrapper)


def test_client_module_imports_nothing_heavy() -> None:
    heavy = {"anyio", "pydantic", "grpc", "paramiko", "fabric", "cryptography", "aiohttp"}
    code = f"import sys, jumpstarter_driver_ssh.client; print(*({heavy!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == []
