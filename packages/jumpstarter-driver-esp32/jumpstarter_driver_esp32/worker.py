"""One operation of esptool in a process of its own: `python -m jumpstarter_driver_esp32.worker REQUEST`.

esptool blocks, prints, and keeps state for the whole process; here it can be ended at any time, and none of it is
loaded into the exporter. REQUEST is a JSON object; standard output has one JSON object per line: `{"log": TEXT}`,
`{"progress": PERCENT}`, and in the end `{"result": VALUE}` or `{"error": TEXT}`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

import serial.rfc2217
from esptool.cmds import attach_flash, detect_chip, detect_flash_size, erase_flash, read_flash, run_stub, write_flash
from esptool.logger import TemplateLogger, log
from esptool.targets import CHIP_DEFS
from esptool.util import FatalError

SYNC_BAUD = 115200
"""Speed of the first contact; the ROM loader finds it out by itself."""


class LineLogger(TemplateLogger):
    """Hands on what esptool says."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._part = ""
        self._percent = -1

    def tell(self, **line: Any) -> None:
        """Write one object."""
        self._output.write(json.dumps(line) + "\n")
        self._output.flush()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Hand on what is printed, line by line."""
        self._part += kwargs.get("sep", " ").join(map(str, args)) + kwargs.get("end", "\n")
        *lines, self._part = self._part.split("\n")
        for line in lines:
            if line.strip(" ."):
                self.tell(log=line.strip())

    def note(self, message: str) -> None:
        """Hand on a note."""
        self.tell(log=message)

    def warning(self, message: str) -> None:
        """Hand on a warning."""
        self.tell(warning=message)

    def error(self, message: str) -> None:
        """Hand on an error; what fails is raised as well."""
        self.tell(warning=message)

    def stage(self, finish: bool = False) -> None:
        """Ignore stages, which fold output on a terminal."""

    def progress_bar(
        self, cur_iter: int, total_iters: int, prefix: str = "", suffix: str = "", bar_length: int = 30
    ) -> None:
        """Hand on each full percent."""
        percent = 100 * cur_iter // total_iters if total_iters else 100
        if percent != self._percent:
            self._percent = percent
            self.tell(progress=percent)

    def set_verbosity(self, verbosity: str) -> None:
        """Ignore the verbosity: the driver decides on what is shown."""


class NetworkPort(serial.rfc2217.Serial):
    """A port on the network whose time-out is set at once.

    pyserial agrees with the server on all settings whenever one is set. The time-out is none that the server knows,
    and esptool sets it twice per command.
    """

    @property
    def timeout(self) -> float | None:
        """Seconds that a read may take."""
        value: float | None = self._timeout
        return value

    @timeout.setter
    def timeout(self, value: float | None) -> None:
        self._timeout = value


def open_port(url: str) -> Any:
    """Return what esptool takes for a port: an open one on the network, or the path of a device."""
    if not url.startswith("rfc2217:"):
        return url
    port = NetworkPort(None)
    port.port = url
    port.open()
    return port


def connect(request: dict[str, Any]) -> Any:
    """Bring the chip into its loader and connect to it, with the stub unless that is not wanted."""
    port, chip = open_port(request["port"]), request["chip"]
    attempts = request["attempts"]
    if chip == "auto":
        esp = detect_chip(port, SYNC_BAUD, connect_mode=request["before"], connect_attempts=attempts)
    else:
        esp = CHIP_DEFS[chip](port, SYNC_BAUD)
        esp.USES_RFC2217 = request["port"].startswith("rfc2217:")
        esp.connect(request["before"], attempts)
    if request["stub"]:
        esp = run_stub(esp)
    if request["baudrate"] != SYNC_BAUD:
        esp.change_baud(request["baudrate"])
    return esp


def flash(esp: Any, request: dict[str, Any]) -> None:
    """Write a file; esptool compares the digests afterwards."""
    attach_flash(esp)
    with open(request["path"], "rb") as image:
        data = image.read()
    write_flash(esp, [(request["address"], data)], flash_size="keep", force=False)


def dump(esp: Any, request: dict[str, Any]) -> None:
    """Read a part of the flash into a file."""
    attach_flash(esp)
    read_flash(esp, request["address"], request["size"], request["path"])


def erase(esp: Any, request: dict[str, Any]) -> None:
    """Erase all of the flash."""
    attach_flash(esp)
    erase_flash(esp)


def info(esp: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Tell what the chip is."""
    attach_flash(esp)
    identity = esp.flash_id()
    return {
        "chip": esp.CHIP_NAME,
        "description": esp.get_chip_description(),
        "features": list(esp.get_chip_features()),
        "crystal": f"{esp.get_crystal_freq()} MHz",
        "mac": ":".join(f"{byte:02x}" for byte in esp.read_mac()),
        "flash_id": f"{identity:06x}",
        "flash_size": detect_flash_size(esp) or "unknown",
    }


OPERATIONS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "flash": flash,
    "dump": dump,
    "erase": erase,
    "info": info,
}


def main(request: dict[str, Any]) -> int:
    """Run an operation; return the exit status."""
    # Whatever prints by itself must not get between the lines.
    with os.fdopen(os.dup(1), "w") as output:
        os.dup2(2, 1)
        logger = LineLogger(output)
        log.set_logger(logger)
        try:
            with connect(request) as esp:
                try:
                    result = OPERATIONS[request["operation"]](esp, request)
                finally:
                    # Also after a failure, the chip must not be left in its loader.
                    esp.hard_reset()
            logger.tell(result=result)
        except (FatalError, OSError, ValueError) as error:
            logger.tell(error=str(error).strip() or type(error).__name__)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
