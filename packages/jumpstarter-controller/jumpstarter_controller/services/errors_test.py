"""Refusals are said with the codes and words that published peers match on, and with ErrorInfo for ours."""

from __future__ import annotations

import logging

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from ..errors import Code, Refused
from . import errors


@pytest.mark.parametrize(
    ("rpc", "code", "message", "said", "words"),
    [
        # Plain errors of published servers are UNKNOWN, whose details 0.9 clients show as they are.
        ("GetLease", Code.NOT_FOUND, "lease x", Code.UNKNOWN, "not found: lease x"),
        ("CreateLease", Code.ALREADY_EXISTS, "lease x is there", Code.UNKNOWN, "already exists: lease x is there"),
        ("CreateLease", Code.ALREADY_EXISTS, "lease x already exists", Code.UNKNOWN, "lease x already exists"),
        (
            "UpdateLease",
            Code.PERMISSION_DENIED,
            "it is bob's",
            Code.UNKNOWN,
            "UpdateLease permission denied: it is bob's",
        ),
        ("UpdateLease", Code.FAILED_PRECONDITION, "it has ended", Code.UNKNOWN, "it has ended"),
        ("CreateLease", Code.FAILED_PRECONDITION, "too long", Code.UNKNOWN, "too long"),
        ("CreateLease", Code.INVALID_ARGUMENT, "11 tags", Code.INVALID_ARGUMENT, "11 tags"),
        ("CreateLease", Code.UNKNOWN, "duration is required", Code.UNKNOWN, "duration is required"),
        # What 0.9 clients act on.
        ("Dial", Code.PERMISSION_DENIED, "it is bob's", Code.UNKNOWN, "permission denied: it is bob's"),
        ("Dial", Code.FAILED_PRECONDITION, "exporter is not ready", Code.FAILED_PRECONDITION, "exporter is not ready"),
        ("Dial", Code.RESOURCE_EXHAUSTED, "full", Code.RESOURCE_EXHAUSTED, "full"),
        ("DeleteLease", Code.FAILED_PRECONDITION, "released", Code.FAILED_PRECONDITION, "released"),
        # What 0.9 exporters act on: never one of the codes that mean "unknown rpc" to them.
        ("ReleaseLease", Code.NOT_FOUND, "no lease x", Code.NOT_FOUND, "no lease x"),
        ("ReleaseLease", Code.FAILED_PRECONDITION, "not yours", Code.FAILED_PRECONDITION, "not yours"),
        (
            "ReleaseLease",
            Code.PERMISSION_DENIED,
            "not yours",
            Code.UNKNOWN,
            "ReleaseLease permission denied: not yours",
        ),
        ("ReportStatus", Code.UNAVAILABLE, "the disk is full", Code.UNAVAILABLE, "the disk is full"),
    ],
)
def test_published_services_say_refusals_of_the_lab_in_published_words(
    rpc: str, code: Code, message: str, said: Code, words: str
) -> None:
    answer = errors.published(rpc, Refused(code, "REASON", message, {"a": "b"}))
    assert answer.message == words
    assert (answer.code, answer.reason, dict(answer.metadata)) == (said, "REASON", {"a": "b"})


def test_what_is_said_already_stays_as_it_is() -> None:
    refusal = errors.Said(Code.PERMISSION_DENIED, "NAMESPACE_MISMATCH", "namespace mismatch")
    assert errors.published("GetLease", refusal) is refusal


@pytest.mark.parametrize(
    ("reason", "code", "metadata", "said", "named"),
    [
        ("NOT_OWNER", Code.UNKNOWN, {}, Code.PERMISSION_DENIED, "NOT_YOUR_LEASE"),
        ("NOT_FOUND", Code.UNKNOWN, {"lease": "x"}, Code.NOT_FOUND, "LEASE_NOT_FOUND"),
        ("STORE_UNAVAILABLE", Code.UNAVAILABLE, {}, Code.UNAVAILABLE, "STORE_UNAVAILABLE"),
        ("SOMETHING_NEW", Code.UNKNOWN, {}, Code.UNKNOWN, "SOMETHING_NEW"),
    ],
)
def test_services_without_published_peers_answer_with_plain_codes(
    reason: str, code: Code, metadata: dict[str, str], said: Code, named: str
) -> None:
    answer = errors.own(Refused(code, reason, "words", metadata))
    assert (answer.code, answer.reason, answer.message) == (said, named, "words")


@pytest.mark.parametrize("code", Code)
def test_every_code_is_a_status_of_grpc(code: Code) -> None:
    assert errors.STATUS[code].value[0] == code.value


def test_details_carry_reason_domain_and_metadata() -> None:
    status = errors.details(Refused(Code.NOT_FOUND, "LEASE_NOT_FOUND", "no such lease", {"lease": "x"}))
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (status.code, status.message) == (grpc.StatusCode.NOT_FOUND.value[0], "no such lease")
    assert (info.reason, info.domain, dict(info.metadata)) == ("LEASE_NOT_FOUND", "jumpstarter.dev", {"lease": "x"})


def test_details_fit_into_the_metadata_that_peers_take() -> None:
    huge = "x" * 100_000
    status = errors.details(Refused(Code.UNKNOWN, "R", huge, {f"key{number}": huge for number in range(100)}))
    # gRPC takes 8 KiB; the message goes along a second time, as the details of the call.
    assert len(status.SerializeToString()) * 4 / 3 + len(status.message) < 8192


def test_unforeseen_failures_tell_peers_nothing_but_an_incident_that_the_log_explains(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        answer = errors.failure("/service/Method", ValueError("the secret of the house"))
    assert answer.code is Code.INTERNAL
    assert "secret" not in answer.message
    incident = answer.metadata["incident"]
    assert incident in answer.message
    assert incident in caplog.text
    assert "the secret of the house" in caplog.text


def test_refusals_come_out_of_groups_and_other_errors_stay_in_theirs() -> None:
    refusal = Refused(Code.UNKNOWN, "R", "no")
    with pytest.raises(Refused) as caught, errors.only_refusal():
        raise ExceptionGroup("tasks", [ExceptionGroup("more", [refusal])])
    assert caught.value is refusal
    with pytest.raises(ExceptionGroup), errors.only_refusal():
        raise ExceptionGroup("tasks", [refusal, ValueError("other")])
