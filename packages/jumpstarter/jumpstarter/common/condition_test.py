"""How the conditions of a lease are read."""

from __future__ import annotations

import pytest
from jumpstarter_protocol import kubernetes_pb2

from jumpstarter.common.condition import (
    condition_false,
    condition_message,
    condition_present_and_equal,
    condition_true,
)

CONDITIONS = [
    kubernetes_pb2.Condition(type="Pending", status="True", reason="Offline", message="exporter is offline"),
    kubernetes_pb2.Condition(type="Pending", status="False", reason="NotAvailable", message="exporter is leased"),
    kubernetes_pb2.Condition(type="Ready", status="Unknown"),
]


def test_the_first_condition_of_the_type_decides() -> None:
    assert condition_present_and_equal(CONDITIONS, "Pending", "True")
    assert not condition_present_and_equal(CONDITIONS, "Pending", "False")


def test_a_reason_narrows_the_choice_before_the_status_is_looked_at() -> None:
    assert condition_present_and_equal(CONDITIONS, "Pending", "False", "NotAvailable")
    assert not condition_present_and_equal(CONDITIONS, "Pending", "True", "NotAvailable")


def test_the_message_is_that_of_the_first_match() -> None:
    assert condition_message(CONDITIONS, "Pending") == "exporter is offline"
    assert condition_message(CONDITIONS, "Pending", "NotAvailable") == "exporter is leased"
    assert condition_message(CONDITIONS, "Pending", "Other") is None


@pytest.mark.parametrize("kind", ["Ready", "Absent"])
def test_an_unknown_or_absent_condition_is_neither_true_nor_false(kind: str) -> None:
    assert not condition_true(CONDITIONS, kind)
    assert not condition_false(CONDITIONS, kind)


def test_true_and_false() -> None:
    assert condition_true(CONDITIONS, "Pending")
    assert condition_false(CONDITIONS[1:], "Pending")
