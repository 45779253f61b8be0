"""`jumpstarter.client.v1.ClientService`: exporters and leases for clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.empty_pb2 import Empty
from jumpstarter_protocol import client_pb2

from ..errors import Code
from ..identity.issuing import issue_token
from ..identity.tokens import Tokens
from ..lab import Lab, LeaseChange, LeaseRequest
from ..model.records import Exporter, Key, Kind, Lease
from . import convert, paging
from .access import parse_key
from .controller import StatusStreams, wait_given_back
from .errors import Said
from .rpc import Call

Item = TypeVar("Item", Exporter, Lease)


def page(items: Sequence[Item], size: int) -> tuple[Sequence[Item], str]:
    """Return the items of a page and the token of the next one, from items of which there may be one too many."""
    if not size or len(items) <= size:
        return items, ""
    return items[:size], paging.token_after(items[size - 1].meta.name)


@dataclass
class ClientService:
    """The rpcs of clients; each client sees all exporters and leases of its namespace, and changes its own leases."""

    lab: Lab
    messages: convert.Messages
    statuses: StatusStreams
    tokens: Tokens

    # -- exporters -------------------------------------------------------------------------------

    async def GetExporter(self, call: Call, request: Any) -> Any:
        exporter = self.lab.account(call.named)
        if not isinstance(exporter, Exporter):
            raise Said(Code.UNKNOWN, "EXPORTER_NOT_FOUND", f'exporters.jumpstarter.dev "{call.named.name}" not found')
        return self.messages.exporter(self.lab.exporter_view(exporter), hidden=request.show_hidden_labels)

    async def ListExporters(self, call: Call, request: Any) -> Any:
        selector = convert.selector_of(request.filter, "filter", Code.UNKNOWN)
        size, after = paging.page_size(request.page_size), paging.after(request.page_token)
        found: list[Exporter] = []
        for exporter in self.lab.accounts(Kind.EXPORTER, call.namespace, selector):
            if isinstance(exporter, Exporter) and exporter.meta.name > after:
                found.append(exporter)
                if size and len(found) > size:
                    break
        items, token = page(found, size)
        hidden = request.show_hidden_labels
        return client_pb2.ListExportersResponse(
            exporters=[self.messages.exporter(self.lab.exporter_view(item), hidden=hidden) for item in items],
            next_page_token=token,
        )

    # -- leases ----------------------------------------------------------------------------------

    async def GetLease(self, call: Call, request: Any) -> Any:
        return self._message(await self._lease(call.named))

    def _message(self, lease: Lease) -> client_pb2.Lease:
        return self.messages.lease(lease, self.lab.clock.now())

    async def _lease(self, key: Key) -> Lease:
        lease = self.lab.active_lease(key) or await self.lab.lease(key)
        if lease is None:
            raise Said(Code.UNKNOWN, "LEASE_NOT_FOUND", f'leases.jumpstarter.dev "{key.name}" not found')
        return lease

    async def ListLeases(self, call: Call, request: Any) -> Any:
        size, after = paging.page_size(request.page_size), paging.after(request.page_token)
        leases = await self.lab.leases(
            call.namespace,
            selector=convert.lease_filter(request.filter, request.tag_filter, published=True),
            only_active=not request.HasField("only_active") or request.only_active,
            limit=size + 1 if size else 0,
            after=after,
        )
        items, token = page(leases, size)
        return client_pb2.ListLeasesResponse(leases=[self._message(lease) for lease in items], next_page_token=token)

    async def CreateLease(self, call: Call, request: Any) -> Any:
        if not request.HasField("lease"):
            raise Said(Code.INVALID_ARGUMENT, "LEASE_MISSING", "lease is required")
        wanted = request.lease
        if not wanted.selector and not wanted.exporter_name:
            raise Said(Code.INVALID_ARGUMENT, "SELECTOR_MISSING", "one of selector or exporter_name is required")
        lease = await self.lab.create_lease(
            call.actor,
            LeaseRequest(
                name=request.lease_id,
                selector=wanted.selector,
                exporter_name=convert.plain_name(wanted.exporter_name),
                duration=convert.length_of(wanted, "duration"),
                begin_time=convert.moment_of(wanted, "begin_time"),
                end_time=convert.moment_of(wanted, "end_time"),
                tags=dict(wanted.tags),
                context=dict(wanted.context),
                allow_disabled=wanted.allow_disabled,
            ),
        )
        return self._message(lease)

    async def UpdateLease(self, call: Call, request: Any) -> Any:
        wanted = request.lease
        client = ""
        if wanted.client:
            target = parse_key(wanted.client, Kind.CLIENT)
            if target.namespace != call.namespace:
                raise Said(
                    Code.UNKNOWN,
                    "NAMESPACE_MISMATCH",
                    f"lease {call.named.name} can't be handed over to {wanted.client[:300]}: both clients have to be "
                    "of one namespace",
                )
            client = target.name
        lease = await self.lab.update_lease(
            call.actor,
            call.named,
            LeaseChange(
                duration=convert.length_of(wanted, "duration"),
                begin_time=convert.moment_of(wanted, "begin_time"),
                end_time=convert.moment_of(wanted, "end_time"),
                client=client,
            ),
        )
        return self._message(lease)

    async def DeleteLease(self, call: Call, request: Any) -> Any:
        lease = await self._lease(call.named)
        if lease.client != call.caller.name:
            raise Said(
                Code.UNKNOWN,
                "NOT_YOUR_LEASE",
                f"DeleteLease permission denied: lease {call.named.name} belongs to client {lease.client}",
                {"owner": lease.client},
            )
        if lease.ended and lease.release:
            raise Said(Code.FAILED_PRECONDITION, "LEASE_RELEASED", f"lease {call.named.name} has been released already")
        if not lease.ended:
            await wait_given_back(self.lab, lease)
            await self.statuses.told_end(await self.lab.release_lease(call.actor, call.named))
        return Empty()

    # -- tokens ----------------------------------------------------------------------------------

    async def RotateToken(self, call: Call, request: Any) -> Any:
        known = self.lab.account(call.caller)
        if known is not None and known.username and not known.credential.jti:
            # A token of the lab would outlive what the provider says of the user.
            raise Said(
                Code.FAILED_PRECONDITION,
                "TOKEN_OF_PROVIDER",
                f"client {call.caller.name} logs in at a provider, which renews its tokens; log in again: jmp login",
            )
        token, account = await issue_token(self.lab, self.tokens, call.actor, call.caller)
        response = client_pb2.RotateTokenResponse(token=token)
        assert account.credential.expires is not None
        response.expiry.CopyFrom(convert.timestamp(account.credential.expires))
        return response
