"""`jmp driver`: the drivers that are installed, what they need, and the start of a new one."""

from .driver import driver

__all__ = ["driver"]
