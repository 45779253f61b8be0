import pytest

from jumpstarter_testbench import requirements
from jumpstarter_testbench.components import Component

ABSENT = Component(name="absent", tier="daemon", packages=("absent-package",), programs=("no-such-program",))
INSTALL = "sudo apt-get install --no-install-recommends absent-package"


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "components", lambda: {"absent": ABSENT})
    monkeypatch.delenv("JMP_REQUIRE_REAL", raising=False)


@pytest.mark.usefixtures("absent")
def test_a_missing_component_skips_the_test_with_its_install_line():
    with pytest.raises(pytest.skip.Exception, match=rf"not installed: no-such-program\. Install: {INSTALL}"):
        requirements.need("absent")


@pytest.mark.usefixtures("absent")
def test_a_missing_component_fails_the_test_where_real_ones_are_required(monkeypatch):
    monkeypatch.setenv("JMP_REQUIRE_REAL", "1")

    with pytest.raises(pytest.fail.Exception, match=INSTALL):
        requirements.need("absent")


@pytest.mark.usefixtures("absent")
def test_a_missing_program_names_the_packages_of_its_component():
    with pytest.raises(pytest.skip.Exception, match=INSTALL):
        requirements.program("no-such-program")


def test_a_component_that_the_list_does_not_know_is_a_mistake_in_the_test():
    with pytest.raises(KeyError, match="no-such-component"):
        requirements.need("no-such-component")


def test_a_missing_python_module_names_its_distribution(monkeypatch):
    monkeypatch.delenv("JMP_REQUIRE_REAL", raising=False)

    with pytest.raises(pytest.skip.Exception, match=r"pip install some-distribution"):
        requirements.need_module("no_such_module", "some-distribution")


def test_the_mark_ends_the_test_before_its_fixtures_run(pytester, monkeypatch):
    monkeypatch.delenv("JMP_REQUIRE_REAL", raising=False)
    pytester.makeconftest(
        """
        from jumpstarter_testbench import requirements
        from jumpstarter_testbench.components import Component

        absent = Component(name="absent", tier="daemon", packages=("absent-package",), programs=("no-such-program",))
        requirements.components = lambda: {"absent": absent}
        """
    )
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def costly():
            raise RuntimeError("a fixture ran")

        @pytest.mark.need("absent")
        def test_it(costly):
            pass
        """
    )

    assert pytester.runpytest_subprocess("--strict-markers").parseoutcomes() == {"skipped": 1}

    monkeypatch.setenv("JMP_REQUIRE_REAL", "1")
    outcome = pytester.runpytest_subprocess("--strict-markers")
    assert outcome.parseoutcomes() == {"failed": 1} or outcome.parseoutcomes() == {"errors": 1}
    outcome.stdout.fnmatch_lines(["*absent-package*"])
