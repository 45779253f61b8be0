"""Puts an installation into a cluster, tells beforehand what that would change, and takes it away again."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import anyio

from .cluster import Cluster
from .exceptions import (
    ClusterError,
    Conflict,
    Forbidden,
    JumpstarterKubernetesError,
    NotFound,
    TooMany,
    Unreachable,
)
from .manifests import KINDS, MANAGED_LABEL, MANAGER, Object, Values, crds, render
from .resources import (
    CLIENTS,
    CONFIG_MAPS,
    COORDINATION_LEASES,
    CRDS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    EXPORTERS,
    INGRESSES,
    LEASES,
    NAMESPACES,
    NETWORK_POLICIES,
    PODS,
    POLICIES,
    ROLE_BINDINGS,
    ROLES,
    ROUTES,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICE_MONITORS,
    SERVICES,
    TLS_ROUTES,
    Resource,
)
from .values import CA_CONFIG_MAP, KIND_LABEL, PREFIX

SELECTOR = f"{MANAGED_LABEL}={MANAGER}"

ESTABLISH_SECONDS = 60.0
"""For kinds to be known after their definitions are there."""

TIMEOUT = 300.0
"""Seconds for everything to be ready."""

INTERVAL = 1.0
"""Seconds between two looks."""

_MANAGED = (
    DEPLOYMENTS,
    SERVICE_MONITORS,
    INGRESSES,
    ROUTES,
    *TLS_ROUTES,
    SERVICES,
    DISRUPTION_BUDGETS,
    NETWORK_POLICIES,
    CONFIG_MAPS,
    ROLE_BINDINGS,
    ROLES,
    SERVICE_ACCOUNTS,
)
"""Kinds of which an installation has objects, in the order in which they are removed."""

_UNTOLD = ("managedFields", "resourceVersion", "uid", "generation", "creationTimestamp", "selfLink")
_UNTOLD_NOTES = ("kubectl.kubernetes.io/last-applied-configuration", "deployment.kubernetes.io/revision")

_USUAL = ("ContainerCreating", "PodInitializing")
"""What a pod waits for that goes well."""

_OWN_SECRET = f"{PREFIX}secret"
_OWN_AUDIT = f"{PREFIX}audit"
_REPLICA = f"{PREFIX}replica"
_ELECTION = "jumpstarter-lab"

Verb = Literal["create", "change", "keep", "delete", "replace", "conflict"]
Tell = Callable[[str], None]


def _silent(line: str) -> None:
    """Tell nobody."""


class InstallError(JumpstarterKubernetesError):
    """An installation can't be made, or did not get ready; says what to do."""


@dataclass(frozen=True)
class Change:
    """What happens to one object."""

    verb: Verb
    resource: Resource
    name: str
    text: str = ""
    """A unified diff of a change; of a conflict, whose fields are in the way."""

    def __str__(self) -> str:
        return f"{self.resource.kind} {self.name}"


