"""ISO-TP drivers: the stack in Python on virtual buses; the kernel's are tested in kernel_test."""

from __future__ import annotations

import os
import threading

import isotp
import pytest
from jumpstarter.client.core import DriverError, DriverInvalidArgument
from jumpstarter.common.exceptions import ConfigurationError
from jumpstarter.config.exporter import ExporterConfigV1Alpha1DriverInstance

from jumpstarter_driver_can.common import IsoTpAddress, IsoTpAsymmetricAddress, IsoTpParams
from jumpstarter_driver_can.driver_test import WAIT, wait_until
from jumpstarter_driver_can.isotp_drivers import IsoTpPython, IsoTpSocket

AHEAD = isotp.Address(txid=0x7E0, rxid=0x7E8)
BACK = isotp.Address(txid=0x7E8, rxid=0x7E0)


@pytest.fixture
def ends(served, channel):
    """Make two connected clients."""

    def make(params=None, one=AHEAD, other=BACK):
        clients = [
            served(
                IsoTpPython(
                    channel=channel,
                    interface="virtual",
                    address=address,
                    params=params or IsoTpParams(),
                    read_timeout=0.01,
                )
            )
            for address in (one, other)
        ]
        for client in clients:
            client.start()
        return clients

    return make


@pytest.mark.parametrize(
    "params",
    [
        IsoTpParams(),
        IsoTpParams(blocking_send=True),
        IsoTpParams(tx_data_length=64, can_fd=True),
        IsoTpParams(stmin=0, blocksize=0, max_frame_size=100_000),
    ],
)
def test_a_transfer_arrives_whole(ends, params):
    one, other = ends(params)
    data = os.urandom(min(params.max_frame_size, 20_000))
    one.send(data, send_timeout=WAIT)

    assert other.recv(block=True, timeout=WAIT) == data
    assert not other.available()


def test_without_waiting_there_may_be_nothing(ends):
    one, _ = ends()

    assert one.recv() is None
    assert one.recv(block=True, timeout=0.01) is None


def test_a_cancelled_receive_loses_nothing(ends):
    one, other = ends()

    async def impatient():
        from anyio import move_on_after

        for _ in range(50):
            with move_on_after(0.002):
                await other.call_async("recv", True, None)

    other.portal.call(impatient)
    one.send(b"here")

    assert other.recv(block=True, timeout=WAIT) == b"here"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (isotp.Address(txid=0x111, rxid=0x222), isotp.Address(txid=0x222, rxid=0x111)),
        (
            isotp.Address(isotp.AddressingMode.NormalFixed_29bits, target_address=0x55, source_address=0xAA),
            isotp.Address(isotp.AddressingMode.NormalFixed_29bits, target_address=0xAA, source_address=0x55),
        ),
        (
            isotp.AsymmetricAddress(
                tx_addr=isotp.Address(txid=0x333, tx_only=True), rx_addr=isotp.Address(rxid=0x444, rx_only=True)
            ),
            isotp.AsymmetricAddress(
                tx_addr=isotp.Address(txid=0x444, tx_only=True), rx_addr=isotp.Address(rxid=0x333, rx_only=True)
            ),
        ),
    ],
)
def test_the_address_can_be_changed(ends, one, other):
    near, far = ends()
    near.set_address(one)
    far.set_address(other)
    near.send(b"x" * 50)

    assert far.recv(block=True, timeout=WAIT) == b"x" * 50


def test_something_else_is_no_address(ends):
    with pytest.raises(ValueError, match="not an ISO-TP address"):
        ends()[0].set_address("0x7E0")


@pytest.mark.parametrize("mode", isotp.AddressingMode)
def test_every_kind_of_address_survives_the_wire(mode):
    members = {
        "txid": 0x111,
        "rxid": 0x222,
        "target_address": 0x55,
        "source_address": 0xAA,
        "address_extension": 0x99,
    }
    address = isotp.Address(mode, **members)

    again = IsoTpAddress.model_validate_json(IsoTpAddress.validate(address).model_dump_json()).dump()

    assert again.get_tx_arbitration_id() == address.get_tx_arbitration_id()
    assert again.get_rx_arbitration_id() == address.get_rx_arbitration_id()
    assert again.get_tx_payload_prefix() == address.get_tx_payload_prefix()


def test_an_asymmetric_address_needs_its_halves():
    with pytest.raises(ValueError, match="tx_only"):
        IsoTpAsymmetricAddress(tx_addr=IsoTpAddress.validate(AHEAD), rx_addr=IsoTpAddress.validate(BACK)).dump()


def test_a_transfer_without_a_receiver_fails(ends):
    one, other = ends(IsoTpParams(blocking_send=True, rx_flowcontrol_timeout=50))
    other.stop()

    with pytest.raises(DriverError, match="Error while sending"):
        one.send(b"x" * 100, send_timeout=WAIT)
    other.start()
    one.send(b"again", send_timeout=WAIT)
    assert other.recv(block=True, timeout=WAIT) == b"again"


