"""Which release of the published controller goes with a client."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from .exceptions import JumpstarterKubernetesError

TAGS_URL = "https://quay.io/api/v1/repository/jumpstarter-dev/jumpstarter-operator/tag/"
"""Where the published releases are listed."""

MOST_PAGES = 20
TIMEOUT = 30.0
"""Seconds for one page."""

_SEMVER = re.compile(
    r"v?(\d+)\.(\d+)\.(\d+)(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)


class _Version(NamedTuple):
    """A semantic version, in an order in which newer ones are greater."""

    numbers: tuple[int, int, int]
    released: bool
    """Candidates come before what they are candidates of."""
    candidate: tuple[tuple[int, int, str], ...]


def _parse(text: str) -> _Version | None:
    found = _SEMVER.fullmatch(text)
    if found is None:
        return None
    parts = (found[4] or "").split(".") if found[4] else []
    candidate = tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)
    return _Version((int(found[1]), int(found[2]), int(found[3])), not candidate, candidate)


async def get_latest_compatible_controller_version(client_version: str | None) -> str:
    """Return the tag of the newest controller of the same major and minor version; else of the newest one of all.

    Args:
        client_version: None for the newest one.

    Raises:
        JumpstarterKubernetesError: the releases can't be looked up, or none is there.
    """
    client = None
    if client_version is not None:
        # Versions of Python packages such as 0.9.0rc1 count by their numbers.
        numbers = re.match(r"v?(\d+)\.(\d+)", client_version)
        if numbers is None:
            raise JumpstarterKubernetesError(f"Invalid client version {client_version!r}: it has no major.minor")
        client = int(numbers[1]), int(numbers[2])
    known = {tag: version for tag in await _tags() if (version := _parse(tag)) is not None}
    if not known:
        raise JumpstarterKubernetesError(f"No valid controller versions found at {TAGS_URL}")
    fitting = [tag for tag, version in known.items() if version.numbers[:2] == client]
    return max(fitting or known, key=lambda tag: known[tag])


async def _tags() -> list[str]:
    import aiohttp

    tags: list[str] = []
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    try:
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            for page in range(1, MOST_PAGES + 1):
                url = TAGS_URL if page == 1 else f"{TAGS_URL}?page={page}"
                async with session.get(url, timeout=timeout) as response:
                    answer = await response.json()
                tags += _names(answer)
                if answer.get("has_additional") is not True:
                    break
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise JumpstarterKubernetesError(
            f"Failed to fetch controller versions from {TAGS_URL}: {error or type(error).__name__}"
        ) from None
    return tags


def _names(answer: Any) -> list[str]:
    if not isinstance(answer, dict) or not isinstance(answer.get("tags"), list):
        raise JumpstarterKubernetesError(f"Unexpected response fetching controller versions from {TAGS_URL}")
    return [tag["name"] for tag in answer["tags"] if isinstance(tag, dict) and isinstance(tag.get("name"), str)]
