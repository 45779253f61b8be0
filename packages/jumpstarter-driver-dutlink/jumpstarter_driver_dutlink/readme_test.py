"""The README's config and udev rule are those that work."""

import os
import re
from pathlib import Path

import yaml
from jumpstarter.config.exporter import ExporterConfigV1Alpha1DriverInstance
from jumpstarter_testbench.usb_emulation import EmulatedBus

from jumpstarter_driver_dutlink.board import UDEV_RULE, Board
from jumpstarter_driver_dutlink.emulation import EmulatedDutlink

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_config_loads(monkeypatch):
    bus = EmulatedBus(EmulatedDutlink("c415a913"))
    monkeypatch.setattr("jumpstarter.common.usb.make_backend", bus.backend)
    ours, theirs = os.openpty()
    path = os.ttyname(theirs)
    monkeypatch.setattr(Board, "tty", lambda self: path)
    config = yaml.safe_load(re.search(r"```yaml\n(.*?)```", README, re.DOTALL)[1])
    driver = ExporterConfigV1Alpha1DriverInstance.model_validate({"children": config["export"]}).instantiate()
    assert list(driver.children["dutlink"].children) == ["power", "storage", "console"]
    driver.close()
    os.close(ours)
    os.close(theirs)


def test_the_udev_rule_is_that_of_the_board():
    assert UDEV_RULE in README
