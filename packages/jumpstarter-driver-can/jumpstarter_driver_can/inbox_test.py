"""The ring that several readers follow."""

import threading

import anyio
import pytest

from jumpstarter_driver_can.inbox import Inbox


def filled(capacity, count):
    inbox = Inbox(capacity)
    for number in range(count):
        inbox.put(b"%d" % number)
    return inbox


def test_a_reader_gets_all_records_in_their_order():
    reader = filled(8, 5).reader()

    assert reader.take(3) == [b"0", b"1", b"2"]
    assert reader.take(3) == [b"3", b"4"]
    assert reader.take(3) == []


def test_when_the_ring_is_full_the_oldest_records_are_dropped_and_counted():
    inbox = Inbox(4)
    reader = inbox.reader()
    for number in range(10):
        inbox.put(b"%d" % number)

    assert reader.take(100) == [b"6", b"7", b"8", b"9"]
    assert reader.take_lost() == 6
    assert reader.take_lost() == 0


def test_two_readers_get_everything_each():
    inbox = Inbox(8)
    one, other = inbox.reader(), inbox.reader()
    inbox.put(b"a")

    assert one.take(9) == other.take(9) == [b"a"]


def test_a_new_reader_begins_with_what_nobody_has_read():
    inbox = filled(8, 4)
    inbox.reader().take(3)

    assert inbox.reader().take(9) == [b"3"]


def test_who_only_looks_on_begins_now_and_takes_nothing_away():
    inbox = filled(8, 2)
    watcher = inbox.reader(unread=False)
    inbox.put(b"new")

    assert watcher.take(9) == [b"new"]
    assert inbox.reader().take(9) == [b"0", b"1", b"new"]


async def test_a_waiting_reader_is_woken_by_a_thread():
    inbox = Inbox(8)
    reader = inbox.reader()
    threading.Timer(0.05, inbox.put, [b"a"]).start()

    with anyio.fail_after(10):
        await reader.wait()

    assert reader.take(9) == [b"a"]


async def test_a_cancelled_wait_loses_nothing():
    inbox = Inbox(8)
    reader = inbox.reader()
    with anyio.move_on_after(0.01):
        await reader.wait()
    inbox.put(b"a")

    with anyio.fail_after(10):
        await reader.wait()
    assert reader.take(9) == [b"a"]


async def test_a_fast_thread_and_a_reader_lose_nothing_together():
    inbox = Inbox(100_000)
    reader = inbox.reader()
    count = 20_000
    thread = threading.Thread(target=lambda: [inbox.put(b"%d" % number) for number in range(count)])
    thread.start()
    seen = []
    with anyio.fail_after(60):
        while len(seen) < count:
            if not (records := reader.take(512)):
                await reader.wait()
            seen += records
    thread.join()

    assert seen == [b"%d" % number for number in range(count)]


def test_an_inbox_without_room_is_refused():
    with pytest.raises(ValueError, match="one record"):
        Inbox(0)
