"""Exporters, as a client sees them at the controller."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import PAGE_SIZE, Asking, Calls, all_pages
from .leases import every_lease

if TYPE_CHECKING:
    from ..records import Exporter, ExporterList


class ExporterCalls(Asking):
    """The rpcs about exporters."""

    async def get_exporter(self, name: str, show_hidden_labels: bool = False) -> Exporter:
        """Return one exporter."""
        from ..records import Exporter

        async with self._calls() as calls:
            request = calls.pb.GetExporterRequest(
                name=calls.named("exporters", name), show_hidden_labels=show_hidden_labels
            )
            return Exporter.from_protobuf(await calls.unary("GetExporter", request))

    async def list_exporters(
        self,
        filter: str | None = None,
        include_leases: bool = False,
        include_online: bool = False,
        include_status: bool = False,
        include_disabled: bool = False,
        page_size: int = PAGE_SIZE,
        show_hidden_labels: bool = False,
    ) -> ExporterList:
        """Return the exporters that match the label selector `filter`.

        Args:
            filter: label selector.
            include_leases: tell the lease that holds each exporter.
            include_online: show whether each exporter is connected.
            include_status: show the status of each exporter.
            include_disabled: list disabled exporters too.
            page_size: how many to ask for at a time.
            show_hidden_labels: include labels that are hidden by default.
        """
        from ..records import ExporterList

        async with self._calls() as calls:
            exporters = await every_exporter(calls, filter, show_hidden_labels, page_size, include_leases)
        return ExporterList(
            exporters=exporters,
            next_page_token=None,
            include_online=include_online,
            include_leases=include_leases,
            include_status=include_status,
            include_disabled=include_disabled,
        )


async def exporter_page(
    calls: Calls,
    page_size: int | None = None,
    page_token: str | None = None,
    filter: str | None = None,
    show_hidden_labels: bool = False,
) -> ExporterList:
    """Return a page of the exporters that match the label selector `filter`."""
    from ..records import ExporterList

    request = calls.pb.ListExportersRequest(
        parent=calls.parent,
        page_size=page_size or 0,
        page_token=page_token or "",
        filter=filter or "",
        show_hidden_labels=show_hidden_labels,
    )
    return ExporterList.from_protobuf(await calls.unary("ListExporters", request))


async def every_exporter(
    calls: Calls,
    filter: str | None = None,
    show_hidden_labels: bool = False,
    page_size: int = PAGE_SIZE,
    include_leases: bool = False,
) -> list[Exporter]:
    """Return the exporters of all pages, with the leases that hold them if asked."""
    exporters: list[Exporter] = await all_pages(
        lambda token: exporter_page(calls, page_size, token, filter, show_hidden_labels),
        lambda page: page.exporters,
    )
    if not include_leases:
        return exporters
    held = {lease.exporter: lease for lease in await every_lease(calls) if lease.is_ready()}
    return [exporter.model_copy(update={"lease": held.get(exporter.name)}) for exporter in exporters]
