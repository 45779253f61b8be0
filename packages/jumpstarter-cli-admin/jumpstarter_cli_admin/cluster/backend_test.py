"""Administration of a lab in a cluster, with a controller of the published kind or none."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import yaml
from jumpstarter.config.client import ClientConfigV1Alpha1
from jumpstarter.config.exporter import ExporterConfigV1Alpha1
from jumpstarter_kubernetes.resources import CLIENTS, CRDS, EXPORTERS, LEASES, POLICIES, SECRETS
from jumpstarter_testbench.kube.fixtures import Kube
from jumpstarter_testbench.kube.published import CA, ENDPOINT

from ..conftest import Run, done, failed, invoke
from .conftest import Namespace

LEASE = {"clientRef": {"name": "alice"}, "duration": "1h0m0s", "selector": {"matchLabels": {"board": "x"}}}


# --- accounts --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("published")
def test_a_client_is_made_and_its_config_is_ready_to_use(run: Run, namespace: Namespace) -> None:
    result = run(
        "create", "client", "alice", "-l", "team=a", "--save", "--allow", "a.*", "--oidc-username", "dex:alice"
    )
    shown = done(result)
    assert "Creating client 'alice'" in result.stderr
    assert "Client configuration successfully saved" in result.stderr
    assert shown.split()[:4] == ["NAME", "ENDPOINT", "alice", ENDPOINT]
    item = namespace.get(CLIENTS, "alice")
    assert item["metadata"]["labels"] == {"team": "a"}
    assert item["spec"] == {"username": "dex:alice"}
    config = ClientConfigV1Alpha1.load("alice")
    assert (config.endpoint, config.metadata.namespace) == (ENDPOINT, namespace.name)
    assert base64.b64decode(config.tls.ca).decode() == CA
    assert config.token == token(namespace, "alice-client")
    assert config.token not in result.output


def token(namespace: Namespace, secret: str) -> str:
    return base64.b64decode(namespace.get(SECRETS, secret)["data"]["token"]).decode()


@pytest.mark.usefixtures("published")
def test_an_exporter_is_made_and_its_config_is_ready_for_drivers(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "board.yaml"
    done(run("create", "exporter", "board", "-l", "board=x", "--out", str(out), "-o", "name"))
    config = ExporterConfigV1Alpha1.load_path(out)
    assert (config.endpoint, dict(config.export)) == (ENDPOINT, {})
    assert out.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("output", "wanted"), [("name", "client.jumpstarter.dev/alice\n"), ("json", '"kind": "Client"'), ("yaml", "kind: ")]
)
@pytest.mark.usefixtures("published")
def test_what_was_made_is_printed_for_programs(output: str, wanted: str, run: Run) -> None:
    assert wanted in done(run("create", "client", "alice", "--nointeractive", "-o", output))


@pytest.mark.usefixtures("impatient")
def test_without_a_controller_creation_says_so_in_time(run: Run, namespace: Namespace) -> None:
    text = failed(run("create", "client", "alice", "--save", "--allow", ""))
    assert "was made in namespace" in text
    assert "no controller of Jumpstarter seems to work there" in text
    assert "jmp admin import client alice" in text
    assert not ClientConfigV1Alpha1.exists("alice")
    # What is there without credentials does not keep others from being listed.
    assert done(run("get", "clients")).split()[2:3] == ["alice"]
    assert "no controller" in failed(run("import", "client", "alice", "--nointeractive"))


@pytest.mark.usefixtures("published")
def test_a_config_is_written_later_with_the_token_that_is_there(run: Run, namespace: Namespace) -> None:
    done(run("create", "client", "alice", "--nointeractive"))
    before = token(namespace, "alice-client")
    result = run("import", "client", "alice", "--nointeractive", "-o", "path")
    assert done(result).strip() == str(ClientConfigV1Alpha1._get_path("alice"))
    assert ClientConfigV1Alpha1.load("alice").token == before == token(namespace, "alice-client")
    assert "new token" not in result.output
    assert "exists already" in failed(run("import", "client", "alice", "--nointeractive"))


@pytest.mark.usefixtures("published")
def test_tokens_are_rotated(run: Run, namespace: Namespace) -> None:
    done(run("create", "exporter", "board", "-l", "a=b", "--save"))
    before = token(namespace, "board-exporter")
    result = run("rotate", "exporter", "board", "--save")
    assert "Token rotated" in done(result)
    assert ExporterConfigV1Alpha1.load("board").token == token(namespace, "board-exporter") != before


@pytest.mark.usefixtures("published")
def test_what_a_published_controller_does_not_know_is_refused_before_anything_changed(
    run: Run, namespace: Namespace
) -> None:
    done(run("create", "client", "alice", "--nointeractive"))
    before = namespace.get(CLIENTS, "alice"), token(namespace, "alice-client")
    assert "does not revoke tokens" in failed(run("rotate", "client", "alice", "--revoke-now"))
    assert "does not know disabled clients" in failed(run("disable", "client", "alice"))
    assert "Leave --token-life out" in failed(run("rotate", "client", "alice", "--token-life", "1d"))
    assert (namespace.get(CLIENTS, "alice"), token(namespace, "alice-client")) == before
    assert "Leave --token-life out" in failed(run("create", "client", "bob", "--token-life", "1d", "--nointeractive"))
    assert namespace.get(CLIENTS, "bob") is None


@pytest.mark.parametrize("kind", ["admin", "router"])
def test_tokens_that_only_the_controller_makes_are_refused(kind: str, run: Run) -> None:
    for command in ("create", "rotate"):
        options = ("--nointeractive",) if command == "create" else ()
        assert "--admin ALIAS" in failed(run(command, kind, "one", *options))
    assert done(run("get", f"{kind}s", "-o", "name")) == ""


@pytest.mark.usefixtures("published")
def test_accounts_are_changed_and_deleted(run: Run, namespace: Namespace) -> None:
    done(run("create", "exporter", "board", "-l", "board=x", "-l", "rack=1", "--save"))
    assert done(run("label", "exporter", "board", "rack-", "site=y")).strip().endswith("board=x,site=y")
    assert namespace.get(EXPORTERS, "board")["metadata"]["labels"] == {"board": "x", "site": "y"}
    done(run("disable", "exporter", "board"))
    assert namespace.get(EXPORTERS, "board")["spec"]["enabled"] is False
    done(run("enable", "exporter", "board"))
    assert namespace.get(EXPORTERS, "board")["spec"]["enabled"] is True
    assert "Deleted exporter 'board'" in done(run("delete", "exporter", "board", "--delete", "--nointeractive"))
    assert namespace.get(EXPORTERS, "board") is None
    assert not ExporterConfigV1Alpha1.exists("board")


def test_exporters_are_listed_with_what_is_known_of_them(run: Run, kube: Kube, namespace: Namespace) -> None:
    namespace.ask("create", EXPORTERS, {"metadata": {"name": "board", "labels": {"board": "x"}}})
    namespace.ask("create", EXPORTERS, {"metadata": {"name": "other"}})
    namespace.ask("create", LEASES, {"metadata": {"name": "one"}, "spec": LEASE})
    status = {
        "exporterStatus": "LeaseReady",
        "endpoint": ENDPOINT,
        "leaseRef": {"name": "one"},
        "lastSeen": "2026-01-01T00:00:00Z",
        "devices": [{"uuid": "u-1", "labels": {"jumpstarter.dev/name": "power"}}],
        "conditions": [
            {
                "type": "Online",
                "status": "True",
                "reason": "Seen",
                "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ],
    }
    namespace.ask("patch", EXPORTERS, "board", {"status": status}, status=True)
    rows = [line.split() for line in done(run("get", "exporters")).splitlines()]
    assert rows[1][:4] == ["board", "LeaseReady", ENDPOINT, "1"]
    assert rows[2][:2] == ["other", "Unknown"]
    assert "alice      one" in done(run("get", "exporters", "-o", "wide"))
    assert "u-1" in done(run("get", "exporters", "-d"))
    assert done(run("get", "exporters", "-l", "board=x", "-o", "name")) == "exporter.jumpstarter.dev/board\n"
    assert json.loads(done(run("get", "exporter", "board", "-o", "json")))["status"]["online"] is True
    assert yaml.safe_load(done(run("get", "exporters", "-o", "yaml")))["kind"] == "ExporterList"
    everywhere = done(run("get", "exporters", "-A"))
    assert namespace.name in everywhere
    elsewhere = kube.namespace(f"{namespace.name}-empty")
    assert done(run("get", "exporters", "-n", elsewhere, "-o", "name")) == ""


# --- policies and leases ---------------------------------------------------------------------------------------------

POLICY = {
    "apiVersion": "jumpstarter.dev/v1alpha1",
    "kind": "ExporterAccessPolicy",
    "metadata": {"name": "boards"},
    "spec": {
        "exporterSelector": {"matchLabels": {"board": "x"}},
        "policies": [{"priority": 5, "from": [{"clientSelector": {}}], "maximumDuration": "1h", "idleTimeout": "5m"}],
    },
}


def test_policies_are_made_replaced_and_deleted(run: Run, namespace: Namespace, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(yaml.safe_dump(POLICY))
    done(run("create", "policy", "-f", str(file)))
    assert "exists already" in failed(run("create", "policy", "-f", str(file)))
    shown = yaml.safe_load(done(run("get", "policy", "boards", "-o", "yaml")))
    assert shown["spec"]["policies"][0]["idleTimeout"] == "5m0s"

    stale = dict(shown["metadata"])
    shown["spec"]["exporterSelector"] = {"matchLabels": {"site": "y"}}
    shown["spec"]["policies"][0].pop("idleTimeout")
    file.write_text(yaml.safe_dump(shown))
    done(run("update", "policy", "-f", str(file)))
    changed = namespace.get(POLICIES, "boards")
    assert changed["spec"]["exporterSelector"] == {"matchLabels": {"site": "y"}}
    assert not changed["metadata"].get("annotations")
    file.write_text(yaml.safe_dump({**shown, "metadata": stale}))
    assert "was changed meanwhile" in failed(run("update", "policy", "-f", str(file)))
    done(run("delete", "policy", "boards"))
    assert done(run("get", "policies", "-o", "name")) == ""


@pytest.mark.usefixtures("published")
def test_leases_are_listed_and_ended(run: Run, namespace: Namespace) -> None:
    namespace.ask("create", LEASES, {"metadata": {"name": "one"}, "spec": LEASE})
    rows = done(run("get", "leases")).splitlines()
    assert rows[1].split()[:3] == ["one", "alice", "board=x"]
    assert "1h" in rows[1]
    assert done(run("get", "leases", "--client", "bob", "-o", "name")) == ""
    assert done(run("end", "lease", "one", "--reason", "the rack moves")) == "Ended lease 'one'\n"
    assert namespace.get(LEASES, "one")["metadata"]["annotations"]["lab.jumpstarter.dev/release-reason"]
    assert done(run("get", "leases", "-o", "name")) == ""
    assert "Released" in done(run("get", "leases", "-a"))
    assert "has ended already" in failed(run("end", "lease", "one"))


@pytest.mark.usefixtures("impatient")
def test_without_a_controller_the_end_of_a_lease_is_asked_for(run: Run, namespace: Namespace) -> None:
    namespace.ask("create", LEASES, {"metadata": {"name": "one"}, "spec": LEASE})
    assert "no controller" in failed(run("end", "lease", "one"))
    assert namespace.get(LEASES, "one")["spec"]["release"] is True


def test_the_state_of_the_lab_is_shown(run: Run, kube: Kube, namespace: Namespace) -> None:
    namespace.ask("create", CLIENTS, {"metadata": {"name": "alice"}})
    shown = done(run("status"))
    assert kube.url in shown
    assert "Clients:    1" in shown
    assert done(run("audit", "-o", "name")) == ""


def test_routers_of_published_controllers_are_listed(run: Run, namespace: Namespace) -> None:
    from jumpstarter_kubernetes.resources import CONFIG_MAPS

    routers = yaml.safe_dump({"default": {"endpoint": "router.example.com:443"}, "router-1": {"labels": {"a": "b"}}})
    body = {"metadata": {"name": "jumpstarter-controller"}, "data": {"router": routers}}
    namespace.ask("create", CONFIG_MAPS, body)
    rows = [line.split() for line in done(run("get", "routers")).splitlines()]
    assert rows[1][:3] == ["default", "Unknown", "router.example.com:443"]
    assert rows[2][0] == "router-1"


# --- what can go wrong -----------------------------------------------------------------------------------------------


def test_a_machine_with_a_cluster_and_no_lab_needs_no_option(
    kubeconfig: Path, namespace: Namespace, tmp_config_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    namespace.ask("create", CLIENTS, {"metadata": {"name": "alice"}})
    assert done(invoke("get", "clients", "-o", "name")) == "client.jumpstarter.dev/alice\n"


@pytest.mark.parametrize("name", ["Alice", "a_b", "-a", "a" * 254, "a/b", "ä"])
def test_names_that_no_object_can_have_are_refused(name: str, run: Run, namespace: Namespace) -> None:
    assert "can't be the name of" in failed(run("create", "client", "--nointeractive", "--", name))
    assert namespace.names(CLIENTS) == []


@pytest.mark.usefixtures("published")
def test_what_is_there_already_is_told(run: Run) -> None:
    done(run("create", "client", "alice", "--nointeractive"))
    assert "client 'alice' exists already" in failed(run("create", "client", "alice", "--nointeractive"))


@pytest.mark.parametrize(
    "command", [("get", "client"), ("delete", "client"), ("rotate", "client"), ("get", "policy"), ("end", "lease")]
)
def test_what_is_not_there_is_told(command: tuple[str, ...], run: Run) -> None:
    text = failed(run(*command, "nobody"))
    assert "'nobody' not found in namespace" in text
    assert "NotFound" in text


def test_a_namespace_that_is_not_there_is_told(run: Run) -> None:
    text = failed(run("create", "client", "alice", "--nointeractive", "-n", "missing"))
    assert "there is no namespace 'missing'" in text
    assert "kubectl create namespace missing" in text
    assert "can't be the name of a namespace" in failed(run("get", "clients", "-n", "Not/One"))


def test_an_unknown_context_is_told(run: Run) -> None:
    assert "has no context 'other'. There is: test" in failed(run("get", "clients", "--context", "other"))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("token: [secret-of-mine", "is no valid YAML at line 1"),
        ("- a list", "does not hold a mapping"),
        ("{}", ""),
        ("kind: Config", "has no current-context"),
        (b"\xff\xfe", "can't be read"),
    ],
)
def test_a_broken_kubeconfig_is_told(content: str | bytes, text: str, tmp_path: Path, tmp_config_path: Path) -> None:
    file = tmp_path / "broken"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    shown = failed(invoke("get", "clients", "--kubeconfig", str(file)))
    assert str(file) in shown
    assert text in shown
    assert "secret-of-mine" not in shown


def test_a_missing_right_is_told(kube: Kube, namespace: Namespace, tmp_path: Path, tmp_config_path: Path) -> None:
    config = kube.kubeconfig(tmp_path / "nobody", namespace=namespace.name, token=kube.token("nobody"))
    text = failed(invoke("create", "client", "alice", "--nointeractive", "--kubeconfig", str(config)))
    assert 'User "nobody" cannot create resource "clients"' in text
    assert "Ask the cluster's administrator" in text
    assert namespace.names(CLIENTS) == []


def test_a_refused_login_is_told(kube: Kube, tmp_path: Path, tmp_config_path: Path) -> None:
    config = kube.kubeconfig(tmp_path / "wrong", token="wrong-secret")
    text = failed(invoke("get", "clients", "--kubeconfig", str(config)))
    assert "Log in to the cluster again" in text
    assert "wrong-secret" not in text


def test_a_cluster_without_the_kinds_is_told(own_kube: Kube, tmp_path: Path, tmp_config_path: Path) -> None:
    config = own_kube.kubeconfig(tmp_path / "bare")
    bare = Namespace(own_kube, "default")
    bare.ask("delete", CRDS, "clients.jumpstarter.dev")
    for command in (("get", "clients"), ("create", "client", "alice", "--nointeractive")):
        text = failed(invoke(*command, "--kubeconfig", str(config)))
        assert "does not know that kind of objects" in text


def test_a_cluster_that_is_away_is_told(own_kube: Kube, tmp_path: Path, tmp_config_path: Path) -> None:
    config = own_kube.kubeconfig(tmp_path / "away")
    own_kube.stop()
    text = failed(invoke("create", "client", "alice", "--save", "--allow", "", "--kubeconfig", str(config)))
    assert f"can't reach the API server {own_kube.url}" in text
    assert "context 'test'" in text
    assert not ClientConfigV1Alpha1.exists("alice")


def test_a_config_that_can_not_be_written_is_told_before_anything_is_made(
    run: Run, namespace: Namespace, tmp_path: Path
) -> None:
    text = failed(run("create", "client", "alice", "--out", str(tmp_path / "missing" / "a.yaml"), "--allow", ""))
    assert "does not exist" in text
    assert namespace.names(CLIENTS) == []


def test_an_object_that_is_not_as_it_should_be_is_named(run: Run, namespace: Namespace) -> None:
    annotations = {"lab.jumpstarter.dev/credential": "{broken"}
    namespace.ask("create", CLIENTS, {"metadata": {"name": "alice", "annotations": annotations}})
    assert "Client 'alice' in namespace" in failed(run("get", "clients"))


@pytest.mark.usefixtures("published")
def test_labels_with_which_no_object_can_be_are_refused(run: Run, namespace: Namespace) -> None:
    failed(run("create", "client", "alice", "-l", "bad key=x", "--nointeractive"))
    assert namespace.names(CLIENTS) == []
