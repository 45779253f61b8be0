"""What the API classes share."""

from __future__ import annotations

from .async_custom_object_api import CA_CONFIGMAP_NAME, AbstractAsyncCustomObjectApi

__all__ = ["CA_CONFIGMAP_NAME", "AbstractAsyncCustomObjectApi"]
