"""The file in which a lab travels: everything that its accounts' tokens need to go on counting, so it is a secret."""

from __future__ import annotations

import base64
import binascii
import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter_controller.model.records import Account, Exporter, Kind, Policy, Record
from jumpstarter_controller.store import codec

API_VERSION = "jumpstarter.dev/v1alpha1"
KIND = "LabExport"
FORMAT = 1
"""Is raised when older releases can't read a file any more."""

KINDS = (Kind.CLIENT, Kind.EXPORTER, Kind.ADMIN, Kind.ROUTER, Kind.POLICY)
"""What travels; leases stay behind."""

LARGEST = 512 << 20
"""Bytes that a file may have."""


@dataclass(frozen=True)
class LabFile:
    """A lab as it travels."""

    records: Sequence[Record]
    secrets: Mapping[str, bytes]
    """Keys and certificate authority of the server, by name."""
    source: str = ""
    """Where it comes from, for people."""
    created: datetime | None = None

    @property
    def namespaces(self) -> list[str]:
        """The namespaces that records are in."""
        return sorted({record.meta.namespace for record in self.records})

    def counts(self) -> str:
        """Return how many of what there are, for people."""
        found = [(kind, sum(record.key.kind is kind for record in self.records)) for kind in KINDS]
        return ", ".join(f"{number} {kind}" for kind, number in found if number) or "nothing"

    def __repr__(self) -> str:
        return f"LabFile({self.counts()}, source={self.source!r})"


def at_rest(record: Record) -> Record:
    """Return a record without what is only true where it comes from."""
    if isinstance(record, Exporter):
        record = replace(record, online=False, status=None, status_message="", lease="", freed=None, draining=False)
    return replace(record, meta=replace(record.meta, version=""))


def write(path: Path, lab: LabFile) -> None:
    """Write a file for its owner alone.

    Raises:
        FileAccessError: it can't be written.
    """
    from jumpstarter.config.document import write_secret

    records: dict[str, list[Any]] = {kind.value: [] for kind in KINDS}
    for record in lab.records:
        records[record.key.kind.value].append(json.loads(codec.encode(at_rest(record))))
    document = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "format": FORMAT,
        "created": (lab.created or datetime.now(UTC)).isoformat(timespec="seconds"),
        "source": lab.source,
        "records": records,
        "secrets": {name: base64.b64encode(value).decode() for name, value in sorted(lab.secrets.items())},
    }
    write_secret(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> LabFile:
    """Read a file.

    Raises:
        ConfigurationError: it is none, or has mistakes; never shows what is in it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise ConfigurationError(f"the export {path} can't be read: {error.strerror or error}") from None
    try:
        if len(content) > LARGEST:
            raise ValueError("too large")
        document = json.loads(content)
        if document["apiVersion"] != API_VERSION or document["kind"] != KIND:
            raise ValueError("of another kind")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigurationError(
            f"{path} is no lab that `jmp admin export lab` has written, or is damaged; export it again"
        ) from None
    if document.get("format") != FORMAT:
        raise ConfigurationError(
            f"{path} was written by another release (format {document.get('format')!r}, known is {FORMAT}); "
            "use the same release for both sides"
        )
    records = _records(path, document.get("records"))
    secrets = _secrets(path, document.get("secrets"))
    return LabFile(records, secrets, str(document.get("source") or ""))


def readable_by_others(path: Path) -> bool:
    """Return whether somebody but the owner of a file may read it."""
    return bool(stat.S_IMODE(os.stat(path).st_mode) & 0o077)


def _records(path: Path, given: Any) -> list[Record]:
    if not isinstance(given, dict) or not given.keys() <= {kind.value for kind in KINDS}:
        raise ConfigurationError(f"records of {path} are not those of a lab; export it again")
    found: list[Record] = []
    for kind in KINDS:
        entries = given.get(kind.value) or []
        if not isinstance(entries, list):
            raise ConfigurationError(f"records.{kind} of {path} is no list; export it again")
        for number, entry in enumerate(entries):
            try:
                record = codec.decode(kind, json.dumps(entry))
                if record.key.kind is not kind:
                    raise ValueError("of another kind")
            except ValueError:
                raise ConfigurationError(f"records.{kind}[{number}] of {path} is damaged; export it again") from None
            if not record.meta.uid or not isinstance(record, Account | Exporter | Policy):
                raise ConfigurationError(f"records.{kind}[{number}] of {path} has no uid; export it again")
            found.append(at_rest(record))
    keys = [record.key for record in found]
    if twice := next((key for key in keys if keys.count(key) > 1), None) if len(set(keys)) < len(keys) else None:
        raise ConfigurationError(f"{twice} is twice in {path}; export it again")
    return found


def _secrets(path: Path, given: Any) -> dict[str, bytes]:
    try:
        return {str(name): base64.b64decode(value, validate=True) for name, value in given.items()}
    except (AttributeError, TypeError, ValueError, binascii.Error):
        raise ConfigurationError(f"secrets of {path} are damaged; export it again") from None
