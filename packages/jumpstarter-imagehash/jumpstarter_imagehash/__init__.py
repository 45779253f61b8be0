"""Comparison of a device's picture with a reference, for tests."""

from jumpstarter_imagehash.comparison import ImageHash

__all__ = ["ImageHash"]
