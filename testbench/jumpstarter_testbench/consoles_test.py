"""Pages that people follow at a terminal."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from jumpstarter_testbench.consoles import Carried, PageError, Stage, Typed, Written, pattern, read_page

ENV = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TERM": "xterm"}


def console(text: str, note: str = "") -> str:
    return (f"<!-- {note} -->\n" if note else "") + f"```console\n{text}```\n"


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path, {"here": [], "there": []}, ENV, replace={"192.168.7.10": "127.0.0.2"})


def test_each_prompt_of_a_page_is_something_that_is_typed() -> None:
    page = "Text.\n\n" + console("al@here$ echo a \\\n    b\na b\nal@here:2 ⚡$ cat\n^C\n^C\n", "goes on")

    assert read_page(page) == [
        Typed("al@here", "echo a b", 6, shown=("a b",)),
        Typed("al@here:2", "cat", 8),
        Typed("al@here:2", "^C", 9, keys=True),
        Typed("al@here:2", "^C", 10, keys=True, goes_on=True),
    ]


def test_files_are_written_and_carried() -> None:
    page = "<!-- al@here: a.py -->\n```python\nimport this\n```\n<!-- carried: al@here a.py to bo@there b/a.py -->\n"

    assert read_page(page) == [
        Written("al@here", "a.py", "import this\n"),
        Carried("al@here", "a.py", "bo@there", "b/a.py"),
    ]


def test_a_block_that_does_not_say_who_types_it_is_a_mistake() -> None:
    with pytest.raises(PageError, match="line 2: '\\$ true' has no prompt"):
        read_page(console("$ true\n"))


@pytest.mark.parametrize(
    ("shown", "text", "matches"),
    [
        (["a.b"], "a.b\n", True),
        (["a.b"], "axb\n", False),
        (["a.b"], "a.b\nmore\n", False),
        (["took … s"], "took 3.5 s\n", True),
        (["took … s"], "took 3.5 m\n", False),
        (["a", "…", "b"], "a\nb\n", True),
        (["a", "…", "b"], "a\n1\n2\nb\n", True),
        (["a", "…", "b"], "a\n1\n2\n", False),
        (["NAME  AGE", "x     …"], "NAME         AGE\nx            3s\n", True),
        ([], "", True),
        ([], "surprise\n", False),
    ],
)
def test_only_what_is_elided_may_differ(shown: list[str], text: str, matches: bool) -> None:
    assert (re.fullmatch(pattern(shown), text) is not None) is matches


def test_a_page_that_is_true_is_performed(stage: Stage, tmp_path: Path) -> None:
    stage.perform(
        console("al@here$ X=5\nal@here$ pwd\n/home/al\nal@here$ echo $USER 192.168.7.10\nal 192.168.7.10\n")
        + "<!-- al@here: a -->\n```text\n192.168.7.10\n```\n<!-- carried: al@here a to bo@there b/c -->\n"
        + console("bo@there$ cat b/c\n192.168.7.10\nal@here$ echo $X\n5\nal@here:2$ echo ${X-none}\nnone\n")
    )

    assert (tmp_path / "bo@there" / "b" / "c").read_text() == "127.0.0.2\n"


def test_what_goes_on_can_be_asked_and_stopped(stage: Stage) -> None:
    stage.perform(
        console("al@here$ echo ready; cat\nready\n", "goes on")
        + console("al@here:2$ true\nal@here$ ^C\n…\nal@here$ read -p 'Password: ' it; echo so $it\nPassword: x\nso x\n")
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("al@here$ echo 1\n2\n", r"doesn't show what line 2 shows:\n2\nbut:\n1"),
        ("al@here$ echo 1\n", r"doesn't show"),
        ("al@here$ false\n", r"line 2: 'false' ends with status 1"),
        ("al@here$ echo Error: no\nError: no\n", r"ends with status 0"),
    ],
)
def test_a_page_that_is_not_true_is_told(stage: Stage, text: str, message: str) -> None:
    with pytest.raises(PageError, match=message):
        stage.perform(console(text))


def test_what_a_page_leaves_behind_is_ended(stage: Stage, tmp_path: Path) -> None:
    stage.perform(
        console("al@here$ nohup sleep 600 > out & echo $! > pid\n…\nal@here$ trap '' HUP; sleep 601\n", "goes on")
    )

    pid = (tmp_path / "al@here" / "pid").read_text().strip()
    status = Path(f"/proc/{pid}/status")
    assert not status.exists() or "State:\tZ" in status.read_text()
