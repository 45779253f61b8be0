"""The documentation says what the code does: every key, reason word and variable is there, and none that is not."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from jumpstarter.common import exceptions
from jumpstarter.config import env, environment
from jumpstarter.config.exporter import (
    ExporterConfigV1Alpha1,
    ExporterConfigV1Alpha1DriverInstanceBase,
    ExporterConfigV1Alpha1DriverInstanceProxy,
    FailureDetectionConfigV1Alpha1,
    HookConfigV1Alpha1,
    HookInstanceConfigV1Alpha1,
)
from jumpstarter_cli_common import exceptions as failures
from pydantic import BaseModel

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
import driver_table  # noqa: E402
import package_pages  # noqa: E402

ROOT = HERE.parent
LINK = re.compile(r"\]\(([^)#]+\.(?:md|py|yaml|toml))(?:#[\w-]+)?\)")


def words(page: str) -> set[str]:
    """What stands between backquotes on a page of the reference."""
    return set(re.findall(r"`([^`\n]+)`", (HERE / "reference" / page).read_text()))


@pytest.mark.parametrize(
    "model",
    [
        ExporterConfigV1Alpha1,
        ExporterConfigV1Alpha1DriverInstanceBase,
        ExporterConfigV1Alpha1DriverInstanceProxy,
        FailureDetectionConfigV1Alpha1,
        HookConfigV1Alpha1,
        HookInstanceConfigV1Alpha1,
    ],
)
def test_every_key_of_an_exporter_config_is_in_the_reference(model: type[BaseModel]):
    keys = {field.alias or name for name, field in model.model_fields.items() if not field.exclude}
    documented = {part for word in words("exporter-config.md") for part in (word, *word.split("."))}

    assert keys <= documented


def test_every_variable_that_sets_a_member_of_a_config_is_in_the_reference():
    variables = {setting.variable for setting in (*environment.CLIENT, *environment.EXPORTER)}

    assert variables <= words("environment.md")


def test_every_variable_of_the_reference_is_known_to_the_code():
    known = {value for name, value in vars(env).items() if name.isupper()}
    known |= {setting.variable for setting in (*environment.CLIENT, *environment.EXPORTER)}
    documented = {word for word in words("environment.md") if re.fullmatch(r"(JMP|JUMPSTARTER)_[A-Z_]+", word)}

    assert documented <= known


def test_every_reason_of_a_failure_is_in_the_reference():
    source = Path(failures.__file__).read_text()
    reasons = set(failures._CLASS_REASONS.values()) | {entry[0] for entry in failures._GRPC_FAILURES.values()}
    reasons |= set(re.findall(r'(?:Failure\(\s*|reason=)"([a-z-]+)"', source))

    assert reasons <= words("errors.md")


def test_every_public_error_class_is_in_the_reference():
    names = set(exceptions.__all__) - {"JumpstarterException"}

    assert names <= {word.rpartition(".")[2] for word in words("errors.md")}


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted(ROOT.glob("packages/*/README.md"))], ids=lambda p: str(p.parent.name)
)
def test_links_between_files_of_the_repository_lead_somewhere(page: Path):
    missing = [
        link for link in LINK.findall(page.read_text()) if "://" not in link and not (page.parent / link).exists()
    ]

    assert missing == []


def test_the_example_config_of_the_reference_is_valid(tmp_path):
    text = (HERE / "reference" / "exporter-config.md").read_text()
    example = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert example is not None
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n")
    path = tmp_path / "example.yaml"
    path.write_text(example[1].replace("/etc/jumpstarter/ca.pem", str(tmp_path / "ca.pem")))

    config = ExporterConfigV1Alpha1.load_path(path)

    assert set(config.export) == {"power", "board", "serial"}
    assert config.hooks.before_lease is not None
    assert config.hooks.before_lease.on_failure == "endLease"


def test_the_first_config_of_the_first_steps_makes_its_drivers(tmp_path):
    text = (HERE / "first-steps.md").read_text()
    example = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert example is not None
    path = tmp_path / "first.yaml"
    path.write_text(example[1])

    root = ExporterConfigV1Alpha1.load_path(path).instantiate()

    assert set(root.children) == {"power", "tools"}


def test_the_documentation_builds_without_a_warning(tmp_path):
    options = ["-W", "--keep-going", "-n", "-q", "-b", "html", "-d", str(tmp_path / "doctrees")]

    finished = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(HERE), str(tmp_path / "html")],
        capture_output=True,
        text=True,
        timeout=110,
    )

    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "html" / "index.html").is_file()


@pytest.mark.parametrize(
    ("link", "shown"),
    [
        ("[power](../jumpstarter-driver-power/README.md#api)", "[power](jumpstarter-driver-power.md#api)"),
        ("[power](../jumpstarter-driver-power)", "[power](jumpstarter-driver-power.md)"),
        ("[hooks](../../docs/reference/exporter-config.md#hooks)", "[hooks](../reference/exporter-config.md#hooks)"),
        ("[a board](../../examples/qemu-board)", "a board (`examples/qemu-board`)"),
        ("[`examples/x.yaml`](../../examples/x.yaml)", "`examples/x.yaml`"),
        ("[site](https://example.org)", "[site](https://example.org)"),
    ],
)
def test_links_of_a_readme_lead_on_from_its_page(link, shown):
    assert package_pages.page(link) == shown


@pytest.mark.parametrize(
    "package", sorted(path.parent.name for path in ROOT.glob("packages/jumpstarter-driver-*/README.md"))
)
def test_every_driver_package_says_what_it_is_tested_against(package: str):
    assert driver_table.tested_against((ROOT / "packages" / package / "README.md").read_text())


def test_the_table_of_drivers_names_keys_methods_and_commands():
    tables = driver_table.tables()
    row = next(line for line in tables.splitlines() if line.startswith("| **PySerial**"))

    assert "**`url`**, `baudrate`" in row
    assert "`set_dtr`" in row
    assert "`start-console`" in row
