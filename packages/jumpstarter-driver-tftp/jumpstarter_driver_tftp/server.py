"""A read-only TFTP server: listens, answers read requests, and runs every transfer in a task of its own.

Can be used without Jumpstarter:

    server = TftpServer("127.0.0.1", 6969, Directory("/srv/tftp"))
    await server.start()  # until shutdown()

Sources: RFC 1350 and RFC 1123 section 4.2.3.1 (protocol, retransmission), RFC 2347 to 2349 and RFC 7440 (options).
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Awaitable
from pathlib import PurePosixPath
from typing import Any, Literal

import anyio
from anyio.abc import TaskGroup, TaskStatus, UDPSocket

from .files import Directory, ReadableTree, opened, size_of
from .packets import (
    DEFAULT_BLOCK_SIZE,
    MAX_BLOCK_SIZE,
    MIN_BLOCK_SIZE,
    BadRequest,
    Opcode,
    Options,
    ReadRequest,
    TftpErrorCode,
    ack_number,
    error_packet,
    error_text,
    negotiate,
    oack_packet,
    opcode_of,
    parse_request,
)
from .window import BlockWindow, Reader

__all__ = [
    "Opcode",
    "TftpErrorCode",
    "TftpReadTransfer",
    "TftpServer",
    "TftpServerProtocol",
    "TftpTransfer",
]

Address = tuple[Any, ...]
"""Host and port first, as the socket module has it."""

MAX_TRANSFERS = 64
MAX_REQUEST = 2048
_IP_PKTINFO = getattr(socket, "IP_PKTINFO", 8)


class _PeerGone(Exception):
    """The transfer is over because of the peer: it sent an ERROR, or nothing any more."""


class DatagramPort:
    """The listening socket, which also knows the local address that a packet was sent to."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._closed = False
        sock.setblocking(False)
        wildcard = sock.getsockname()[0] in ("0.0.0.0", "::")
        self._packet_info = wildcard and hasattr(socket, "CMSG_SPACE")
        if not self._packet_info:
            return
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)

    @property
    def family(self) -> socket.AddressFamily:
        return self._sock.family

    def getsockname(self) -> Address:
        """The bound address."""
        return tuple(self._sock.getsockname())

    def is_closing(self) -> bool:
        return self._closed

    def close(self) -> None:
        self._closed = True
        self._sock.close()

    def sendto(self, packet: bytes, address: Address) -> None:
        """Send one packet; a full socket buffer loses it, as the network may."""
        try:
            self._sock.sendto(packet, address)
        except BlockingIOError:
            pass

    async def receive(self) -> tuple[bytes, Address, str]:
        """Wait for a packet; returns it with the peer's address and the local address that it was sent to."""
        while True:
            await anyio.wait_readable(self._sock)
            try:
                if not self._packet_info:
                    packet, peer = self._sock.recvfrom(MAX_REQUEST)
                    return packet, _with_scope(peer), _with_scope(self._sock.getsockname())[0]
                packet, ancillary, _, peer = self._sock.recvmsg(MAX_REQUEST, socket.CMSG_SPACE(20))
            except BlockingIOError:
                continue
            return packet, _with_scope(peer), _destination(ancillary) or self._sock.getsockname()[0]


def _with_scope(address: Address) -> tuple[str, int]:
    """Host and port, the host with its scope where it means nothing without (link-local IPv6)."""
    host, port, *rest = address
    return (f"{host}%{rest[1]}" if rest and rest[1] and "%" not in host else host), port


def _destination(ancillary: list[tuple[int, int, bytes]]) -> str | None:
    """The address in a packet info control message (ip(7), ipv6(7))."""
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            return socket.inet_ntop(socket.AF_INET, data[8:12])
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            index = struct.unpack_from("@I", data, 16)[0]
            text = socket.inet_ntop(socket.AF_INET6, data[:16])
            return f"{text}%{index}" if text.startswith("fe80:") else text
    return None


