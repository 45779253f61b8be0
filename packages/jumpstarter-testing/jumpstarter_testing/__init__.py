"""pytest support for tests that drive devices through Jumpstarter."""

from jumpstarter_testing.eventually import eventually
from jumpstarter_testing.pytest import JumpstarterTest

__all__ = ["JumpstarterTest", "eventually"]