class Installation:
    """What a cluster is to have.

    Args:
        cluster: an open connection.
        values: what the installation is like; what depends on the cluster is seen to by `Installation.fitting`.
        force: take over fields of other managers, and replace what can't be changed.
        tell: is told what goes on, line by line.
        interval: seconds between two looks whether something is ready.
    """

    def __init__(
        self, cluster: Cluster, values: Values, *, force: bool = False, tell: Tell = _silent, interval: float = INTERVAL
    ) -> None:
        self.values = values
        self._cluster = cluster
        self._force = force
        self._tell = tell
        self._interval = interval
        self._definitions = crds()
        self._objects = render(values)

    @classmethod
    async def fitting(cls, cluster: Cluster, values: Values, **options: Any) -> Installation:
        """Return an installation of the kinds that the cluster knows.

        Raises:
            InstallError: it doesn't know one that the mode needs.
        """
        changes: dict[str, Any] = {}
        if values.mode == "route" and not await knows(cluster, ROUTES):
            raise InstallError(
                f"{cluster.server} knows no routes ({ROUTES.full_name}), so it is not OpenShift. Choose another mode"
            )
        if values.mode == "gateway":
            known = [resource for resource in TLS_ROUTES if await knows(cluster, resource)]
            if not known:
                raise InstallError(
                    f"{cluster.server} knows no {TLS_ROUTES[0].full_name}. Install the Gateway API with TLSRoute (in "
                    "older releases: its experimental channel) and an implementation of it, or choose another mode"
                )
            changes["tls_route_version"] = known[0].version
        if values.metrics and not values.service_monitor and await knows(cluster, SERVICE_MONITORS):
            changes["service_monitor"] = True
        return cls(cluster, values.model_copy(update=changes), **options)

    # -- what would change -------------------------------------------------------------------------

    async def plan(self) -> list[Change]:
        """Return what an installation would do to each object, as the cluster itself says; changes nothing.

        Raises:
            ClusterError: the cluster can't be asked, or would refuse something.
        """
        changes = [await self._change(item) for item in self._definitions]
        there = await self._find(NAMESPACES, self.values.namespace) is not None
        for item in self._objects:
            if there:
                changes.append(await self._change(item))
            else:
                # What is in a namespace can't be tried out before it is there.
                changes.append(Change("create", *_place(item)))
        if there:
            changes += [Change("delete", resource, name) for resource, name in await self._leftovers()]
        return changes

    async def _change(self, item: Object) -> Change:
        resource, name = _place(item)
        present = await self._find(resource, name)
        if present is not None and _replaced(present, item):
            return Change("replace", resource, name, "its selector is another one, and can't be changed")
        try:
            then = await self._cluster.apply(resource, item, manager=MANAGER, force=self._force, dry_run=True)
        except Conflict as conflict:
            return Change("conflict", resource, name, _owners(conflict))
        if present is None:
            return Change("create", resource, name)
        text = _diff(present, then, f"{resource.kind} {name}")
        return Change("change" if text else "keep", resource, name, text)

    async def _find(self, resource: Resource, name: str) -> Object | None:
        try:
            return await self._cluster.get(resource, name, namespace=self.values.namespace)
        except NotFound:
            return None

    async def _leftovers(self) -> list[tuple[Resource, str]]:
        """Return what an earlier installation had, and this one has not."""
        wanted = {(resource.full_name, name) for resource, name in map(_place, self._objects)}
        found = await managed(self._cluster, self.values.namespace)
        return [(resource, name) for resource, name in found if (resource.full_name, name) not in wanted]

    # -- installing --------------------------------------------------------------------------------

    async def install(self, *, wait: bool = True, timeout: float = TIMEOUT) -> list[Change]:
        """Have the cluster have all of it; what is there already is brought up to date. Return what was done.

        Routers are changed one after the other, so that there is always one for new streams.

        Raises:
            InstallError: something belongs to somebody else, in which case nothing was changed; or it isn't ready in
                time.
            ClusterError: the cluster refused something; the same call goes on from there.
        """
        changes = await self.plan()
        self._refuse(changes)
        for item in self._definitions:
            await self._apply(item)
        await self._established()
        replaced = [change for change in changes if change.verb == "replace"]
        controllers = [item for item in self._objects if not _is_router(item)]
        # The rest first, so that pods find what they need.
        for item in sorted(controllers, key=lambda item: item["kind"] == "Deployment"):
            await self._make(item, replaced)
        with anyio.move_on_after(timeout) as scope:
            if wait:
                await self._ready("jumpstarter-controller")
            for item in self._objects:
                if not _is_router(item):
                    continue
                await self._make(item, replaced)
                if wait and item["kind"] == "Deployment":
                    await self._ready(item["metadata"]["name"])
            for resource, name in await self._leftovers():
                self._tell(f"deleting {resource.kind} {name}, which is not needed any more")
                await _delete(self._cluster, resource, name, self.values.namespace)
        if scope.cancelled_caught:
            raise InstallError(
                f"not everything is ready after {timeout:g} s: {await self._state()}. What is made stays; when the "
                "cause is mended, the pods start by themselves, and the same command goes on with what is missing"
            )
        return changes

    def _refuse(self, changes: Iterable[Change]) -> None:
        """Raise when something is in the way."""
        if self._force:
            return
        found = [change for change in changes if change.verb in ("conflict", "replace")]
        if found:
            lines = "\n".join(f"  {change}: {change.text}" for change in found)
            raise InstallError(
                f"nothing was changed, because these belong to somebody else:\n{lines}\nLeave them out by other "
                "values, or take them over with --force; pods are replaced then, what the lab knows stays"
            )

    async def _make(self, item: Object, replaced: Sequence[Change]) -> None:
        resource, name = _place(item)
        if any((change.resource, change.name) == (resource, name) for change in replaced):
            self._tell(f"deleting {resource.kind} {name}, which can't be changed")
            await _delete(self._cluster, resource, name, self.values.namespace)
            with anyio.fail_after(ESTABLISH_SECONDS):
                await self._until(lambda: self._is_gone(resource, name))
        await self._apply(item)

    async def _apply(self, item: Object) -> None:
        resource, name = _place(item)
        await self._cluster.apply(resource, item, manager=MANAGER, force=self._force)
        self._tell(f"{resource.kind} {name} is there")

    async def _established(self) -> None:
        """Wait until the cluster serves the kinds of the lab."""
        with anyio.move_on_after(ESTABLISH_SECONDS):
            for item in self._definitions:
                await self._until(partial(self._is_established, item["metadata"]["name"]))
            return
        raise InstallError(
            f"the cluster does not serve the kinds of the lab {ESTABLISH_SECONDS:g} s after they were defined. Look at "
            "it with: kubectl get crd clients.jumpstarter.dev -o yaml"
        )

    async def _is_established(self, name: str) -> bool:
        return _is_true(await self._cluster.get(CRDS, name), "Established")

    async def _is_gone(self, resource: Resource, name: str) -> bool:
        return await self._find(resource, name) is None

    async def _until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        while True:
            if await condition():
                return
            await anyio.sleep(self._interval)

    # -- getting ready -----------------------------------------------------------------------------

    async def _ready(self, name: str) -> None:
        told = ""
        while True:
            try:
                item = await self._cluster.get(DEPLOYMENTS, name, namespace=self.values.namespace)
                done, text = _progress(item)
                if not done:
                    text = ", ".join([text, *await self._troubles(item)])
            except (TooMany, Unreachable) as error:
                done, text = False, str(error)
            if text != told:
                self._tell(f"{name}: {text}")
                told = text
            if done:
                return
            await anyio.sleep(self._interval)

    async def _state(self) -> str:
        found = []
        try:
            for item in self._objects:
                if item["kind"] == "Deployment":
                    present = await self._find(DEPLOYMENTS, item["metadata"]["name"])
                    done, text = (False, "not there yet") if present is None else _progress(present)
                    if not done:
                        troubles = [] if present is None else await self._troubles(present)
                        found.append(f"{item['metadata']['name']}: {', '.join([text, *troubles])}")
        except ClusterError as error:
            found.append(str(error))
        return "; ".join(found) or "it has just become so"

    async def _troubles(self, deployment: Object) -> list[str]:
        """Return what keeps pods from starting, each thing once."""
        labels = deployment["spec"]["selector"]["matchLabels"]
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        try:
            pods = (await self._cluster.list(PODS, namespace=self.values.namespace, labels=selector)).items
        except Forbidden:
            return []
        found: dict[str, None] = {}
        for pod in pods:
            status = pod.get("status") or {}
            for condition in status.get("conditions") or ():
                if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
                    found[f"no node for {pod['metadata']['name']}: {condition.get('message', '')}"] = None
            for container in status.get("containerStatuses") or ():
                waiting = (container.get("state") or {}).get("waiting") or {}
                if (reason := waiting.get("reason")) and reason not in _USUAL:
                    found[f"{reason}: {waiting.get('message', '')}".rstrip(": ")] = None
        return list(found)