def test_a_transfer_can_be_given_up(ends):
    one, other = ends(IsoTpParams(rx_flowcontrol_timeout=30_000))
    other.stop()
    one.send(b"x" * 100)
    wait_until(one.transmitting)
    one.stop_sending()

    wait_until(lambda: not one.transmitting())


def test_misuse_is_explained(ends):
    one, _ = ends()
    with pytest.raises(DriverInvalidArgument, match="started already"):
        one.start()
    with pytest.raises(DriverInvalidArgument, match="one byte at least"):
        one.send(b"")
    one.stop()
    with pytest.raises(DriverInvalidArgument, match="not started"):
        one.send(b"x")


def test_a_flood_of_transfers_is_refused_rather_than_kept(ends):
    one, other = ends(IsoTpParams(rx_flowcontrol_timeout=30_000))
    other.stop()

    def flood():
        for _ in range(100):
            one.send(b"x" * 100)

    with pytest.raises(DriverError, match="64 transfers are waiting"):
        flood()


def test_a_bus_that_goes_down_fails_the_transfer_and_comes_back(adapter, served):
    client = served(
        IsoTpPython(channel="can0", interface="slcan", address=AHEAD, params=IsoTpParams(blocking_send=True))
    )
    client.start()
    client.send(b"one", send_timeout=WAIT)
    assert bytes(adapter.wire.get(timeout=WAIT).data) == b"\x03one"
    adapter.plugged = False
    with pytest.raises(DriverError, match=r"Network is down|is down"):
        client.send(b"two", send_timeout=WAIT)
    adapter.plugged = True

    def sent():
        try:
            client.send(b"three", send_timeout=WAIT)
        except DriverError:
            return False
        return True

    wait_until(sent)
    assert bytes(adapter.wire.get(timeout=WAIT).data) == b"\x05three"


def test_nothing_is_left_after_close(channel):
    before = set(threading.enumerate())
    driver = IsoTpPython(channel=channel, interface="virtual", address=AHEAD)
    driver.start()
    driver.close()

    assert set(threading.enumerate()) <= before


class TestConfig:
    def load(self, kind, address, params=""):
        text = f"type: jumpstarter_driver_can.{kind}\nconfig:\n  channel: cfg\n"
        text += "" if kind == "IsoTpSocket" else "  interface: virtual\n"
        return ExporterConfigV1Alpha1DriverInstance.from_str(f"{text}  address: {address}\n{params}").instantiate()

    @pytest.mark.parametrize("kind", ["IsoTpPython", "IsoTpSocket"])
    @pytest.mark.parametrize(
        "address",
        [
            "{txid: 0x7E0, rxid: 0x7E8}",
            "{addressing_mode: Normal_11bits, txid: 0x7E0, rxid: 0x7E8}",
            "{addressing_mode: 0, txid: 0x7E0, rxid: 0x7E8}",
            "{tx_addr: {txid: 0x7E0}, rx_addr: {rxid: 0x7E8}}",
        ],
    )
    def test_an_address_is_a_mapping(self, kind, address):
        driver = self.load(kind, address)
        try:
            assert driver.address.get_tx_arbitration_id() == 0x7E0
            assert driver.address.get_rx_arbitration_id() == 0x7E8
        finally:
            driver.close()

    @pytest.mark.parametrize(
        ("address", "complaint"),
        [
            ("{txid: 0x7E0}", "rxid"),
            ("{txid: 1, rxid: 2, txd: 3}", "no member txd"),
            ("{addressing_mode: Normal_12bits, txid: 1, rxid: 2}", "no addressing mode 'Normal_12bits'"),
            ("7", "an address is a mapping"),
            ("{tx_addr: {txid: 1}}", "two members"),
        ],
    )
    def test_a_bad_address_is_named(self, address, complaint):
        with pytest.raises(ConfigurationError, match=complaint):
            self.load("IsoTpPython", address)

    @pytest.mark.parametrize(
        ("params", "complaint"),
        [("{stmin: 256}", "stmin"), ("{tx_data_length: 9}", "tx_data_length"), ("{stminn: 1}", "stminn")],
    )
    def test_bad_parameters_are_named(self, params, complaint):
        with pytest.raises(ConfigurationError, match=complaint):
            self.load("IsoTpSocket", "{txid: 1, rxid: 2}", f"  params: {params}\n")

    def test_a_kernel_socket_tells_which_parameters_it_ignores(self, caplog):
        IsoTpSocket(channel="can0", address=AHEAD, params=IsoTpParams(rate_limit_enable=True))

        assert "kernel sockets don't have: rate_limit_enable" in caplog.text
