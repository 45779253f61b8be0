"""Opening a page in the user's browser, where there is one to open."""

from __future__ import annotations

import os
import sys


def open_page(url: str) -> bool:
    """Open `url` in the user's browser; return False where there is no desktop to show it on.

    A browser that runs inside the terminal is not one: it would take the terminal away from the command.
    """
    import webbrowser

    if sys.platform.startswith("linux") and not {"BROWSER", "DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        return False
    try:
        return webbrowser.open(url)
    except webbrowser.Error:
        return False
