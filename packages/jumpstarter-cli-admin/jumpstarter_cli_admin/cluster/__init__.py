"""Administration of a lab in a cluster, through its custom resources: with our controller, and with published ones."""

from __future__ import annotations
