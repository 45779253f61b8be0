"""Leases of others, routers, and the record of who did what."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from jumpstarter_controller.testing import ThreadedLab
from jumpstarter_testing import eventually

from .conftest import Run, done, failed


def request(lab: ThreadedLab, client: str = "alice", **options: object) -> str:
    """Return the name of a lease of a client."""
    config = lab.client(client).client_config()
    lease = config.create_lease(
        **{"selector": None, "exporter_name": "board", "duration": timedelta(hours=1), **options}
    )
    return str(lease.name)


def test_leases_of_all_clients_are_listed(lab: ThreadedLab, run: Run) -> None:
    with lab.serving_exporter("board"):
        held, waiting = request(lab), request(lab, "bob")
        rows = {row.split()[0]: row.split() for row in done(run("get", "leases")).splitlines()}
        columns = ["NAME", "CLIENT", "SELECTOR", "EXPORTER", "DURATION", "STATUS", "REASON", "BEGIN", "END"]
        assert rows["NAME"] == columns
        assert rows[held][1:7] == ["alice", "*", "board", "1h", "InProgress", "Ready"]
        assert rows[waiting][1:7] == ["bob", "*", "board", "1h", "InProgress", "NotAvailable"]
        assert done(run("get", "leases", "--client", "bob", "-o", "name")) == f"lease.jumpstarter.dev/{waiting}\n"
        assert done(run("get", "leases", "--exporter", "board", "-o", "name")) == f"lease.jumpstarter.dev/{held}\n"


def test_a_lease_is_ended_by_its_name_and_can_be_looked_up(lab: ThreadedLab, run: Run) -> None:
    with lab.serving_exporter("board"):
        name = request(lab)
        assert done(run("end", "lease", name, "--reason", "the rack is moved")) == f"Ended lease '{name}'\n"
        assert done(run("get", "leases", "-o", "name")) == ""
        assert done(run("get", "leases", "-a", "-o", "name")) == f"lease.jumpstarter.dev/{name}\n"
        shown = json.loads(done(run("get", "lease", name, "-o", "json")))
        assert (shown["kind"], shown["status"]["ended"]) == ("Lease", True)
        assert shown["spec"] == {
            "client": {"name": "alice"},
            "duration": "1h0m0s",
            "exporterRef": {"name": "board"},
            "selector": {"matchLabels": {}},
        }
        assert "has ended already" in failed(run("end", "lease", name))


def test_a_selector_is_shown_in_its_parts(lab: ThreadedLab, run: Run) -> None:
    name = request(lab, exporter_name=None, selector="board=x,rack in (1,2),!old,site!=y")
    shown = json.loads(done(run("get", "lease", name, "-o", "json")))
    assert shown["spec"]["selector"]["matchLabels"] == {"board": "x"}
    found = {each["key"]: each for each in shown["spec"]["selector"]["matchExpressions"]}
    assert found["rack"] == {"key": "rack", "operator": "In", "values": ["1", "2"]}
    assert found["old"] == {"key": "old", "operator": "DoesNotExist"}
    assert found["site"] == {"key": "site", "operator": "NotIn", "values": ["y"]}


def test_the_router_of_the_controller_is_listed(lab: ThreadedLab, run: Run) -> None:
    rows = [row.split() for row in done(run("get", "routers")).splitlines()]
    assert rows[0] == ["NAME", "STATUS", "ENDPOINT", "STREAMS", "LOAD", "LABELS"]
    assert rows[1][1:4] == ["Online", lab.endpoint, "0"]
    lab.router("east")
    assert "east  " in done(run("get", "routers"))
    assert json.loads(done(run("get", "router", "east", "-o", "json")))["status"]["online"] is False


# --- audit -----------------------------------------------------------------------------------------------------------


def entries(run: Run, *options: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(done(run("audit", "-o", "json", *options)))["items"]
    return found


def test_what_admins_do_is_recorded_and_found(lab: ThreadedLab, run: Run) -> None:
    done(run("create", "client", "alice", "--nointeractive"))
    done(run("label", "client", "alice", "a=b"))
    done(run("create", "router", "east", "--nointeractive"))

    def recorded() -> None:
        actions = [entry["action"] for entry in entries(run, "--client", "alice")]
        assert actions == ["account.create", "account.rotate", "account.update"]
        assert entries(run, "--action", "account", "--limit", "1")[0]["details"] == {"kind": "router", "name": "east"}

    eventually(recorded, timeout=10)
    (entry,) = entries(run, "--client", "alice", "--action", "account.update")
    assert entry["actor"] == {"kind": "admin", "name": "root"}
    assert entry["peer"] == "127.0.0.1"
    table = done(run("audit"))
    assert table.split()[:5] == ["TIME", "ACTOR", "ACTION", "CLIENT", "OTHER"]
    assert "router:east" in table
    whole = ["TIME", "ACTOR", "ACTION", "CLIENT", "EXPORTER", "OTHER", "LEASE", "PEER", "ID", "DETAILS"]
    assert done(run("audit", "-o", "wide")).split()[:10] == whole


def test_entries_are_chosen_by_time(lab: ThreadedLab, run: Run) -> None:
    done(run("create", "client", "alice", "--nointeractive"))
    eventually(lambda: entries(run, "--since", "1h")[0], timeout=10)
    assert entries(run, "--until", "1h") == []
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert entries(run, "--since", tomorrow) == []


@pytest.mark.parametrize("options", [("--since", "gestern"), ("--limit", "-1"), ("--follow", "--until", "1h")])
def test_wrong_questions_are_told(options: tuple[str, ...], run: Run) -> None:
    failed(run("audit", *options), 2)


def test_new_entries_are_followed(lab: ThreadedLab, run: Run) -> None:
    command = [sys.executable, "-c", "from jumpstarter_cli_admin import admin; admin()", "audit", "-f", "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as following:
        try:
            assert following.stdout is not None
            done(run("create", "client", "first", "--nointeractive"))
            seen = []
            while "first" not in [entry["client"] for entry in seen]:
                seen.append(json.loads(following.stdout.readline()))
            done(run("create", "client", "second", "--nointeractive"))
            while [entry["client"] for entry in seen].count("second") < 2:
                seen.append(json.loads(following.stdout.readline()))
            assert len({entry["id"] for entry in seen}) == len(seen)
            following.send_signal(2)
            assert following.wait(20) == 130
        finally:
            following.kill()
