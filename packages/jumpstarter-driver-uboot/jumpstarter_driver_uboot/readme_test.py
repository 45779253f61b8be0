"""The README's config is one that works."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from jumpstarter.config.exporter import ExporterConfigV1Alpha1DriverInstance

README = Path(__file__).parents[1] / "README.md"


def test_the_config_loads():
    found = re.search(r"```yaml\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None
    config = yaml.safe_load(found[1])
    driver = ExporterConfigV1Alpha1DriverInstance.model_validate({"children": config["export"]}).instantiate()
    assert driver.children["uboot"].get_prompt() == "\n=>"
    driver.close()
