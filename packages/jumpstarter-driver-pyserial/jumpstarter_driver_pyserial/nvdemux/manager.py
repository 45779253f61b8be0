"""The one process that splits the combined serial port of an NVIDIA board into pseudo-terminals, for all drivers.

NVIDIA's `nv_tcu_demuxer` takes the chip and the device, and prints a line per channel when it is ready: the path of a
pseudo-terminal, a tab, and the channel's name, such as `/dev/pts/3<tab>CCPLEX: 0`.
"""

from __future__ import annotations

import glob
import logging
import re
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from jumpstarter.common.guard import GuardedProcess

logger = logging.getLogger("driver.NVDemuxSerial")

_LINE = re.compile(r"^(/dev/\S+)\t(.+?)\s*$")


@dataclass(frozen=True, kw_only=True)
class _Setup:
    """What all drivers of a process must agree on."""

    demuxer_path: str
    device: str
    chip: str


def _has_glob_chars(path: str) -> bool:
    return any(letter in path for letter in "*?[")


def _resolve_device(pattern: str) -> str | None:
    """Return the device that a path or a pattern names, the first in order; None when there is none."""
    if _has_glob_chars(pattern):
        return next(iter(sorted(glob.glob(pattern))), None)
    return pattern if Path(pattern).exists() else None


class DemuxerManager:
    """Runs the demultiplexer while drivers are registered, and again whenever the device reappears."""

    _instance: ClassVar[DemuxerManager | None] = None
    _instance_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._setup: _Setup | None = None
        self._targets: dict[str, str] = {}
        self._paths: dict[str, str] = {}
        self._poll_interval = 1.0
        self._process: GuardedProcess | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    @classmethod
    def get_instance(cls) -> DemuxerManager:
        """Return the manager of this process."""
        with cls._instance_lock:
            if cls._instance is None:
                cls._instance = cls()
            return cls._instance

    @classmethod
    def reset_instance(cls) -> None:
        """Stop the manager of this process; the next get_instance() makes a new one."""
        with cls._instance_lock:
            instance, cls._instance = cls._instance, None
        if instance is not None:
            instance._stop()

    def register_driver(
        self, *, driver_id: str, demuxer_path: str, device: str, chip: str, target: str, poll_interval: float
    ) -> None:
        """Have a channel made for a driver; the first one starts the demultiplexer.

        Raises:
            ValueError: other drivers are set up differently, or have the same target.
        """
        setup = _Setup(demuxer_path=demuxer_path, device=device, chip=chip)
        with self._changed:
            if self._setup is not None and self._targets and self._setup != setup:
                raise ValueError(
                    "all NVDemuxSerial drivers of an exporter share one demultiplexer, so demuxer_path, device and "
                    f"chip must be the same: {self._setup} and {setup}"
                )
            if target in self._targets.values():
                raise ValueError(f"two NVDemuxSerial drivers have the same target {target!r}")
            self._setup = setup
            self._targets[driver_id] = target
            self._poll_interval = poll_interval
            if self._thread is None:
                self._stopping.clear()
                self._thread = threading.Thread(target=self._run, name="demultiplexer", daemon=True)
                self._thread.start()

    def unregister_driver(self, driver_id: str) -> None:
        """Give up a driver's channel; the last one stops the demultiplexer."""
        with self._changed:
            self._targets.pop(driver_id, None)
            last = not self._targets
        if last:
            self._stop()

    def get_pts_path(self, driver_id: str) -> str | None:
        """Return the pseudo-terminal of a driver's channel, or None when there is none at the moment."""
        with self._changed:
            target = self._targets.get(driver_id)
            return None if target is None else self._paths.get(target)

    def wait_pts_path(self, driver_id: str, timeout: float) -> str | None:
        """Return the pseudo-terminal of a driver's channel, waiting `timeout` seconds for it at most."""
        with self._changed:
            self._changed.wait_for(lambda: self._targets.get(driver_id) in self._paths, timeout)
        return self.get_pts_path(driver_id)

    def is_ready(self, target: str) -> bool:
        """Tell whether a channel has its pseudo-terminal."""
        with self._changed:
            return target in self._paths

    def _stop(self) -> None:
        self._stopping.set()
        with self._changed:
            process, thread = self._process, self._thread
        if process is not None:
            process.begin_stop()
        if thread is not None:
            thread.join()
        with self._changed:
            self._thread = None
            self._paths.clear()

    def _run(self) -> None:
        complained: str | None = None
        while not self._stopping.is_set():
            assert self._setup is not None
            device = _resolve_device(self._setup.device)
            problem = f"no device matches {self._setup.device}" if device is None else self._run_once(device)
            if problem is not None and problem != complained and not self._stopping.is_set():
                logger.warning("%s; trying again every %g s", problem, self._poll_interval)
            complained = problem
            self._stopping.wait(self._poll_interval)

    def _run_once(self, device: str) -> str | None:
        """Run the demultiplexer to its end; return what is wrong with it, None when it had been working."""
        assert self._setup is not None
        command = [self._setup.demuxer_path, "-m", self._setup.chip, "-d", device]
        try:
            process = GuardedProcess(
                command,
                grace=1.0,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
        except OSError as error:
            return f"{self._setup.demuxer_path} can't be started: {error.strerror}"
        with self._changed:
            self._process = process
        if self._stopping.is_set():
            process.begin_stop()
        said, started = "", time.monotonic()
        assert process.popen.stdout is not None
        with process.popen.stdout as output:
            for line in output:
                if match := _LINE.match(line):
                    with self._changed:
                        self._paths[match.group(2)] = match.group(1)
                        self._changed.notify_all()
                else:
                    said = line.strip() or said
        with self._changed:
            worked = bool(self._paths)
            self._paths.clear()
            self._process = None
        process.stop()
        if worked:
            logger.warning("the demultiplexer ended after %.0f s, the device may be gone", time.monotonic() - started)
            return None
        return f"{self._setup.demuxer_path} ended with exit status {process.poll()}: {said or 'no message'}"
