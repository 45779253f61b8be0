"""The CAN driver and its client over a real session, on virtual buses."""

from __future__ import annotations

import gc
import os
import queue
import threading
import time
import warnings

import can
import isotp
import pytest
from jumpstarter.client.core import DriverError, DriverInvalidArgument
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.common.utils import serve

from jumpstarter_driver_can.client import CanClient, RemoteCyclicSendTask
from jumpstarter_driver_can.driver import Can
from jumpstarter_driver_can.old_link import frame_of, members_of

WAIT = 20.0
"""Seconds that something may take that ought to be immediate."""


def message(ident=0x123, data=b"\x01\x02", **members):
    return can.Message(arbitration_id=ident, data=data, **{"is_extended_id": False, **members})


def ids(bus, count):
    return [bus.recv(WAIT).arbitration_id for _ in range(count)]


class TestBus:
    def test_a_frame_arrives_as_it_was_sent(self, pair):
        one, other = pair
        one.send(message(0x1ABCDEF, bytes(range(48)), is_extended_id=True, is_fd=True, bitrate_switch=True))

        got = other.recv(WAIT)

        assert (got.arbitration_id, bytes(got.data), got.is_fd, got.bitrate_switch, got.is_extended_id) == (
            (0x1ABCDEF, bytes(range(48)), True, True, True)
        )
        assert got.timestamp == pytest.approx(time.time(), abs=60)

    def test_what_came_before_the_client_asked_is_not_lost(self, served, channel, peer):
        client = served(Can(channel=channel, interface="virtual"))
        for ident in range(5):
            peer.send(message(ident))

        assert ids(client, 5) == [0, 1, 2, 3, 4]

    def test_iteration_keeps_the_order(self, pair):
        one, other = pair
        for ident in range(100):
            one.send(message(ident))

        assert [got.arbitration_id for _, got in zip(range(100), other, strict=False)] == list(range(100))

    def test_nothing_is_none_after_the_timeout(self, pair):
        assert pair[0].recv(0) is None
        assert pair[0].recv(0.01) is None

    def test_it_is_a_bus_of_python_can(self, pair):
        assert isinstance(pair[0], can.BusABC)
        assert isinstance(pair[0], CanClient)
        assert issubclass(CanClient, can.BusABC)

    def test_properties_are_those_of_the_exporters_bus(self, served, channel):
        driver = Can(channel=channel, interface="virtual", options={"protocol": can.CanProtocol.CAN_FD})
        client = served(driver)

        assert client.protocol is driver.bus.protocol is can.CanProtocol.CAN_FD
        assert client.channel_info == driver.bus.channel_info == f"Virtual bus channel {channel}"
        assert client.state is driver.bus.state is can.BusState.ACTIVE

    def test_what_the_interface_can_not_do_says_so(self, pair):
        with pytest.raises(NotImplementedError):
            pair[0].flush_tx_buffer()
        with pytest.raises(NotImplementedError):
            pair[0].state = can.BusState.PASSIVE

    def test_filters_work_on_the_exporter(self, pair):
        one, other = pair
        other.set_filters([{"can_id": 1, "can_mask": 0x1FFFFFFF, "extended": True}])
        other.recv(0)
        for ident in (0, 1, 2, 1):
            one.send(message(ident, is_extended_id=True))
        one.send(message(1))

        assert ids(other, 2) == [1, 1]
        assert other.recv(0.05) is None

    def test_filters_can_be_removed(self, pair):
        one, other = pair
        other.filters = [{"can_id": 1, "can_mask": 0x7FF}]
        assert other.filters is not None
        other.set_filters(None)
        one.send(message(7))

        assert ids(other, 1) == [7]

    def test_several_clients_get_all_frames_each(self, served, channel, peer):
        driver = Can(channel=channel, interface="virtual")
        one = served(driver)
        with serve_again(driver) as other:
            assert one.recv(0) is None
            assert other.recv(0) is None
            peer.send(message(5))

            assert ids(one, 1) == ids(other, 1) == [5]

    def test_a_frame_that_no_bus_carries_is_refused_at_once(self, pair):
        with pytest.raises(ValueError, match="9 bytes don't fit into a classic CAN frame"):
            pair[0].send(message(1, bytes(9)))
        with pytest.raises(ValueError, match="65 bytes"):
            pair[0].send(message(1, bytes(65), is_fd=True))

    def test_after_shutdown_it_can_be_entered_again(self, pair):
        one, other = pair
        with one as bus:
            bus.set_filters([{"can_id": 1, "can_mask": 1}])
            bus.send(message(1))
        with pytest.raises(can.CanOperationError, match="shut down"):
            one.send(message(2))
        with one as bus:
            assert bus.filters is None
            bus.send(message(3))

        assert ids(other, 2) == [1, 3]

    def test_threads_that_use_it_first_at_the_same_time_share_one_link(self, pair):
        one, other = pair
        ready = threading.Barrier(8)

        def use():
            ready.wait(WAIT)
            other.recv(0)

        threads = [threading.Thread(target=use) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        one.send(message(1))

        assert ids(other, 1) == [1]
        assert other.info()["clients"] == 1

    def test_shutdown_sends_what_was_handed_over(self, pair):
        one, other = pair
        with one as bus:
            for ident in range(2000):
                bus.send(message(ident & 0x7FF))

        assert ids(other, 2000) == [ident & 0x7FF for ident in range(2000)]


class serve_again:
    """A second client of a driver that is served already."""

    def __init__(self, driver):
        self.driver = driver

    def __enter__(self):
        # The session closes its driver in the end, which is the business of the first one.
        self.close, self.driver.close = self.driver.close, lambda: None
        self.context = serve(self.driver)
        return self.context.__enter__()

    def __exit__(self, *error):
        self.context.__exit__(*error)
        self.driver.close = self.close


class TestThroughput:
    def test_ten_thousand_frames_arrive_complete_and_in_order(self, pair):
        one, other = pair
        count = 10_000
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.extend(bytes(other.recv(WAIT).data) for _ in range(count)))
        reader.start()
        for number in range(count):
            one.send(message(1, number.to_bytes(4, "big")))
        reader.join(60)

        assert got == [number.to_bytes(4, "big") for number in range(count)]
        assert other.lost_frames == 0

    def test_a_client_that_does_not_read_costs_bounded_memory_and_learns_what_it_missed(self, served, channel, peer):
        client = served(Can(channel=channel, interface="virtual", buffer=64))
        # Not connected yet, so nothing but the exporter's buffer holds them.
        for ident in range(500):
            peer.send(message(ident))
        wait_until(lambda: client.info()["received"] == 500)

        got = []
        while (frame := client.recv(0.2)) is not None:
            got.append(frame.arbitration_id)

        assert got == list(range(500 - 64, 500))
        assert client.lost_frames == 500 - 64


