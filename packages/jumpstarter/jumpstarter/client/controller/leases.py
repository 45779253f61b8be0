"""Leases, as a client sees and changes them at the controller."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from . import PAGE_SIZE, Asking, Calls, all_pages

if TYPE_CHECKING:
    from ..records import Lease, LeaseList


class LeaseCalls(Asking):
    """The rpcs about leases."""

    async def get_lease(self, name: str) -> Lease:
        """Return one lease."""
        from ..records import Lease

        async with self._calls() as calls:
            request = calls.pb.GetLeaseRequest(name=calls.named("leases", name))
            return Lease.from_protobuf(await calls.unary("GetLease", request))

    async def list_leases(
        self,
        filter: str | None = None,
        only_active: bool = True,
        page_size: int = PAGE_SIZE,
        tag_filter: str | None = None,
    ) -> LeaseList:
        """Return the leases whose selector asks for what the label selector `filter` says.

        Args:
            filter: label selector.
            only_active: leave out leases that have ended.
            page_size: how many to ask for at a time.
            tag_filter: label selector over the tags.
        """
        from ..records import LeaseList
        from ..selectors import extract_match_labels_filter

        # A lease carries the equality part of its selector as labels; only that can the controller match.
        equality = extract_match_labels_filter(filter) if filter else None
        async with self._calls() as calls:
            leases = await every_lease(calls, equality, only_active, page_size, tag_filter)
        found = LeaseList(leases=leases, next_page_token=None)
        return found.filter_by_selector(filter) if filter else found

    async def create_lease(
        self,
        duration: timedelta,
        selector: str | None = None,
        exporter_name: str | None = None,
        begin_time: datetime | None = None,
        lease_id: str | None = None,
        tags: dict[str, str] | None = None,
        allow_disabled: bool = False,
    ) -> Lease:
        """Ask for a lease; it may have to wait for its exporter.

        Args:
            duration: how long it may last.
            selector: label selector that the exporter has to match.
            exporter_name: name of the exporter.
            begin_time: when it begins; default as soon as the exporter is free.
            lease_id: name of the lease; default chosen by the controller.
            tags: up to ten labels of the lease.
            allow_disabled: take a disabled exporter too.
        """
        from ..records import Lease

        async with self._calls() as calls:
            lease = calls.pb.Lease(selector=selector or "", tags=tags or {}, allow_disabled=allow_disabled)
            lease.duration.FromTimedelta(duration)
            if exporter_name:
                lease.exporter_name = exporter_name
            if begin_time is not None:
                lease.begin_time.FromDatetime(begin_time.astimezone(UTC))
            request = calls.pb.CreateLeaseRequest(parent=calls.parent, lease_id=lease_id or "", lease=lease)
            return Lease.from_protobuf(await calls.unary("CreateLease", request))

    async def update_lease(
        self,
        name: str,
        duration: timedelta | None = None,
        begin_time: datetime | None = None,
        client: str | None = None,
    ) -> Lease:
        """Change a lease.

        Args:
            name: the lease.
            duration: how long it may last.
            begin_time: when it begins; can't be changed any more once it has.
            client: name of the client that takes it over.

        Raises:
            ValueError: nothing to change is given.
        """
        if duration is None and begin_time is None and client is None:
            raise ValueError("nothing to update: give at least one of duration, begin_time and client")
        from ..records import Lease

        async with self._calls() as calls:
            request = calls.pb.UpdateLeaseRequest()
            request.lease.name = calls.named("leases", name)
            # Names go into the mask directly: its JSON form, which `FromJsonString` reads, knows no underscore.
            if duration is not None:
                request.lease.duration.FromTimedelta(duration)
                request.update_mask.paths.append("duration")
            if begin_time is not None:
                request.lease.begin_time.FromDatetime(begin_time.astimezone(UTC))
                request.update_mask.paths.append("begin_time")
            if client is not None:
                request.lease.client = client if "/" in client else calls.named("clients", client)
                request.update_mask.paths.append("client")
            return Lease.from_protobuf(await calls.unary("UpdateLease", request))

    async def delete_lease(self, name: str) -> None:
        """End a lease."""
        async with self._calls() as calls:
            await calls.unary("DeleteLease", calls.pb.DeleteLeaseRequest(name=calls.named("leases", name)))


async def lease_page(
    calls: Calls,
    page_size: int | None = None,
    page_token: str | None = None,
    filter: str | None = None,
    only_active: bool = True,
    tag_filter: str | None = None,
) -> LeaseList:
    """Return a page of the leases whose labels match the label selector `filter`."""
    from ..records import LeaseList

    request = calls.pb.ListLeasesRequest(
        parent=calls.parent,
        page_size=page_size or 0,
        page_token=page_token or "",
        filter=filter or "",
        only_active=only_active,
        tag_filter=tag_filter or "",
    )
    return LeaseList.from_protobuf(await calls.unary("ListLeases", request))


async def every_lease(
    calls: Calls,
    filter: str | None = None,
    only_active: bool = True,
    page_size: int = PAGE_SIZE,
    tag_filter: str | None = None,
) -> list[Lease]:
    """Return the leases of all pages."""
    return await all_pages(
        lambda token: lease_page(calls, page_size, token, filter, only_active, tag_filter),
        lambda page: page.leases,
    )
