"""Pages of lists: opaque tokens that hold the name of the last item, so that a list may change between two pages."""

from __future__ import annotations

import base64
import binascii

from ..errors import Code
from .errors import Said

LARGEST = 1000
"""Items of a page at most; a page size of 0 means all."""

_MARK = "after:"


def page_size(requested: int) -> int:
    """Return how many items a page may have; 0 for all.

    Raises:
        Refused: it is negative.
    """
    if requested < 0:
        raise Said(Code.INVALID_ARGUMENT, "INVALID_PAGE_SIZE", f"page_size {requested} is negative; 0 asks for all")
    return min(requested, LARGEST)


def token_after(last: str) -> str:
    """Return the token of the page that begins after an item."""
    return base64.urlsafe_b64encode((_MARK + last).encode()).decode().rstrip("=")


def after(token: str) -> str:
    """Return the item after which a page begins; empty for the first one.

    Raises:
        Refused: the token is none of ours.
    """
    if not token:
        return ""
    try:
        text = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        text = ""
    if not text.startswith(_MARK):
        raise Said(
            Code.INVALID_ARGUMENT,
            "INVALID_PAGE_TOKEN",
            "invalid page_token: send next_page_token of the answer before as it is, or none for the first page",
        )
    return text.removeprefix(_MARK)
