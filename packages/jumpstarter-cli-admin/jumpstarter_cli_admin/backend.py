"""What the commands ask of a server; each kind of server has a module that does it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from jumpstarter.client.states import LeaseState

    from .records import Account, AuditEntry, AuditQuery, Credentials, Kind, Labels, Policy, Router, Server

ALL_NAMESPACES = "-"
"""In the place of a namespace, where a list is asked for."""

ENTRY_POINTS = "jumpstarter.admin_backends"
"""Group of the entry points by which packages add servers; `kubernetes` serves `--kubeconfig` and `--context`.

The entry is a function `(kubeconfig: str | None, context: str | None) -> tuple[str, OpenBackend]`; the text is the
namespace for commands that name none. It is called anew for each connection.
"""


class Backend(Protocol):
    """An open connection to a server, as an administrator.

    Every method raises a `jumpstarter.common.exceptions.JumpstarterException` when the server can't be reached or
    refuses.
    """

    async def server(self) -> Server:
        """Return what is administered."""
        ...

    # -- accounts --------------------------------------------------------------------------------

    async def create_account(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        *,
        labels: Labels,
        username: str = "",
        token_life: timedelta | None = None,
    ) -> Credentials:
        """Make an account with a token."""
        ...

    async def get_account(self, kind: Kind, namespace: str, name: str) -> Account:
        """Return an account, an exporter with its devices."""
        ...

    async def list_accounts(
        self, kind: Kind, namespace: str, *, selector: str = "", devices: bool = False
    ) -> Sequence[Account]:
        """Return accounts by name."""
        ...

    async def update_account(
        self,
        account: Account,
        *,
        labels: Labels | None = None,
        enabled: bool | None = None,
        username: str | None = None,
    ) -> Account:
        """Change what is given; refused when the account has changed since it was read."""
        ...

    async def credentials(self, kind: Kind, namespace: str, name: str) -> Credentials:
        """Return what a peer needs to act as an account that is there; a server that keeps no tokens makes one."""
        ...

    async def delete_account(self, kind: Kind, namespace: str, name: str) -> None:
        """Remove an account; its leases end."""
        ...

    async def rotate_account(
        self, kind: Kind, namespace: str, name: str, *, token_life: timedelta | None = None, revoke_now: bool = False
    ) -> Credentials:
        """Replace the token of an account; the former one lasts a little longer, unless it is revoked."""
        ...

    # -- policies --------------------------------------------------------------------------------

    async def put_policy(self, policy: Policy, *, create: bool) -> Policy:
        """Add a policy, or replace the one of the name; a version that is given has to be the present one."""
        ...

    async def get_policy(self, namespace: str, name: str) -> Policy:
        """Return a policy."""
        ...

    async def list_policies(self, namespace: str) -> Sequence[Policy]:
        """Return policies by name."""
        ...

    async def delete_policy(self, namespace: str, name: str) -> None:
        """Remove a policy."""
        ...

    # -- leases, audit, routers ------------------------------------------------------------------

    async def get_lease(self, namespace: str, name: str) -> LeaseState:
        """Return a lease, also one that has ended."""
        ...

    async def list_leases(
        self, namespace: str, *, only_active: bool, client: str = "", exporter: str = ""
    ) -> Sequence[LeaseState]:
        """Return leases by name."""
        ...

    async def end_lease(self, namespace: str, name: str, reason: str) -> None:
        """End a lease."""
        ...

    def audit(self, namespace: str, query: AuditQuery, *, newest_first: bool) -> AsyncIterator[AuditEntry]:
        """Iterate over entries of the audit record."""
        ...

    async def list_routers(self) -> Sequence[Router]:
        """Return all routers, also those that are away."""
        ...


OpenBackend = AbstractAsyncContextManager[Backend]
