"""What a user sees of ./dev."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from devtasks import demo, faults, suite
from devtasks.base import CommandFailed, run_beside

ROOT = Path(__file__).resolve().parent.parent.parent


def dev(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "dev"), *arguments],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_alone_it_lists_what_it_can_do():
    finished = dev()

    assert finished.returncode == 0
    for task in ("demo", "test", "lint", "types", "docs", "bench", "faults", "setup", "lock", "clean"):
        assert f"\n  {task} " in finished.stdout


def test_an_unknown_task_is_wrong_usage():
    finished = dev("no-such-task")

    assert finished.returncode == 2
    assert "no-such-task" in finished.stderr


def test_without_any_python_it_says_what_to_install(tmp_path):
    for name in ("dirname", "sh"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")

    finished = dev(PATH=str(tmp_path))

    assert finished.returncode == 1
    assert "no Python 3.11 or newer found" in finished.stderr


@pytest.fixture
def commands(monkeypatch):
    """What the task would run, without running it."""
    seen: list[list[str]] = []
    monkeypatch.delenv("JMP_REQUIRE_REAL", raising=False)
    for module in (suite, demo, faults):
        monkeypatch.setattr(module, "setup", lambda: None)
        monkeypatch.setattr(module, "run", lambda command, **_: seen.append([str(part) for part in command]))
    monkeypatch.setattr(suite, "run_beside", lambda *both: [suite.run(command) for command in both] and [])
    for module in (suite, demo):
        monkeypatch.setattr(module.debian, "provide_packages", lambda missing, purpose, required=False: None)
    return seen


def test_the_everyday_tests_leave_out_the_slow_and_the_interop_ones(commands):
    suite.task_test(["packages/jumpstarter"])

    assert commands[0][1:] == ["-m", "pytest", "-m", suite.EVERYDAY, "packages/jumpstarter"]


def test_the_tests_of_a_mark_run_on_request(commands):
    suite.task_test(["-m", "daemon"])

    assert [command[1:] for command in commands] == [["-m", "pytest", "-m", "daemon"]]


def test_all_tests_run_on_request(commands):
    suite.task_test(["--all"])

    assert [command[4] for command in commands] == [f"({part[1]})" for part in suite.PARTS]


def test_all_tests_run_where_real_components_are_required(commands, monkeypatch):
    monkeypatch.setenv("JMP_REQUIRE_REAL", "1")

    suite.task_test([])

    assert [command[4] for command in commands] == [f"({part[1]})" for part in suite.PARTS]


def test_the_everyday_tests_run_in_the_same_parts(commands):
    suite.task_test([])

    assert [command[4] for command in commands] == [f"({part[1]}) and {suite.EVERYDAY}" for part in suite.PARTS]


def test_tests_that_failed_run_once_more_alone_and_other_failures_stay(commands, monkeypatch):
    codes = iter((0, 0, 1))

    def beside(*all_parts):
        return [CommandFailed(command, code) for command in all_parts if (code := next(codes))]

    monkeypatch.setattr(suite, "run_beside", beside)
    suite.task_test(["--all"])
    assert [command[4] for command in commands] == [f"({suite.WAITING})"]
    assert "--last-failed" in commands[0]

    codes = iter((2, 0, 0))
    with pytest.raises(CommandFailed, match="exit code 2"):
        suite.task_test(["--all"])


def test_both_of_two_commands_run_to_their_end_and_the_second_is_shown_after_the_first(capfd):
    def printing(text, code):
        return [sys.executable, "-c", f"print({text!r}); raise SystemExit({code})"]

    assert [failure.code for failure in run_beside(printing("one", 3), printing("two", 0))] == [3]
    assert [failure.code for failure in run_beside(printing("three", 5), printing("four", 4))] == [5, 4]
    assert [failure.code for failure in run_beside(*(printing(text, 1) for text in "abc"))] == [1, 1, 1]
    assert run_beside(printing("five", 0), printing("six", 0)) == []

    expected = ["one", "two", "three", "four", "five", "six"]
    assert [line for line in capfd.readouterr().out.splitlines() if line in expected] == expected


def test_faults_are_thrown_with_a_seed_that_is_told(commands, capsys):
    faults.task_faults(["--rounds", "3", "--seed", "7", "-x"])

    assert commands[0][1:] == ["-m", "pytest", str(ROOT / "faults"), "-k", "random", "-x"]
    assert "./dev faults --rounds 3 --seed 7" in capsys.readouterr().out


def test_the_whole_table_of_faults_runs_on_request(commands):
    faults.task_faults(["--table"])

    assert commands[0][1:] == ["-m", "pytest", str(ROOT / "faults")]


def test_the_demo_hands_the_scenario_its_folder_and_its_options(commands, monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "_missing", lambda: [])
    target = tmp_path / "my artifacts"

    demo.task_demo(["--artifacts", str(target), "-k", "boots"])

    assert commands[0][1:] == [str(demo.SCENARIO), "--artifacts", str(target), "-k", "boots"]
    assert target.is_dir()


def test_without_qemu_the_demo_says_so_and_shows_what_works(commands, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo, "_missing", lambda: ["qemu-system-x86_64"])

    demo.task_demo(["--artifacts", str(tmp_path)])

    assert "needs qemu-system-x86_64" in capsys.readouterr().out
    assert str(demo.FALLBACK) in commands[0]
    assert str(tmp_path / "junit.xml") in commands[0]


def test_files_in_a_folder_of_the_users_choice_are_not_removed(commands, tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("mine")

    demo.task_demo(["--artifacts", str(tmp_path)])

    assert kept.read_text() == "mine"


@pytest.mark.device
@pytest.mark.need(*demo.NEEDED)
def test_the_virtual_board_passes_its_test_and_leaves_its_records(tmp_path):
    finished = subprocess.run(
        [sys.executable, str(demo.SCENARIO), "--artifacts", str(tmp_path)], capture_output=True, text=True, timeout=110
    )

    assert finished.returncode == 0, finished.stdout + finished.stderr
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    assert int(suite.attrib["tests"]) >= 8
    assert suite.attrib["failures"] == suite.attrib["errors"] == suite.attrib["skipped"] == "0"
    assert "login:" in (tmp_path / "console.log").read_text()
    assert (tmp_path / "screen.png").read_bytes().startswith(b"\x89PNG")
