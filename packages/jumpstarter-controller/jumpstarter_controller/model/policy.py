"""Access policies: which rules let a client have an exporter, on what terms, and what to say when none does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from ..errors import Code, Refused
from .records import Policy, Rule
from .selector import Selector

LONGEST_TEXT = 4096
"""Characters of the longest text about policies that a condition carries."""


@dataclass(frozen=True)
class Approval:
    """A rule as a reason to have an exporter."""

    policy: str
    """Name of the policy; empty when there is none in the namespace, which lets everybody have everything."""
    index: int
    rule: Rule
    exporters: Selector

    @property
    def name(self) -> str:
        """`policy`, or `policy/description`."""
        return f"{self.policy}/{self.rule.description}" if self.rule.description else self.policy

    @property
    def identity(self) -> tuple[str, int]:
        """What tells it from the other rules of a namespace."""
        return self.policy, self.index

    def __str__(self) -> str:
        described = f", rule {self.rule.description!r}" if self.rule.description else f", rule {self.index + 1}"
        return f"policy {self.policy!r}{described}"


UNRESTRICTED = Approval("", 0, Rule(), Selector())
"""The approval of everybody where there are no policies."""


@dataclass(frozen=True)
class Admission:
    """What the rules of a namespace say of a client and a length of time."""

    approvals: tuple[Approval, ...]
    too_long: tuple[Approval, ...] = ()
    """Rules for this client that allow a shorter time only."""
    exhausted: tuple[Approval, ...] = ()
    """Rules for this client through which it has as many leases as it may have."""
    others: tuple[Approval, ...] = ()
    """Rules for other clients."""

    @property
    def identity(self) -> tuple[tuple[str, int], ...]:
        """Equal for clients that may have the same exporters on the same terms, of the same policies."""
        return tuple(approval.identity for approval in self.approvals)

    def best(self, labels: Mapping[str, str]) -> Approval | None:
        """Return the rule on which an exporter with these labels is had: no spot rule if there is another, then the one
        with the highest priority."""
        found: Approval | None = None
        for approval in self.approvals:
            if approval.exporters.matches(labels) and (found is None or _rank(approval) > _rank(found)):
                found = approval
        return found


def _rank(approval: Approval) -> tuple[bool, int]:
    return not approval.rule.spot_access, approval.rule.priority


def admit(
    policies: Iterable[Policy],
    labels: Mapping[str, str],
    length: timedelta,
    held: Callable[[str], int] = lambda name: 0,
) -> Admission:
    """Return what the policies of a namespace say of a client.

    Args:
        policies: all of the namespace, in the order of their names.
        labels: of the client.
        length: of the lease.
        held: tells how many leases the client has through the rule of a name (`Approval.name`).
    """
    approvals: list[Approval] = []
    too_long: list[Approval] = []
    exhausted: list[Approval] = []
    others: list[Approval] = []
    restricted = False
    for policy in policies:
        restricted = True
        for index, rule in enumerate(policy.rules):
            approval = Approval(policy.meta.name, index, rule, policy.exporters)
            if not any(selector.matches(labels) for selector in rule.clients):
                others.append(approval)
            elif (longest := longest_of(rule)) is not None and length > longest:
                too_long.append(approval)
            elif rule.maximum_leases and held(approval.name) >= rule.maximum_leases:
                exhausted.append(approval)
            else:
                approvals.append(approval)
    if not restricted:
        return Admission((UNRESTRICTED,))
    return Admission(tuple(approvals), tuple(too_long), tuple(exhausted), tuple(others))


def refuse_length_or_number(admission: Admission, exporters: Sequence[Mapping[str, str]], length: timedelta) -> None:
    """Raise `Refused` when a client may have one of these exporters, but not for so long, or not one more.

    Args:
        exporters: labels of each exporter that is meant, none of them approved.
    """
    exhausted = _about(admission.exhausted, exporters)
    if exhausted:
        most = max(exhausted, key=lambda approval: approval.rule.maximum_leases)
        raise Refused(
            Code.RESOURCE_EXHAUSTED,
            "TOO_MANY_LEASES",
            f"{most} allows a client {plural(most.rule.maximum_leases, 'lease')} at once, held or waited for, and "
            "there are as many; release one first",
            {"policy": most.name, "maximum_leases": str(most.rule.maximum_leases)},
        )
    too_long = _about(admission.too_long, exporters)
    if too_long:
        most = max(too_long, key=lambda approval: longest_of(approval.rule) or timedelta(0))
        allowed = longest_of(most.rule) or timedelta(0)
        longest = span(allowed)
        raise Refused(
            Code.FAILED_PRECONDITION,
            "TOO_LONG",
            f"a lease of {span(length)} is longer than the access policies allow: {most} allows at most {longest}; "
            f"ask for {longest} or less",
            {
                "policy": most.name,
                "maximum_duration": f"{allowed.total_seconds():g}s",
                "duration": f"{length.total_seconds():g}s",
            },
        )


def longest_of(rule: Rule) -> timedelta | None:
    """Return the longest time that may be asked for by a rule; use may extend a lease beyond it."""
    return rule.maximum_duration if rule.maximum_duration is not None else rule.maximum_use


def no_access_text(admission: Admission, exporters: Sequence[Mapping[str, str]]) -> str:
    """Return why a client may have none of these exporters; their labels are given."""
    text = f"{plural(len(exporters), 'exporter')} matched, but none of them are approved by any policy for this client"
    if not exporters:
        text = "0 exporters matched, none of them are approved by any policy"
    descriptions = dict.fromkeys(
        approval.rule.description
        for approval in _about(admission.others, exporters)
        if approval.rule.description.strip()
    )
    if descriptions:
        text += ". Matching policies: " + "; ".join(descriptions)
    return text[:LONGEST_TEXT]


def _about(approvals: Iterable[Approval], exporters: Sequence[Mapping[str, str]]) -> list[Approval]:
    return [approval for approval in approvals if any(approval.exporters.matches(labels) for labels in exporters)]


def plural(count: int, noun: str) -> str:
    """Return `1 lease`, `2 leases`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def span(length: timedelta) -> str:
    """Return a length of time as `1d2h3m4s`, without the parts that are zero."""
    seconds = int(length.total_seconds())
    if seconds <= 0:
        return f"{length.total_seconds():g}s"
    text = ""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if seconds >= size:
            text += f"{seconds // size}{unit}"
            seconds %= size
    return text
