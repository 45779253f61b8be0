"""In our lab, older published releases as client and exporter: H08 of the acceptance scenarios."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import peer
import pytest
from lab import OURS, Exporter, Lab
from mixes import POWER
from processes import TIMEOUT

pytestmark = [pytest.mark.interop, pytest.mark.timeout(TIMEOUT)]

OLD = ("0.7.4", "0.8.1")


@pytest.fixture(scope="module")
def bins() -> dict[str, Path]:
    """The bin folders of ours and of the older releases."""
    return {"ours": OURS, **{version: peer.install(version) for version in OLD}}


@pytest.fixture(scope="module")
def exporters(lab: Lab, bins: dict[str, Path]) -> Generator[dict[str, Exporter], None, None]:
    """One exporter of each release."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(lab.exporter(release, f"board-{name.replace('.', '-')}", POWER, ready=False))
            for name, release in bins.items()
        }


@pytest.mark.parametrize(
    ("client", "exporter"), [(v, v) for v in OLD] + [("ours", v) for v in OLD] + [(v, "ours") for v in OLD]
)
def test_H08_older_releases_lease_and_lease_again(
    lab: Lab, bins: dict[str, Path], exporters: dict[str, Exporter], client: str, exporter: str
) -> None:
    release, board = bins[client], exporters[exporter]
    who = lab.client(f"{client}-{exporter}".replace(".", "-"))
    board.until_free()
    for _ in range(2):
        power = ("--", release / "j", "power", "on")

        done = who.run(release, "shell", "--selector", f"name={board.name}", *power)

        assert done.code == 0, done
        board.until_free()


@pytest.mark.parametrize("version", OLD)
def test_H08_older_exporters_come_back_when_the_controller_starts_again(
    lab: Lab, exporters: dict[str, Exporter], version: str
) -> None:
    board, who = exporters[version], lab.client(f"again-{version}".replace(".", "-"))
    lab.stop()
    lab.start()

    done = who.run(OURS, "shell", "--selector", f"name={board.name}", "--", OURS / "j", "power", "on")

    assert done.code == 0, done
