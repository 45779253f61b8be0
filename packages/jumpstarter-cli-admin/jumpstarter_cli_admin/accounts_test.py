"""Accounts: making, listing, changing, rotating, importing and deleting them."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from jumpstarter.common.exceptions import ConnectionError as CallError
from jumpstarter.config.admin import AdminConfigV1Alpha1
from jumpstarter.config.client import ClientConfigV1Alpha1
from jumpstarter.config.exporter import ExporterConfigV1Alpha1
from jumpstarter.config.router import RouterConfigV1Alpha1
from jumpstarter.config.user import UserConfigV1Alpha1, current_alias
from jumpstarter_controller.model.records import Key, Kind
from jumpstarter_controller.testing import ThreadedLab

from .conftest import Run, done, failed


def mode(path: Any) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


def account(lab: ThreadedLab, kind: Kind, name: str) -> Any:
    return lab.server.lab.account(Key(kind, "default", name))


# --- create ----------------------------------------------------------------------------------------------------------


def test_a_client_is_made_with_a_config_that_works(lab: ThreadedLab, run: Run) -> None:
    result = run("create", "client", "alice", "-l", "team=a", "--unsafe", "--save")
    assert done(result).split() == ["NAME", "ENDPOINT", "alice", lab.endpoint]
    assert "Creating client 'alice' in namespace 'default'" in result.stderr
    assert "Client configuration successfully saved to" in result.stderr
    config = ClientConfigV1Alpha1.load("alice")
    assert config.drivers.unsafe is True
    assert mode(config.path) == 0o600
    assert config.list_exporters().exporters == []
    assert account(lab, Kind.CLIENT, "alice").meta.labels == {"team": "a"}


def test_the_first_client_becomes_the_current_one_and_the_second_does_not(run: Run) -> None:
    assert "'a' is now the current client" in run("create", "client", "a", "--unsafe", "--save").stderr
    assert "now the current" not in run("create", "client", "b", "--unsafe", "--save").stderr
    assert current_alias() == "a"


def test_a_config_elsewhere_does_not_become_current(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "alice.yaml"
    done(run("create", "client", "alice", "--allow", "one.*,two.*", "--out", str(out)))
    assert ClientConfigV1Alpha1.from_file(out).drivers.allow == ["one.*", "two.*"]
    assert mode(out) == 0o600
    assert current_alias() is None


def test_an_exporter_gets_a_config_to_be_filled(lab: ThreadedLab, run: Run) -> None:
    result = run("create", "exporter", "bench", "-l", "board=demo", "--save")
    assert done(result).splitlines()[0].split() == ["NAME", "STATUS", "ENDPOINT", "DEVICES", "AGE"]
    assert "Exporter configuration successfully saved" in result.stderr
    path = ExporterConfigV1Alpha1._get_path("bench")
    assert mode(path) == 0o600
    assert yaml.safe_load(path.read_text())["export"] == {}
    assert "# export:\n#   power:" in path.read_text()
    assert ExporterConfigV1Alpha1.load("bench").endpoint == lab.endpoint


def test_the_drivers_of_a_config_that_is_there_are_kept(run: Run) -> None:
    done(run("create", "exporter", "bench", "-l", "a=b", "--save"))
    path = ExporterConfigV1Alpha1._get_path("bench")
    path.write_text(path.read_text().replace("export: {}", "export: {power: {type: a.B}}"))
    former = ExporterConfigV1Alpha1.load("bench").token
    done(run("delete", "exporter", "bench", "--nointeractive"))
    done(run("create", "exporter", "bench", "-l", "a=b", "--save"))
    config = ExporterConfigV1Alpha1.load("bench")
    assert list(config.export) == ["power"]
    assert config.token not in (None, former)


def test_an_exporter_needs_a_label(run: Run) -> None:
    assert "Missing option '-l' / '--label'" in failed(run("create", "exporter", "bench", "--save"), 2)


def test_a_router_gets_a_config_with_its_addresses(run: Run) -> None:
    options = ("--listen", "0.0.0.0:8083", "--advertise", "east.example.com:8083", "-l", "site=east")
    done(run("create", "router", "east", "--save", *options))
    config = RouterConfigV1Alpha1.load("east")
    assert (config.listen, config.advertise, config.labels) == (
        "0.0.0.0:8083",
        "east.example.com:8083",
        {"site": "east"},
    )


def test_another_admin_can_administer(run: Run, tmp_path: Path) -> None:
    out = str(tmp_path / "carol.yaml")
    done(run("create", "admin", "carol", "--out", out))
    assert "carol" in done(run("status", "--admin-config", out))
    assert "carol" in done(run("get", "admins", "--admin-config", out))


@pytest.mark.parametrize("kind", ["client", "exporter", "admin", "router"])
def test_a_name_is_needed(kind: str, run: Run) -> None:
    label = ("-l", "a=b") if kind == "exporter" else ()
    assert "Missing required argument 'NAME'" in failed(run("create", kind, *label), 2)


def test_a_token_can_last_for_less_than_usual(lab: ThreadedLab, run: Run) -> None:
    done(run("create", "client", "guest", "--token-life", "2h", "--nointeractive"))
    rows = done(run("get", "client", "guest", "-o", "wide")).splitlines()
    assert rows[1].split()[4] in ("2h", "1h59m59s", "1h59m58s", "1h59m57s")


def test_a_name_that_is_taken_leaves_the_config_as_it_is(run: Run) -> None:
    done(run("create", "client", "alice", "--unsafe", "--save"))
    before = ClientConfigV1Alpha1.load("alice").token
    assert "already exists" in failed(run("create", "client", "alice", "--unsafe", "--save"))
    assert ClientConfigV1Alpha1.load("alice").token == before


@pytest.mark.parametrize("name", ["Alice", "a_b", "-a", "a" * 64])
def test_a_name_that_can_not_be_one_is_refused(name: str, lab: ThreadedLab, run: Run) -> None:
    failed(run("create", "client", "--nointeractive", "--", name))
    assert not lab.server.lab.accounts(Kind.CLIENT)


def test_a_config_that_can_not_be_written_is_told_before_anything_is_made(lab: ThreadedLab, run: Run) -> None:
    text = failed(run("create", "client", "alice", "--unsafe", "--out", "/nowhere/at/all.yaml"))
    assert "The folder '/nowhere/at' does not exist" in text
    assert account(lab, Kind.CLIENT, "alice") is None


def test_a_broken_config_of_the_name_is_told_before_anything_is_made(lab: ThreadedLab, run: Run) -> None:
    path = ExporterConfigV1Alpha1._get_path("bench")
    path.parent.mkdir(parents=True)
    path.write_text("exprot: {}\n")
    assert "did you mean 'export'" in failed(run("create", "exporter", "bench", "-l", "a=b", "--save"))
    assert account(lab, Kind.EXPORTER, "bench") is None


def test_questions_come_before_anything_is_made(lab: ThreadedLab, run: Run) -> None:
    result = run("create", "client", "alice", input="")
    assert result.exit_code == 1
    assert "Aborted" in result.output
    assert account(lab, Kind.CLIENT, "alice") is None


def test_the_answers_make_the_config(run: Run) -> None:
    done(run("create", "client", "a", input="n\n"))
    assert not ClientConfigV1Alpha1.exists("a")
    done(run("create", "client", "b", input="Y\nY\n"))
    assert ClientConfigV1Alpha1.load("b").drivers.unsafe is True
    done(run("create", "client", "c", input="Y\nn\npackage.*\n"))
    assert ClientConfigV1Alpha1.load("c").drivers.allow == ["package.*"]


def test_insecure_tls_is_asked_for_and_kept(run: Run) -> None:
    assert "Aborted" in run("create", "client", "a", "-k", "--save", "--unsafe", input="n\n").output
    done(run("create", "client", "b", "--insecure-tls-config", "--save", "--unsafe", "--nointeractive"))
    assert ClientConfigV1Alpha1.load("b").tls.insecure is True


# --- output ----------------------------------------------------------------------------------------------------------


def test_machine_output_is_the_resource_alone(run: Run) -> None:
    made = json.loads(done(run("create", "client", "a", "-l", "k=v", "--nointeractive", "-o", "json")))
    assert (made["apiVersion"], made["kind"]) == ("jumpstarter.dev/v1alpha1", "Client")
    assert made["metadata"]["labels"] == {"k": "v"}
    assert {"creationTimestamp", "name", "namespace", "resourceVersion", "uid"} <= made["metadata"].keys()
    read = json.loads(done(run("get", "client", "a", "-o", "json")))
    assert read["metadata"]["uid"] == made["metadata"]["uid"]
    assert yaml.safe_load(done(run("get", "client", "a", "-o", "yaml"))) == read
    listed = json.loads(done(run("get", "clients", "-o", "json")))
    assert (listed["kind"], listed["items"]) == ("ClientList", [read])
    assert "token" not in json.dumps(listed).replace("tokenExpiresAt", "")


@pytest.mark.parametrize("kind", ["client", "exporter", "admin", "router"])
def test_names_are_qualified(kind: str, run: Run) -> None:
    label = ("-l", "a=b") if kind == "exporter" else ()
    assert done(run("create", kind, "x", *label, "--nointeractive", "-o", "name")) == f"{kind}.jumpstarter.dev/x\n"
    assert f"{kind}.jumpstarter.dev/x\n" in done(run("get", f"{kind}s", "-o", "name"))
    assert done(run("delete", kind, "x", "--nointeractive", "-o", "name")) == f"{kind}.jumpstarter.dev/x\n"


def test_an_empty_list_is_no_failure(run: Run) -> None:
    result = run("get", "exporters")
    assert done(result).split() == ["NAME", "STATUS", "ENDPOINT", "DEVICES", "AGE"]
    assert result.stderr == "No resources found in default namespace.\n"


def test_a_running_exporter_is_shown_with_its_devices(lab: ThreadedLab, run: Run) -> None:
    with lab.serving_exporter("board"):
        name, status, endpoint, devices, _ = done(run("get", "exporter", "board")).splitlines()[1].split()
        assert (name, status, endpoint, devices) == ("board", "Available", lab.endpoint, "2")
        shown = json.loads(done(run("get", "exporter", "-o", "json")))["items"][0]
        assert (shown["status"]["online"], shown["status"]["exporterStatus"]) == (True, "Available")
        rows = done(run("get", "exporter", "-d")).splitlines()
        assert rows[0].split() == ["NAME", "STATUS", "ENDPOINT", "AGE", "LABELS", "UUID"]
        assert {row.split()[-1] for row in rows[1:]} == {device["uuid"] for device in shown["status"]["devices"]}


def test_lists_are_chosen_by_labels_and_namespace(lab: ThreadedLab, run: Run) -> None:
    lab.client("a", labels={"team": "x"})
    lab.client("b", labels={"team": "y"})
    lab.client("c", namespace="other")
    assert done(run("get", "clients", "-l", "team in (x,z)", "-o", "name")) == "client.jumpstarter.dev/a\n"
    assert done(run("get", "clients", "-n", "other", "-o", "name")) == "client.jumpstarter.dev/c\n"
    everywhere = done(run("get", "clients", "-A")).splitlines()
    assert [row.split()[:2] for row in everywhere] == [
        ["NAMESPACE", "NAME"],
        ["default", "a"],
        ["default", "b"],
        ["other", "c"],
    ]


def test_a_long_list_is_fetched_as_a_whole(lab: ThreadedLab, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jumpstarter_cli_admin.lab.PAGE", 2)
    for number in range(5):
        lab.client(f"c{number}")
    assert len(done(run("get", "clients", "-o", "name")).split()) == 5


# --- change ----------------------------------------------------------------------------------------------------------


def test_labels_are_set_replaced_and_removed(lab: ThreadedLab, run: Run) -> None:
    lab.exporter("board", labels={"a": "1", "b": "2", "c": "3"})
    result = run("label", "exporter", "board", "a=9", "b-", "d=")
    assert done(result) == "Labels of exporter 'board': a=9,c=3,d=\n"
    assert account(lab, Kind.EXPORTER, "board").meta.labels == {"a": "9", "c": "3", "d": ""}


@pytest.mark.parametrize("wrong", [("a",), ("=x",), ("-",), ("a=1", "a-")])
def test_labels_of_another_form_are_refused(wrong: tuple[str, ...], lab: ThreadedLab, run: Run) -> None:
    lab.exporter("board", labels={"a": "1"})
    failed(run("label", "exporter", "board", "--", *wrong), 2)
    assert account(lab, Kind.EXPORTER, "board").meta.labels == {"a": "1"}


def test_a_disabled_client_is_refused_and_an_enabled_one_not(lab: ThreadedLab, run: Run) -> None:
    config = lab.client("alice").client_config()
    assert done(run("disable", "client", "alice")) == "Disabled client 'alice' in namespace 'default'\n"
    with pytest.raises(CallError) as refused:
        config.list_exporters()
    assert refused.value.reason == "ACCOUNT_DISABLED"
    assert done(run("enable", "client", "alice")) == "Enabled client 'alice' in namespace 'default'\n"
    config.list_exporters()


def test_a_disabled_exporter_says_so_in_lists(lab: ThreadedLab, run: Run) -> None:
    lab.exporter("board")
    done(run("disable", "exporter", "board"))
    assert "Unknown,Disabled" in done(run("get", "exporters"))


def test_a_client_can_be_given_to_a_user(lab: ThreadedLab, run: Run) -> None:
    lab.client("alice")
    done(run("update", "client", "alice", "--oidc-username", "dex:alice"))
    assert account(lab, Kind.CLIENT, "alice").username == "dex:alice"


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_a_rotated_token_is_put_into_the_config_that_is_there(run: Run) -> None:
    done(run("create", "client", "alice", "--allow", "kept.*", "--save"))
    former = ClientConfigV1Alpha1.load("alice")
    result = run("rotate", "client", "alice", "--save")
    assert "Token rotated for client 'alice', valid until" in done(result)
    assert "updated with new token" in result.stdout
    assert "Rotating token" in result.stderr
    renewed = ClientConfigV1Alpha1.load("alice")
    assert renewed.token != former.token
    assert renewed.drivers.allow == ["kept.*"]
    renewed.list_exporters()
    former.list_exporters()


def test_a_revoked_token_is_refused_at_once(run: Run) -> None:
    done(run("create", "client", "alice", "--unsafe", "--save"))
    former = ClientConfigV1Alpha1.load("alice")
    result = run("rotate", "client", "alice", "--revoke-now")
    assert "It was not saved" in result.stderr
    with pytest.raises(CallError):
        former.list_exporters()


def test_an_import_writes_a_config_with_a_token_of_its_own(lab: ThreadedLab, run: Run) -> None:
    lab.client("alice")
    path = done(run("import", "client", "alice", "--nointeractive", "-o", "path")).strip()
    assert Path(path) == ClientConfigV1Alpha1._get_path("alice")
    assert ClientConfigV1Alpha1.load("alice").drivers.allow == []
    ClientConfigV1Alpha1.load("alice").list_exporters()
    text = failed(run("import", "client", "alice", "--nointeractive"))
    assert "exists already" in text
    assert "jmp admin rotate client alice --save" in text


# --- delete ----------------------------------------------------------------------------------------------------------


def test_a_deleted_client_is_gone_with_its_config(lab: ThreadedLab, run: Run) -> None:
    done(run("create", "client", "alice", "--unsafe", "--save"))
    config = ClientConfigV1Alpha1.load("alice")
    out = done(run("delete", "client", "alice", "--delete"))
    assert out == "Deleted client 'alice' in namespace 'default'\nClient configuration successfully deleted\n"
    assert not ClientConfigV1Alpha1.exists("alice")
    assert UserConfigV1Alpha1.load().config.current_client is None
    with pytest.raises(CallError):
        config.list_exporters()


def test_the_config_stays_unless_its_deletion_is_wanted(run: Run) -> None:
    for name in ("a", "b", "c"):
        done(run("create", "client", name, "--unsafe", "--save"))
    done(run("delete", "client", "a", "--nointeractive"))
    done(run("delete", "client", "b", input="n\n"))
    done(run("delete", "client", "c", input="y\n"))
    assert [ClientConfigV1Alpha1.exists(name) for name in ("a", "b", "c")] == [True, True, False]


def test_the_last_way_in_is_not_deleted(run: Run) -> None:
    assert "own account" in failed(run("delete", "admin", "root", "--nointeractive"))


@pytest.mark.parametrize(
    "command",
    [
        ("get", "client", "nope"),
        ("get", "exporter", "nope"),
        ("get", "router", "nope"),
        ("delete", "client", "nope"),
        ("rotate", "exporter", "nope"),
        ("label", "client", "nope", "a=b"),
        ("enable", "client", "nope"),
        ("import", "client", "nope", "--nointeractive"),
        ("get", "lease", "nope"),
        ("end", "lease", "nope"),
        ("get", "policy", "nope"),
        ("delete", "policy", "nope"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(command: tuple[str, ...], run: Run) -> None:
    assert "nope not found" in failed(run(*command))


# --- which lab -------------------------------------------------------------------------------------------------------


def test_without_a_config_it_is_told_how_one_is_had(tmp_config_path: Path) -> None:
    from .conftest import invoke

    text = failed(invoke("get", "clients"))
    assert "No admin config is chosen." in text
    assert "jmp controller run" in text


def test_several_labs_are_administered_from_one_machine(lab: ThreadedLab, run: Run, tmp_path: Path) -> None:
    from jumpstarter_controller.testing import threaded_lab

    from .conftest import save_admin

    with threaded_lab(tmp_path / "second") as other:
        other.client("zoe")
        save_admin(other.admin("boss"), "there")
        rows = [row.split() for row in done(run("config", "list")).splitlines()]
        assert rows == [
            ["CURRENT", "ALIAS", "ENDPOINT", "ADMIN", "NAMESPACE"],
            ["*", "here", lab.endpoint, "root", "default"],
            ["there", other.endpoint, "boss", "default"],
        ]
        names = ("get", "clients", "-o", "name")
        assert done(run(*names)) == ""
        assert done(run(*names, "--admin", "there")) == "client.jumpstarter.dev/zoe\n"
        assert done(run(*names, env={"JMP_ADMIN": "there"})) == "client.jumpstarter.dev/zoe\n"
        assert done(run(*names, "--admin", "here", env={"JMP_ADMIN": "there"})) == ""
        assert done(run("config", "use", "there")).startswith(f"Administering {other.endpoint} as 'boss'")
        assert done(run(*names)) == "client.jumpstarter.dev/zoe\n"
        assert done(run("config", "current")) == "there\n"


def test_a_config_of_another_admin_is_taken_over(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "carol.yaml"
    done(run("create", "admin", "carol", "--out", str(out)))
    done(run("config", "import", str(out), "--alias", "second"))
    assert AdminConfigV1Alpha1.aliases() == ["here", "second"]
    assert AdminConfigV1Alpha1.current() == "here"
    assert "exists already" in failed(run("config", "import", str(out), "--alias", "second"))
    shown = done(run("config", "show", "second"))
    assert AdminConfigV1Alpha1.load("second").token not in shown
    done(run("config", "delete", "second"))
    assert AdminConfigV1Alpha1.aliases() == ["here"]


@pytest.mark.parametrize("option", [("--context", "kind"), ("--kubeconfig", __file__)])
def test_missing_support_for_kubernetes_is_told(
    option: tuple[str, str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.metadata import EntryPoints

    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: EntryPoints())
    text = failed(run("get", "clients", *option))
    assert "need support for Kubernetes, which is not installed" in text


def test_a_package_can_add_another_kind_of_server(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint, EntryPoints

    entry = EntryPoint("kubernetes", "jumpstarter_cli_admin.accounts_test:open_other", "jumpstarter.admin_backends")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **chosen: EntryPoints([entry]).select(**chosen))
    assert done(run("get", "clients", "--context", "kind", "-o", "name")) == "client.jumpstarter.dev/from-lab-x\n"


def open_other(kubeconfig: str | None, context: str | None) -> Any:
    """Open a server that knows one client."""
    from contextlib import asynccontextmanager

    from .records import Account
    from .records import Kind as AccountKind

    class Other:
        async def list_accounts(self, kind: AccountKind, namespace: str, **_: Any) -> list[Account]:
            return [Account(kind=kind, namespace=namespace, name=f"from-{namespace}")]

    @asynccontextmanager
    async def opened() -> Any:
        yield Other()

    return "lab-x", opened()


def test_an_expired_token_is_told_with_the_way_to_a_new_one(lab: ThreadedLab, run: Run) -> None:
    from datetime import timedelta

    from .conftest import save_admin

    save_admin(lab.admin("late", life=timedelta(seconds=-60)), "late")
    text = failed(run("get", "clients", "--admin", "late"))
    assert "token is expired" in text
    assert "jmp controller reset-admin" in text


def test_a_lab_that_is_away_is_told(run: Run, free_tcp_port: int) -> None:
    config = AdminConfigV1Alpha1.load("here")
    config.endpoint = f"127.0.0.1:{free_tcp_port}"
    AdminConfigV1Alpha1.save(config)
    assert f"127.0.0.1:{free_tcp_port}" in failed(run("get", "clients"))


def test_the_state_of_the_lab_is_shown(lab: ThreadedLab, run: Run) -> None:
    with lab.serving_exporter("board"):
        shown = done(run("status"))
        assert f"Lab:        {lab.endpoint}" in shown
        assert "Exporters:  1: 1 online, 0 leased" in shown
        assert json.loads(done(run("status", "-o", "json")))["exportersOnline"] == 1


def test_several_accounts_are_switched_at_once(run: Run) -> None:
    for name in ("alice", "bob"):
        done(run("create", "client", name, "--nointeractive"))
    shown = done(run("disable", "client", "alice", "bob"))
    assert shown.splitlines() == [f"Disabled client '{name}' in namespace 'default'" for name in ("alice", "bob")]
