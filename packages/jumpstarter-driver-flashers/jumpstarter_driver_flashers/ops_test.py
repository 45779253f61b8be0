"""The lists for the board cover every range exactly once, in blocks that `dd` can place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jumpstarter_driver_opendal.images.pieces import Extent, Piece

from .ops import dd_runs, list_of

RANGES = st.tuples(st.integers(0, 1 << 30), st.integers(1, 40 << 20))


@given(RANGES)
def test_runs_cover_the_range_without_gap_and_overlap(place: tuple[int, int]):
    position = place[0]
    for size, seek, count in dd_runs(Extent("data", *place)):
        assert size * seek == position
        assert count > 0
        position += size * count
    assert position == sum(place)


@given(st.integers(0, 1 << 18), st.integers(1, 1 << 14))
def test_runs_over_whole_blocks_have_no_smaller_ones(first: int, blocks: int):
    runs = list(dd_runs(Extent("data", first * 4096, blocks * 4096)))
    assert all(size >= 4096 for size, _, _ in runs)


def test_large_aligned_range_is_written_in_large_blocks():
    runs = list(dd_runs(Extent("data", 0, 64 << 20)))
    assert {size for size, _, _ in runs} == {1 << 20}
    assert len(runs) == 16


@pytest.mark.parametrize("offset", [4096, 512, 1])
def test_large_range_at_an_odd_place_is_mostly_written_in_large_blocks(offset: int):
    runs = list(dd_runs(Extent("data", offset, 64 << 20)))
    assert sum(count for size, _, count in runs if size == 1 << 20) == 63
    assert len(runs) < 60


def test_lines_name_kind_place_and_progress_not_too_often():
    extents = [Extent("data", 0, 8192), Extent("zeros", 8192, 2 << 20), Extent("data", 8 << 20, 4096)]
    lines = list_of(Piece(name="0", size=12288, extents=extents)).splitlines()
    assert lines[0].startswith("d 8192 0 1 -")
    assert {line.split()[0] for line in lines} == {"d", "z"}
    assert lines[-1].split()[-1] == str(12288 + (2 << 20))
    assert sum(line.split()[-1] != "-" for line in lines) <= 3
