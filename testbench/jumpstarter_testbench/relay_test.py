"""What the relay shows on the host when something goes wrong in the lab guest."""

import json

import pytest

from jumpstarter_testbench import lab_guest

MARKED = """
    import pytest

    @pytest.mark.lab_guest
    def test_marked():
        raise RuntimeError("a marked test ran on the host")
"""


def prelude(body: str) -> str:
    """A conftest that puts `body` in the place of booting a guest."""
    return f"""
import json
from jumpstarter_testbench import lab_guest

class Guest:
    def run(self, tests, folder):
        (folder / "share").mkdir()
        (folder / "console.log").write_text("")
        {body}

lab_guest.prepare = lambda config: Guest()
"""


def test_a_guest_that_dies_fails_its_tests_with_the_reason(pytester):
    pytester.makeconftest(prelude("raise lab_guest.LabGuestError('the lab guest went down')"))
    pytester.makepyfile(MARKED)

    outcome = pytester.runpytest_subprocess()

    assert outcome.parseoutcomes() == {"error": 1} or outcome.parseoutcomes() == {"errors": 1}
    outcome.stdout.fnmatch_lines(["*the lab guest went down*"])


def test_a_test_that_the_guest_never_reports_fails(pytester):
    pytester.makeconftest(prelude("pass"))
    pytester.makepyfile(MARKED)

    outcome = pytester.runpytest_subprocess()

    assert outcome.ret == pytest.ExitCode.TESTS_FAILED
    outcome.stdout.fnmatch_lines(["*did not report this test*"])


@pytest.mark.parametrize("outcome", ["passed", "failed", "skipped"])
def test_the_outcome_in_the_guest_is_the_outcome_on_the_host(pytester, outcome):
    longrepr = {"passed": None, "failed": "wrong in the guest", "skipped": ["file.py", 3, "Skipped: no camera"]}[
        outcome
    ]
    reports = [
        {
            "$report_type": "TestReport",
            "nodeid": "test_it.py::test_marked",
            "location": ["test_it.py", 3, "test_marked"],
            "keywords": {},
            "outcome": outcome if when == "call" else "passed",
            "longrepr": longrepr if when == "call" else None,
            "when": when,
            "sections": [],
            "duration": 0.1,
        }
        for when in ("setup", "call", "teardown")
    ]
    lines = "".join(json.dumps(report) + "\n" for report in reports)
    pytester.makeconftest(prelude(f"(folder / 'share' / 'reports').write_text({lines!r})"))
    pytester.makepyfile(test_it=MARKED)

    result = pytester.runpytest_subprocess("-rs")

    assert result.parseoutcomes() == {outcome: 1}
    if outcome != "passed":
        result.stdout.fnmatch_lines(["*wrong in the guest*" if outcome == "failed" else "*no camera*"])


def test_what_host_tests_set_up_is_torn_down_before_the_next_folder(pytester):
    pytester.makeconftest(prelude("pass"))
    for folder in ("a", "b"):
        place = pytester.mkpydir(folder)
        (place / "conftest.py").write_text(
            "import pytest\n\n@pytest.fixture(scope='package')\ndef opened():\n    yield\n"
            f"    print('closed in {folder}')\n"
        )
        (place / "test_1.py").write_text("def test_host(opened):\n    pass\n")
        (place / "test_2.py").write_text("import pytest\n\n@pytest.mark.lab_guest\ndef test_marked():\n    pass\n")

    result = pytester.runpytest_subprocess("-s")

    assert result.parseoutcomes() == {"passed": 2, "errors": 2}
    result.stdout.fnmatch_lines(["*closed in a*", "*closed in b*"])


def test_a_guest_without_its_components_is_a_skip_or_a_failure(pytester, monkeypatch):
    pytester.makeconftest(
        """
        from jumpstarter_testbench import lab_guest, requirements
        from jumpstarter_testbench.components import Component

        absent = Component(name="absent", tier="lab_guest", packages=("absent-package",), programs=("no-such-program",))
        requirements.components = lab_guest.components = lambda: {"absent": absent}
        lab_guest.COMPONENTS = ("absent",)
        """
    )
    pytester.makepyfile(MARKED)
    monkeypatch.delenv("JMP_REQUIRE_REAL", raising=False)

    skipped = pytester.runpytest_subprocess("-rs")

    assert skipped.parseoutcomes() == {"skipped": 1}
    skipped.stdout.fnmatch_lines(["*absent-package*"])

    monkeypatch.setenv("JMP_REQUIRE_REAL", "1")
    assert pytester.runpytest_subprocess().ret == pytest.ExitCode.TESTS_FAILED


def test_the_host_is_not_the_guest():
    assert not lab_guest.inside()
