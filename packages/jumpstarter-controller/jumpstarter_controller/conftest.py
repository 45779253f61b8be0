"""What all tests of the lab share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from inspect import iscoroutinefunction

import pytest


@pytest.fixture(scope="session")
async def one_loop() -> AsyncIterator[None]:
    """Have all tests after this one use the same event loop.

    grpc.aio hands the end of a cancelled call to whichever loop runs next, which fails when the call's own is closed.
    """
    yield  # noqa: PT022 (the loop is kept as long as this fixture is)


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(name: str, obj: object) -> None:
    """Let every asynchronous test have that loop."""
    if name.startswith("test_") and iscoroutinefunction(obj):
        pytest.mark.usefixtures("one_loop")(obj)