# -- taking away -----------------------------------------------------------------------------------


async def uninstall(
    cluster: Cluster,
    namespace: str,
    *,
    delete_data: bool = False,
    delete_crds: bool = False,
    tell: Tell = _silent,
    timeout: float = TIMEOUT,
    interval: float = INTERVAL,
) -> None:
    """Remove what was installed; the kinds, and what the lab knows, stay unless something else is asked for.

    Args:
        delete_data: remove clients, exporters, leases, policies, tokens, keys and the audit record of the namespace.
        delete_crds: remove the kinds, and with them their objects everywhere.
        timeout: seconds for the pods to end.

    Raises:
        InstallError: the kinds are in use in other namespaces, in which case nothing was changed; or pods don't end.
    """
    if delete_crds:
        await _refuse_crds(cluster, namespace, delete_data)
    found = await managed(cluster, namespace)
    # Pods first: they would make some of the rest again.
    for resource, name in found:
        if resource == DEPLOYMENTS:
            await _remove(cluster, resource, name, namespace, tell)
    await _pods_gone(cluster, namespace, tell, timeout, interval)
    for resource, name in found:
        if resource != DEPLOYMENTS:
            await _remove(cluster, resource, name, namespace, tell)
    for item in (await cluster.list(COORDINATION_LEASES, namespace=namespace, labels=f"{_REPLICA}=true")).items:
        await _delete(cluster, COORDINATION_LEASES, item["metadata"]["name"], namespace)
    await _delete(cluster, COORDINATION_LEASES, _ELECTION, namespace)
    if delete_data:
        await _remove_data(cluster, namespace, tell)
    if delete_crds:
        for item in crds():
            await _remove(cluster, CRDS, item["metadata"]["name"], namespace, tell)


