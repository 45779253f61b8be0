"""Text of a terminal: what a console sends, without what only a screen needs."""

from __future__ import annotations

import codecs
import re

# ECMA-48: control sequences, operating system commands, and other escapes; an ESC that begins none is left alone.
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-Z\\^-~])")
_OPEN_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]{0,200}\x1b?|[ -/]*)\Z")
_LINE_END = re.compile(r"\r+\n")
_ERASED = re.compile(r"[^\n\x08]\x08")
_INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


class Cleaner:
    """Turns the bytes of a console into text piece by piece: UTF-8, `\\n` as line end, no escape sequences."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, data: bytes | str) -> str:
        """Return the text of the next piece; what may go on in the piece after it is kept back."""
        text = self._rest + (data if isinstance(data, str) else self._decoder.decode(data))
        self._rest = ""
        if (begun := _OPEN_ESCAPE.search(text)) is not None:
            text, self._rest = text[: begun.start()], begun.group()
        elif text.endswith("\r"):
            stripped = text.rstrip("\r")
            text, self._rest = stripped, text[len(stripped) :]
        return _LINE_END.sub("\n", _ESCAPE.sub("", text)).replace("\x00", "")


def lines_of(text: str) -> list[str]:
    """Return the lines of cleaned text as a terminal would show them; a last line that is empty is none."""
    while _ERASED.search(text):
        text = _ERASED.sub("", text)
    lines = [_INVISIBLE.sub("", line.rstrip("\r").rpartition("\r")[2]) for line in text.split("\n")]
    if lines and not lines[-1]:
        lines.pop()
    return lines


def matched(typed: str, echo: str) -> int:
    """Return how many characters of `typed`, from its beginning, `echo` holds in their order.

    A console may print something else in between: the wrap of a long line, or a message of the kernel.
    """
    position = 0
    for count, character in enumerate(typed):
        position = echo.find(character, position) + 1
        if position == 0:
            return count
    return len(typed)