def wait_until(done, timeout=WAIT):
    deadline = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestPythonCan:
    def test_a_notifier_calls_its_listeners(self, pair):
        one, other = pair
        seen = queue.Queue()
        with can.Notifier(other, [seen.put], timeout=0.05):
            one.send(message(0x42))

            assert seen.get(timeout=WAIT).arbitration_id == 0x42

    def test_a_redirect_reader_copies_to_another_bus(self, pair, channel):
        one, other = pair
        with (
            can.Bus(channel=f"{channel}-copy", interface="virtual") as source,
            can.Bus(channel=f"{channel}-copy", interface="virtual") as target,
            can.Notifier(other, [can.RedirectReader(source)], timeout=0.05),
        ):
            one.send(message(0x99))

            assert target.recv(WAIT).arbitration_id == 0x99

    def test_a_logger_writes_a_file_that_a_player_sends(self, pair, tmp_path):
        one, other = pair
        log, seen = tmp_path / "bus.log", queue.Queue()
        with can.Logger(log) as writer, can.Notifier(other, [writer, seen.put], timeout=0.05):
            one.send(message(0x11, b"\xaa"))
            one.send(message(0x22, b"\xbb"))
            for _ in range(2):
                seen.get(timeout=WAIT)
        with can.LogReader(log) as reader:
            for recorded in can.MessageSync(reader, gap=0):
                one.send(recorded)

        assert ids(other, 2) == [0x11, 0x22]

    @pytest.mark.parametrize(("length", "blocking"), [(8, False), (64, False), (8, True), (64, True)])
    def test_can_isotp_stacks_run_on_the_clients(self, pair, length, blocking):
        one, other = pair
        params = {"tx_data_length": length, "can_fd": length > 8, "blocking_send": blocking, "stmin": 0}
        data = os.urandom(2048)
        with can.Notifier(one, [], timeout=0.05) as near, can.Notifier(other, [], timeout=0.05) as far:
            stacks = [
                isotp.NotifierBasedCanStack(
                    bus, notifier, address=isotp.Address(rxid=rxid, txid=txid), params=params, read_timeout=0.01
                )
                for bus, notifier, rxid, txid in ((one, near, 1, 2), (other, far, 2, 1))
            ]
            for stack in stacks:
                stack.start()
            try:
                stacks[0].send(data, send_timeout=WAIT)
                assert stacks[1].recv(block=True, timeout=WAIT) == data
            finally:
                for stack in stacks:
                    stack.stop()

    def test_a_client_that_is_collected_unused_is_silent(self, served, channel):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            served(Can(channel=channel, interface="virtual"))
            gc.collect()


