"""A client class that says so when it is imported, which must not happen where it is not allowed."""

import os
from pathlib import Path

from jumpstarter.client import DriverClient

Path(os.environ["FOREIGN_MARK"]).touch()


class ForeignClient(DriverClient):
    """Does nothing."""
