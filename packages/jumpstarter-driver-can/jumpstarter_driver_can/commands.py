"""The `j` commands of CAN buses and ISO-TP connections."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from jumpstarter.client.core import DriverError, DriverInvalidArgument, DriverMethodNotImplemented
from jumpstarter.client.decorators import driver_click_group

from . import candump
from .candump import TimestampMode, Timestamps
from .frames import Filter, Frame
from .link import BUS_DOWN, Link, LinkError
from .old_link import OldLink, frame_of, members_of

if TYPE_CHECKING:
    from .client import CanClient, IsoTpClient

LINES = 256
"""Lines that are collected before they are written while frames keep coming."""

Output = click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="Form of the output.  [default: text]"
)


class FrameText(click.ParamType):
    """A frame as `cansend` takes it."""

    name = "frame"

    def convert(self, value: Any, param: Any, ctx: Any) -> Frame:
        """Return the frame."""
        try:
            return value if isinstance(value, Frame) else candump.parse_frame(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class FilterText(click.ParamType):
    """A filter as `candump` takes it."""

    name = "id:mask"

    def convert(self, value: Any, param: Any, ctx: Any) -> Filter:
        """Return the filter."""
        try:
            return value if isinstance(value, Filter) else candump.parse_filter(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class HexBytes(click.ParamType):
    """Bytes as hexadecimal digits."""

    name = "hex"

    def convert(self, value: Any, param: Any, ctx: Any) -> bytes:
        """Return the bytes."""
        if isinstance(value, bytes):
            return value
        try:
            return bytes.fromhex(value.removeprefix("0x").replace(":", "").replace(".", ""))
        except ValueError:
            self.fail(f"{value!r} is no data; write hexadecimal digits, two for each byte, as in 22F190", param, ctx)


@contextmanager
def explained() -> Generator[None, None, None]:
    """Turn errors of a link into those of commands."""
    try:
        yield
    except (LinkError, ValueError) as error:
        if isinstance(error, DriverError):
            raise
        raise click.ClickException(str(error)) from error


def open_link(client: CanClient, method: str, **arguments: Any) -> Link | OldLink:
    """Return a link to the bus, to be entered; by single calls where the exporter knows nothing better."""
    try:
        client.call("frame_link")
    except DriverMethodNotImplemented:
        make = arguments.get("make", Frame)
        return OldLink(client, make=make)
    return Link(client, method, **arguments)


def can_commands(client: CanClient) -> click.Group:
    """Return the `j` group of a CAN bus."""

    @driver_click_group(client)
    def base() -> None:
        """CAN bus."""

    _add_send(base, client)
    _add_dump(base, client)
    _add_files(base, client)
    _add_state(base, client)
    _add_periodic(base, client)
    return base


# -- sending -------------------------------------------------------------------------------------


def _add_send(base: click.Group, client: CanClient) -> None:
    @base.command()
    @click.argument("frames", type=FrameText(), nargs=-1, required=True, metavar="FRAME...")
    @click.option("-p", "--period", type=click.FloatRange(0.0005), help="Send again every so many seconds.")
    @click.option("-d", "--duration", type=click.FloatRange(0, min_open=True), help="Seconds after which that ends.")
    @click.option("-k", "--keep", is_flag=True, help="Leave the exporter sending; see `periodic` and `stop-periodic`.")
    @click.option(
        "--timeout", type=click.FloatRange(0, 60), default=1.0, show_default=True, help="Seconds until the bus has it."
    )
    @Output
    def send(
        frames: tuple[Frame, ...],
        period: float | None,
        duration: float | None,
        keep: bool,
        timeout: float,
        output: str,
    ) -> None:
        """Send frames.

        FRAME is ID#DATA, ID#R or ID#R4 for a remote frame, or ID##FLAGS+DATA for CAN FD, all hexadecimal, as in
        123#DEADBEEF. Three digits are an 11-bit identifier, more are one of 29 bits. With --period the exporter sends
        them, one after the other, until Ctrl-C.
        """
        if period is None:
            if duration is not None or keep:
                raise click.UsageError("--duration and --keep belong to --period")
            with explained(), open_link(client, "frames") as link:
                for frame in frames:
                    link.send(frame, timeout)
            if output == "json":
                click.echo(json.dumps({"sent": len(frames)}))
            return
        _send_periodically(client, frames, period, duration, keep, output)


def _send_periodically(
    client: CanClient, frames: Iterable[Frame], period: float, duration: float | None, keep: bool, output: str
) -> None:
    arguments: list[Any] = [[members_of(frame) for frame in frames], period, duration, True, None]
    if keep:
        uuid = client.call("_send_periodic_internal", *arguments)
        click.echo(json.dumps({"uuid": uuid}) if output == "json" else uuid)
        return
    with explained(), open_link(client, "monitor") as link:
        if link.id:
            arguments.append(link.id)
        uuid = client.call("_send_periodic_internal", *arguments)
        click.echo("Sending. Ctrl-C ends it." if duration is None else f"Sending for {duration:g} s.", err=True)
        end = None if duration is None else time.monotonic() + duration
        try:
            while end is None or time.monotonic() < end:
                _tell(lambda: link.receive(None if end is None else max(0.0, end - time.monotonic())))
        except KeyboardInterrupt:
            pass
        finally:
            client.call("_stop_task", uuid)


def _tell(receive: Callable[[], Any]) -> Any:
    """Return the next frame; say on stderr what is wrong with the bus, as long as it may come back."""
    try:
        return receive()
    except LinkError as error:
        if error.kind != BUS_DOWN:
            raise
        click.echo(str(error), err=True)
        time.sleep(0.2)
        return None


# -- looking on ----------------------------------------------------------------------------------


def _add_dump(base: click.Group, client: CanClient) -> None:
    @base.command()
    @click.option("-n", "--count", type=click.IntRange(1), help="End after so many frames.")
    @click.option("-T", "--timeout", type=click.FloatRange(0), help="End after so many seconds.")
    @click.option("-f", "--filter", "filters", type=FilterText(), multiple=True, help="Show these only; repeatable.")
    @click.option(
        "-t",
        "--timestamp",
        type=click.Choice(["none", "absolute", "delta", "zero"]),
        default="none",
        show_default=True,
        help="Time in front of each line: of the day, since the last frame, or since the first one.",
    )
    @click.option("-L", "--log", is_flag=True, help="Print lines of a log file, which `play` and canplayer read.")
    @click.option("-x", "--direction", is_flag=True, help="Tell frames that were sent (TX) from received ones (RX).")
    @click.option("-u", "--unread", is_flag=True, help="Begin with the frames that no client has had yet.")
    @Output
    def dump(
        count: int | None,
        timeout: float | None,
        filters: tuple[Filter, ...],
        timestamp: TimestampMode,
        log: bool,
        direction: bool,
        unread: bool,
        output: str,
    ) -> None:
        """Print the frames on the bus.

        These are the frames that it receives, and those that clients of this exporter send.

        Ends with Ctrl-C, --count or --timeout; with both of these, too few frames are an error. The lines are those of
        candump, or one JSON object each. With --unread only received frames are shown.
        """
        name = str(client.labels.get("jumpstarter.dev/name", "can"))
        times = Timestamps(timestamp)

        def line(frame: Frame) -> str:
            if output == "json":
                return json.dumps(candump.json_form(frame))
            channel = str(frame.channel) if frame.channel not in (None, "") else name
            if log:
                return candump.log_line(frame, channel)
            side = f"  {'RX' if frame.is_rx else 'TX'}" if direction else ""
            return f"{times.text(frame)}  {candump.dump_line(frame, channel + side)}"

        method, start = ("frames", "unread") if unread else ("monitor", "now")
        with explained(), open_link(client, method, filters=filters, start=start) as link:
            shown = _dump(link, filters, line, count, timeout)
            if link.lost:
                click.echo(f"{link.lost} frames were lost: they came faster than they were taken", err=True)
        if timeout is not None and count is not None and shown < count:
            raise click.ClickException(f"there were {shown} frames in {timeout:g} s, not {count}")


def _dump(
    link: Link | OldLink,
    filters: tuple[Filter, ...],
    line: Callable[[Frame], str],
    count: int | None,
    timeout: float | None,
) -> int:
    """Print frames until one of the limits is reached, and return how many there were."""
    end = None if timeout is None else time.monotonic() + timeout
    lines: list[str] = []
    shown = 0
    try:
        while count is None or shown < count:
            frame = link.receive(0) if lines else _tell(lambda: link.receive(_left(end)))
            if frame is not None and (isinstance(link, Link) or _passes(frame, filters)):
                lines.append(line(frame))
                shown += 1
            if lines and (frame is None or len(lines) >= LINES):
                _write(lines)
            elif frame is None and end is not None and time.monotonic() >= end:
                break
    except KeyboardInterrupt:
        # The ordinary way to end it.
        pass
    _write(lines)
    return shown


def _left(end: float | None) -> float | None:
    return None if end is None else max(0.0, end - time.monotonic())


def _passes(frame: Frame, filters: tuple[Filter, ...]) -> bool:
    return not filters or any(
        not (frame.arbitration_id ^ item.can_id) & item.can_mask and item.extended in (None, frame.is_extended_id)
        for item in filters
    )


def _write(lines: list[str]) -> None:
    if lines:
        click.echo("\n".join(lines))
        lines.clear()


# -- files ---------------------------------------------------------------------------------------


def _add_files(base: click.Group, client: CanClient) -> None:
    @base.command()
    @click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
    @click.option("-n", "--count", type=click.IntRange(1), help="End after so many frames.")
    @click.option("-T", "--timeout", type=click.FloatRange(0), help="End after so many seconds.")
    @click.option("-f", "--filter", "filters", type=FilterText(), multiple=True, help="Record these only; repeatable.")
    def record(file: Path, count: int | None, timeout: float | None, filters: tuple[Filter, ...]) -> None:
        """Record the bus in a file.

        Ends with Ctrl-C, --count or --timeout. The suffix of FILE says in which form: .log (candump), .asc, .blf, .csv,
        .db, .trc, and whatever else python-can writes.
        """
        import can

        with explained(), can.Logger(file) as writer, open_link(client, "monitor", make=can.Message) as link:
            click.echo(f"Recording in {file}. Ctrl-C ends it.", err=True)
            recorded = 0
            end = None if timeout is None else time.monotonic() + timeout
            try:
                while (count is None or recorded < count) and (end is None or time.monotonic() < end):
                    frame = _tell(lambda: link.receive(_left(end)))
                    if frame is not None and _passes(frame, filters):
                        writer(frame)
                        recorded += 1
            except KeyboardInterrupt:
                pass
        click.echo(f"{recorded} frames", err=True)

    @base.command()
    @click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
    @click.option("--fast", is_flag=True, help="Send as fast as the bus takes it, not at the times of the recording.")
    @click.option("-l", "--loop", type=click.IntRange(1), default=1, show_default=True, help="Play so many times.")
    def play(file: Path, fast: bool, loop: int) -> None:
        """Send what a file has recorded.

        FILE may be in any form that `record` writes.
        """
        import can

        sent = 0
        with explained(), open_link(client, "frames", make=can.Message) as link:
            for _ in range(loop):
                with can.LogReader(file) as reader:
                    frames = reader if fast else can.MessageSync(reader, timestamps=True, gap=0.0001, skip=60)
                    for frame in frames:
                        if not frame.is_error_frame:
                            link.send(frame)
                            sent += 1
            link.flush()
        click.echo(f"{sent} frames", err=True)


# -- the bus itself ------------------------------------------------------------------------------


def _add_state(base: click.Group, client: CanClient) -> None:
    @base.command()
    @Output
    def info(output: str) -> None:
        """Print settings, state and counts of frames."""
        found = client.info()
        if output == "json":
            click.echo(json.dumps(found, indent=2))
            return
        for name, value in found.items():
            click.echo(f"{name:<14}{'-' if value is None else value}")

    @base.command()
    @click.argument("new", type=click.Choice(["active", "passive", "error"]), required=False, metavar="[STATE]")
    def state(new: str | None) -> None:
        """Print the state of the controller.

        It is active, passive or error (bus-off, or the interface is down). With STATE, set it, which few interfaces
        can do: passive listens only.
        """
        names = {1: "active", 2: "passive", 3: "error"}
        if new is None:
            click.echo(names[int(client.call("state"))])
        else:
            client.call("state", next(number for number, name in names.items() if name == new))


def _add_periodic(base: click.Group, client: CanClient) -> None:
    @base.command()
    @Output
    def periodic(output: str) -> None:
        """List periodic sends."""
        found = client.call("periodic")
        if output == "json":
            click.echo(json.dumps(found, indent=2))
            return
        for item in found:
            frames = " ".join(
                candump.log_line(frame_of(members, Frame), "-").rpartition(" ")[2] for members in item["messages"]
            )
            click.echo(f"{item['uuid']}  every {item['period']:g} s  {frames}")

    @base.command()
    @click.argument("uuid", nargs=-1)
    @click.option("-a", "--all", "everything", is_flag=True, help="Stop all.")
    def stop_periodic(uuid: tuple[str, ...], everything: bool) -> None:
        """Stop periodic sends."""
        if bool(uuid) == everything:
            raise click.UsageError("name the UUIDs that `periodic` lists, or give --all")
        for name in uuid or [item["uuid"] for item in client.call("periodic")]:
            client.call("_stop_task", name)


# -- ISO-TP --------------------------------------------------------------------------------------


@contextmanager
def started(client: IsoTpClient) -> Generator[None, None, None]:
    """Have the connection started; stop it in the end if it was not."""
    try:
        client.start()
    except DriverInvalidArgument as error:
        if "already" not in str(error):
            raise
        yield
        return
    try:
        yield
    finally:
        client.stop()


def isotp_commands(client: IsoTpClient) -> click.Group:
    """Return the `j` group of an ISO-TP connection."""

    @driver_click_group(client)
    def base() -> None:
        """ISO-TP connection: transfers longer than a CAN frame."""

    _add_start(base, client)
    _add_transfer(base, client)
    _add_recv(base, client)
    _add_request(base, client)
    return base


def _add_start(base: click.Group, client: IsoTpClient) -> None:
    @base.command()
    def start() -> None:
        """Start, and receive until `stop`."""
        client.start()

    @base.command()
    def stop() -> None:
        """Stop, and drop what nobody has fetched."""
        client.stop()


def _add_transfer(base: click.Group, client: IsoTpClient) -> None:
    @base.command()
    @click.argument("data", type=HexBytes(), required=False)
    @click.option("-i", "--input", "file", type=click.File("rb"), help="Send the bytes of this file; - for stdin.")
    @click.option("--timeout", type=click.FloatRange(0, 60), help="Seconds that a blocking send takes at most.")
    def send(data: bytes | None, file: Any, timeout: float | None) -> None:
        """Send DATA, or a file, as one transfer.

        DATA are hexadecimal digits, two for each byte.
        """
        if (data is None) == (file is None):
            raise click.UsageError("give DATA, or a file by --input")
        with started(client):
            client.send(data if data is not None else file.read(), send_timeout=timeout)
            _wait_sent(client, timeout or 10.0)


def _add_recv(base: click.Group, client: IsoTpClient) -> None:
    @base.command()
    @click.option("-n", "--count", type=click.IntRange(1), help="End after so many transfers.")
    @click.option("-T", "--timeout", type=click.FloatRange(0), help="End after so many seconds.")
    @click.option("--raw", is_flag=True, help="Write the bytes themselves.")
    @Output
    def recv(count: int | None, timeout: float | None, raw: bool, output: str) -> None:
        """Print received transfers.

        Ends with Ctrl-C, --count or --timeout.
        """
        end = None if timeout is None else time.monotonic() + timeout
        received = 0
        with started(client):
            try:
                while count is None or received < count:
                    data = client.recv(block=True, timeout=_left(end))
                    if data is None:
                        break
                    received += 1
                    _print_data(data, raw, output)
            except KeyboardInterrupt:
                pass
        if count is not None and timeout is not None and received < count:
            raise click.ClickException(f"there were {received} transfers in {timeout:g} s, not {count}")


def _add_request(base: click.Group, client: IsoTpClient) -> None:
    @base.command()
    @click.argument("data", type=HexBytes())
    @click.option(
        "-T", "--timeout", type=click.FloatRange(0), default=2.0, show_default=True, help="Seconds to wait for it."
    )
    @click.option("--raw", is_flag=True, help="Write the bytes themselves.")
    @Output
    def request(data: bytes, timeout: float, raw: bool, output: str) -> None:
        """Send DATA and print the answer.

        DATA are hexadecimal digits, two for each byte, as in `request 22F190`.
        """
        with started(client):
            while client.recv(block=True, timeout=0) is not None:
                # What came before the request is no answer to it.
                continue
            client.send(data)
            answer = client.recv(block=True, timeout=timeout)
        if answer is None:
            raise click.ClickException(
                f"no answer within {timeout:g} s. Is the device on and connected, with these addresses?"
            )
        _print_data(answer, raw, output)


def _print_data(data: bytes, raw: bool, output: str) -> None:
    if raw:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        click.echo(json.dumps({"length": len(data), "data": data.hex()}) if output == "json" else data.hex(" ").upper())


def _wait_sent(client: IsoTpClient, timeout: float) -> None:
    """Wait until the transfer is complete, where the driver can tell, so that `stop` doesn't cut it off."""
    end = time.monotonic() + timeout
    try:
        while client.transmitting():
            if time.monotonic() > end:
                raise click.ClickException(f"the transfer was not complete after {timeout:g} s; is the receiver there?")
            time.sleep(0.02)
    except DriverMethodNotImplemented:
        return