class TftpServer:
    """A TFTP server on one UDP port.

    Args:
        host: address to bind, `0.0.0.0` or `::` for all; `""` means `0.0.0.0`.
        port: UDP port, 0 for one that the system chooses.
        operator: what is served, see `ReadableTree`; a path means that directory.
        block_size: bytes of a block for clients that don't negotiate `blksize`. RFC 1350 says 512.
        timeout: seconds without an ACK before a retransmission, for clients that don't negotiate `timeout`.
        retries: retransmissions of the same blocks before the transfer is given up.
        logger: takes a line for every transfer.
        max_transfers: transfers at a time; further requests get an ERROR.

    Raises:
        ValueError: block size, timeout, retries or limit out of range.
    """

    def __init__(
        self,
        host: str,
        port: int,
        operator: ReadableTree | str | os.PathLike[str],
        block_size: int = DEFAULT_BLOCK_SIZE,
        timeout: float = 5.0,
        retries: int = 3,
        logger: logging.Logger | None = None,
        max_transfers: int = MAX_TRANSFERS,
    ) -> None:
        if not MIN_BLOCK_SIZE <= block_size <= MAX_BLOCK_SIZE:
            raise ValueError(f"block_size must be {MIN_BLOCK_SIZE} to {MAX_BLOCK_SIZE} bytes, got {block_size}")
        if timeout <= 0 or retries < 0 or max_transfers < 1:
            raise ValueError(
                "timeout must be above 0, retries 0 or more and max_transfers 1 or more, "
                f"got {timeout}, {retries}, {max_transfers}"
            )
        self.host = host
        self.port = port
        self.operator: ReadableTree = Directory(operator) if isinstance(operator, str | os.PathLike) else operator
        self.block_size = block_size
        self.timeout = timeout
        self.retries = retries
        self.logger = logger or logging.getLogger(__name__)
        self.max_transfers = max_transfers
        self.active_transfers: set[TftpTransfer] = set()
        self.ready_event = anyio.Event()
        self.shutdown_event = anyio.Event()
        self.transport: DatagramPort | None = None
        self.protocol: TftpServerProtocol | None = None

    @property
    def address(self) -> tuple[str, int] | None:
        """The bound address and port, None while the server doesn't listen."""
        if self.transport is None or self.transport.is_closing():
            return None
        host, port = self.transport.getsockname()[:2]
        return host, port

    async def start(self, *, task_status: TaskStatus[tuple[str, int]] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until `shutdown()`. With `TaskGroup.start` it returns the bound address as soon as it listens.

        Raises:
            OSError: the address can't be bound.
        """
        self.transport = DatagramPort(await self._bind())
        self.protocol = TftpServerProtocol(self)
        self.protocol.transport = self.transport
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.protocol.serve, tasks)
                address = self.address
                assert address is not None
                self.logger.info("TFTP server listens on %s port %d", *address)
                self.ready_event.set()
                task_status.started(address)
                await self.shutdown_event.wait()
                tasks.cancel_scope.cancel()
        finally:
            self.transport.close()
            self.logger.info("TFTP server stopped")

    async def shutdown(self) -> None:
        """Stop listening and end all transfers. Safe to call twice, or before `start`."""
        self.shutdown_event.set()

    def register_transfer(self, transfer: TftpTransfer) -> None:
        """Count a transfer among the active ones."""
        self.active_transfers.add(transfer)

    def unregister_transfer(self, transfer: TftpTransfer) -> None:
        """Forget a transfer that ended."""
        self.active_transfers.discard(transfer)

    async def _bind(self) -> socket.socket:
        found = await anyio.getaddrinfo(
            self.host or "0.0.0.0", self.port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        sock = socket.socket(family, kind, protocol)
        try:
            sock.bind(address)
        except OSError:
            sock.close()
            raise
        return sock


class TftpServerProtocol:
    """What happens with a packet that arrives on the listening port."""

    def __init__(self, server: TftpServer) -> None:
        self.server = server
        self.transport: Any = None

    async def serve(self, tasks: TaskGroup) -> None:
        """Take requests until cancelled."""
        while True:
            packet, peer, local = await self.transport.receive()
            try:
                self._take(packet, peer, local, tasks)
            except BadRequest as refused:
                self.server.logger.warning("%s: refused a request: %s", _shown(peer), refused)
                self.send_error(peer, refused.code, str(refused))

    def _take(self, packet: bytes, peer: Address, local: str, tasks: TaskGroup) -> None:
        if opcode_of(packet) == Opcode.ERROR:
            return  # An ERROR is never answered with an ERROR.
        request = parse_request(packet)
        for transfer in list(self.server.active_transfers):
            if transfer.peer != peer:
                continue
            if not transfer.acknowledged:
                return  # The client repeats its request because the answer is late; the answer repeats itself too.
            transfer.cancel()
        if len(self.server.active_transfers) >= self.server.max_transfers:
            raise BadRequest(TftpErrorCode.NOT_DEFINED, "too many transfers, try again later")
        transfer = TftpReadTransfer(self.server, request, peer, local)
        self.server.register_transfer(transfer)
        tasks.start_soon(self._run, transfer)

    async def _run(self, transfer: TftpReadTransfer) -> None:
        try:
            path = await self._resolve_and_validate_path(transfer.request.filename, transfer.peer)
            if path is not None:
                await transfer.run(path)
        except Exception:
            # One bad file or storage must not end the other transfers.
            self.server.logger.exception("%s: transfer of %r failed", _shown(transfer.peer), transfer.request.filename)
            self.send_error(transfer.peer, TftpErrorCode.NOT_DEFINED, "the server can't read this file")
        finally:
            self.server.unregister_transfer(transfer)

    def send_error(self, peer: Address, code: int, text: str) -> None:
        """Tell a peer that its request is refused."""
        self.transport.sendto(error_packet(code, text), peer)

    async def _resolve_and_validate_path(self, filename: str, addr: Address) -> str | None:
        """The path to open for a requested name, or None after an ERROR was sent.

        A leading slash stands for the served root, as boot loaders send it; a `..` is refused even where it would
        stay inside.
        """
        path = PurePosixPath(filename.lstrip("/"))
        absolute = filename.startswith("/")
        try:
            if ".." in path.parts or not filename.isprintable():
                raise PermissionError
            info = await self.server.operator.stat(str(path))
            if not info.mode.is_file():
                raise FileNotFoundError
        except PermissionError:
            self._refuse(filename, addr, TftpErrorCode.ACCESS_VIOLATION, "access denied")
            return None
        except Exception as error:
            if not _means_missing(error):
                raise
            if absolute:
                self._refuse(filename, addr, TftpErrorCode.ACCESS_VIOLATION, "not in the served directory")
            else:
                self._refuse(filename, addr, TftpErrorCode.FILE_NOT_FOUND, "file not found")
            return None
        return str(path)

    def _refuse(self, filename: str, peer: Address, code: TftpErrorCode, text: str) -> None:
        self.server.logger.warning("%s: %s: %r", _shown(peer), text, filename)
        self.send_error(peer, code, text)


class TftpTransfer:
    """One transfer with one peer, from a port of its own (its transfer id)."""

    def __init__(self, server: TftpServer, request: ReadRequest, peer: Address, local: str) -> None:
        self.server = server
        self.request = request
        self.peer = peer
        self.local = local
        self.acknowledged = False
        self._scope = anyio.CancelScope()

    def cancel(self) -> None:
        """End the transfer without a word to the peer."""
        self._scope.cancel()


class TftpReadTransfer(TftpTransfer):
    """Sends one file."""

    async def run(self, path: str) -> None:
        """Send the file at `path`; returns when the peer has it, went away, or the transfer was cancelled.

        Raises:
            OSError: the file or the socket failed.
        """
        family: Literal[socket.AddressFamily.AF_INET, socket.AddressFamily.AF_INET6]
        family = socket.AddressFamily.AF_INET6 if ":" in self.local else socket.AddressFamily.AF_INET
        with self._scope:
            async with (
                opened(self.server.operator, path) as file,
                await anyio.create_udp_socket(family, local_host=self.local, local_port=0) as udp,
            ):
                info = await self.server.operator.stat(path)
                # The translation to netascii changes the size, so it isn't known in advance.
                size = None if self.request.netascii else size_of(info)
                options = negotiate(
                    self.request, size=size, block_size=self.server.block_size, timeout=self.server.timeout
                )
                try:
                    window = await self._send(udp, Reader(file.read, netascii=self.request.netascii), options)
                except _PeerGone as gone:
                    self.server.logger.warning("%s: transfer of %r ended: %s", _shown(self.peer), path, gone)
                else:
                    self.server.logger.info("%s: sent %r, %d bytes", _shown(self.peer), path, window.sent_bytes)

    async def _send(self, udp: UDPSocket, reader: Reader, options: Options) -> BlockWindow:
        window = BlockWindow(reader, block_size=options.block_size, size=options.window_size)
        if options.answer:
            await self._exchange_oack(udp, options)
        await window.fill()
        while not window.finished:
            for packet in window.packets():
                await self._say(udp, packet)
            await self._await_progress(udp, window, options)
            await window.fill()
        return window

    async def _exchange_oack(self, udp: UDPSocket, options: Options) -> None:
        packet = oack_packet(options.answer)
        for _ in range(self.server.retries + 1):
            await self._say(udp, packet)
            with anyio.move_on_after(options.timeout):
                while await self._receive_ack(udp) != 0:
                    pass
                return
        raise _PeerGone("the options were never acknowledged")

    async def _await_progress(self, udp: UDPSocket, window: BlockWindow, options: Options) -> None:
        """Wait until the window moves; repeat it when nothing comes in time.

        A repeated ACK of the block before the window says nothing new when one block is out (answering it would
        double every packet from then on, RFC 1123 4.2.3.1). When several are out it says that the first one got
        lost (RFC 7440 section 4), and is answered once.
        """
        attempts = 0
        may_answer_gap = window.size > 1
        while True:
            with anyio.move_on_after(options.timeout):
                while True:
                    number = await self._receive_ack(udp)
                    if window.acknowledge(number):
                        return
                    if may_answer_gap and window.is_before(number):
                        may_answer_gap = False
                        for packet in window.packets():
                            await self._say(udp, packet)
            attempts += 1
            if attempts > self.server.retries:
                raise _PeerGone(f"no answer to block {window.first} after {attempts} attempts")
            for packet in window.packets():
                await self._say(udp, packet)

    async def _receive_ack(self, udp: UDPSocket) -> int:
        while True:
            packet, sender = await udp.receive()
            if sender[:2] != self.peer[:2]:
                if opcode_of(packet) != Opcode.ERROR:
                    await udp.sendto(error_packet(TftpErrorCode.UNKNOWN_TID, "unknown transfer id"), *sender[:2])
                continue
            if opcode_of(packet) == Opcode.ERROR:
                raise _PeerGone(f"the client sent {error_text(packet)}")
            if (number := ack_number(packet)) is not None:
                self.acknowledged = True
                return number

    def _say(self, udp: UDPSocket, packet: bytes) -> Awaitable[None]:
        return udp.sendto(packet, self.peer[0], self.peer[1])


def _means_missing(error: Exception) -> bool:
    """Whether an error of an operator says that there is no such file (opendal has an exception class of its own)."""
    return isinstance(error, FileNotFoundError | NotADirectoryError) or type(error).__name__ == "NotFound"


def _shown(address: Address) -> str:
    return f"{address[0]}:{address[1]}"
