"""Comparing what commands print for programs, for tests of those who build upon them."""

from __future__ import annotations

import json
from typing import Any


def json_equal(a: str, b: str) -> bool:
    """Tell whether two texts are the same JSON; a JSON text inside of a JSON string counts as what it means."""
    try:
        return bool(_parsed(a) == _parsed(b))
    except ValueError:
        return False


def _parsed(text: str) -> Any:
    value = json.loads(text)
    return json.loads(value) if isinstance(value, str) else value
