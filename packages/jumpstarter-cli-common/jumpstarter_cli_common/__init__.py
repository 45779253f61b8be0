"""What the commands share: options, output, errors. Import the module that you need; this package loads none."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from .version import get_client_version

        return get_client_version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