class TestPeriodic:
    def test_the_exporter_sends_until_it_is_stopped_and_can_start_again(self, pair):
        one, other = pair
        task = one.send_periodic(message(7), 0.005, autostart=False)
        assert isinstance(task, RemoteCyclicSendTask)
        assert other.recv(0.05) is None
        task.start()
        assert ids(other, 3) == [7, 7, 7]
        task.stop()
        task.stop()
        wait_until(lambda: other.recv(0.05) is None)
        task.start()

        assert ids(other, 1) == [7]

    def test_several_frames_are_sent_in_turn(self, pair):
        one, other = pair
        one.send_periodic([message(7, b"a"), message(7, b"b")], 0.002)

        assert [bytes(other.recv(WAIT).data) for _ in range(4)] == [b"a", b"b", b"a", b"b"]

    def test_the_data_can_be_changed(self, pair):
        one, other = pair
        task = one.send_periodic(message(7, b"a"), 0.002)
        assert bytes(other.recv(WAIT).data) == b"a"
        task.modify_data(message(7, b"b"))

        wait_until(lambda: bytes(other.recv(WAIT).data) == b"b")

    def test_it_ends_with_its_duration(self, pair):
        one, other = pair
        one.send_periodic(message(7), 0.005, duration=0.03)

        count = 0
        while other.recv(0.5) is not None:
            count += 1
        assert 1 <= count <= 8
        assert one.info()["periodic"] == 0

    def test_a_callback_runs_in_the_client(self, pair):
        one, other = pair

        def rewrite(msg):
            msg.data = b"XY"

        task = one.send_periodic(message(7), 0.005, modifier_callback=rewrite)

        assert bytes(other.recv(WAIT).data) == b"XY"
        task.stop()

    def test_it_ends_with_its_client(self, pair):
        one, other = pair
        one.send_periodic(message(7), 0.002)
        assert ids(other, 2) == [7, 7]
        one.shutdown()

        wait_until(lambda: other.recv(0.1) is None)
        assert one.info()["periodic"] == 0

    @pytest.mark.parametrize(
        ("arguments", "complaint"),
        [
            (([message(1)], 0.0), "period"),
            (([message(1), message(2)], 1.0), "same identifier"),
            (([message(1)], 1.0, -1.0), "duration"),
        ],
    )
    def test_malformed_ones_are_refused(self, pair, arguments, complaint):
        messages, *rest = arguments
        with pytest.raises(ValueError, match=complaint):
            pair[0].call("_send_periodic_internal", [members_of(m) for m in messages], *rest)

    def test_an_unknown_task_is_named(self, pair):
        with pytest.raises(DriverInvalidArgument, match="no periodic send"):
            pair[0].call("_stop_task", "5e8b7a36-3d7d-4ac9-97ae-3fd3ccc4a4b1")


