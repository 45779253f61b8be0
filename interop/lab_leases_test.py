"""In a lab, each release as exporter and as client: leases from the request to the end, and what is shown of them."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from jumpstarter_protocol import admin_pb2, client_pb2
from lab import Client, Lab
from mixes import HOLD, PAIRS, Mix, Mixes, in_both_mixes, in_every_mix, in_mixes, open_mixes, power
from processes import TIMEOUT, Process, until

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]


@pytest.fixture(scope="module")
def mixes(
    lab: Lab, releases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Generator[Mixes, None, None]:
    """An exporter with a power switch for every pair of releases."""
    with ExitStack() as stack:
        yield open_mixes(stack, lab, releases, tmp_path_factory.mktemp)


def holding(shell: Process) -> None:
    """Wait until a shell with the command HOLD has its lease."""
    shell.until(lambda: "held" in shell.output, "it has the lease")


def named(client: Client, release: Path, *arguments: Any) -> str:
    """Create a lease and return its name."""
    return client.do(release, "create", "lease", *arguments, "-o", "name").splitlines()[-1].rpartition("/")[2]


def leases(client: Client, release: Path, *more: str) -> list[dict[str, Any]]:
    """Return the leases of a client."""
    return json.loads(client.do(release, "get", "leases", *more, "-o", "json"))["leases"]


@in_both_mixes
def test_a_named_lease_is_made_shown_used_extended_and_deleted(mix: Mix) -> None:
    alice, release = mix.client(), mix.release
    wanted = (
        "-l",
        f"name={mix.exporter.name}",
        "--duration",
        "10m",
        "--tag",
        "build=7",
        "--lease-id",
        f"of-{mix.name}",
    )

    name = named(alice, release, *wanted)
    again = alice.run(release, "create", "lease", *wanted)
    used = alice.run(release, "shell", "--lease", name, *mix.power)
    held = alice.lease(release, name)
    alice.do(release, "update", "lease", name, "--duration", "20m")
    extended = alice.lease(release, name)
    alice.do(release, "delete", "leases", name)
    gone = alice.do(release, "get", "leases", "-o", "json")

    assert name == f"of-{mix.name}"
    assert again.code != 0
    assert "already exists" in again.text
    assert used.code == 0, used
    assert (held["client"], held["exporter"], held["tags"]) == (alice.name, mix.exporter.name, {"build": "7"})
    assert float(held["duration"]) == 600, held
    assert float(extended["duration"]) == 1200, extended
    assert name not in gone


@in_both_mixes
def test_an_exporter_is_leased_by_its_name(mix: Mix) -> None:
    # L03, L04
    alice = mix.client()

    used = alice.run(mix.release, "shell", "-n", mix.exporter.name, "--duration", "1m", *mix.power)
    unknown = alice.run(mix.release, "shell", "-n", "nonesuch", *mix.power)

    assert used.code == 0, used
    assert unknown.code != 0
    assert "cannot be satisfied" in unknown.text
    assert "nonesuch" in unknown.text


@in_every_mix
def test_who_waits_gets_the_exporter_when_it_is_free(mix: Mix) -> None:
    # L11, with a first client of the other release
    alice, bob = mix.client(), mix.client("bob")
    with alice.start(mix.other, "shell", *mix.select, "--", *HOLD) as first:
        holding(first)
        with bob.start(mix.release, "shell", *mix.select, *mix.power) as second:
            until(lambda: len(leases(bob, mix.release)) == 1, "the second asks")
            assert second.running

            first.wait()

            assert second.wait() == 0, second
    assert first.process.returncode == 0, first


@in_both_mixes
def test_T17_a_lease_handed_over_is_lost_for_its_first_owner(mix: Mix) -> None:
    alice, bob = mix.client(), mix.client("bob")
    name = named(alice, mix.release, *mix.select)
    assert alice.run(mix.release, "shell", "--lease", name, *mix.power).code == 0

    alice.do(mix.release, "update", "lease", name, "--to-client", bob.name)

    refused = alice.run(mix.release, "shell", "--lease", name, *mix.power)
    used = bob.run(mix.other, "shell", "--lease", name, *power(mix.other))
    bob.do(mix.other, "delete", "leases", name)
    assert refused.code != 0
    assert bob.name in refused.text
    assert used.code == 0, used


@in_every_mix
def test_X06_an_open_shell_can_do_nothing_more_when_its_lease_is_handed_over(mix: Mix) -> None:
    alice, bob = mix.client(), mix.client("bob")
    name = named(alice, mix.release, *mix.select)
    script = f"echo held; cat; {mix.release / 'j'} power on; echo status=$?"
    with alice.start(mix.release, "shell", "--lease", name, "--", "sh", "-c", script) as shell:
        holding(shell)
        alice.do(mix.release, "update", "lease", name, "--to-client", bob.name)

        shell.wait()

    assert "status=0" not in shell.output, shell
    assert bob.run(mix.other, "shell", "--lease", name, *power(mix.other)).code == 0
    bob.do(mix.other, "delete", "leases", name)


@in_both_mixes
def test_H05_a_shell_outlives_its_lease_and_its_commands_fail(mix: Mix) -> None:
    script = f"echo held; {mix.release / 'j'} power on && sleep 7; {mix.release / 'j'} power on; echo status=$?"
    short = ("-l", f"name={mix.exporter.name}", "--duration", "5s")

    ended = mix.client().run(mix.release, "shell", *short, "--", "sh", "-c", script)

    assert "held" in ended.out, ended
    assert "status=0" not in ended.out, ended
    assert "Traceback" not in ended.text, ended


@in_both_mixes
def test_A02_a_client_is_told_everything_by_its_environment(mix: Mix) -> None:
    alice = mix.client()
    config = yaml.safe_load(alice.config.read_text())
    variables = {
        "JMP_NAMESPACE": config["metadata"]["namespace"],
        "JMP_NAME": config["metadata"]["name"],
        "JMP_ENDPOINT": config["endpoint"],
        "JMP_TOKEN": config["token"],
        "JMP_DRIVERS_ALLOW": "UNSAFE",
        "JMP_GRPC_INSECURE": "1",  # the certificate is the lab's own
    }

    done = alice.run_bare(mix.release, "shell", *mix.select, *mix.power, **variables)

    assert done.code == 0, done


@in_mixes("ours-to-ours", "published-to-published")
def test_what_is_listed_of_exporters(mix: Mix) -> None:
    alice, board = mix.client(), mix.exporter.name

    def get(*arguments: str) -> str:
        return alice.do(mix.release, "get", "exporters", *arguments)

    with alice.start(mix.release, "shell", "-n", board, "--", *HOLD) as shell:
        holding(shell)
        everything = "leases,online,status"
        table = get("--with", everything)
        as_json = json.loads(get("-o", "json", "--with", everything))["exporters"]
        as_yaml = yaml.safe_load(get("-o", "yaml"))["exporters"]
        names = last_parts(get("-o", "name"))
        selected = last_parts(get("-o", "name", "-l", "release=published"))
        shell.wait()

    assert {"NAME", "ONLINE", "STATUS", "LABELS"} <= set(table.split())
    assert alice.name in table
    row = next(exporter for exporter in as_json if exporter["name"] == board)
    assert row["labels"]["name"] == board
    assert row["online"] is True
    assert row["lease"]["client"] == alice.name
    assert set(PAIRS) <= names
    assert selected == {pair for pair in PAIRS if pair.endswith("published")}
    assert {exporter["name"] for exporter in as_yaml} >= set(PAIRS)


def last_parts(names: str) -> set[str]:
    """Return the plain names of a list of names as `-o name` writes it."""
    return {line.rpartition("/")[2] for line in names.split()}


@in_mixes("ours-to-ours", "published-to-published")
def test_what_is_listed_of_leases(mix: Mix) -> None:
    # C01, C09, C10
    alice, bob, release, board = mix.client(), mix.client("bob"), mix.release, mix.exporter.name
    mine = named(alice, release, "-l", f"name={board}", "--duration", "1d", "--tag", "build=1")
    waiting = named(alice, release, "-l", f"name={board},!nonexistent", "--duration", "1h", "--tag", "build=2")
    theirs = named(bob, release, "-l", f"name={board},release", "--duration", "1h")

    def names(*arguments: str) -> set[str]:
        return last_parts(alice.do(release, "get", "leases", "-o", "name", *arguments)) & {mine, waiting, theirs}

    until(lambda: alice.lease(release, mine)["exporter"], "it has an exporter")
    table = alice.do(release, "get", "leases")
    as_json = {lease["name"] for lease in leases(alice, release)}
    as_yaml = yaml.safe_load(alice.do(release, "get", "leases", "-o", "yaml"))["leases"]
    assert {"NAME", "SELECTOR", "CLIENT", "EXPORTER"} <= set(table.split())
    assert mine in table
    assert "23h 59m" in table
    assert as_json == {mine, waiting} == {lease["name"] for lease in as_yaml}
    assert names("-A") == {mine, waiting, theirs}
    assert names("-l", f"name={board},!nonexistent") == {waiting}
    assert names("-l", "name=nonesuch") == set()
    assert names("-A", "-l", f"name={board},release") == {theirs}
    assert names("--tag-filter", "build=2") == {waiting}
    alice.do(release, "delete", "leases", "--all")
    assert names() == set()
    assert names("--all") == {mine, waiting}
    assert names("-A") == {theirs}
    bob.do(release, "delete", "leases", "--all")


@in_mixes("ours-to-ours", "published-to-published")
def test_T02_a_lease_can_begin_later(mix: Mix) -> None:
    alice, release = mix.client(), mix.release
    for wait in (8, 40, 120):
        begin = time.time() + wait
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begin))
        name = named(alice, release, *mix.select, "--begin-time", when)
        before = alice.lease(release, name)
        if time.time() < begin - 1:
            break
        # It has begun before a busy machine was through with looking.
        alice.do(release, "delete", "leases", name)
    used = alice.run(release, "shell", "--lease", name, *mix.power)
    alice.do(release, "delete", "leases", name)

    assert not before["exporter"]
    assert used.code == 0, used


def test_C02_long_lists_come_in_pages(lab: Lab, releases: dict[str, Path]) -> None:
    # The command lines of both releases ask for 100 at a time.
    alice = lab.client("pages")
    for number in range(105):
        lab.admin(
            "CreateAccount",
            admin_pb2.CreateAccountRequest(
                kind=admin_pb2.KIND_EXPORTER,
                parent="namespaces/default",
                id=f"page-{number:03}",
                labels={"many": "yes"},
            ),
        )
        wanted = client_pb2.Lease(selector="many=yes", duration={"seconds": 60})
        lab.as_client(
            alice,
            "CreateLease",
            client_pb2.CreateLeaseRequest(parent="namespaces/default", lease_id=f"lease-{number:03}", lease=wanted),
        )
    for release in releases.values():
        exporters = last_parts(alice.do(release, "get", "exporters", "-o", "name", "-l", "many=yes"))
        listed = last_parts(alice.do(release, "get", "leases", "-o", "name"))

        assert len(exporters) == 105
        assert len(listed) == 105
    alice.do(releases["published"], "delete", "leases", "--all")
    assert leases(alice, releases["published"]) == []
