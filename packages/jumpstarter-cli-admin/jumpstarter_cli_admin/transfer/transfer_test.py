"""A whole lab from a folder into a cluster and back: what was given out to peers goes on working."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from jumpstarter.common.exceptions import ConnectionError as CallError
from jumpstarter_controller.cluster import provisioning
from jumpstarter_controller.cluster.election import Terms
from jumpstarter_controller.cluster.member import Member
from jumpstarter_controller.model.records import Rule
from jumpstarter_controller.model.selector import parse
from jumpstarter_controller.store.kubernetes import KubernetesStore
from jumpstarter_controller.testing import Login, ThreadedLab, threaded_lab
from jumpstarter_kubernetes.resources import CLIENTS, COORDINATION_LEASES, EXPORTERS, POLICIES, SECRETS
from jumpstarter_testbench.kube.fixtures import Kube
from jumpstarter_testing import eventually

from ..cluster.conftest import Namespace
from ..conftest import done, failed, invoke

QUICK = Terms(duration=1.5, deadline=1.0, interval=0.1)


@pytest.fixture(autouse=True)
def no_other_store(monkeypatch: pytest.MonkeyPatch, tmp_config_path: Path) -> None:
    """These tests say themselves where labs are kept; controllers in a cluster don't wait for others."""
    monkeypatch.delenv("TESTBENCH_LAB_STORE", raising=False)
    monkeypatch.setattr(provisioning, "NEW", 0.05)
    monkeypatch.setattr(provisioning, "GRACE", 0.2)


@pytest.fixture
def target(kube: Kube, request: pytest.FixtureRequest) -> Namespace:
    """An empty namespace of the cluster."""
    return Namespace(kube, kube.namespace(f"moved-{abs(hash(request.node.nodeid)) % 10**8}"))


@pytest.fixture
def kubeconfig(kube: Kube, target: Namespace, tmp_path: Path) -> str:
    return str(kube.kubeconfig(tmp_path / "kubeconfig", namespace=target.name))


@contextmanager
def in_cluster(target: Namespace, folder: Path) -> Iterator[ThreadedLab]:
    """Run our controller on a namespace."""
    cluster = target.kube.cluster(target.name)
    options = {
        "store": KubernetesStore(cluster, own_namespace=True),
        "member": Member(cluster, identity="one", terms=QUICK),
    }
    with threaded_lab(folder, server=options, namespace=target.name) as lab:
        yield lab


def fill(lab: ThreadedLab) -> dict[str, Login]:
    """Make accounts and a policy."""
    logins = {
        "alice": lab.client("alice", labels={"team": "a"}),
        "board": lab.exporter("board", labels={"board": "x"}),
        "root": lab.admin("root"),
    }
    rule = Rule(clients=(parse(""),), maximum_duration=timedelta(hours=2), idle_timeout=timedelta(minutes=5))
    lab.call(lambda: lab.running.policy("boards", rule, exporters="board=x"))
    return logins


def uid_of(login: Login) -> str:
    """Return the identity that a token names."""
    payload = login.token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return str(claims["sub"].rpartition(":")[2])


def exporters_of(login: Login, lab: ThreadedLab, namespace: str) -> list[str]:
    """Ask another lab with a config that was given out by the former one; only the address and namespace differ."""
    config = login.client_config(endpoint=lab.endpoint)
    config.metadata.namespace = namespace
    return [each.name for each in config.list_exporters().exporters]


@pytest.fixture
def source(tmp_path: Path) -> tuple[Path, dict[str, Login]]:
    """The folder of a lab that has run, and what its peers have."""
    folder = tmp_path / "lab"
    with threaded_lab(folder) as lab:
        logins = fill(lab)
    return folder / "lab", logins


def test_a_lab_moves_into_a_cluster_and_back_and_its_tokens_go_on_working(
    source: tuple[Path, dict[str, Login]], target: Namespace, kubeconfig: str, tmp_path: Path
) -> None:
    folder, logins = source
    file, second = tmp_path / "lab.json", tmp_path / "back.json"
    result = invoke("export", "lab", str(file), "--data", str(folder))
    assert "Exported 1 clients, 1 exporters, 1 admins, 1 policies" in done(result)
    assert file.stat().st_mode & 0o777 == 0o600

    # Into the cluster.
    result = invoke("import", "lab", str(file), "--kubeconfig", kubeconfig)
    assert "Imported 4 accounts and policies" in done(result)
    assert "change their metadata.namespace" in result.stderr
    client = target.get(CLIENTS, "alice")
    assert client["metadata"]["labels"] == {"team": "a"}
    assert client["metadata"]["annotations"]["jumpstarter.dev/migrated-uid"] == uid_of(logins["alice"])
    assert target.get(POLICIES, "boards")["spec"]["policies"][0]["maximumDuration"] == "2h0m0s"
    again = invoke("import", "lab", str(file), "--kubeconfig", kubeconfig)
    assert "Imported 0 accounts and policies" in done(again)
    assert "4 were there already" in again.stdout

    with in_cluster(target, tmp_path / "replica") as lab:
        assert lab.ca == logins["alice"].ca
        assert exporters_of(logins["alice"], lab, target.name) == ["board"]
        # Those who are new there get credentials as ever, those who came along are left alone.
        made = invoke("create", "client", "bob", "--nointeractive", "--kubeconfig", kubeconfig, "-o", "name")
        assert done(made) == "client.jumpstarter.dev/bob\n"
        assert target.names(SECRETS).count("alice-client") == 0
        assert exporters_of(logins["alice"], lab, target.name) == ["board"]

    # And back.
    done(invoke("export", "lab", str(second), "--kubeconfig", kubeconfig))
    other = tmp_path / "other"
    shown = done(invoke("import", "lab", str(second), "--data", str(other / "lab"), "-n", "default"))
    assert "Imported 5 accounts and policies" in shown
    with threaded_lab(other) as lab:
        assert exporters_of(logins["alice"], lab, "default") == ["board"]
        policy = json.loads(second.read_text())["records"]["policies"][0]
        assert policy["rules"][0]["idle_timeout"] == "PT5M"


