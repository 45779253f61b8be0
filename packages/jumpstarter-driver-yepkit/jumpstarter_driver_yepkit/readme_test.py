"""The README's config and udev rules are those that work."""

import re
from pathlib import Path

import yaml
from jumpstarter.config.exporter import ExporterConfigV1Alpha1DriverInstance
from jumpstarter_testbench.usb_emulation import EmulatedBus

from jumpstarter_driver_yepkit.emulation import EmulatedYkush
from jumpstarter_driver_yepkit.hub import UDEV_RULES

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_config_loads(monkeypatch):
    bus = EmulatedBus(EmulatedYkush("YK25838"))
    monkeypatch.setattr("jumpstarter.common.usb.make_backend", bus.backend)
    config = yaml.safe_load(re.search(r"```yaml\n(.*?)```", README, re.DOTALL)[1])
    driver = ExporterConfigV1Alpha1DriverInstance.model_validate({"children": config["export"]}).instantiate()
    assert (driver.children["power"].serial, driver.children["power"].port) == ("YK25838", "1")
    driver.close()


def test_the_udev_rules_are_those_of_the_models():
    assert UDEV_RULES in README
