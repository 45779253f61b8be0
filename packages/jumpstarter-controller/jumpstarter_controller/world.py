"""The records of a lab that matter now, in memory and indexed: all accounts and policies, and the leases that go on."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from .model.records import Account, Exporter, Key, Kind, Lease, Policy, Record

R = TypeVar("R", bound=Account | Exporter | Lease | Policy)

_NOTHING: Mapping[str, str] = {}


class Shelf(Generic[R]):
    """Records of one kind in one namespace, by name."""

    def __init__(self) -> None:
        self._records: dict[str, R] = {}
        self._names: list[str] = []

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[R]:
        return (self._records[name] for name in self._names)

    def get(self, name: str) -> R | None:
        """Return a record by its name."""
        return self._records.get(name)

    def put(self, name: str, record: R) -> None:
        """Add or replace a record."""
        if name not in self._records:
            insort(self._names, name)
        self._records[name] = record

    def drop(self, name: str) -> None:
        """Remove a record that is there."""
        del self._records[name]
        del self._names[bisect_left(self._names, name)]

    def after(self, name: str) -> Iterator[R]:
        """Iterate over the records whose names come after one."""
        start = bisect_left(self._names, name)
        if start < len(self._names) and self._names[start] == name:
            start += 1
        return (self._records[name] for name in self._names[start:])


class World:
    """What a lab knows; changed by nothing but `put` and `drop`."""

    def __init__(self) -> None:
        self._accounts: dict[tuple[Kind, str], Shelf[Account]] = {}
        self._exporters: dict[str, Shelf[Exporter]] = {}
        self._leases: dict[str, Shelf[Lease]] = {}
        self._policies: dict[str, Shelf[Policy]] = {}
        self._of_client: dict[Key, set[str]] = {}

    # -- changes -----------------------------------------------------------------------------------

    def put(self, record: Record) -> Record | None:
        """Add or replace a record and return the former one; a lease that has ended is taken out."""
        key = record.key
        old = self.get(key)
        match record:
            case Lease(ended=True):
                self.drop(key)
            case Lease():
                if isinstance(old, Lease) and old.client != record.client:
                    self._forget_owner(old)
                self._leases.setdefault(key.namespace, Shelf()).put(key.name, record)
                owner = Key(Kind.CLIENT, key.namespace, record.client)
                self._of_client.setdefault(owner, set()).add(key.name)
            case Exporter():
                self._exporters.setdefault(key.namespace, Shelf()).put(key.name, record)
            case Policy():
                self._policies.setdefault(key.namespace, Shelf()).put(key.name, record)
            case _:
                self._accounts.setdefault((key.kind, key.namespace), Shelf()).put(key.name, record)
        return old

    def drop(self, key: Key) -> Record | None:
        """Remove a record and return it."""
        old = self.get(key)
        if old is not None:
            if isinstance(old, Lease):
                self._forget_owner(old)
            self._shelf(key).drop(key.name)
        return old

    def _forget_owner(self, lease: Lease) -> None:
        owner = Key(Kind.CLIENT, lease.meta.namespace, lease.client)
        names = self._of_client[owner]
        names.discard(lease.meta.name)
        if not names:
            del self._of_client[owner]

    # -- looking -----------------------------------------------------------------------------------

    def _shelf(self, key: Key) -> Shelf[Account] | Shelf[Exporter] | Shelf[Lease] | Shelf[Policy]:
        match key.kind:
            case Kind.EXPORTER:
                return self.exporters(key.namespace)
            case Kind.LEASE:
                return self.leases(key.namespace)
            case Kind.POLICY:
                return self.policies(key.namespace)
            case _:
                return self.accounts(key.kind, key.namespace)

    def get(self, key: Key) -> Record | None:
        """Return a record; of leases only those that have not ended."""
        return self._shelf(key).get(key.name)

    def exporter(self, key: Key) -> Exporter | None:
        """Return an exporter."""
        return self.exporters(key.namespace).get(key.name)

    def lease(self, key: Key) -> Lease | None:
        """Return a lease that has not ended."""
        return self.leases(key.namespace).get(key.name)

    def client_labels(self, namespace: str, name: str) -> Mapping[str, str]:
        """Return the labels of a client; none for one that is not there."""
        client = self.accounts(Kind.CLIENT, namespace).get(name)
        return client.meta.labels if client is not None else _NOTHING

    def accounts(self, kind: Kind, namespace: str) -> Shelf[Account]:
        """Return the accounts of a namespace, other than exporters."""
        return self._accounts.get((kind, namespace)) or Shelf()

    def exporters(self, namespace: str) -> Shelf[Exporter]:
        """Return the exporters of a namespace."""
        return self._exporters.get(namespace) or Shelf()

    def leases(self, namespace: str) -> Shelf[Lease]:
        """Return the leases of a namespace that have not ended."""
        return self._leases.get(namespace) or Shelf()

    def policies(self, namespace: str) -> Shelf[Policy]:
        """Return the access policies of a namespace."""
        return self._policies.get(namespace) or Shelf()

    def leases_of(self, client: Key) -> list[Lease]:
        """Return the leases of a client that have not ended, by name."""
        shelf = self.leases(client.namespace)
        found = (shelf.get(name) for name in sorted(self._of_client.get(client, ())))
        return [lease for lease in found if lease is not None]

    def namespaces(self, kind: Kind) -> Sequence[str]:
        """Return the namespaces that have had records of a kind."""
        match kind:
            case Kind.EXPORTER:
                return sorted(self._exporters)
            case Kind.LEASE:
                return sorted(self._leases)
            case Kind.POLICY:
                return sorted(self._policies)
            case _:
                return sorted(namespace for other, namespace in self._accounts if other == kind)

    def shelf(self, kind: Kind, namespace: str) -> Shelf[Account] | Shelf[Exporter] | Shelf[Lease] | Shelf[Policy]:
        """Return the records of a kind in a namespace."""
        return self._shelf(Key(kind, namespace, ""))

    def __iter__(self) -> Iterator[Key]:
        """Iterate over what identifies each record."""
        for kind in Kind:
            for namespace in self.namespaces(kind):
                for record in self.shelf(kind, namespace):
                    yield record.key