def test_a_token_that_came_along_can_be_replaced(
    source: tuple[Path, dict[str, Login]], target: Namespace, kubeconfig: str, tmp_path: Path
) -> None:
    folder, logins = source
    file = tmp_path / "lab.json"
    done(invoke("export", "lab", str(file), "--data", str(folder)))
    done(invoke("import", "lab", str(file), "--kubeconfig", kubeconfig))
    with in_cluster(target, tmp_path / "replica") as lab:
        result = invoke("rotate", "client", "alice", "--save", "--kubeconfig", kubeconfig)
        assert "Token rotated" in done(result)
        # For some minutes the former one is good as well.
        assert exporters_of(logins["alice"], lab, target.name) == ["board"]
        # Unless that is not wanted.
        assert "Token rotated" in done(invoke("rotate", "client", "alice", "--revoke-now", "--kubeconfig", kubeconfig))

        def replaced() -> None:
            with pytest.raises(CallError, match="replaced"):
                exporters_of(logins["alice"], lab, target.name)

        eventually(replaced, timeout=10)


def test_a_disabled_client_is_refused_by_our_controller(target: Namespace, kubeconfig: str, tmp_path: Path) -> None:
    with in_cluster(target, tmp_path / "replica") as lab:
        alice = lab.client("alice", namespace=target.name)
        assert exporters_of(alice, lab, target.name) == []
        assert done(invoke("disable", "client", "alice", "--kubeconfig", kubeconfig))

        def refused() -> None:
            with pytest.raises(CallError, match="disabled"):
                exporters_of(alice, lab, target.name)

        eventually(refused, timeout=10)


def test_no_secret_is_shown(source: tuple[Path, dict[str, Login]], tmp_path: Path) -> None:
    folder, logins = source
    file = tmp_path / "lab.json"
    result = invoke("export", "lab", str(file), "--data", str(folder))
    content = json.loads(file.read_text())
    assert set(content["secrets"]) >= {"account-keys", "certificate-authority"}
    for secret in (*content["secrets"].values(), *(login.token for login in logins.values())):
        assert secret not in result.output
    # A token is nobody's but its owner's, so it doesn't travel.
    assert not any(login.token in file.read_text() for login in logins.values())


def test_what_is_there_is_not_replaced(
    source: tuple[Path, dict[str, Login]], target: Namespace, kubeconfig: str, tmp_path: Path
) -> None:
    folder, _ = source
    file = tmp_path / "lab.json"
    done(invoke("export", "lab", str(file), "--data", str(folder)))
    assert "is there already" in failed(invoke("export", "lab", str(file), "--data", str(folder)))
    done(invoke("export", "lab", str(file), "--data", str(folder), "--force"))

    target.ask("create", CLIENTS, {"metadata": {"name": "alice"}})
    text = failed(invoke("import", "lab", str(file), "--kubeconfig", kubeconfig))
    assert "of the same name are there already" in text
    assert (target.names(EXPORTERS), target.names(SECRETS)) == ([], [])


def test_a_lab_with_accounts_of_its_own_keeps_its_keys(source: tuple[Path, dict[str, Login]], tmp_path: Path) -> None:
    folder, _ = source
    file, other = tmp_path / "lab.json", tmp_path / "other"
    done(invoke("export", "lab", str(file), "--data", str(folder)))
    with threaded_lab(other) as lab:
        carol = lab.client("carol")
    text = failed(invoke("import", "lab", str(file), "--data", str(other / "lab")))
    assert "namespaces/default/clients/carol" in text
    with threaded_lab(other) as lab:
        assert exporters_of(carol, lab, "default") == []


