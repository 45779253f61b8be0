"""In a lab, each release as exporter and as client: hooks around leases, and what becomes of leases when they fail."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from lab import OURS, Exporter, Lab
from mixes import HOLD, POWER, Mix, Mixes, in_every_mix, in_mixes, open_mixes, power
from processes import TIMEOUT, until

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

FAILS = (
    'while [ -e "$HOME/awaits" ] && ! ls "$(cat "$HOME/awaits")"/*/socket; do sleep 0.1; done',
    "sleep 1",
    "exit 1",
)
"""A hook that fails while the client waits for it, which has made the socket for its programs by then.

Exporters of 0.9 whose hook fails before the client has come often lose the client, and sometimes hang themselves.
"""

WRITTEN = 'echo "%s $LEASE_NAME $CLIENT_NAME" >> "$HOME/hooks"'
"""What a hook does that has nothing else to do: note that it ran, in the home of its exporter."""


def hooks(on_failure: str, timeout: int) -> dict[str, Any]:
    """Hooks that do what scripts in the home of the exporter say, which tests write."""
    return {
        f"{when}Lease": {"script": f'. "$HOME/{when}.sh"', "timeout": timeout, "onFailure": on_failure}
        for when in ("before", "after")
    }


def script(exporter: Exporter, when: str, *lines: str) -> None:
    """Say what a hook does, after it has noted that it runs."""
    (exporter.config.parent / f"{when}.sh").write_text("\n".join((WRITTEN % when, *lines, "")))


def ran(exporter: Exporter) -> list[list[str]]:
    """Return what the hooks noted: which it was, lease and client."""
    path = exporter.config.parent / "hooks"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module")
def mixes(
    lab: Lab, releases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Generator[Mixes, None, None]:
    """An exporter for every pair of releases whose hooks may fail."""
    with ExitStack() as stack:
        opened = open_mixes(stack, lab, releases, tmp_path_factory.mktemp, hooks=hooks("warn", 5))
        for exporter in opened.exporters.values():
            quiet(exporter)
        yield opened


LONG = 25
"""Seconds of a hook that is longer than gRPC waits for somebody who is silent."""

PATIENT = ("ours-to-ours", "ours-to-published", "published-to-ours")
"""A client of 0.9 loses an exporter of 0.9 over such a hook; neither end is ours."""


@pytest.fixture(scope="module")
def patient(lab: Lab, releases: dict[str, Path], mixes: Mixes) -> Generator[dict[str, Future[Any]], None, None]:
    """Leases with a long hook, used by a client of each pair, which are waited for beside the other tests."""
    with ThreadPoolExecutor(len(PATIENT)) as threads:

        def use_after_long_hook(pair: str) -> Any:
            client, _, exporter = pair.partition("-to-")
            before = {"beforeLease": {"script": f"sleep {LONG}", "timeout": 90}}
            with lab.exporter(releases[exporter], f"long-{pair}", POWER, hooks=before) as board:
                wanted = ("shell", "-n", board.name, "--duration", "5m", *power(releases[client]))
                return lab.client(f"patient-{pair}").run(releases[client], *wanted)

        yield {pair: threads.submit(use_after_long_hook, pair) for pair in PATIENT}


def quiet(exporter: Exporter) -> None:
    """Have the hooks do nothing in particular, and forget what they did."""
    script(exporter, "before")
    script(exporter, "after")
    (exporter.config.parent / "hooks").unlink(missing_ok=True)


def strict(mix: Mix, on_failure: str) -> AbstractContextManager[Exporter]:
    """Run another exporter of the same release, with hooks that must not fail."""
    release = mix.exporter.release
    return mix.lab.exporter(release, f"{on_failure.lower()}-{mix.name}", POWER, hooks=hooks(on_failure, 60))


def use(mix: Mix, exporter: Exporter) -> Any:
    """Lease an exporter and switch its power; doesn't lease again when the exporter is gone."""
    wanted = ("shell", "-n", exporter.name, "--duration", "2m", "--retry-timeout", "0", *mix.power)
    # A short path, as it will be that of a socket.
    with TemporaryDirectory() as folder:
        (exporter.config.parent / "awaits").write_text(folder)
        return mix.client().run(mix.release, *wanted, TMPDIR=folder)


@pytest.fixture(scope="module", autouse=True)
def patient_from_the_beginning(request: pytest.FixtureRequest) -> None:
    """Begin with what lasts, if it was selected."""
    if any(
        getattr(item, "originalname", "") == test_H07_a_hook_may_take_longer_than_grpc_waits.__name__
        for item in request.session.items
    ):
        request.getfixturevalue("patient")


