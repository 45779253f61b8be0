"""What all tests of the lab share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest


@pytest.fixture(scope="session")
async def one_loop() -> AsyncIterator[None]:
    """Have all tests after this one use the same event loop.

    grpc.aio hands the end of a cancelled call to whichever loop runs next, which fails when the call's own is closed.
    """
    yield  # noqa: PT022 (the loop is kept as long as this fixture is)