def test_a_lab_that_is_served_is_left_alone(
    source: tuple[Path, dict[str, Login]], target: Namespace, kubeconfig: str, tmp_path: Path
) -> None:
    folder, _ = source
    file = tmp_path / "lab.json"
    done(invoke("export", "lab", str(file), "--data", str(folder)))
    with threaded_lab(folder.parent):
        assert "is in use by the process" in failed(invoke("export", "lab", str(tmp_path / "x"), "--data", str(folder)))
    with in_cluster(target, tmp_path / "replica"):
        eventually(lambda: target.names(COORDINATION_LEASES)[0], timeout=10)
        text = failed(invoke("import", "lab", str(file), "--kubeconfig", kubeconfig))
        assert "serves a lab in" in text
    assert target.names(CLIENTS) == []


def test_a_namespace_that_is_missing_is_told_before_anything_is_written(
    source: tuple[Path, dict[str, Login]], kubeconfig: str, tmp_path: Path
) -> None:
    folder, _ = source
    file = tmp_path / "lab.json"
    done(invoke("export", "lab", str(file), "--data", str(folder)))
    text = failed(invoke("import", "lab", str(file), "--kubeconfig", kubeconfig, "-n", "missing"))
    assert "there is no namespace 'missing'" in text


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"apiVersion": "jumpstarter.dev/v1alpha1", "kind": "LabExport", "format": 1}',
        '{"apiVersion": "jumpstarter.dev/v1alpha1", "kind": "LabExport", "format": 1, "records": {"x": []}}',
        '{"apiVersion": "jumpstarter.dev/v1alpha1", "kind": "LabExport", "format": 1, "records": {"clients": [{}]}}',
        '{"apiVersion": "jumpstarter.dev/v1alpha1", "kind": "LabExport", "format": 1, "records": {}, "secrets": [1]}',
        '{"apiVersion": "jumpstarter.dev/v1alpha1", "kind": "LabExport", "format": 2}',
        "[" * 100000,
    ],
)
def test_what_is_no_export_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "lab.json"
    file.write_text(content)
    text = failed(invoke("import", "lab", str(file), "--data", str(tmp_path / "new")))
    assert str(file) in text
    assert not (tmp_path / "new").exists()


def test_where_nothing_is_is_told(tmp_path: Path, kubeconfig: str) -> None:
    assert "there is no lab in" in failed(invoke("export", "lab", str(tmp_path / "x"), "--data", str(tmp_path / "no")))
    assert "There is no lab in" in failed(invoke("export", "lab", str(tmp_path / "x"), "--kubeconfig", kubeconfig))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("options", [(), ("--data", "lab", "--context", "test")])
def test_a_place_has_to_be_named(options: tuple[str, ...], tmp_path: Path) -> None:
    assert "Say where the lab is" in failed(invoke("export", "lab", str(tmp_path / "x"), *options), 2)


def test_of_several_namespaces_one_is_chosen(target: Namespace, kubeconfig: str, tmp_path: Path) -> None:
    folder, file = tmp_path / "source" / "lab", tmp_path / "lab.json"
    with threaded_lab(folder.parent) as lab:
        for namespace in ("default", "other"):
            lab.client(f"in-{namespace}", namespace=namespace)
    done(invoke("export", "lab", str(file), "--data", str(folder)))
    assert "Choose one with --from" in failed(invoke("import", "lab", str(file), "--kubeconfig", kubeconfig))
    command: tuple[Any, ...] = ("import", "lab", str(file), "--kubeconfig", kubeconfig, "--from")
    assert "only in: default, other" in failed(invoke(*command, "third"))
    done(invoke(*command, "other"))
    assert target.names(CLIENTS) == ["in-other"]
    done(invoke("import", "lab", str(file), "--data", str(tmp_path / "copy")))


def test_an_import_that_was_ended_half_way_is_done_again(
    source: tuple[Path, dict[str, Login]], target: Namespace, kubeconfig: str, tmp_path: Path
) -> None:
    folder, logins = source
    file = tmp_path / "lab.json"
    done(invoke("export", "lab", str(file), "--data", str(folder)))
    done(invoke("import", "lab", str(file), "--kubeconfig", kubeconfig))
    # What has not been written yet when it ends: the last ones, and the status of an exporter.
    target.ask("delete", POLICIES, "boards")
    target.ask("delete", EXPORTERS, "board")
    shown = done(invoke("import", "lab", str(file), "--kubeconfig", kubeconfig))
    assert "Imported 2 accounts and policies" in shown
    assert "2 were there already" in shown
    with in_cluster(target, tmp_path / "replica") as lab:
        assert exporters_of(logins["alice"], lab, target.name) == ["board"]


def test_a_cluster_that_takes_no_writes_is_told_before_anything_is_written(
    source: tuple[Path, dict[str, Login]], own_kube: Kube, tmp_path: Path
) -> None:
    folder, _ = source
    file = tmp_path / "lab.json"
    done(invoke("export", "lab", str(file), "--data", str(folder)))
    config = str(own_kube.kubeconfig(tmp_path / "full"))
    own_kube.server.faults.refuse_writes = 500
    assert "database space exceeded" in failed(invoke("import", "lab", str(file), "--kubeconfig", config))
    own_kube.server.faults.refuse_writes = 0
    assert Namespace(own_kube, "default").names(SECRETS) == []
    done(invoke("import", "lab", str(file), "--kubeconfig", config))
