"""The exporter configs that READMEs of driver packages show, so that tests can try them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_CONFIG = re.compile(r"^```yaml\n(.*?)^```", re.MULTILINE | re.DOTALL)


def exports(test_file: str) -> dict[str, Any]:
    """Return the driver instances below `export` in the YAML examples of a package's README, by name.

    Args:
        test_file: `__file__` of a test in the package's module.

    Raises:
        AssertionError: there is none.
        pydantic.ValidationError: one is no driver instance.
    """
    import yaml
    from jumpstarter.config.exporter import ExporterConfigV1Alpha1DriverInstance

    readme = Path(test_file).parent.parent / "README.md"
    found: dict[str, Any] = {}
    for text in _CONFIG.findall(readme.read_text()):
        for name, instance in (yaml.safe_load(text).get("export") or {}).items():
            assert name not in found, f"{readme} has two examples called {name}"
            found[name] = ExporterConfigV1Alpha1DriverInstance.from_str(yaml.safe_dump(instance))
    assert found, f"{readme} shows no exporter config"
    return found
