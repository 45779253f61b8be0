"""What is known of the lease that an exporter serves at present."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anyio import Event

from jumpstarter.common.enums import ExporterStatus

if TYPE_CHECKING:
    from .session import Session


@dataclass
class LeaseContext:
    """One lease, from its grant until its session is closed.

    Raises:
        AssertionError: the lease has no name.
    """

    lease_name: str
    before_lease_hook: Event
    """Set when clients are let in: the hook before the lease is over, whether it passed or failed."""
    end_session_requested: Event = field(default_factory=Event)
    """Set when the client said that it is done."""
    after_lease_hook_started: Event = field(default_factory=Event)
    after_lease_hook_done: Event = field(default_factory=Event)
    """Set when the hook after the lease is over, or when there is none to run."""
    lease_ended: Event = field(default_factory=Event)
    """Set when the controller took the lease away."""
    session: Session | None = None
    socket_path: str = ""
    """Unix socket for clients."""
    hook_socket_path: str = ""
    """Unix socket for hooks, which may use the drivers when clients may not."""
    client_name: str = ""
    current_status: ExporterStatus = ExporterStatus.AVAILABLE
    status_message: str = ""
    skip_after_lease_hook: bool = False

    def __post_init__(self) -> None:
        if not self.lease_name:
            raise AssertionError("a LeaseContext needs a non-empty lease_name")

    def is_ready(self) -> bool:
        """Tell whether there is a session that serves the lease."""
        return self.session is not None and bool(self.socket_path)

    def is_active(self) -> bool:
        """Tell whether the controller still grants the lease."""
        return not self.lease_ended.is_set()

    def has_client(self) -> bool:
        """Tell whether it is known who holds the lease."""
        return bool(self.client_name)

    def update_client(self, client_name: str) -> None:
        """Note who holds the lease; it may be handed over to another client."""
        self.client_name = client_name

    def clear_client(self) -> None:
        """Forget who held the lease."""
        self.client_name = ""

    def update_status(self, status: ExporterStatus, message: str = "") -> None:
        """Set the status here and in the session, whose clients see it."""
        self.current_status = status
        self.status_message = message
        if self.session is not None:
            self.session.update_status(status, message)

    def drivers_ready(self) -> bool:
        """Tell whether clients are let in."""
        return self.before_lease_hook.is_set()

    async def wait_for_drivers(self) -> None:
        """Wait until clients are let in."""
        await self.before_lease_hook.wait()
