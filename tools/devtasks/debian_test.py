import pytest

from devtasks import debian
from devtasks.base import DevError


@pytest.fixture
def missing(monkeypatch):
    """One package is missing, and this process may not install it."""
    monkeypatch.setattr(debian, "missing_packages", lambda tiers: ["absent-package"])
    monkeypatch.setattr(debian, "can_install", lambda: False)


@pytest.mark.usefixtures("missing")
def test_a_user_who_may_not_install_is_shown_the_command(capsys):
    debian.provide("daemon")

    assert "sudo apt-get install --no-install-recommends absent-package" in capsys.readouterr().err


@pytest.mark.usefixtures("missing")
def test_what_is_required_and_missing_is_an_error():
    with pytest.raises(DevError, match="absent-package"):
        debian.provide("daemon", required=True)


def test_an_installation_that_fails_is_no_reason_to_stop(monkeypatch, capsys):
    def fail(packages):
        raise DevError("no network")

    monkeypatch.setattr(debian, "missing_packages", lambda tiers: ["absent-package"])
    monkeypatch.setattr(debian, "can_install", lambda: True)
    monkeypatch.setattr(debian, "install", fail)

    debian.provide("daemon")

    assert "no network" in capsys.readouterr().err


def test_the_switch_against_services_is_taken_back(monkeypatch, tmp_path):
    monkeypatch.setattr(debian, "POLICY", tmp_path / "policy-rc.d")
    with debian._no_service_starts():
        assert "exit 101" in debian.POLICY.read_text()
        assert debian.POLICY.stat().st_mode & 0o111

    assert not debian.POLICY.exists()


def test_a_switch_that_the_machine_has_already_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(debian, "POLICY", tmp_path / "policy-rc.d")
    debian.POLICY.write_text("the machine's own")
    with debian._no_service_starts():
        pass

    assert debian.POLICY.read_text() == "the machine's own"
