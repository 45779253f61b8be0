"""What only `jumpstarter.lab.v1.LabService` tells, asked once; other controllers are asked for what they know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import RPC_TIMEOUT, Asking, Calls, LabService
from .exporters import every_exporter
from .leases import every_lease

if TYPE_CHECKING:
    from ..exporter_states import ExporterState, ExporterStateList
    from ..states import LeaseState, LeaseStateList

UNIMPLEMENTED = "UNIMPLEMENTED"


class LabCalls(Asking):
    """The unary rpcs of `LabService`."""

    async def lease_state(self, name: str) -> LeaseState:
        """Return one lease, also one that has ended, and what is known of it."""
        from ..records import Lease
        from ..states import LeaseState

        async with self._calls() as calls:
            if (lab := calls.lab) is not None:
                request = lab.pb.WatchLeaseRequest(name=calls.named("leases", name))
                stream = lab.stub.WatchLease(request, timeout=RPC_TIMEOUT)
                try:
                    if (message := await first_message(stream, calls)) is not None:
                        return LeaseState.from_protobuf(message)
                finally:
                    stream.cancel()
            request = calls.pb.GetLeaseRequest(name=calls.named("leases", name))
            return LeaseState.of(Lease.from_protobuf(await calls.unary("GetLease", request)))

    async def list_lease_states(
        self,
        filter: str | None = None,
        only_active: bool = True,
        tag_filter: str | None = None,
        client: str = "",
    ) -> LeaseStateList:
        """Return the leases that `list_leases` returns, and what is known of them.

        Args:
            filter: label selector; see `list_leases`.
            only_active: leave out leases that have ended.
            tag_filter: label selector over the tags.
            client: name of the client whose leases are wanted; empty for everybody's.
        """
        from ..selectors import extract_match_labels_filter, selector_contains
        from ..states import LeaseState, LeaseStateList

        equality = extract_match_labels_filter(filter) if filter else None
        async with self._calls() as calls:
            answer = None
            if (lab := calls.lab) is not None:
                request = leases_request(calls, lab, equality, only_active, tag_filter, client)
                answer = await lab_unary(calls, lab, "ListLeaseStates", request)
            if answer is not None:
                states = [LeaseState.from_protobuf(each) for each in answer.states]
            else:
                leases = await every_lease(calls, equality, only_active, tag_filter=tag_filter)
                states = [LeaseState.of(each) for each in leases if not client or each.client == client]
        if filter:
            states = [each for each in states if selector_contains(each.selector, filter)]
        return LeaseStateList(leases=states)

    async def list_exporter_states(
        self, filter: str | None = None, include_disabled: bool = False, show_hidden_labels: bool = False
    ) -> ExporterStateList:
        """Return the exporters that match the label selector `filter`, and what is known of them."""
        from ..exporter_states import ExporterState, ExporterStateList

        async with self._calls() as calls:
            answer = None
            if (lab := calls.lab) is not None:
                request = exporters_request(calls, lab, filter, show_hidden_labels)
                answer = await lab_unary(calls, lab, "ListExporterStates", request)
            if answer is not None:
                states = [ExporterState.from_protobuf(each) for each in answer.states]
            else:
                exporters = await every_exporter(calls, filter, show_hidden_labels, include_leases=True)
                states = [ExporterState.of(each) for each in exporters]
        return ExporterStateList(exporters=[each for each in states if each.enabled or include_disabled])

    async def exporter_state(self, name: str, show_hidden_labels: bool = False) -> ExporterState:
        """Return one exporter, and what is known of it."""
        from ..exporter_states import ExporterState
        from ..records import Exporter

        async with self._calls() as calls:
            identifier = calls.named("exporters", name)
            request = calls.pb.GetExporterRequest(name=identifier, show_hidden_labels=show_hidden_labels)
            exporter = Exporter.from_protobuf(await calls.unary("GetExporter", request))
            if (lab := calls.lab) is not None:
                request = exporters_request(calls, lab, None, show_hidden_labels)
                answer = await lab_unary(calls, lab, "ListExporterStates", request)
                for state in answer.states if answer is not None else ():
                    if state.exporter.name == identifier:
                        return ExporterState.from_protobuf(state)
            held = [lease for lease in await every_lease(calls) if lease.exporter == name and lease.is_ready()]
            return ExporterState.of(exporter.model_copy(update={"lease": held[0] if held else None}))

    async def share_lease(self, name: str, client: str, role: str | None) -> LeaseState:
        """Give another client a role in a lease.

        Args:
            name: a lease of this client.
            client: name of the other client.
            role: `driver` or `watcher`; None takes the role away.

        Raises:
            ConnectionError: refused; with the status UNIMPLEMENTED by a controller that knows no sharing.
        """
        from jumpstarter.common.exceptions import ConnectionError

        from ..states import ROLES, LeaseState

        async with self._calls() as calls:
            answer = None
            if (lab := calls.lab) is not None:
                request = lab.pb.ShareLeaseRequest(
                    name=calls.named("leases", name), client=client, role=ROLES.index(role or "")
                )
                answer = await lab_unary(calls, lab, "ShareLease", request)
            if answer is None:
                error = ConnectionError(f"lease {name} can't be shared: the controller doesn't know how to")
                error.status = UNIMPLEMENTED
                raise error
            return LeaseState.from_protobuf(answer)


def leases_request(
    calls: Calls, lab: LabService, equality: str | None, only_active: bool, tag_filter: str | None, client: str
) -> Any:
    """Return the request for leases whose labels match `equality`."""
    return lab.pb.WatchLeasesRequest(
        parent=calls.parent,
        filter=equality or "",
        tag_filter=tag_filter or "",
        only_active=only_active,
        client=client,
    )


def exporters_request(calls: Calls, lab: LabService, filter: str | None, show_hidden_labels: bool) -> Any:
    """Return the request for exporters that match `filter`."""
    return lab.pb.WatchExportersRequest(parent=calls.parent, filter=filter or "", show_hidden_labels=show_hidden_labels)


async def lab_unary(calls: Calls, lab: LabService, rpc: str, request: Any) -> Any:
    """Return the answer of a unary rpc, or None from a controller that doesn't know it."""
    import grpc

    from jumpstarter.common.cancellation import answer

    try:
        return await answer(getattr(lab.stub, rpc)(request, timeout=RPC_TIMEOUT))
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
            raise
        calls.note_missing_lab()
        return None


async def first_message(stream: Any, calls: Calls) -> Any:
    """Return the first message of a stream, or None from a controller that doesn't know the rpc, or has none."""
    import grpc

    from jumpstarter.common.cancellation import answer

    try:
        message = await answer(stream.read())
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
            raise
        calls.note_missing_lab()
        return None
    return None if message is grpc.aio.EOF else message
