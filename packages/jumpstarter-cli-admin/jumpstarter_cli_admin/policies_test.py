"""Access policies: files, lists, and what goes back to a file."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from jumpstarter_controller.testing import ThreadedLab

from .conftest import Run, done, failed
from .manifests import duration_text

POLICY = """\
apiVersion: jumpstarter.dev/v1alpha1
kind: ExporterAccessPolicy
metadata: {name: boards}
spec:
  exporterSelector:
    matchLabels: {board: demo}
    matchExpressions: [{key: rack, operator: In, values: ["3", "4"]}]
  policies:
    - priority: 10
      description: Team A first
      from:
        - clientSelector: {matchLabels: {team: a}}
        - clientSelector: {matchExpressions: [{key: guest, operator: DoesNotExist}]}
      maximumDuration: 2h
      maximumLeases: 2
      idleTimeout: 30m
    - from: [{clientSelector: {}}]
      maximumDuration: 1800s
      spotAccess: true
      extendByUse: 10m
      maximumUse: 4h30m
"""
SECOND = "---\nmetadata: {name: nobody}\nspec: {}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


def test_a_policy_is_made_and_shown_with_its_rules(lab: ThreadedLab, run: Run, file: Path) -> None:
    result = run("create", "policy", "-f", str(file))
    rows = done(result).splitlines()
    assert "Created policy 'boards' in namespace 'default'" in result.stderr
    assert rows[0].split() == ["NAME", "EXPORTERS", "CLIENTS", "DURATION", "LEASES", "PRIORITY"]
    assert "board=demo,rack in (3,4)  team=a or !guest  2h        2       10" in rows[1]
    assert rows[2].split()[-4:] == ["*", "30m", "any", "0"]
    (policy,) = lab.server.lab.policies()
    assert policy.rules[0].maximum_duration == timedelta(hours=2)
    assert policy.rules[1].maximum_use == timedelta(hours=4.5)
    assert policy.rules[1].spot_access


def test_what_is_printed_can_be_applied_again(lab: ThreadedLab, run: Run, file: Path) -> None:
    done(run("apply", "-f", str(file)))
    (before,) = lab.server.lab.policies()
    for form in ("yaml", "json"):
        for name in ("boards", None):
            text = done(run("get", "policy", *([name] if name else []), "-o", form))
            assert "Updated policy 'boards'" in run("apply", "-f", "-", input=text).stderr
    (after,) = lab.server.lab.policies()
    assert (after.exporters, after.rules) == (before.exporters, before.rules)


def test_apply_creates_and_replaces(lab: ThreadedLab, run: Run, file: Path) -> None:
    file.write_text(POLICY + SECOND)
    assert run("apply", "-f", str(file)).stderr.count("Created") == 2
    file.write_text(POLICY.replace("priority: 10", "priority: 20") + SECOND)
    assert run("apply", "-f", str(file)).stderr.count("Updated") == 2
    assert {policy.meta.name: len(policy.rules) for policy in lab.server.lab.policies()} == {"boards": 2, "nobody": 0}
    assert done(run("get", "policies")).splitlines()[-1].split() == ["nobody", "*", "nobody"]


def test_create_does_not_replace_and_update_does_not_create(lab: ThreadedLab, run: Run, file: Path) -> None:
    assert "not found" in failed(run("update", "policy", "-f", str(file)))
    done(run("create", "policy", "-f", str(file)))
    assert "already exists" in failed(run("create", "policy", "-f", str(file)))
    done(run("update", "policy", "-f", str(file)))


def test_an_update_does_not_undo_what_somebody_else_changed_meanwhile(run: Run, file: Path) -> None:
    done(run("apply", "-f", str(file)))
    mine = done(run("get", "policy", "boards", "-o", "yaml"))
    done(run("apply", "-f", str(file)))
    assert "changed by somebody else" in failed(run("update", "policy", "-f", "-", input=mine))


def test_a_policy_is_deleted(lab: ThreadedLab, run: Run, file: Path) -> None:
    done(run("apply", "-f", str(file)))
    assert done(run("delete", "policy", "boards", "-o", "name")) == "exporteraccesspolicy.jumpstarter.dev/boards\n"
    assert lab.server.lab.policies() == []


def test_the_object_is_that_of_kubernetes(run: Run, file: Path) -> None:
    done(run("apply", "-f", str(file)))
    shown = json.loads(done(run("get", "policy", "boards", "-o", "json")))
    given = yaml.safe_load(POLICY)
    assert (shown["apiVersion"], shown["kind"]) == (given["apiVersion"], given["kind"])
    assert shown["spec"]["exporterSelector"] == given["spec"]["exporterSelector"]
    assert shown["spec"]["policies"][0]["from"] == given["spec"]["policies"][0]["from"]
    assert shown["spec"]["policies"][0]["maximumDuration"] == "2h0m0s"


@pytest.mark.parametrize(
    ("former", "latter", "line", "said"),
    [
        ("maximumLeases: 2", "maxLeases: 2", 15, "unknown key; did you mean 'maximumLeases'?"),
        ("2h", "soon", 14, "'soon' is not a valid duration"),
        ("2h", "-2h", 14, "must be longer than nothing"),
        ("operator: In,", "operator: Is,", 7, "must be 'In', 'NotIn', 'Exists' or 'DoesNotExist'"),
        ("ExporterAccessPolicy", "Client", 2, "'ExporterAccessPolicy' is needed here"),
        ("{name: boards}", "{}", 3, "metadata.name: missing"),
        ("priority: 10", "priority: high", 9, "must be a valid integer"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_nothing_is_changed(
    former: str, latter: str, line: int, said: str, lab: ThreadedLab, run: Run, file: Path
) -> None:
    file.write_text(SECOND + "---\n" + POLICY.replace(former, latter))
    text = failed(run("apply", "-f", str(file)))
    assert f"{file}:{line + 4}: " in text
    assert said in text
    assert lab.server.lab.policies() == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no policy in it"),
        (POLICY + "---\n" + POLICY, "the policy 'boards' is there twice"),
        ("kind: List\nitems: 3\n", "items: must be a list"),
        ("{", "not valid YAML"),
    ],
)
def test_a_file_of_another_kind_is_told(text: str, said: str, run: Run, file: Path) -> None:
    file.write_text(text)
    assert said in failed(run("apply", "-f", str(file)))


@pytest.mark.parametrize("kind", ["List", "ExporterAccessPolicyList"])
def test_an_empty_list_changes_nothing_and_says_so(kind: str, lab: ThreadedLab, run: Run, file: Path) -> None:
    done(run("apply", "-f", str(file)))
    before = lab.server.lab.policies()
    file.write_text(f"apiVersion: jumpstarter.dev/v1alpha1\nkind: {kind}\nitems: []\n")
    applied = run("apply", "-f", str(file))
    done(applied)
    assert "nothing was changed" in applied.stderr
    assert json.loads(done(run("apply", "-f", str(file), "-o", "json")))["items"] == []
    assert lab.server.lab.policies() == before


def test_a_file_that_is_not_there_is_told(run: Run) -> None:
    assert "/no/such.yaml" in failed(run("apply", "-f", "/no/such.yaml"))


def test_what_the_server_refuses_is_told(run: Run, file: Path) -> None:
    file.write_text(POLICY.replace("      maximumUse: 4h30m\n", "").replace("      maximumDuration: 1800s\n", ""))
    assert "extends leases by use without end" in failed(run("apply", "-f", str(file)))


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (timedelta(0), "0s"),
        (timedelta(minutes=30), "30m0s"),
        (timedelta(hours=25, seconds=1), "25h0m1s"),
        (timedelta(milliseconds=1500), "1.5s"),
        (timedelta(seconds=-90), "-1m30s"),
    ],
)
def test_lengths_are_written_as_go_does(length: timedelta, text: str) -> None:
    assert duration_text(length) == text
