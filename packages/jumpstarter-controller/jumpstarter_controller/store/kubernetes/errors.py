"""What a cluster refuses, as errors of a store."""

from __future__ import annotations

from jumpstarter_kubernetes import exceptions as cluster_errors

from ...model.records import Key
from ..base import Conflict, Exists, Missing, StoreError, Unavailable


def translated(error: cluster_errors.ClusterError, key: Key | None = None) -> StoreError:
    """Return the store's error for one of the cluster; of a record, when a key is given."""
    if key is not None:
        match error:
            case cluster_errors.AlreadyExists():
                return Exists(key, f"{key} already exists.")
            case cluster_errors.NotFound() if error.details.get("kind") != "namespaces":
                return Missing(key, f"{key} does not exist.")
            case cluster_errors.Conflict():
                return Conflict(key, f"{key} was changed meanwhile.")
            case cluster_errors.Invalid():
                return StoreError(str(error))
            case _:
                pass
    return Unavailable(str(error))
