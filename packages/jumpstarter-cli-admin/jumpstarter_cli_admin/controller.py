"""Which published controller goes with a client; the place where older scripts look for that."""

from __future__ import annotations


async def get_latest_compatible_controller_version(client_version: str | None = None) -> str:
    """Return the tag of the newest controller of the same major and minor version; else of the newest one of all.

    Raises:
        JumpstarterKubernetesError: the releases can't be looked up, or none is there.
    """
    from jumpstarter_kubernetes import controller

    return await controller.get_latest_compatible_controller_version(client_version)
