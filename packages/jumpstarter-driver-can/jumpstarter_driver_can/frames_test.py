"""Frames as records, and filters."""

import can
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jumpstarter_driver_can import wire
from jumpstarter_driver_can.frames import (
    Filter,
    Frame,
    check_frame,
    decode_frames,
    encode_frame,
    is_echo,
    mark_echo,
    parse_filters,
    passing,
)

identifiers = st.one_of(
    st.tuples(st.integers(0, 0x7FF), st.just(False)), st.tuples(st.integers(0, 0x1FFFFFFF), st.just(True))
)


@st.composite
def frames(draw):
    ident, extended = draw(identifiers)
    fd = draw(st.booleans())
    remote = not fd and draw(st.booleans())
    data = b"" if remote else draw(st.binary(max_size=64 if fd else 8))
    return Frame(
        timestamp=draw(st.floats(0, 4e9)),
        arbitration_id=ident,
        is_extended_id=extended,
        is_remote_frame=remote,
        channel=draw(st.sampled_from([None, "can0", 3, "ключ"])),
        dlc=draw(st.integers(0, 8)) if remote else len(data),
        data=data,
        is_fd=fd,
        is_rx=draw(st.booleans()),
        bitrate_switch=fd and draw(st.booleans()),
        error_state_indicator=fd and draw(st.booleans()),
    )


@settings(max_examples=40)
@given(st.lists(frames(), max_size=10))
def test_frames_survive_the_way_through_records(given_frames):
    records = b"".join(encode_frame(frame, "can0") for frame in given_frames)

    assert decode_frames(records, Frame, "can0") == given_frames


@settings(max_examples=40)
@given(st.lists(frames(), max_size=5))
def test_frames_of_python_can_survive_it_too(given_frames):
    records = b"".join(encode_frame(frame, "can0") for frame in given_frames)
    messages = decode_frames(records, can.Message, "can0")

    assert b"".join(encode_frame(message, "can0") for message in messages) == records


def test_an_error_frame_keeps_its_classes():
    frame = Frame(arbitration_id=0x204, is_extended_id=False, is_error_frame=True, dlc=8, data=bytes(8))

    assert decode_frames(encode_frame(frame), Frame) == [frame]


@given(st.binary(max_size=100))
def test_garbage_is_refused_or_read_but_never_more_than_that(garbage):
    try:
        read = decode_frames(garbage, Frame)
    except ValueError:
        return
    assert sum(len(frame.data) for frame in read) <= len(garbage)


@given(st.binary(max_size=200), st.integers(1, 50))
def test_messages_are_found_however_the_stream_is_cut(body, size):
    stream = wire.message(wire.FRAMES, body) + wire.json_message(wire.FILTERS, []) + wire.message(wire.SENT, b"")
    splitter = wire.Splitter()

    found = [item for at in range(0, len(stream), size) for item in splitter.feed(stream[at : at + size])]

    assert found == [(wire.FRAMES, body), (wire.FILTERS, b"[]"), (wire.SENT, b"")]


def test_a_message_that_announces_too_much_is_refused_before_it_is_there():
    with pytest.raises(wire.WireError, match="announces"):
        wire.Splitter().feed(b"\xff\xff\xff\xff\x01")


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ({"arbitration_id": 0x800, "is_extended_id": False}, "needs 29 bits"),
        ({"arbitration_id": 0x20000000}, "out of range"),
        ({"arbitration_id": -1}, "out of range"),
        ({"data": bytes(9), "dlc": 9}, "9 bytes don't fit into a classic CAN frame"),
        ({"data": bytes(65), "dlc": 65, "is_fd": True}, "65 bytes don't fit into a CAN FD frame"),
        ({"data": b"abc", "dlc": 2}, "DLC says 2"),
        ({"is_remote_frame": True, "is_fd": True}, "no remote frames"),
        ({"timestamp": float("nan")}, "finite"),
    ],
)
def test_a_frame_that_no_bus_can_carry_is_named_with_the_reason(members, complaint):
    with pytest.raises(ValueError, match=complaint):
        check_frame(Frame(**members))


def test_an_echo_is_told_from_a_received_frame():
    record = encode_frame(Frame(arbitration_id=1))

    assert not is_echo(record)
    assert is_echo(mark_echo(record))
    assert decode_frames(mark_echo(record), Frame) == [Frame(arbitration_id=1)]


class TestFilters:
    def passing_ids(self, filters, *frames):
        return [
            frame.arbitration_id
            for frame in decode_frames(b"".join(passing([encode_frame(f) for f in frames], filters)), Frame)
        ]

    def test_without_filters_everything_passes(self):
        assert self.passing_ids((), Frame(arbitration_id=1), Frame(arbitration_id=2)) == [1, 2]

    def test_one_filter_that_matches_is_enough(self):
        filters = (Filter(0x100, 0x700), Filter(0x201, 0x7FF))
        given_frames = [Frame(arbitration_id=ident, is_extended_id=False) for ident in (0x1FF, 0x200, 0x201, 0x301)]

        assert self.passing_ids(filters, *given_frames) == [0x1FF, 0x201]

    def test_a_filter_may_ask_for_one_kind_of_identifier(self):
        both = Frame(arbitration_id=5, is_extended_id=True), Frame(arbitration_id=5, is_extended_id=False)

        assert len(self.passing_ids((Filter(5, 0x7FF),), *both)) == 2
        assert len(self.passing_ids((Filter(5, 0x7FF, True),), *both)) == 1

    def test_numbers_may_have_become_floats_on_their_way(self):
        assert parse_filters([{"can_id": 1.0, "can_mask": 2047.0, "extended": True}]) == (Filter(1, 0x7FF, True),)

    @pytest.mark.parametrize(
        "bad", ["1:2", [1], [{"can_id": 1}], [{"can_id": 1.5, "can_mask": 1}], [{"can_id": -1, "can_mask": 1}]]
    )
    def test_something_else_is_refused(self, bad):
        with pytest.raises(ValueError, match="filter"):
            parse_filters(bad)
