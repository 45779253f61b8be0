"""Why a lease waits for an exporter, or never can have one, in words for its owner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .policy import Admission, no_access_text, plural
from .records import Exporter
from .selector import Selector


@dataclass(frozen=True)
class Verdict:
    """The condition that a lease without exporter has."""

    kind: str
    """`Pending`, or final: `Unsatisfiable` or `Invalid`."""
    reason: str
    message: str

    @property
    def final(self) -> bool:
        return self.kind != "Pending"


def hopeless_verdict(
    selector: Selector, pinned: str, allow_disabled: bool, exporters: Sequence[Exporter], admission: Admission
) -> Verdict:
    """Return why a lease can have none of the exporters.

    Args:
        exporters: all of the namespace, or the one that was asked for by name if it is there.
    """
    if not pinned and not selector:
        return Verdict("Invalid", "InvalidSelector", "the selector is empty and no exporter is named: give one of them")
    if pinned and not exporters:
        return _never("ExporterNotFound", f"there is no exporter {pinned!r}; `jmp get exporters` lists those there are")
    matching = [exporter for exporter in exporters if selector.matches(exporter.meta.labels)]
    if pinned and not matching:
        return _never("SelectorMismatch", f"exporter {pinned!r} does not match the selector {str(selector)!r}")
    usable = [exporter for exporter in matching if exporter.enabled or (pinned and allow_disabled)]
    if pinned and not usable:
        return _never(
            "ExporterDisabled",
            f"exporter {pinned!r} is disabled; allowDisabled (--allow-disabled) asks for it nevertheless",
        )
    if matching and not usable:
        return _never("AllDisabled", f"{plural(len(matching), 'exporter')} matched, but all of them are disabled")
    for exporter in usable:
        approval = admission.best(exporter.meta.labels)
        if approval is not None and approval.rule.spot_access:
            return _never(
                "SpotAccess",
                f"exporter {exporter.meta.name!r} may be had by spot access only ({approval}), "
                "which is not implemented",
            )
    return _never("NoAccess", no_access_text(admission, [exporter.meta.labels for exporter in usable]))


def _never(reason: str, message: str) -> Verdict:
    return Verdict("Unsatisfiable", reason, message)


def waiting_verdict(example: str, total: int, offline: int, leased: int, free: int) -> Verdict:
    """Return why a lease waits for exporters that it may have.

    Args:
        example: name of one of them.
        total: how many there are; `offline`, `leased` and `free` of them are so, the others are not ready.
    """
    online = total - offline
    if online == 0:
        text = f"there {_are(total)} {plural(total, 'approved exporter')} (i.e. {example}), but none of them are online"
        return Verdict("Pending", "Offline", text)
    many = f"there {_are(online)} {plural(online, 'approved exporter')} online (i.e. {example})"
    if leased == online:
        return Verdict("Pending", "NotAvailable", f"{many}, but all of them are already leased")
    if free:
        return Verdict("Pending", "NotAvailable", f"{many}, and it is being decided who gets the next free one")
    count = online - leased
    return Verdict(
        "Pending",
        "NotReady",
        f"there {_are(count)} {plural(count, 'exporter')} online and not leased, but none are ready",
    )


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