@in_every_mix
def test_H01_hooks_run_before_and_after_a_lease(mix: Mix) -> None:
    exporter = mix.exporter
    quiet(exporter)
    script(exporter, "before", f"{exporter.release / 'j'} power on")

    done = use(mix, exporter)

    assert done.code == 0, done
    exporter.until("AVAILABLE", free=True)
    assert [(when, client) for when, _, client in ran(exporter)] == [
        ("before", mix.client().name),
        ("after", mix.client().name),
    ]
    assert len({lease for _, lease, _ in ran(exporter)}) == 1


@in_every_mix
def test_H02_a_failing_hook_ends_the_lease(mix: Mix) -> None:
    with strict(mix, "endLease") as exporter:
        quiet(exporter)
        script(exporter, "before", *FAILS)
        for _ in range(2):
            refused = use(mix, exporter)

            assert refused.code != 0, refused
            assert "Traceback" not in refused.text, refused
            exporter.until("AVAILABLE", free=True)

        quiet(exporter)
        script(exporter, "after", *FAILS)
        done = use(mix, exporter)

        assert "Traceback" not in done.text, done
        exporter.until("AVAILABLE", free=True)
        assert [when for when, *_ in ran(exporter)] == ["before", "after"]

        quiet(exporter)
        assert use(mix, exporter).code == 0


# A client of 0.9 whose exporter of 0.9 has gone asks for its status for five minutes; neither end is ours.
@in_mixes("ours-to-ours", "ours-to-published", "published-to-ours")
def test_H03_a_failing_hook_ends_the_exporter(mix: Mix) -> None:
    with strict(mix, "exit") as exporter:
        for when in ("before", "after"):
            quiet(exporter)
            script(exporter, when, *FAILS)

            done = use(mix, exporter)

            assert "Traceback" not in done.text, done
            assert exporter.process is not None
            code = exporter.process.wait()
            assert (code != 0) is (exporter.release == OURS)  # 0.9 ends with 0
            exporter.until("OFFLINE", free=True)
            exporter.start()
            exporter.until("AVAILABLE", free=True)
        quiet(exporter)
        assert use(mix, exporter).code == 0


@in_every_mix
def test_H04_a_failing_hook_only_warns(mix: Mix) -> None:
    exporter = mix.exporter
    for before, after in (("exit 1", "exit 1"), ("sleep 20", "true")):
        quiet(exporter)
        script(exporter, "before", before)
        script(exporter, "after", after)

        done = use(mix, exporter)

        assert done.code == 0, done
        exporter.until("AVAILABLE", free=True)
        assert [when for when, *_ in ran(exporter)] == ["before", "after"]
    quiet(exporter)


@in_every_mix
def test_H05_a_lease_that_is_shorter_than_its_hook_ends_without_a_fuss(mix: Mix) -> None:
    exporter = mix.exporter
    quiet(exporter)
    script(exporter, "before", "sleep 4")
    short = ("-n", exporter.name, "--duration", "2s")

    done = mix.client().run(mix.release, "shell", *short, *mix.power)

    assert "Traceback" not in done.text, done
    exporter.until("AVAILABLE", free=True)
    quiet(exporter)
    assert use(mix, exporter).code == 0


@in_every_mix
def test_H06_the_next_lease_begins_after_the_hook_of_the_last(mix: Mix) -> None:
    exporter, alice, bob = mix.exporter, mix.client(), mix.client("bob")
    quiet(exporter)
    script(exporter, "after", "sleep 1", WRITTEN % "done")
    with alice.start(mix.release, "shell", *mix.select, "--", *HOLD) as first:
        first.until(lambda: "held" in first.output, "the first has the lease")
        with bob.start(mix.other, "shell", *mix.select, *power(mix.other)) as second:
            until(lambda: second.running and mix.waiting() == 1, "the second asks")

            assert first.wait() == 0, first

            assert second.wait() == 0, second

    exporter.until("AVAILABLE", free=True)
    assert [(when, client) for when, _, client in ran(exporter)] == [
        (when, client.name) for client in (alice, bob) for when in ("before", "after", "done")
    ]


@pytest.mark.parametrize("pair", PATIENT)
def test_H07_a_hook_may_take_longer_than_grpc_waits(patient: dict[str, Future[Any]], pair: str) -> None:
    done = patient[pair].result()

    assert done.code == 0, done
