"""The places of `jmp controller` and `jmp router`: the commands of the server package, or a word on how to get them."""

from __future__ import annotations

from .extension import extension, missing

DISTRIBUTION = "jumpstarter-controller"

controller = extension(
    "jumpstarter_controller.cli:controller", missing("controller", DISTRIBUTION, "Run the server of a lab.")
)
router = extension("jumpstarter_controller.cli:router", missing("router", DISTRIBUTION, "Run a router of a lab."))