async def _refuse_crds(cluster: Cluster, namespace: str, delete_data: bool) -> None:
    for resource in (CLIENTS, EXPORTERS, LEASES, POLICIES):
        try:
            places = await _namespaces(cluster, resource)
        except NotFound:
            continue
        if not delete_data and namespace in places:
            raise InstallError(
                f"the namespace {namespace} has {resource.full_name}, which would be lost with their kind. Say that "
                "they may be with --delete-data as well; nothing was changed"
            )
        if others := sorted(places - {namespace}):
            raise InstallError(
                f"{resource.full_name} are in use in other namespaces ({', '.join(others[:5])}), so the kinds have to "
                "stay. Leave out --delete-crds; nothing was changed"
            )


async def _namespaces(cluster: Cluster, resource: Resource) -> set[str]:
    """Return where there are objects of a kind."""
    found: set[str] = set()
    more = ""
    while True:
        page = await cluster.list(resource, all_namespaces=True, limit=500, more=more)
        found |= {item["metadata"]["namespace"] for item in page.items}
        more = page.more
        if not more:
            return found


async def _pods_gone(cluster: Cluster, namespace: str, tell: Tell, timeout: float, interval: float) -> None:
    labels = "app.kubernetes.io/name=jumpstarter,app.kubernetes.io/component in (controller,router)"
    told = 0
    with anyio.move_on_after(timeout):
        while items := (await cluster.list(PODS, namespace=namespace, labels=labels)).items:
            if len(items) != told:
                told = len(items)
                tell(f"{told} pods are ending")
            await anyio.sleep(interval)
        return
    raise InstallError(
        f"{told} pods of the namespace {namespace} have not ended after {timeout:g} s. Look at them with: kubectl get "
        f"pods -n {namespace}; the same command goes on with what is left"
    )


async def _remove_data(cluster: Cluster, namespace: str, tell: Tell) -> None:
    for resource in (LEASES, EXPORTERS, CLIENTS, POLICIES):
        await _remove_all(cluster, resource, namespace, "", tell)
    for label in (KIND_LABEL, _OWN_SECRET):
        await _remove_all(cluster, SECRETS, namespace, label, tell)
    await _remove_all(cluster, CONFIG_MAPS, namespace, _OWN_AUDIT, tell)
    await _delete(cluster, CONFIG_MAPS, CA_CONFIG_MAP, namespace)


async def _remove_all(cluster: Cluster, resource: Resource, namespace: str, labels: str, tell: Tell) -> None:
    count = 0
    try:
        # Each time the first page, because what was on it is gone.
        while items := (await cluster.list(resource, namespace=namespace, labels=labels, limit=100)).items:
            async with anyio.create_task_group() as tasks:
                for item in items:
                    tasks.start_soon(_delete, cluster, resource, item["metadata"]["name"], namespace)
            count += len(items)
    except NotFound:
        return
    if count:
        tell(f"deleted {count} {resource.full_name}")


async def _remove(cluster: Cluster, resource: Resource, name: str, namespace: str, tell: Tell) -> None:
    await _delete(cluster, resource, name, namespace)
    tell(f"deleted {resource.kind} {name}")


