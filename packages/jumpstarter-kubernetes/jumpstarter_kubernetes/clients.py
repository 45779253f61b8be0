"""Clients of a lab in a cluster: their records, and what is done with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from kubernetes_asyncio.client import ApiException
from pydantic import Field

from .exceptions import JumpstarterKubernetesError
from .json import JsonBaseModel
from .list import V1Alpha1List
from .resources import CLIENTS
from .serialize import SerializeV1ObjectMeta, SerializeV1ObjectReference, metadata, reference
from .util import AbstractAsyncCustomObjectApi

if TYPE_CHECKING:
    from jumpstarter.config.client import ClientConfigV1Alpha1

    from .util.async_custom_object_api import Event

CREATE_CLIENT_DELAY = 1
"""Seconds between two looks for a credential."""

CREATE_CLIENT_COUNT = 10
"""How often is looked for a credential before that is given up."""


class V1Alpha1ClientSpec(JsonBaseModel):
    """What is wanted of a client."""

    username: str | None = None
    """Name at a login provider, with its prefix."""


class V1Alpha1ClientStatus(JsonBaseModel):
    """What the controller says of a client."""

    credential: SerializeV1ObjectReference | None = None
    """The Secret with its token."""
    endpoint: str
    """`host:port` of the controller; empty until it has said so."""


class V1Alpha1Client(JsonBaseModel):
    """A client."""

    omitted_when_none: ClassVar[frozenset[str]] = frozenset({"spec"})

    api_version: Literal["jumpstarter.dev/v1alpha1"] = Field(alias="apiVersion", default="jumpstarter.dev/v1alpha1")
    kind: Literal["Client"] = Field(default="Client")
    metadata: SerializeV1ObjectMeta
    spec: V1Alpha1ClientSpec | None = None
    status: V1Alpha1ClientStatus | None = None

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> V1Alpha1Client:
        """Read a custom resource; one without a status yet has none.

        Raises:
            KeyError: it has no name.
        """
        status, spec = data.get("status"), data.get("spec")
        return V1Alpha1Client(
            metadata=metadata(data),
            spec=V1Alpha1ClientSpec(username=spec.get("username")) if spec else None,
            status=V1Alpha1ClientStatus(
                credential=reference(status.get("credential")), endpoint=status.get("endpoint") or ""
            )
            if status is not None
            else None,
        )

    @classmethod
    def rich_add_columns(cls, table: Any) -> None:
        """Add the columns of a table of clients."""
        for title in ("NAME", "ENDPOINT"):
            table.add_column(title)

    def rich_add_rows(self, table: Any) -> None:
        """Add the row of this client."""
        table.add_row(self.metadata.name, self.status.endpoint if self.status is not None else "")

    def rich_add_names(self, names: list[str]) -> None:
        """Append the qualified name."""
        names.append(f"client.jumpstarter.dev/{self.metadata.name}")


class V1Alpha1ClientList(V1Alpha1List[V1Alpha1Client]):
    """Clients."""

    kind: Literal["ClientList"] = Field(default="ClientList")  # type: ignore[assignment]

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> V1Alpha1ClientList:
        """Read a list of custom resources."""
        return V1Alpha1ClientList(items=[V1Alpha1Client.from_dict(item) for item in data.get("items") or ()])

    @classmethod
    def rich_add_columns(cls, table: Any) -> None:
        """Add the columns of a table of clients."""
        V1Alpha1Client.rich_add_columns(table)


class ClientsV1Alpha1Api(AbstractAsyncCustomObjectApi):
    """What is done with the clients of a namespace."""

    async def create_client(
        self, name: str, labels: dict[str, str] | None = None, oidc_username: str | None = None
    ) -> V1Alpha1Client:
        """Make a client, and wait until the controller has given it a credential.

        Raises:
            ApiException: it can't be made.
            JumpstarterKubernetesError: it was made, but no credential came in time.
        """
        await self._create(CLIENTS, name, labels, {"username": oidc_username} if oidc_username else {})
        for _ in range(CREATE_CLIENT_COUNT):
            client = await self.get_client(name)
            if client.status is not None and client.status.credential is not None:
                return client
            await asyncio.sleep(CREATE_CLIENT_DELAY)
        raise JumpstarterKubernetesError(
            f"client {name!r} was made in namespace {self.namespace!r}, but got no credential within "
            f"{CREATE_CLIENT_COUNT * CREATE_CLIENT_DELAY} s. Check that a controller of Jumpstarter runs there"
        )

    async def list_clients(self) -> V1Alpha1ClientList:
        """Return all clients."""
        return V1Alpha1ClientList.from_dict(await self._list(CLIENTS))

    async def get_client(self, name: str) -> V1Alpha1Client:
        """Return a client."""
        return V1Alpha1Client.from_dict(await self._get(CLIENTS, name))

    async def patch_client(self, name: str, patch: Mapping[str, Any]) -> V1Alpha1Client:
        """Change parts of a client by a merge patch."""
        return V1Alpha1Client.from_dict(await self._patch(CLIENTS, name, patch))

    async def watch_clients(self, timeout: int = 300) -> AsyncGenerator[tuple[Event, V1Alpha1Client], None]:
        """Iterate over what there is and what happens, for at most `timeout` seconds."""
        async for event, item in self._watch(CLIENTS, timeout):
            yield event, V1Alpha1Client.from_dict(item)

    async def delete_client(self, name: str) -> None:
        """Remove a client; its credential goes with it."""
        await self._delete(CLIENTS, name)

    async def get_client_config(self, name: str, allow: list[str], unsafe: bool = False) -> ClientConfigV1Alpha1:
        """Return the config with which somebody acts as a client.

        Args:
            allow: globs over the driver classes that may be imported.
            unsafe: whether any class may be.
        """
        from jumpstarter.config.client import ClientConfigV1Alpha1, ClientConfigV1Alpha1Drivers
        from jumpstarter.config.common import ObjectMeta
        from jumpstarter.config.tls import TLSConfigV1Alpha1

        client = await self.get_client(name)
        token = await self._token("client", name, client.status and client.status.credential)
        assert client.status is not None
        return ClientConfigV1Alpha1(
            alias=name,
            metadata=ObjectMeta(namespace=client.metadata.namespace, name=client.metadata.name),
            endpoint=client.status.endpoint,
            token=token,
            tls=TLSConfigV1Alpha1(ca=await self.get_ca_bundle()),
            drivers=ClientConfigV1Alpha1Drivers(allow=allow, unsafe=unsafe),
        )

    async def rotate_client_token(self, name: str) -> str:
        """Replace the token of a client, by having the controller make another one, and return it.

        Raises:
            JumpstarterKubernetesError: the client has no token, or none came in time.
        """
        client = await self.get_client(name)
        former = await self._token("client", name, client.status and client.status.credential)
        assert client.status is not None
        assert client.status.credential is not None
        await self.core_api.delete_namespaced_secret(client.status.credential.name, self.namespace)
        for _ in range(CREATE_CLIENT_COUNT):
            await asyncio.sleep(CREATE_CLIENT_DELAY)
            try:
                token = await self._token("client", name, client.status.credential)
            except ApiException as error:
                if error.status != 404:
                    raise
                continue
            if token != former:
                return token
        raise JumpstarterKubernetesError(
            f"Timeout waiting for token regeneration of client {name!r} in namespace {self.namespace!r}. "
            "The former token is gone; check that a controller of Jumpstarter runs there"
        )
