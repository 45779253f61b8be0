"""The U-Boot driver: it says how the boot loader is met; the conversation itself is the client's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jumpstarter.driver import Driver, export

from .common import ESC


@dataclass(kw_only=True)
class UbootConsole(Driver):
    """The console of U-Boot on a board with the children `power` and `serial`.

    Raises:
        ValueError: a child is missing, or a setting can't be used.
    """

    driver_type: ClassVar[str] = "console"

    prompt: str = "\n=>"
    """The end of the prompt; `=>` and `U-Boot>` are known anyway."""
    interrupt: str = ESC
    """What is sent to stop autoboot: a key, or the string and password that the board wants."""
    interrupt_after: str | None = None
    """Text that the board must have shown before `interrupt` is sent; None sends it from the power-on."""
    boot_timeout: float | None = None
    """Seconds that the board may take from power-on to the prompt; None leaves it to the client's `retries`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, example in (("power", "board.power"), ("serial", "board.serial")):
            if name not in self.children:
                raise ValueError(
                    f"UbootConsole needs a child {name!r}, such as 'children: {{{name}: {{ref: {example}}}}}'"
                )
        for key in ("prompt", "interrupt"):
            value = getattr(self, key)
            if not isinstance(value, str) or not value.strip("\r\n "):
                if key == "interrupt" and isinstance(value, str) and value:
                    continue  # Space and Enter are keys too.
                raise ValueError(f"UbootConsole: {key} must be a text that is not empty, not {value!r}")
        if self.interrupt_after is not None and (
            not isinstance(self.interrupt_after, str) or not self.interrupt_after.strip()
        ):
            raise ValueError(f"UbootConsole: interrupt_after must be a text, not {self.interrupt_after!r}")
        limit = self.boot_timeout
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float) or limit <= 0):
            raise ValueError(f"UbootConsole: boot_timeout must be a number of seconds above 0, not {limit!r}")

    @classmethod
    def client(cls) -> str:
        """Return the dotted path of the client class."""
        return "jumpstarter_driver_uboot.client.UbootConsoleClient"

    @export
    def get_prompt(self) -> str:
        """Return the prompt to expect."""
        return self.prompt

    @export
    def get_boot_settings(self) -> dict[str, Any]:
        """Return how autoboot is stopped: `interrupt`, `interrupt_after` and `boot_timeout`."""
        return {
            "interrupt": self.interrupt,
            "interrupt_after": self.interrupt_after,
            "boot_timeout": self.boot_timeout,
        }
