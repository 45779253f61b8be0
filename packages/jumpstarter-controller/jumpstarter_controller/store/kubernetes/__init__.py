"""A store that keeps a lab in a Kubernetes cluster, as the objects that installations of Jumpstarter have there."""

from .store import KubernetesStore

__all__ = ["KubernetesStore"]
