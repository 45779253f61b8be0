"""Use the client of each driver package, in any release, and return what was seen as JSON values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Seen = dict[str, Any]


def instantiate(device: Any) -> Any:
    """Make a driver: from its config, or from the name of a function of `driver_trees` where a config can't say it."""
    if isinstance(device, str):
        import driver_trees

        return getattr(driver_trees, device)()
    from jumpstarter.config.exporter import ExporterConfigV1Alpha1DriverInstance

    return ExporterConfigV1Alpha1DriverInstance.from_str(json.dumps(device)).instantiate()


def drive(part: str, args: dict[str, Any]) -> Seen:
    """Run a part with the client of what the environment leads to."""
    from jumpstarter.common.utils import env

    with env() as client:
        return PARTS[part](client, **args)


def outcome(action: Callable[[], Any]) -> Any:
    """Return what something returns, or the name of the public error that it ends with."""
    from jumpstarter.client.core import DriverError, DriverInvalidArgument, DriverMethodNotImplemented

    try:
        return action()
    except Exception as error:
        cause: BaseException = error
        # A release may wrap what is raised while a resource is open.
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        for kind in (DriverMethodNotImplemented, DriverInvalidArgument, DriverError):
            if isinstance(cause, kind):
                return kind.__name__
        raise


def first(values: Any) -> Any:
    """Return the first of endless values, and end them."""
    try:
        return next(iter(values))
    finally:
        values.close()


