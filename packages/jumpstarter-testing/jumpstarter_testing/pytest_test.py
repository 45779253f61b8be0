import pytest

EXPORTER = """
apiVersion: jumpstarter.dev/v1alpha1
kind: ExporterConfig
metadata: {namespace: lab, name: bench}
export:
  power: {type: jumpstarter_driver_power.driver.MockPower}
"""

CLIENT = """
apiVersion: jumpstarter.dev/v1alpha1
kind: ClientConfig
metadata: {namespace: lab, name: alice}
endpoint: 127.0.0.1:1
token: secret-token
drivers: {allow: [], unsafe: false}
"""


@pytest.fixture
def run_tests(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Runs pytest on a source text in a process of its own, with configs and environment of the test's."""

    def run(source: str, **environment: str) -> pytest.RunResult:
        monkeypatch.setenv("JMP_CLIENT_CONFIG_HOME", str(pytester.path / "config"))
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        pytester.makepyfile(source)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:jumpstarter_testbench")

    return run


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory):
    """A session of a real exporter with one power driver, on a Unix socket.

    It lasts longer than any pytester, which forgets the modules that are imported while it is there.
    """
    from jumpstarter.config.exporter import ExporterConfigV1Alpha1

    path = tmp_path_factory.mktemp("exporter") / "exporter.yaml"
    path.write_text(EXPORTER)
    with ExporterConfigV1Alpha1.load_path(path).serve_unix() as socket:
        yield str(socket)


def test_inside_a_shell_the_tests_of_a_class_share_the_client_of_its_device(run_tests, exporter):
    result = run_tests(
        """
        from jumpstarter_testing import JumpstarterTest

        class TestPower(JumpstarterTest):
            seen = []

            def test_on(self, client):
                client.power.on()
                self.seen.append(client)

            def test_off(self, client):
                client.power.off()
                assert self.seen == [client]
        """,
        JUMPSTARTER_HOST=exporter,
        JMP_DRIVERS_ALLOW="UNSAFE",
    )

    assert result.parseoutcomes() == {"passed": 2}


def test_a_shells_device_is_taken_whatever_the_selector_says(run_tests, exporter):
    result = run_tests(
        """
        from jumpstarter_testing import JumpstarterTest

        class TestPower(JumpstarterTest):
            selector = "board=other"

            def test_on(self, client):
                client.power.on()
        """,
        JUMPSTARTER_HOST=exporter,
        JMP_DRIVERS_ALLOW="UNSAFE",
    )

    assert result.parseoutcomes() == {"passed": 1}


def test_fixtures_of_the_class_can_build_on_the_client(run_tests, exporter):
    result = run_tests(
        """
        import pytest
        from jumpstarter_testing import JumpstarterTest

        class TestPower(JumpstarterTest):
            @pytest.fixture
            def powered(self, client):
                client.power.on()
                yield client.power
                client.power.off()

            def test_readings(self, powered):
                assert next(iter(powered.read())).voltage >= 0
        """,
        JUMPSTARTER_HOST=exporter,
        JMP_DRIVERS_ALLOW="UNSAFE",
    )

    assert result.parseoutcomes() == {"passed": 1}


def test_a_failing_test_leaves_the_client_to_the_next_one(run_tests, exporter):
    result = run_tests(
        """
        from jumpstarter_testing import JumpstarterTest

        class TestPower(JumpstarterTest):
            def test_first(self, client):
                raise RuntimeError("the test failed")

            def test_second(self, client):
                client.power.on()
        """,
        JUMPSTARTER_HOST=exporter,
        JMP_DRIVERS_ALLOW="UNSAFE",
    )

    assert result.parseoutcomes() == {"passed": 1, "failed": 1}
    result.stdout.no_fnmatch_line("*fixture function has more than one*")


def test_a_class_without_selector_outside_a_shell_is_told_what_to_do(run_tests):
    result = run_tests(
        """
        from jumpstarter_testing import JumpstarterTest

        class TestNowhere(JumpstarterTest):
            def test_it(self, client):
                pass
        """
    )

    assert result.parseoutcomes() == {"errors": 1}
    result.stdout.fnmatch_lines(["*TestNowhere names no device to lease*selector = *jmp shell*"])


SELECTING = """
    from jumpstarter_testing import JumpstarterTest

    class TestBoard(JumpstarterTest):
        selector = "board=rpi4"

        def test_it(self, client):
            pass
"""


def test_without_a_client_config_the_way_to_one_is_shown(run_tests):
    result = run_tests(SELECTING)

    assert result.parseoutcomes() == {"errors": 1}
    result.stdout.fnmatch_lines(["*no client config to lease a device with*jmp login*jmp config client use*"])


@pytest.mark.parametrize("choice", ["current", "default", "environment"])
def test_the_device_is_leased_as_the_client_that_jmp_would_take(leasable_board, run_tests, pytester, choice):
    alias = "default" if choice == "default" else "alice"
    save_client(leasable_board, pytester.path / "config", alias)
    if choice == "current":
        (pytester.path / "config" / "config.yaml").write_text(
            "apiVersion: jumpstarter.dev/v1alpha1\nkind: UserConfig\nconfig: {current-client: alice}\n"
        )

    result = run_tests(LEASING, **({"JMP_CLIENT": "alice"} if choice == "environment" else {}))

    assert result.parseoutcomes() == {"passed": 2}


def test_the_lease_of_a_class_is_one_and_is_given_back(leasable_board, run_tests, pytester):
    save_client(leasable_board, pytester.path / "config", "default")
    before = set(leasable_board.controller.leases)

    run_tests(LEASING)

    assert len(set(leasable_board.controller.leases) - before) == 1
    assert leasable_board.controller.active() == []


def test_the_lease_is_given_back_when_a_test_fails(leasable_board, run_tests, pytester):
    save_client(leasable_board, pytester.path / "config", "default")

    result = run_tests(LEASING.replace("client.power.off()", "raise RuntimeError('broken')"))

    assert result.parseoutcomes() == {"passed": 1, "failed": 1}
    assert leasable_board.controller.active() == []


LEASING = """
    from jumpstarter_testing import JumpstarterTest

    class TestBoard(JumpstarterTest):
        selector = "board=rpi4"

        def test_on(self, client):
            client.power.on()

        def test_off(self, client):
            client.power.off()
"""


def save_client(lab, home, alias):
    """Write the config of a client who may lease the board."""
    (home / "clients").mkdir(parents=True)
    path = home / "clients" / f"{alias}.yaml"
    config = lab.client()
    type(config).save(config, path)


def test_an_unreachable_controller_is_an_error_that_names_it(run_tests, pytester):
    (pytester.path / "config" / "clients").mkdir(parents=True)
    (pytester.path / "config" / "clients" / "default.yaml").write_text(CLIENT)

    result = run_tests(SELECTING)

    assert result.parseoutcomes() == {"errors": 1}
    result.stdout.fnmatch_lines(["*127.0.0.1:1*"])
