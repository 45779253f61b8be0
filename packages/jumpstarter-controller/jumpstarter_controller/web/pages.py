"""Writes pages for people: templates, with everything that comes from the lab escaped."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from aiohttp import web

from ..model.records import AuditEntry
from .board import ago

if TYPE_CHECKING:
    from jinja2 import Environment

POLICY = (
    "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of pages: nothing from elsewhere, and no script or style but those of the page itself."""

FAR = timedelta(hours=18)
"""Moments that are further away are written with their day."""


@cache
def _templates() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("jumpstarter_controller.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"iso": _iso, "full": _full, "short": _short, "ago": ago, "facts": _facts}
    return environment


def render(template: str, **values: Any) -> str:
    """Return a template filled in; may be called by any thread."""
    return _templates().get_template(template).render(values)


def page(template: str, *, status: int = 200, **values: Any) -> web.Response:
    """Return a page."""
    nonce = secrets.token_urlsafe(16)
    text = render(template, nonce=nonce, **values)
    headers = {"Content-Security-Policy": POLICY.format(nonce=nonce)}
    response = web.Response(text=text, status=status, content_type="text/html", headers=headers)
    response.enable_compression()
    return response


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def _full(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _short(moment: datetime, now: datetime) -> str:
    form = "%H:%M UTC" if abs(moment - now) < FAR else "%b %-d, %H:%M UTC"
    return moment.astimezone(UTC).strftime(form)


def _facts(entry: AuditEntry) -> list[tuple[str, str]]:
    """Return what an audit entry tells, as pairs."""
    fields: Mapping[str, Any] = {
        "client": entry.client,
        "exporter": entry.exporter,
        "lease": entry.lease,
        **entry.details,
    }
    return [(key, str(value)) for key, value in fields.items() if value not in ("", None)]