def digest(path: str | Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def power(client: Any, *, child: str = "", reads: bool = True) -> Seen:
    """Switch, and read what is measured."""
    if child:
        client = client.children[child]
    client.on()
    client.off()
    client.cycle(wait=0)
    if not reads:
        return {}

    def read() -> Any:
        reading = first(client.read())
        return [reading.voltage, reading.current]

    return {"read": outcome(read)}


def relay(client: Any) -> Seen:
    """Switch a relay, and ask for its state."""
    client.on()
    on = str(client.status())
    client.off()
    return {"status": [on, str(client.status())]}


def mux(client: Any, *, image: str, out: str) -> Seen:
    """Switch a medium between its sides, write it, read it."""
    client.host()
    client.dut()
    client.off()
    client.write_local_file(image)
    client.read_local_file(out)
    read = digest(out)
    client.flash(image)
    client.dump(out)
    return {"read": read, "dumped": digest(out), "partition": outcome_of_partition(client, image)}


def outcome_of_partition(client: Any, image: str) -> str:
    """A medium has no partitions by name."""
    try:
        client.flash(image, target="boot")
    except Exception as error:  # noqa: BLE001 (releases differ in what they raise)
        return "refused" if "DriverMethodNotImplemented" not in type(error).__name__ else "no such method"
    return "taken"


def dutlink(client: Any, *, image: str, out: str) -> Seen:
    """Use all three sides of the board."""
    seen = {"power": power(client.children["power"]), "storage": mux(client.children["storage"], image=image, out=out)}
    client.children["power"].rescue()
    with client.children["console"].pexpect() as console:
        console.sendline("hello")
        console.expect("hello", timeout=30)
    return seen


def corellium(client: Any) -> Seen:
    """Switch a virtual device, destroy it, and talk to its console."""
    client.power.on()
    with client.serial.pexpect() as console:
        console.sendline("hello")
        console.expect("hello", timeout=30)
    client.power.off()
    client.power.on()
    client.power.off(destroy=True)
    return {"read": outcome(lambda: list(client.power.read()))}


def probe_rs(client: Any, *, image: str) -> Seen:
    """Everything that the program is used for."""
    return {
        "info": "ARM Chip" in client.info(),
        "reset": client.reset(),
        "erase": isinstance(client.erase(), str),
        "download": isinstance(client.download_file(image), str),
        "read": client.read(8, 0x08000000, 4),
        "words": client.read(32, 0x08000000, 1),
    }


def flasher(client: Any, *, image: str, calls: list[str], target: str | None = None) -> Seen:
    """Flash a file, for a target if there is one, after calls of methods that take nothing."""
    seen: Seen = {}
    for name in calls:
        seen[name] = outcome(getattr(client, name))
    client.flash(image, **({} if target is None else {"target": target}))
    return seen


def dump(client: Any, *, out: str, target: str | None = None) -> Seen:
    """Read a device back, or not."""

    def run() -> str:
        client.dump(out, **({} if target is None else {"target": target}))
        return digest(out)

    return {"dump": outcome(run)}


def esp32(client: Any, *, image: str, out: str, brief: bool) -> Seen:
    """What is done with a chip; every step takes seconds at the rate of a serial port."""
    client.flash(image, target="0x10000")
    if brief:
        return {}
    info = client.get_chip_info()
    client.flash({"0x20000": image})
    client.dump(out, target="0x10000:0x2800")
    client.hard_reset()
    client.enter_bootloader()
    client.erase()
    return {"info": sorted(info), "dump": digest(out)}


def lines(client: Any) -> Seen:
    """Switch two lines and read one of them; wait for a third, which is active, and for others in vain."""
    output, switch = client.children["output"], client.children["switch"]
    output.on()
    on = output.read().name
    output.off()
    seen: Seen = {"output": [on, output.read().name], "switch": power(switch)["read"]}
    if (line := client.children.get("input")) is not None:
        line.wait_for_active(timeout=60)
        seen |= {
            "input": line.read().name,
            "inactive": outcome(lambda: line.wait_for_inactive(timeout=0.05)),
            "edge": outcome(lambda: line.wait_for_edge("falling", timeout=0.05)),
            "bad edge": outcome(lambda: line.wait_for_edge("sideways", timeout=0.05)),
        }
    return seen


def ssh(client: Any) -> Seen:
    """Run a command on the device, through the exporter and directly."""
    from jumpstarter_driver_ssh.client import SSHCommandRunOptions

    seen = {}
    for direct in (False, True):
        done = client.run(SSHCommandRunOptions(direct=direct), ["echo out; echo err >&2; exit 7"])
        seen["direct" if direct else "forwarded"] = [done.return_code, done.stdout, "err" in done.stderr]
    return seen


def ustreamer(client: Any) -> Seen:
    """State, picture and the plain HTTP connection."""
    state = client.state()
    picture = client.snapshot()
    with client.stream() as stream:
        stream.send(b"GET /state HTTP/1.0\r\n\r\n")
        answer = stream.receive()
    return {
        "ok": state.ok,
        "resolution": [state.result.source.resolution.width, state.result.source.resolution.height],
        "size": list(picture.size),
        "http": answer[:12].decode().partition(" ")[2],
    }


def imagehash(client: Any, *, reference: str) -> Seen:
    """A picture is like the one that was taken before."""
    from jumpstarter_imagehash import ImageHash

    client.snapshot().save(reference)
    ImageHash(client).assert_snapshot(reference)
    return {"alike": True}


def vnc(client: Any) -> Seen:
    """The viewer's address, while a session lasts."""
    with client.session(encrypt=False) as url:
        session = "encrypt=0" in url or "encrypt=1" not in url
    return {"encrypt": client.call("get_default_encrypt"), "session": session}


def can(client: Any) -> Seen:
    """Two buses that are one, and two ends of an ISO-TP connection on it."""
    from can import Message

    near, far = client.children["near"], client.children["far"]

    def received(data: bytes) -> list[Any]:
        while (message := far.recv(timeout=60)) is not None and bytes(message.data) != data:
            pass
        assert message is not None, f"{data!r} did not arrive"
        return [message.arbitration_id, message.is_extended_id, bytes(message.data).hex()]

    near.send(Message(arbitration_id=0x123, data=b"standard", is_extended_id=False))
    seen: Seen = {"standard": received(b"standard")}
    near.send(Message(arbitration_id=0x12345, data=b"extended"), timeout=5)
    seen["extended"] = received(b"extended")
    task = near.send_periodic(Message(arbitration_id=0x7, data=b"again", is_extended_id=False), 0.05)
    seen["periodic"] = [received(b"again"), received(b"again")]
    task.stop()
    far.set_filters([{"can_id": 0x55, "can_mask": 0x7FF, "extended": False}])
    near.send(Message(arbitration_id=0x54, data=b"no", is_extended_id=False))
    near.send(Message(arbitration_id=0x55, data=b"yes", is_extended_id=False))
    message = far.recv(timeout=60)
    seen["filtered"] = message is not None and bytes(message.data) == b"yes"
    far.set_filters(None)
    seen |= {
        "protocol": int(near.protocol.value),
        "channel_info": isinstance(near.channel_info, str),
        "state": near.state.name,
        "flush": outcome(near.flush_tx_buffer),
        "timeout": far.recv(timeout=0.05) is None,
    }
    seen["isotp"] = isotp(client.children["tester"], client.children["ecu"])
    near.shutdown()
    far.shutdown()
    return seen


def isotp(tester: Any, ecu: Any) -> Seen:
    """A message of several frames, and back; addresses are set anew before."""
    from isotp import Address, AddressingMode

    ecu.set_address(Address(AddressingMode.Normal_11bits, txid=0x321, rxid=0x320))
    tester.start()
    ecu.start()
    tester.send(bytes(range(100)))
    question = ecu.recv(block=True, timeout=60)
    ecu.send(b"ok", 0, 1.0)
    seen = {
        "question": question == bytes(range(100)),
        "answer": tester.recv(True, 60) == b"ok",
        "nothing": ecu.recv(),
        "available": ecu.available(),
        "transmitting": isinstance(tester.transmitting(), bool),
    }
    tester.stop_sending()
    tester.stop_receiving()
    tester.stop()
    ecu.stop()
    return seen


def uboot(client: Any) -> Seen:
    """The console of a boot loader after a restart."""
    with client.uboot.reboot_to_console():
        uboot = client.uboot
        uboot.set_env("greeting", "hello world")
        seen = {
            "prompt": uboot.prompt.strip(),
            "command": b"spoken" in uboot.run_command("echo spoken"),
            "checked": uboot.run_command_checked("echo checked"),
            "get_env": uboot.get_env("greeting"),
        }
        uboot.set_env_dict({"greeting": None, "other": "1"})
        seen |= {"unset": uboot.get_env("greeting"), "other": uboot.get_env("other")}
        info = uboot.setup_dhcp()
        seen["dhcp"] = [str(info.ip_address), str(info.gateway), str(info.netmask)]
    client.board.power.off()
    return seen


def flashers(client: Any, *, calls: dict[str, list[Any]]) -> Seen:
    """What the procedure asks of the driver, and the boot loader's prompt that it works at."""
    flasher = client.flasher
    seen: Seen = {name: outcome(lambda name=name, args=args: flasher.call(name, *args)) for name, args in calls.items()}
    seen |= {"children": sorted(flasher.children), "manifest": flasher.manifest.metadata.name}
    with flasher.bootloader_shell() as serial, serial.pexpect() as console:
        console.sendline("echo at the prompt")
        console.expect("at the prompt\r\n", timeout=60)
    client.board.power.off()
    return seen


def shell(client: Any) -> Seen:
    """Methods of the config; and the two kinds of call that releases have made of `call_method`."""
    from jumpstarter.client.core import DriverError

    done = client.greet("Ada", GREETING="Hello")
    code = done if isinstance(done, (int, float)) else done[2]

    def streamed() -> Any:
        parts = list(client.streamingcall("call_method", "greet", {"GREETING": "Hello"}, "Ada"))
        return ["".join(part[0] or "" for part in parts), parts[-1][2]]

    try:
        unary = client.call("call_method", "greet", {"GREETING": "Hello"}, "Ada")
    except DriverError:
        unary = None
    return {
        "methods": client.call("get_methods"),
        "code": code,
        "streamed": streamed(),
        "unary": unary,
        "unknown": outcome(lambda: list(client.streamingcall("call_method", "nope", {}))),
    }


def server(client: Any, *, url: bool) -> Seen:
    """A server of files: its address, its files, its start and stop."""
    client.start()
    seen: Seen = {"host": client.get_host(), "port": client.get_port() > 0, "url": False}
    client.storage.write_bytes("f", b"content")
    if url:
        import urllib.request

        with urllib.request.urlopen(f"{client.get_url()}/f", timeout=30) as answer:
            seen["url"] = answer.read() == b"content"
    seen["read"] = client.storage.read_bytes("f") == b"content"
    client.stop()
    return seen


def qemu(client: Any, *, image: str, out: str, keywords: list[str]) -> Seen:
    """A machine that stays off: who it is, its sizes and its disks, with each keyword for which disk that is."""
    client.set_disk_size("64M")
    client.set_memory_size("256M")
    client.flasher.flash(image)
    client.flasher.dump(out)
    seen: Seen = {
        "who": [client.hostname, client.username, client.password],
        "bad size": outcome(lambda: client.set_memory_size("much")),
        "dump": [digest(out)],
        "children": sorted(set(client.children) - {"ssh"}),
        "partition": [],
    }
    for keyword in keywords:
        client.flasher.flash(image, **{keyword: "bios"})
        client.flasher.dump(out, **{keyword: "bios"})
        seen["dump"].append(digest(out))
        seen["partition"].append(outcome(lambda keyword=keyword: client.flasher.flash(image, **{keyword: "nope"})))
    return seen


PARTS: dict[str, Callable[..., Seen]] = {
    part.__name__: part
    for part in (
        *(power, relay, mux, dutlink, corellium, probe_rs, flasher, dump, esp32, lines, ssh),
        *(ustreamer, imagehash, vnc, can, uboot, flashers, shell, server, qemu),
    )
}
