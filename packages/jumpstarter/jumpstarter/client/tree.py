"""From an exporter's report of its drivers to a tree of driver clients."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from inspect import Parameter, signature
from typing import Any
from uuid import UUID

from jumpstarter.common.exceptions import ConfigurationError, MissingDriverError
from jumpstarter.common.importlib import import_class
from jumpstarter.common.metadata import CLIENT_LABEL, NAME_LABEL

from .base import DriverClient, StubDriverClient

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DriverReport:
    """What an exporter says of one driver, as in `DriverInstanceReport` on the wire."""

    uuid: str
    parent_uuid: str | None
    """None for the root."""
    labels: dict[str, str]
    description: str | None = None
    methods_description: dict[str, str] = field(default_factory=dict)


def build_tree(
    reports: Sequence[DriverReport], *, stub: Any, portal: Any, stack: ExitStack, allow: list[str], unsafe: bool
) -> DriverClient:
    """Return the root of a tree of clients; arguments as for `client_from_path`.

    Raises:
        ConfigurationError: the reports make no single tree of named drivers.
    """
    children = _link(reports)
    clients: dict[int, DriverClient] = {}
    # Parents come before their children in the report, so this order builds every child first.
    for index in range(len(reports) - 1, -1, -1):
        clients[index] = _build(
            reports[index],
            {reports[child].labels[NAME_LABEL]: clients[child] for child in children.get(index, ())},
            stub=stub,
            portal=portal,
            stack=stack.enter_context(ExitStack()),
            allow=allow,
            unsafe=unsafe,
        )
    return clients[0]


def _link(reports: Sequence[DriverReport]) -> dict[int, list[int]]:
    """Return the indices of every report's children; a parent is the latest earlier report with its uuid.

    Raises:
        ConfigurationError: the reports make no single tree of named drivers.
    """
    if not reports:
        raise ConfigurationError("the exporter reports no drivers")
    latest: dict[str, int] = {}
    children: dict[int, list[int]] = {}
    for index, report in enumerate(reports):
        label = report.labels.get(NAME_LABEL) or report.uuid
        if CLIENT_LABEL not in report.labels:
            raise ConfigurationError(f"the exporter's report of driver {label!r} names no client class")
        if report.parent_uuid is None:
            if index > 0:
                raise ConfigurationError(f"the exporter reports a second root driver: {label!r}")
        elif index == 0 or report.parent_uuid not in latest:
            raise ConfigurationError(f"the exporter reports driver {label!r} below a parent that it does not report")
        elif NAME_LABEL not in report.labels:
            raise ConfigurationError(f"the exporter reports a driver without a name: {report.uuid}")
        else:
            children.setdefault(latest[report.parent_uuid], []).append(index)
        latest[report.uuid] = index
    return children


def _build(
    report: DriverReport,
    children: dict[str, DriverClient],
    *,
    stub: Any,
    portal: Any,
    stack: ExitStack,
    allow: list[str],
    unsafe: bool,
) -> DriverClient:
    path = report.labels[CLIENT_LABEL]
    try:
        client_class = import_class(path, allow, unsafe)
        reason = None
    except MissingDriverError as error:
        if "_JMP_SUPPRESS_DRIVER_WARNINGS" not in os.environ:
            logger.warning("%s", error)
        client_class, reason = StubDriverClient, error.message
    arguments: dict[str, Any] = {
        "uuid": UUID(report.uuid),
        "labels": report.labels,
        "stub": stub,
        "portal": portal,
        "stack": stack,
        "children": children,
    }
    if _takes_descriptions(client_class):
        arguments["description"] = report.description
        arguments["methods_description"] = report.methods_description
    if reason is not None:
        arguments["reason"] = reason
    return client_class(**arguments)


_late_keywords: dict[type, bool] = {}


def _takes_descriptions(client_class: type) -> bool:
    """Tell whether the constructor knows `description`; hand-written ones of older packages may not."""
    known = _late_keywords.get(client_class)
    if known is None:
        parameters = signature(client_class).parameters.values()
        known = any(p.name == "methods_description" or p.kind is Parameter.VAR_KEYWORD for p in parameters)
        _late_keywords[client_class] = known
    return known
