"""The README's config is one that works."""

import re
from pathlib import Path

import yaml
from jumpstarter.config.exporter import ExporterConfigV1Alpha1DriverInstance

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_config_loads():
    config = yaml.safe_load(re.search(r"```yaml\n(.*?)```", README, re.DOTALL)[1])["export"]
    for entry in config.values():
        # SocketCAN itself is tested in the lab guest.
        entry["config"] |= {"interface": "virtual", "channel": "readme"}

    driver = ExporterConfigV1Alpha1DriverInstance.from_str(yaml.safe_dump({"children": config})).instantiate()
    try:
        assert driver.children.keys() == {"can", "uds"}
        assert driver.children["uds"].params.blocking_send
    finally:
        driver.close()