class TestOldCalls:
    """The calls, one for each frame, that clients of earlier releases make."""

    def test_frames_pass_both_ways(self, pair):
        one, other = pair
        one.call("send", members_of(message(0x55, b"old")), None)

        members, filtered = other.call("_recv_internal", WAIT)

        got = frame_of(members, can.Message)
        assert (got.arbitration_id, bytes(got.data), filtered) == (0x55, b"old", False)
        assert members.keys() == members_of(message()).keys()

    def test_nothing_is_null_after_the_timeout(self, pair):
        assert pair[0].call("_recv_internal", 0.01) == [None, False]

    def test_a_cancelled_call_takes_no_frame(self, pair):
        one, other = pair

        async def impatient():
            from anyio import move_on_after

            for _ in range(60):
                with move_on_after(0.005):
                    await other.call_async("_recv_internal", None)

        other.portal.call(impatient)
        one.send(message(0x66))

        assert other.call("_recv_internal", WAIT)[0]["arbitration_id"] == 0x66

    def test_many_waiting_calls_do_not_keep_others_from_the_exporter(self, pair):
        one, _ = pair

        async def crowd():
            from anyio import create_task_group, fail_after

            async with create_task_group() as tg:
                for _ in range(60):
                    tg.start_soon(one.call_async, "_recv_internal", None)
                with fail_after(WAIT):
                    assert await one.call_async("protocol") == 1.0
                tg.cancel_scope.cancel()

        one.portal.call(crowd)

    def test_filters_and_their_end(self, pair):
        one, other = pair
        other.call("_apply_filters", [{"can_id": 1, "can_mask": 2047}])
        one.send(message(2))
        one.send(message(1))
        members, filtered = other.call("_recv_internal", WAIT)
        assert (members["arbitration_id"], filtered) == (1, True)

        other.call("shutdown")
        one.send(message(2))
        assert other.call("_recv_internal", WAIT)[0]["arbitration_id"] == 2

    def test_a_bad_frame_is_refused_with_the_reason(self, pair):
        with pytest.raises(DriverInvalidArgument, match="9 bytes"):
            pair[0].call("send", members_of(message(1, bytes(9))), None)


class OldCan(Can):
    """A driver that has none of what earlier releases don't have."""


for _name in ("frame_link", "frames", "monitor", "info"):
    setattr(OldCan, _name, None)


class TestOldExporter:
    def test_the_client_falls_back_to_single_calls(self, served, channel, peer):
        client = served(OldCan(channel=channel, interface="virtual"))
        peer.send(message(1))
        peer.send(message(2))
        assert ids(client, 2) == [1, 2]
        client.set_filters([{"can_id": 3, "can_mask": 0x7FF}])
        peer.send(message(2))
        peer.send(message(3))
        assert ids(client, 1) == [3]
        assert client.recv(0.05) is None
        client.send(message(4))
        assert peer.recv(WAIT).arbitration_id == 4
        task = client.send_periodic(message(9), 0.005)
        assert peer.recv(WAIT).arbitration_id == 9
        task.stop()
        client.shutdown()
        wait_until(lambda: peer.recv(0.1) is None)


class TestConfig:
    def test_an_unknown_interface_is_named_with_the_known_ones(self):
        with pytest.raises(can.CanInterfaceNotImplementedError, match=r"nonsense.*socketcan, .*virtual"):
            Can(channel="x", interface="nonsense")

    def test_the_bit_rate_of_socketcan_is_set_elsewhere(self):
        with pytest.raises(ConfigurationError, match="ip link set can0 up type can bitrate 250000"):
            Can(channel="can0", interface="socketcan", bitrate=250000)

    def test_an_option_that_is_given_twice_is_refused(self):
        with pytest.raises(ConfigurationError, match="fd is given inside options as well"):
            Can(channel="x", interface="virtual", fd=True, options={"fd": False})

    def test_options_reach_the_interface(self, channel):
        driver = Can(channel=channel, interface="virtual", receive_own_messages=True, options={"rx_queue_size": 7})
        try:
            assert driver.bus.inner.receive_own_messages
            assert driver.bus.inner.queue.maxsize == 7
        finally:
            driver.close()

    def test_the_package_offers_the_classes_too(self):
        import jumpstarter_driver_can

        assert jumpstarter_driver_can.Can is Can


