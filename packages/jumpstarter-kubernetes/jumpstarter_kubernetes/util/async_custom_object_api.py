"""The base of the API classes: a connection through the Kubernetes client library, and what is done with any kind."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Literal, Self

from kubernetes_asyncio.client import ApiClient, ApiException, Configuration, CoreV1Api, CustomObjectsApi

from ..access import InCluster, Kubeconfig
from ..exceptions import JumpstarterKubernetesError
from ..resources import GROUP, VERSION, Resource
from ..values import CA_CONFIG_MAP, CA_KEY, TOKEN_KEY

CA_CONFIGMAP_NAME = CA_CONFIG_MAP
"""Where the certificate authority of a controller is."""

Event = Literal["ADDED", "MODIFIED", "DELETED"]


class AbstractAsyncCustomObjectApi:
    """Asks an API server about the objects of one namespace; opened as an asynchronous context manager.

    The way to the server is read on entering: of a kubeconfig, or of the pod that this process runs in when there is
    none. Those who bring `api` and `core_api` themselves don't need to enter it.

    Args:
        namespace: where the objects are.
        config_file: the kubeconfig; None for `$KUBECONFIG` or `~/.kube/config`.
        context: of the kubeconfig; None for the current one.

    Raises, on entering:
        KubeconfigError: there is no usable way to a cluster.
    """

    api: CustomObjectsApi
    """What the objects of Jumpstarter are asked for."""
    core_api: CoreV1Api
    """What Secrets and ConfigMaps are asked for."""

    def __init__(self, namespace: str, config_file: Any = None, context: str | None = None) -> None:
        self.namespace = namespace
        self.config_file = config_file
        self.context = context
        self._configuration: Configuration | None = None
        self._client: ApiClient | None = None

    async def __aenter__(self) -> Self:
        self._configuration = Configuration()
        await self._load_kube_config()
        self._client = ApiClient(self._configuration)
        self.api = CustomObjectsApi(self._client)
        self.core_api = CoreV1Api(self._client)
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._client is not None:
            await self._client.close()
        self._client = self._configuration = None
        for name in ("api", "core_api"):
            self.__dict__.pop(name, None)

    async def _load_kube_config(self) -> None:
        """Read the way to the server."""
        path = getattr(self.config_file, "name", None) or self.config_file
        config = Kubeconfig(str(path or ""), self.context)
        if not path and not self.context and not any(file.exists() for file in config.files) and InCluster.present():
            from kubernetes_asyncio.config import load_incluster_config

            load_incluster_config(client_configuration=self._configuration)
            return
        await config.load_into(self._configuration)

    # -- objects -----------------------------------------------------------------------------------

    def _place(self, resource: Resource) -> dict[str, Any]:
        return {"namespace": self.namespace, "group": GROUP, "plural": resource.plural, "version": VERSION}

    async def _create(
        self, resource: Resource, name: str, labels: Mapping[str, str] | None, spec: dict[str, Any]
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": name, "labels": dict(labels or {})},
            "spec": spec,
        }
        made: dict[str, Any] = await self.api.create_namespaced_custom_object(**self._place(resource), body=body)
        return made

    async def _get(self, resource: Resource, name: str) -> dict[str, Any]:
        found: dict[str, Any] = await self.api.get_namespaced_custom_object(**self._place(resource), name=name)
        return found

    async def _list(self, resource: Resource) -> dict[str, Any]:
        found: dict[str, Any] = await self.api.list_namespaced_custom_object(**self._place(resource))
        return found

    async def _patch(self, resource: Resource, name: str, patch: Mapping[str, Any]) -> dict[str, Any]:
        # By default a mapping would be sent as a JSON patch, which is a list.
        options: dict[str, Any] = {"_content_type": "application/merge-patch+json"}
        changed: dict[str, Any] = await self.api.patch_namespaced_custom_object(
            **self._place(resource), name=name, body=dict(patch), **options
        )
        return changed

    async def _delete(self, resource: Resource, name: str) -> None:
        await self.api.delete_namespaced_custom_object(**self._place(resource), name=name)

    async def _watch(self, resource: Resource, timeout: int) -> AsyncGenerator[tuple[Event, dict[str, Any]], None]:
        from kubernetes_asyncio.watch import Watch

        async with Watch() as watch:
            asked = self.api.list_namespaced_custom_object
            async for event in watch.stream(asked, **self._place(resource), timeout_seconds=timeout):
                if event["type"] != "BOOKMARK":
                    yield event["type"], event["raw_object"]

    # -- credentials -------------------------------------------------------------------------------

    async def get_ca_bundle(self) -> str:
        """Return what peers have to trust, PEM in base64; empty when the roots of their systems are enough."""
        try:
            found = await self.core_api.read_namespaced_config_map(CA_CONFIGMAP_NAME, self.namespace)
        except ApiException as error:
            if error.status == 404:
                return ""
            raise
        pem = (found.data or {}).get(CA_KEY) or ""
        return base64.b64encode(pem.encode()).decode()

    async def _token(self, kind: str, name: str, credential: Any) -> str:
        """Return the token of an account.

        Args:
            credential: the reference in its status.
        """
        if credential is None or not credential.name:
            raise JumpstarterKubernetesError(
                f"{kind} {name!r} in namespace {self.namespace!r} has no credential secret yet. "
                "Check that a controller of Jumpstarter runs there"
            )
        secret = await self.core_api.read_namespaced_secret(credential.name, self.namespace)
        encoded = (secret.data or {}).get(TOKEN_KEY)
        if not encoded:
            raise JumpstarterKubernetesError(
                f"the secret {credential.name!r} in namespace {self.namespace!r} holds no token of {kind} {name!r}. "
                f"Delete the secret, so that the controller makes another one"
            )
        return base64.b64decode(encoded).decode()
