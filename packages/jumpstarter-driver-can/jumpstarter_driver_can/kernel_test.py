"""SocketCAN and the ISO-TP sockets of a real kernel, on virtual CAN interfaces; these tests run in the lab guest."""

from __future__ import annotations

import os
import subprocess
import threading

import can
import isotp
import pytest
from jumpstarter.client.core import DriverError, DriverMethodNotImplemented

from jumpstarter_driver_can.common import IsoTpParams
from jumpstarter_driver_can.driver import Can
from jumpstarter_driver_can.driver_test import WAIT, ids, message, received_again, wait_until
from jumpstarter_driver_can.isotp_drivers import IsoTpPython, IsoTpSocket

pytestmark = pytest.mark.lab_guest

NAME = "vcan7"


def ip(*arguments):
    subprocess.run(["ip", "link", *arguments], check=True, capture_output=True, timeout=30)


def plug():
    ip("add", NAME, "type", "vcan")
    ip("set", NAME, "mtu", "72", "up")


@pytest.fixture
def vcan():
    """A virtual CAN interface, which may be gone at the end of the test."""
    subprocess.run(["modprobe", "-a", "vcan", "can_raw", "can_bcm", "can_isotp"], check=True, timeout=60)
    plug()
    yield NAME
    subprocess.run(["ip", "link", "del", NAME], capture_output=True, timeout=30)


@pytest.fixture
def node(vcan):
    """Another node on the interface, without Jumpstarter."""
    with can.Bus(channel=vcan, interface="socketcan", fd=True) as bus:
        yield bus


@pytest.fixture
def client(served, vcan):
    return served(Can(channel=vcan, interface="socketcan", fd=True))


class TestSocketCan:
    def test_frames_pass_both_ways(self, client, node):
        client.send(message(0x123, bytes(range(64)), is_fd=True))
        assert bytes(node.recv(WAIT).data) == bytes(range(64))
        node.send(message(0x1ABCDEF, b"\x01", is_extended_id=True))
        got = client.recv(WAIT)

        assert (got.arbitration_id, got.is_extended_id, bytes(got.data), got.channel) == (
            0x1ABCDEF,
            True,
            b"\x01",
            NAME,
        )

    def test_thousands_of_frames_arrive_complete_and_in_order(self, client, node):
        count = 2000
        thread = threading.Thread(target=lambda: [client.send(message(n & 0x7FF)) for n in range(count)])
        thread.start()
        got = ids(node, count)
        thread.join()

        assert got == [n & 0x7FF for n in range(count)]

    def test_filters_that_came_over_the_wire(self, client, node):
        client.set_filters([{"can_id": 1, "can_mask": 0x7FF, "extended": False}])
        client.recv(0)
        for ident in (2, 1):
            node.send(message(ident))

        assert ids(client, 1) == [1]

    def test_periodic_frames_are_sent_by_the_kernel(self, client, node):
        task = client.send_periodic(message(7, b"a"), 0.01)
        assert bytes(node.recv(WAIT).data) == b"a"
        task.modify_data(message(7, b"b"))
        wait_until(lambda: bytes(node.recv(WAIT).data) == b"b")
        task.stop()
        wait_until(lambda: node.recv(0.1) is None)
        task.start()
        assert ids(node, 1) == [7]
        client.shutdown()
        wait_until(lambda: node.recv(0.1) is None)

    def test_bus_off_arrives_as_an_error_frame(self, client, node):
        client.recv(0)
        node.send(can.Message(arbitration_id=0x40, is_error_frame=True, is_extended_id=False, data=bytes(8)))

        assert client.recv(WAIT).is_error_frame
        assert client.state is can.BusState.ERROR

    def test_an_interface_that_goes_down_is_told_and_comes_back(self, client, node):
        client.send(message(1), timeout=WAIT)
        task = client.send_periodic(message(7), 0.01)
        ip("set", NAME, "down")
        with pytest.raises(can.CanOperationError, match=r"vcan7 \(socketcan\) is down: .*ENETDOWN"):
            until_it_raises(client.recv)
        with pytest.raises(can.CanOperationError, match="down"):
            client.send(message(2), timeout=1)
        ip("set", NAME, "up")
        wait_until(lambda: client.info()["fault"] is None)
        client.send(message(3), timeout=WAIT)

        with can.Bus(channel=NAME, interface="socketcan") as fresh:
            assert fresh.recv(WAIT).arbitration_id == 7
            task.stop()
            fresh.send(message(0x44))
        assert received_with(client, 0x44)

    def test_an_adapter_that_is_pulled_out_and_plugged_in_again_works(self, client, vcan):
        client.send(message(1), timeout=WAIT)
        ip("del", NAME)
        with pytest.raises(can.CanOperationError, match="is down"):
            client.recv(WAIT)
        plug()
        wait_until(lambda: client.info()["fault"] is None)
        with can.Bus(channel=NAME, interface="socketcan") as fresh:
            fresh.send(message(0x45))

            assert received_with(client, 0x45)

    def test_a_missing_interface_is_named_with_those_there_are(self, vcan):
        with pytest.raises(can.CanError, match=r"no network interface can9 \(CAN interfaces: .*vcan7.*ip link add"):
            Can(channel="can9", interface="socketcan")