class TestFaults:
    def test_a_missing_adapter_fails_the_start_with_advice(self, adapter):
        adapter.plugged = False
        with pytest.raises(can.CanInitializationError, match=r"can't be opened: No such device.*plug.* in"):
            Can(channel="can9", interface="slcan")

    def test_one_that_may_be_missing_works_when_it_is_plugged_in(self, adapter, served):
        adapter.plugged = False
        client = served(Can(channel="can9", interface="slcan", check_present=False))
        with pytest.raises(can.CanOperationError, match=r"CAN bus can9 \(slcan\) is down"):
            client.recv(WAIT)
        with pytest.raises(can.CanOperationError, match="is down"):
            client.send(message(1), timeout=1)
        adapter.plugged = True
        adapter.incoming.put(message(0x31))

        assert received_again(client).arbitration_id == 0x31

    def test_an_unplugged_adapter_is_told_and_comes_back(self, adapter, served):
        client = served(Can(channel="can0", interface="slcan"))
        client.send(message(1), timeout=WAIT)
        adapter.plugged = False
        with pytest.raises(can.CanOperationError, match=r"is down: Failed to receive: Network is down \(ENETDOWN\)"):
            client.recv(WAIT)
        assert client.state is can.BusState.ERROR
        assert "is down" in client.info()["fault"]
        adapter.plugged = True
        adapter.incoming.put(message(0x32))

        assert received_again(client).arbitration_id == 0x32
        client.send(message(2), timeout=WAIT)
        assert [adapter.wire.get(timeout=WAIT).arbitration_id for _ in range(2)] == [1, 2]
        assert client.state is can.BusState.ACTIVE

    def test_a_periodic_send_survives_that(self, adapter, served):
        client = served(Can(channel="can0", interface="slcan"))
        client.send_periodic(message(7), 0.005)
        adapter.wire.get(timeout=WAIT)
        adapter.plugged = False
        wait_until(lambda: client.info()["fault"] is not None)
        while not adapter.wire.empty():
            adapter.wire.get()
        adapter.plugged = True

        assert adapter.wire.get(timeout=WAIT).arbitration_id == 7

    def test_a_failed_send_is_raised_by_the_next_call_and_nothing_is_sent_after_it(self, adapter, served):
        client = served(Can(channel="can0", interface="slcan", send_timeout=0.05))
        client.send(message(1), timeout=WAIT)
        adapter.full = True
        client.send(message(2))
        client.send(message(3))
        with pytest.raises(can.CanTimeoutError, match=r"transmit queue was full.*1 frames .* were not sent either"):
            client.flush()
        adapter.full = False
        client.send(message(4), timeout=WAIT)

        assert [adapter.wire.get(timeout=WAIT).arbitration_id for _ in range(2)] == [1, 4]
        assert adapter.wire.empty()

    def test_a_queue_that_is_full_for_a_moment_loses_nothing(self, adapter, served):
        client = served(Can(channel="can0", interface="slcan", send_timeout=30))
        adapter.full = True
        for ident in range(300):
            client.send(message(ident))
        threading.Timer(0.1, setattr, [adapter, "full", False]).start()
        client.flush(WAIT)

        assert [adapter.wire.get_nowait().arbitration_id for _ in range(300)] == list(range(300))

    def test_a_failure_reaches_the_thread_that_sent(self, adapter, served):
        client = served(Can(channel="can0", interface="slcan", send_timeout=0.05))
        adapter.full = True
        thread = threading.Thread(target=client.send, args=[message(1)])
        thread.start()
        thread.join()
        # Another thread that only receives, as a notifier does, goes on.
        adapter.incoming.put(message(0x33))
        assert client.recv(WAIT).arbitration_id == 0x33
        with pytest.raises(can.CanTimeoutError):
            client.send(message(2), timeout=0.05)

    def test_bus_off_is_delivered_and_makes_the_state(self, adapter, served):
        client = served(Can(channel="can0", interface="slcan"))
        adapter.incoming.put(message(0x040, bytes(8), is_error_frame=True))
        got = client.recv(WAIT)
        assert got.is_error_frame
        assert client.state is can.BusState.ERROR
        adapter.incoming.put(message(0x100, bytes(8), is_error_frame=True))
        assert client.recv(WAIT).is_error_frame
        assert client.state is can.BusState.ACTIVE

    def test_garbage_on_the_wire_does_not_end_reception(self, adapter, served):
        client = served(Can(channel="can0", interface="slcan"))
        adapter.incoming.put(can.CanOperationError("could not unpack received message"))
        adapter.incoming.put(message(0x34))

        assert client.recv(WAIT).arbitration_id == 0x34
        assert adapter.opened == 1

    def test_an_interface_that_only_fails_is_opened_anew(self, adapter, served):
        client = served(Can(channel="can0", interface="slcan"))
        for _ in range(10):
            adapter.incoming.put(ValueError("garbage"))
        with pytest.raises(can.CanOperationError, match="is down: garbage"):
            client.recv(WAIT)
        adapter.incoming.put(message(0x35))

        assert received_again(client).arbitration_id == 0x35
        assert adapter.opened == 2

    def test_nothing_is_left_after_close(self, channel):
        before = set(threading.enumerate())
        driver = Can(channel=channel, interface="virtual")
        with serve(driver) as client:
            client.send_periodic(message(1), 0.01)
            client.send(message(1))
        wait_until(lambda: not [t for t in set(threading.enumerate()) - before if "can" in t.name.lower()])

        from can.interfaces.virtual import channels

        assert channel not in channels

    def test_nonsense_on_a_link_ends_that_link_only(self, pair):
        one, other = pair

        async def talk(chunk):
            from anyio import EndOfStream, fail_after

            async with one.stream_async("frames") as stream:
                await stream.send(chunk)
                with fail_after(WAIT):
                    told = b""
                    try:
                        while True:
                            told += await stream.receive()
                    except EndOfStream:
                        return told.decode(errors="replace")

        assert "announces" in one.portal.call(talk, b"\xff" * 64)
        assert "HELLO" in one.portal.call(talk, b"\x02\x00\x00\x00\x03a")
        one.send(message(1))
        assert ids(other, 1) == [1]

    def test_who_only_looks_on_can_not_send(self, pair):
        from jumpstarter_driver_can.link import Link, LinkError

        one, other = pair
        with Link(one, "monitor") as link, pytest.raises(LinkError, match="only receives"):
            link.send(message(1), timeout=WAIT)
        assert other.recv(0.05) is None

    def test_a_link_whose_exporter_is_gone_says_so(self, channel):
        with serve(Can(channel=channel, interface="virtual")) as client:
            assert client.recv(0) is None
            threading.Timer(0.05, client._link.close).start()
            with pytest.raises(can.CanOperationError, match="closed"):
                client.recv(WAIT)

    def test_too_many_links_are_refused(self, pair, monkeypatch):
        from jumpstarter_driver_can import driver as module
        from jumpstarter_driver_can.link import Link

        monkeypatch.setattr(module, "MAX_LINKS", 1)
        with Link(pair[0]), pytest.raises(DriverError, match="1 clients already"), Link(pair[0]):
            pass


def received_again(client):
    """Return the next frame of a bus that was down; until it is back, receiving may raise."""
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        try:
            if (got := client.recv(0.5)) is not None:
                return got
        except can.CanOperationError:
            continue
    raise AssertionError("the bus did not come back")