async def _delete(cluster: Cluster, resource: Resource, name: str, namespace: str) -> None:
    try:
        await cluster.delete(resource, name, namespace=namespace, propagation="Background")
    except NotFound:
        return


# -- looking ---------------------------------------------------------------------------------------


async def knows(cluster: Cluster, resource: Resource) -> bool:
    """Return whether a cluster has a kind of objects."""
    try:
        await cluster.list(resource, limit=1)
    except NotFound:
        return False
    except Forbidden:
        # Who may not list them may find out by making one.
        return True
    return True


async def managed(cluster: Cluster, namespace: str) -> list[tuple[Resource, str]]:
    """Return what there is in a namespace of an installation, in the order in which it is to be removed."""
    found: dict[tuple[str, str], tuple[Resource, str]] = {}
    for resource in _MANAGED:
        try:
            items = (await cluster.list(resource, namespace=namespace, labels=SELECTOR)).items
        except NotFound:
            continue
        except Forbidden:
            if resource in (SERVICE_MONITORS, ROUTES, *TLS_ROUTES):
                # A kind that needn't be there.
                continue
            raise
        for item in items:
            name = item["metadata"]["name"]
            found.setdefault((resource.full_name, name), (resource, name))
    return list(found.values())


def _place(item: Object) -> tuple[Resource, str]:
    return KINDS[item["apiVersion"], item["kind"]], item["metadata"]["name"]


def _is_router(item: Object) -> bool:
    return item["kind"] in ("ConfigMap", "Deployment") and item["metadata"]["name"].startswith("jumpstarter-router-")


def _replaced(present: Object, item: Object) -> bool:
    """Return whether an object is in the way of one that it can't be changed into."""
    if item["kind"] == "Deployment":
        return bool(present["spec"].get("selector") != item["spec"]["selector"])
    return item["kind"] == "RoleBinding" and present.get("roleRef") != item["roleRef"]


def _is_true(item: Object, kind: str) -> bool:
    conditions = (item.get("status") or {}).get("conditions") or ()
    return any(found.get("type") == kind and found.get("status") == "True" for found in conditions)


def _progress(item: Object) -> tuple[bool, str]:
    """Return whether a Deployment is as wanted, and how far it is."""
    wanted = int(item["spec"].get("replicas", 1))
    status = item.get("status") or {}
    current = int(status.get("observedGeneration") or 0) >= int(item["metadata"].get("generation") or 0)
    updated = int(status.get("updatedReplicas") or 0) if current else 0
    available = min(int(status.get("availableReplicas") or 0), updated)
    old = int(status.get("replicas") or 0) - updated if current else 0
    text = f"{available} of {wanted} ready"
    if old > 0:
        text += f", {old} of the former still there"
    return available >= wanted and old <= 0, text


def _owners(conflict: Conflict) -> str:
    """Return which fields belong to whom."""
    causes = [cause for cause in conflict.details.get("causes") or () if cause.get("field")]
    if not causes:
        return str(conflict)
    managers: dict[str, list[str]] = {}
    for cause in causes:
        manager = str(cause.get("message", "")).partition('"')[2].partition('"')[0] or "another manager"
        managers.setdefault(manager, []).append(str(cause["field"]))
    return "; ".join(
        f"{', '.join(fields[:6])}{' ...' if len(fields) > 6 else ''} of {name}" for name, fields in managers.items()
    )


def _diff(present: Object, then: Object, name: str) -> str:
    lines = difflib.unified_diff(_lines(present), _lines(then), f"{name}, now", f"{name}, then", n=2, lineterm="")
    return "\n".join(lines)


def _lines(item: Object) -> list[str]:
    import yaml

    meta = {key: value for key, value in item["metadata"].items() if key not in _UNTOLD}
    notes = {key: value for key, value in meta.pop("annotations", {}).items() if key not in _UNTOLD_NOTES}
    if notes:
        meta["annotations"] = notes
    shown = {key: value for key, value in item.items() if key != "status"} | {"metadata": meta}
    return yaml.dump(shown, Dumper=_dumper(), sort_keys=True, allow_unicode=True, width=160).splitlines()


def _dumper() -> Any:
    """Return what writes texts of several lines as such, so that a diff shows which of them change."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return Dumper
