"""Records survive being written as JSON."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..model.records import Kind, Lease, Meta
from .codec import decode, encode, to_number, to_time


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    time=st.datetimes(timezones=st.just(UTC), min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)),
    duration=st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=36500)),
    text=st.text(st.characters(exclude_categories=("Cs",))),
)
def test_times_durations_and_texts_survive(time: datetime, duration: timedelta, text: str) -> None:
    lease = Lease(
        meta=Meta(namespace="lab", name="x", annotations={text: text}), client="a", duration=duration, begun=time
    )
    assert decode(Kind.LEASE, encode(lease)) == lease
    assert to_time(to_number(time)) == time