def until_it_raises(receive):
    while True:
        receive(WAIT)


def received_with(client, ident):
    while (got := received_again(client)) is not None:
        if got.arbitration_id == ident:
            return True
    return False


class TestKernelIsoTp:
    @pytest.fixture
    def ends(self, served, vcan):
        def make(params=None):
            addresses = isotp.Address(txid=0x7E0, rxid=0x7E8), isotp.Address(txid=0x7E8, rxid=0x7E0)
            clients = [
                served(IsoTpSocket(channel=vcan, address=address, params=params or IsoTpParams()))
                for address in addresses
            ]
            for client in clients:
                client.start()
            return clients

        return make

    @pytest.mark.parametrize(
        "params",
        [
            IsoTpParams(),
            IsoTpParams(can_fd=True, tx_data_length=64, bitrate_switch=True),
            IsoTpParams(blocking_send=True, tx_padding=0xAA, stmin=0, blocksize=0),
        ],
    )
    def test_a_transfer_arrives_whole(self, ends, params):
        one, other = ends(params)
        data = os.urandom(4095)
        one.send(data, send_timeout=WAIT)

        assert other.recv(timeout=WAIT) == data

    def test_nothing_is_none_after_the_timeout(self, ends):
        assert ends()[0].recv(timeout=0.05) is None

    def test_a_cancelled_receive_loses_nothing(self, ends):
        one, other = ends()

        async def impatient():
            from anyio import move_on_after

            for _ in range(20):
                with move_on_after(0.005):
                    await other.call_async("recv", True, None)

        other.portal.call(impatient)
        one.send(b"here")

        assert other.recv(timeout=WAIT) == b"here"

    def test_a_missing_receiver_fails_a_blocking_transfer(self, ends):
        one, other = ends(IsoTpParams(blocking_send=True))
        other.stop()

        with pytest.raises(DriverError, match="flow control"):
            one.send(b"x" * 100, send_timeout=WAIT)

    def test_what_is_too_long_for_the_kernel_is_refused(self, ends):
        with pytest.raises(DriverError, match="more than this kernel sends"):
            ends()[0].send(bytes(70_000))

    def test_an_interface_that_goes_down_is_told_and_comes_back(self, ends):
        one, other = ends()
        ip("set", NAME, "down")
        with pytest.raises(DriverError, match="ip link set vcan7 up"):
            one.recv(timeout=WAIT)
        ip("set", NAME, "up")
        for client in (one, other):
            client.stop()
            client.start()
        one.send(b"again")

        assert other.recv(timeout=WAIT) == b"again"

    def test_starting_twice_and_stopping_twice_are_explained(self, ends):
        one, _ = ends()
        with pytest.raises(ValueError, match="started already"):
            one.start()
        one.stop()
        with pytest.raises(ValueError, match="not started"):
            one.stop()

    def test_what_kernel_sockets_lack_is_said(self, ends):
        with pytest.raises(DriverMethodNotImplemented, match="IsoTpPython has"):
            ends()[0].available()

    def test_a_missing_interface_is_named(self, served, vcan):
        client = served(IsoTpSocket(channel="can9", address=isotp.Address(txid=1, rxid=2)))
        with pytest.raises(DriverError, match="no network interface can9"):
            client.start()

    def test_it_understands_the_stack_in_python(self, served, vcan):
        near = served(IsoTpSocket(channel=vcan, address=isotp.Address(txid=1, rxid=2)))
        far = served(IsoTpPython(channel=vcan, interface="socketcan", address=isotp.Address(txid=2, rxid=1)))
        near.start()
        far.start()
        near.send(b"q" * 300)
        assert far.recv(block=True, timeout=WAIT) == b"q" * 300
        far.send(b"a" * 300)

        assert near.recv(timeout=WAIT) == b"a" * 300
