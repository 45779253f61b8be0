"""`jmp admin install` and `uninstall`: what users type, and what they are told."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from anyio.from_thread import start_blocking_portal
from click.testing import Result
from jumpstarter_kubernetes.resources import CRDS, DEPLOYMENTS, SERVICES
from jumpstarter_testbench.kube.fixtures import Kube
from jumpstarter_testbench.kube.machines import machines

from .conftest import done, failed, invoke

Run = Callable[..., Result]


@pytest.fixture
def run(own_kube: Kube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run a command against a cluster in which deployments get ready."""
    monkeypatch.setenv("KUBECONFIG", str(own_kube.kubeconfig(tmp_path / "kubeconfig")))
    cluster = own_kube.cluster()
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(cluster),
        portal.wrap_async_context_manager(machines(cluster)),
    ):
        yield invoke


def objects(own_kube: Kube, group: str, plural: str, namespace: str = "jumpstarter-lab") -> dict[str, dict]:
    found = own_kube.do(lambda: list(own_kube.server.storage.all((group, plural), namespace)))
    return {item["metadata"]["name"]: item for item in found}


def test_install_says_where_the_lab_is_and_how_far_it_is(own_kube: Kube, run: Run) -> None:
    result = run("install", "--basedomain", "lab.example.com")
    assert "The lab is ready at grpc.lab.example.com:30010" in done(result)
    for line in ("Namespace:  jumpstarter-lab", "Mode:       nodeport", "jumpstarter-router-1: 1 of 1 ready"):
        assert line in result.stderr
    deployments = objects(own_kube, DEPLOYMENTS.group, DEPLOYMENTS.plural)
    assert set(deployments) == {"jumpstarter-controller", "jumpstarter-router-0", "jumpstarter-router-1"}


def test_a_dry_run_shows_differences_and_leaves_everything(own_kube: Kube, run: Run) -> None:
    asked = ("install", "-b", "lab.example.com")
    assert "+ Deployment jumpstarter-controller" in done(run(*asked, "--dry-run"))
    assert objects(own_kube, DEPLOYMENTS.group, DEPLOYMENTS.plural) == {}
    done(run(*asked))
    shown = done(run(*asked, "--replicas", "4", "--routers", "1", "--dry-run"))
    assert "~ Deployment jumpstarter-controller" in shown
    assert "    +  replicas: 4" in shown.splitlines()
    assert "- Deployment jumpstarter-router-1" in shown
    assert "0 to make" in shown
    assert "= " not in shown
    unchanged = done(run(*asked, "--dry-run"))
    assert unchanged.startswith("0 to make, 0 to change")


def test_options_come_before_values_files_of_which_the_last_wins(run: Run, tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("image: one\nreplicas: 5\nmode: ingress\n")
    second.write_text("image: two\nconfig: {tokens: {life: 30d}}\n")
    printed = run("install", "-b", "a.example", "-o", "yaml", "-f", str(first), "-f", str(second), "--replicas", "3")
    items = list(yaml.safe_load_all(done(printed)))
    controller = next(item for item in items if item["kind"] == "Deployment")
    assert controller["spec"]["replicas"] == 3
    assert controller["spec"]["template"]["spec"]["containers"][0]["image"] == "two"
    assert "Ingress" in {item["kind"] for item in items}
    assert items[0]["kind"] == "CustomResourceDefinition"


def test_objects_are_printed_where_there_is_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    items = list(yaml.safe_load_all(done(invoke("install", "-i", "192.0.2.1", "-o", "yaml"))))
    assert "grpc.jumpstarter.192.0.2.1.nip.io:30010" in str(items)


def test_clusters_of_kind_are_reached_by_the_ports_of_this_machine(
    own_kube: Kube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(own_kube.kubeconfig(tmp_path / "config", context="kind-lab")))
    printed = done(invoke("install", "-b", "lab.example", "-o", "yaml"))
    assert "endpoint: grpc.lab.example:8082" in printed
    assert "advertise: router.lab.example:8083" in printed
    assert "jumpstarter-router-grpc-1" not in printed


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--mode", "gateway"), "needs the Gateway"),
        (("--ingress", "-r", "router.a.example:443"), "$(replica)"),
        (("-g", "nowhere"), "host:port"),
        (("--route",), "not OpenShift"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(
    own_kube: Kube, run: Run, options: tuple[str, ...], told: str
) -> None:
    assert told in failed(run("install", "-b", "a.example", *options))
    assert objects(own_kube, SERVICES.group, SERVICES.plural) == {}


def test_values_files_with_mistakes_are_named(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text("- a list")
    assert str(file) in failed(run("install", "-b", "a.example", "-f", str(file)))
    file.write_text("replicaCount: 2")
    assert "replicaCount" in failed(run("install", "-b", "a.example", "-f", str(file)))


def test_uninstall_asks_first_and_keeps_the_kinds(own_kube: Kube, run: Run) -> None:
    assert "Nothing is installed" in run("uninstall").stderr
    done(run("install", "-b", "a.example"))
    declined = run("uninstall", input="n\n")
    assert declined.exit_code == 1
    assert objects(own_kube, DEPLOYMENTS.group, DEPLOYMENTS.plural) != {}
    assert run("uninstall", "--nointeractive").exit_code == 2
    assert "Uninstalled the lab, except for what it knows" in done(run("uninstall", "--yes"))
    assert objects(own_kube, DEPLOYMENTS.group, DEPLOYMENTS.plural) == {}
    assert "clients.jumpstarter.dev" in objects(own_kube, CRDS.group, CRDS.plural, "")


HELM = f"""#!{sys.executable}
import json, sys
with open(__file__ + ".calls", "a") as calls:
    print(json.dumps(sys.argv[1:]), file=calls)
if "broken" in sys.argv:
    sys.exit("it broke")
"""


@pytest.fixture
def helm(tmp_path: Path) -> Path:
    """A program that takes note of how it is called."""
    path = tmp_path / "helm"
    path.write_text(HELM)
    path.chmod(0o755)
    return path


def test_with_helm_a_chart_is_installed_and_uninstalled(run: Run, helm: Path) -> None:
    chart = ("--helm", str(helm), "--chart", "./chart")
    done(run("install", *chart, "-b", "lab.example.com", "--ingress", "--context", "test"))
    done(run("uninstall", "--helm", str(helm)))
    calls = helm.with_name("helm.calls").read_text().splitlines()
    install, uninstall = map(yaml.safe_load, calls)
    assert install[:4] == ["upgrade", "jumpstarter", "--install", "./chart"]
    assert "jumpstarter-controller.grpc.endpoint=grpc.lab.example.com:8082" in install
    assert "jumpstarter-controller.grpc.mode=ingress" in install
    assert install[-1] == "--wait"
    assert uninstall == ["uninstall", "jumpstarter", "--namespace", "jumpstarter-lab", "--wait"]


def test_what_helm_says_on_failure_is_told(run: Run, helm: Path) -> None:
    told = failed(run("install", "--helm", str(helm), "-c", "./chart", "-b", "a.example", "--name", "broken"))
    assert "it broke" in told
    assert run("uninstall", "--helm", str(helm), "--name", "broken").exit_code == 1


def test_helm_that_is_not_there_is_told(run: Run) -> None:
    assert "is not installed" in failed(run("install", "--helm", "no-such-helm", "-b", "a.example"))


def test_what_a_chart_can_not_do_is_refused(run: Run, helm: Path) -> None:
    assert run("install", "--helm", str(helm), "--replicas", "2").exit_code == 2
    assert run("install", "-v", "1.0").exit_code == 2
