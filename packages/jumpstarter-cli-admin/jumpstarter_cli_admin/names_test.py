"""Names that scripts of others import."""

from __future__ import annotations

import pytest
from jumpstarter_kubernetes import controller as releases
from jumpstarter_kubernetes.exceptions import JumpstarterKubernetesError

from .controller import get_latest_compatible_controller_version
from .test_utils import json_equal


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ('{"a": 1, "b": 2}', '{"b":2,"a":1}', True),
        ('{"a": 1}', '{"a": 2}', False),
        ('"{\\"a\\": 1}"', '{"a": 1}', True),
        ("no json", "no json", False),
    ],
)
def test_json_is_compared_by_what_it_means(a: str, b: str, same: bool) -> None:
    assert json_equal(a, b) is same


async def test_without_a_client_version_releases_are_looked_up(
    monkeypatch: pytest.MonkeyPatch, free_tcp_port: int
) -> None:
    monkeypatch.setattr(releases, "TAGS_URL", f"http://127.0.0.1:{free_tcp_port}/tag/")
    with pytest.raises(JumpstarterKubernetesError, match="Failed to fetch controller versions"):
        await get_latest_compatible_controller_version()
