"""The first admin of a lab: made for whoever starts it, with a config that `jmp admin` finds."""

from __future__ import annotations

import base64
import getpass
import re
from pathlib import Path
from typing import TYPE_CHECKING

from jumpstarter.config.admin import AdminConfigV1Alpha1
from jumpstarter.config.common import ObjectMeta
from jumpstarter.config.tls import TLSConfigV1Alpha1

from .identity.issuing import issue_token
from .lab import Actor
from .model.records import Account, Key, Kind, Meta

if TYPE_CHECKING:
    from .server import LabServer

SERVER = Actor(kind="server", key=None)
FILE = "admin.yaml"
"""Copy of the admin config in the data folder, for those who run the server as another user."""


def admin_name() -> str:
    """Return the name of the local user in the form of account names."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = ""
    return re.sub(r"[^a-z0-9]+", "-", user.lower()).strip("-")[:63].strip("-") or "admin"


def has_admin(server: LabServer) -> bool:
    """Tell whether anybody can administer the lab."""
    return bool(server.lab.accounts(Kind.ADMIN))


async def make_admin(server: LabServer, name: str, alias: str = "") -> AdminConfigV1Alpha1:
    """Give an admin a new token, after making the account if there is none, and save the configs.

    Args:
        alias: of the config; empty for `lab`, or another one if that is about another lab.

    Returns:
        The config, which is the current one now.
    """
    namespace = server.settings.namespace
    key = Key(Kind.ADMIN, namespace, name)
    if server.lab.account(key) is None:
        account = Account(kind=Kind.ADMIN, meta=Meta(namespace=namespace, name=name))
        await server.lab.create_account(SERVER, account)
    token, _ = await issue_token(server.lab, server.authenticator.tokens, SERVER, key)
    config = AdminConfigV1Alpha1(
        alias=alias or _free_alias(server.endpoint),
        metadata=ObjectMeta(namespace=namespace, name=name),
        endpoint=server.endpoint,
        tls=TLSConfigV1Alpha1(ca=base64.b64encode(server.ca.encode()).decode()),
        token=token,
    )
    AdminConfigV1Alpha1.save(config, Path(server.folder) / FILE)
    AdminConfigV1Alpha1.save(config)
    AdminConfigV1Alpha1.use(config.alias)
    return config


def known_endpoint(folder: Path) -> str:
    """Return what peers of the lab in a folder dial, as the admin config there says; empty when there is none."""
    from jumpstarter.common.exceptions import ConfigurationError

    try:
        return AdminConfigV1Alpha1.from_file(folder / FILE).endpoint
    except ConfigurationError:
        return ""


def _free_alias(endpoint: str) -> str:
    """Return the alias for a lab: that of its present config, else the first that is free."""
    known = AdminConfigV1Alpha1.aliases()
    for number in range(1, len(known) + 2):
        alias = "lab" if number == 1 else f"lab-{number}"
        if alias not in known or _endpoint(alias) == endpoint:
            return alias
    raise AssertionError("there are more aliases than configs")


def _endpoint(alias: str) -> str:
    from jumpstarter.common.exceptions import ConfigurationError

    try:
        return AdminConfigV1Alpha1.load(alias).endpoint
    except ConfigurationError:
        return ""
