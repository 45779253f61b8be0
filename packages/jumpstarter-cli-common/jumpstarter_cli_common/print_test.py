"""Tables and machine formats."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, Field

from .opt import OutputMode
from .print import model_print
from .table import Table, make_table

LONG = "x" * 300


class Item(BaseModel):
    name: str
    text: str = Field(alias="longText", default="")


class Items(BaseModel):
    items: list[Item]

    def rich_add_columns(self, table: Any, wide: bool = False) -> None:
        for title in ("NAME", "TEXT", *(("MORE",) if wide else ())):
            table.add_column(title, no_wrap=True)

    def rich_add_rows(self, table: Any, wide: bool = False) -> None:
        for item in self.items:
            table.add_row(item.name, item.text, *(("more",) if wide else ()))

    def rich_add_names(self, names: list[str]) -> None:
        names.extend(item.name for item in self.items)


ITEMS = Items(items=[Item(name="a", longText="[bold]x[/bold]"), Item(name="bb", longText=LONG)])


def test_the_table_of_two_columns() -> None:
    assert make_table(["TEST", "HELLO"], [{"TEST": "123456", "HELLO": "There"}]) == "TEST    HELLO\n123456  There\n"


def test_missing_keys_and_none_are_empty_cells() -> None:
    assert make_table(["A", "B"], [{"A": None}, {"A": 1, "B": 2}]) == "A  B\n\n1  2\n"


def test_wide_characters_count_twice() -> None:
    assert make_table(["A", "B"], [{"A": "日本", "B": "x"}]) == "A     B\n日本  x\n"


def test_cells_cannot_break_the_table_or_the_terminal() -> None:
    table = Table()
    table.add_column("A")
    table.add_row("a\nb\x1b[31m")
    assert str(table) == "A\na b [31m\n"


def test_nothing_is_folded_cut_or_taken_for_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    model_print(ITEMS, None)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["NAME  TEXT", "a     [bold]x[/bold]", f"bb    {LONG}"]


def test_wide_output_has_more_columns(capsys: pytest.CaptureFixture[str]) -> None:
    model_print(ITEMS, OutputMode.WIDE)
    assert capsys.readouterr().out.splitlines()[0].split() == ["NAME", "TEXT", "MORE"]


@pytest.mark.parametrize("columns", ["20", "1024"])
def test_machine_formats_do_not_depend_on_the_terminal(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    expected = ITEMS.model_dump(by_alias=True)
    model_print(ITEMS, OutputMode.JSON)
    text = capsys.readouterr().out
    assert json.loads(text) == expected
    assert text == json.dumps(expected, indent=4) + "\n"
    model_print(ITEMS, OutputMode.YAML)
    assert yaml.safe_load(capsys.readouterr().out) == expected


def test_names_are_one_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    model_print(ITEMS, OutputMode.NAME)
    assert capsys.readouterr().out == "a\nbb\n"


def test_an_empty_list_has_its_header_on_stdout_and_a_word_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    model_print(Items(items=[]), None)
    assert capsys.readouterr() == ("NAME  TEXT\n", "No resources found.\n")
    model_print(Items(items=[]), None, namespace="lab")
    assert capsys.readouterr().err == "No resources found in lab namespace.\n"


def test_a_model_without_the_hook_is_an_error() -> None:
    with pytest.raises(NotImplementedError, match="Item can't be printed in this format"):
        model_print(Item(name="a"), OutputMode.NAME)


def test_a_model_dumps_itself_when_it_can(capsys: pytest.CaptureFixture[str]) -> None:
    class Own:
        def dump_json(self) -> str:
            return '{"own": 1}'

    model_print(Own(), OutputMode.JSON)
    assert capsys.readouterr().out == '{"own": 1}\n'
