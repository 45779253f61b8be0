import os
import socket
import subprocess
import sys

import pytest

from jumpstarter_testbench.process import Process, ProcessError, accepts, python_program, running, running_on_free_port

SERVER = """
import socket, sys, time
print("about to listen", flush=True)
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    listener.accept()
"""


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def test_a_server_answers_inside_the_block_and_is_gone_after_it(tmp_path):
    with running_on_free_port(
        lambda port: python(SERVER, str(port)), log=tmp_path / "log", ready=lambda port: accepts("127.0.0.1", port)
    ) as port:
        assert accepts("127.0.0.1", port)

    with pytest.raises(ConnectionRefusedError):
        accepts("127.0.0.1", port)


def test_the_log_is_kept(tmp_path):
    with running(python("print('hello'); input()"), log=tmp_path / "log", ready=lambda: True) as process:
        process.wait(10)

    assert "hello" in (tmp_path / "log").read_text()


def test_a_program_that_dies_shows_its_exit_code_and_its_log(tmp_path):
    with (
        pytest.raises(ProcessError, match=r"(?s)ended with exit code 3 before it was ready.*no such disk"),
        running(python("import sys; print('no such disk'); sys.exit(3)"), log=tmp_path / "log", ready=lambda: False),
    ):
        pytest.fail("the block must not run")


def test_a_program_that_never_answers_is_stopped_and_named(tmp_path):
    log = tmp_path / "log"
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with (
        pytest.raises(ProcessError, match=r"was not ready after 0\.5 s"),
        running(python(code), log=log, ready=lambda: False, timeout=0.5),
    ):
        pytest.fail("the block must not run")

    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)


def test_a_taken_port_costs_an_attempt_and_not_the_test(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports: list[int] = []

        def command(port: int) -> list[str]:
            ports.append(port)
            return python(SERVER, str(taken.getsockname()[1] if len(ports) == 1 else port))

        with running_on_free_port(
            command,
            log=tmp_path / "log",
            ready=lambda port: len(ports) > 1 and accepts("127.0.0.1", port),
        ) as port:
            assert port == ports[1]
            assert "Address already in use" in (tmp_path / "log").read_text()


def test_a_program_that_ignores_sigterm_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("jumpstarter_testbench.process.STOP_TIMEOUT", 0.2)
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    log = tmp_path / "log"
    process = Process(python(code), log=log)
    process.wait_until(lambda: "deaf" in log.read_text())

    assert process.stop() == -9
    assert not process.running()


def test_a_program_in_python_runs_from_a_folder_with_a_blank_and_takes_arguments(tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir()
    program = python_program(folder / "tool", "import sys; print(sys.argv[1:], sys.executable)")

    finished = subprocess.run([program, "one", "t wo"], capture_output=True, text=True, timeout=30)

    assert finished.stdout == f"['one', 't wo'] {sys.executable}\n"
