"""The REST interface's client against an emulated service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jumpstarter_testbench.emulated.certificates import Certificate
from jumpstarter_testbench.emulated.corellium import CorelliumService
from jumpstarter_testbench.emulated.http import Answer

from jumpstarter_driver_corellium.corellium import api as module
from jumpstarter_driver_corellium.corellium.api import ApiClient
from jumpstarter_driver_corellium.corellium.exceptions import CorelliumApiException
from jumpstarter_driver_corellium.corellium.types import Device, Instance, Project


@pytest.fixture
def api(service: CorelliumService) -> ApiClient:
    return ApiClient(service.url, service.token)


def made(api: ApiClient, name: str = "board") -> Instance:
    project, device = api.get_project(), api.get_device("kronos")
    assert project is not None
    assert device is not None
    return api.create_instance(name, project, device, "1.1.1", "build")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("app.corellium.com", "https://app.corellium.com/api"),
        ("appliance:8443", "https://appliance:8443/api"),
        ("http://127.0.0.1:1234", "http://127.0.0.1:1234/api"),
        ("https://appliance/", "https://appliance/api"),
    ],
)
def test_the_host_may_have_a_port_and_a_scheme(host: str, url: str) -> None:
    assert ApiClient(host, "token").baseurl == url


def test_the_token_is_in_the_header() -> None:
    api = ApiClient("host", "the-token")
    assert (api.host, api.token) == ("host", "the-token")
    assert api.req.headers["Authorization"] == "Bearer the-token"


def test_a_netrc_does_not_replace_the_token(
    service: CorelliumService, api: ApiClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login other password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    assert api.get_project() is not None
    assert service.requests[-1].headers["authorization"] == "Bearer secret-token"


@pytest.mark.parametrize("ref", ["Default Project", "d59db33d-27bd-4b22-878d-49e4758a648e"])
def test_a_project_is_found_by_its_id_or_name(api: ApiClient, ref: str) -> None:
    assert api.get_project(ref) == Project(id="d59db33d-27bd-4b22-878d-49e4758a648e", name="Default Project")


def test_a_device_is_found_by_its_model(api: ApiClient) -> None:
    assert api.get_device("kronos") == Device(
        name="rd1ae", type="automotive", flavor="kronos", model="kronos", quotas={"cores": 16, "cpus": 16}
    )


def test_what_the_service_tells_more_is_no_matter(api: ApiClient) -> None:
    """The model rpi4b has a field that is unknown here."""
    found = api.get_device("rpi4b")
    assert found is not None
    assert found.peripherals is True


def test_what_is_not_there_is_none(api: ApiClient) -> None:
    assert api.get_project("no such") is None
    assert api.get_device("no such") is None
    assert api.get_instance("no such") is None
    assert api.get_instance_console_id(made(api), "no such") is None


def test_an_instance_is_made_with_what_it_shall_be(service: CorelliumService, api: ApiClient) -> None:
    instance = made(api)
    machine = service.machines[instance.id]
    assert (machine.name, machine.flavor, machine.os, machine.osbuild) == ("board", "kronos", "1.1.1", "build")
    assert instance == Instance(id=machine.id, state="creating")


def test_an_instance_is_found_by_its_id_or_name(service: CorelliumService, api: ApiClient) -> None:
    instance = made(api)
    service.machines[instance.id].coming = []
    assert api.get_instance("board") == api.get_instance(instance.id) == Instance(id=instance.id, state="creating")


def test_an_instance_is_switched_and_destroyed(service: CorelliumService, api: ApiClient) -> None:
    instance = made(api)
    api.set_instance_state(instance, "off")
    assert service.machines[instance.id].coming == ["off"]
    assert service.requests[-1].body == b'{"state": "off"}'
    api.destroy_instance(instance)
    assert api.get_instance("board") == Instance(id=instance.id, state="deleting")
    assert api.get_instance("board") is None


def test_a_console_is_asked_for_by_the_name_of_its_port(service: CorelliumService, api: ApiClient) -> None:
    instance = made(api)
    service.machines[instance.id].state = "on"
    console = api.get_instance_console_id(instance, "Primary Compute Non-Secure")
    assert console == "port-1-cons"
    url = api.get_instance_console_url(instance, console)
    assert service.requests[-1].query == {"type": "1-cons"}
    assert url is not None
    assert url.startswith("ws://127.0.0.1:")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda api: api.get_instance_consoles(Instance("gone")), "No instance associated .*status 404"),
        (lambda api: api.set_instance_state(Instance("gone"), "on"), "No instance associated"),
        (lambda api: api.destroy_instance(Instance("gone")), "No instance associated"),
        (lambda api: api.set_instance_state(made(api), "purple"), "Invalid state: purple .*status 400"),
        (lambda api: api.get_instance_console_url(made(api), "port-9-cons"), "Invalid console type"),
        (
            lambda api: api.create_instance("x", Project("gone", "gone"), Device(flavor="kronos"), "1", "b"),
            "Project not found",
        ),
    ],
)
def test_the_service_s_own_words_are_told(api: ApiClient, call: Any, message: str) -> None:
    with pytest.raises(CorelliumApiException, match=message):
        call(api)


def test_a_wrong_token_is_told_and_not_shown(service: CorelliumService) -> None:
    with pytest.raises(CorelliumApiException, match=r"Invalid or missing .*Check CORELLIUM_API_TOKEN") as caught:
        ApiClient(service.url, "wrong-token").get_project()
    assert "wrong-token" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer("<html>Bad Gateway</html>", 502), r"<html>Bad Gateway</html> \(GET .*status 502\)"),
        (Answer("", 500), "Internal Server Error .*status 500"),
        (Answer("[]", 403), "status 403"),
        (Answer("<html>", 200), "is not JSON"),
        (Answer("{}", 200), "is no list"),
        (Answer("[1]", 200), "is no list"),
        (Answer("", 200), "is no list"),
        (Answer(b"\xff\xfe", 200), "is not JSON"),
        (Answer("", 302, {"Location": "http://192.0.2.1/"}), "status 302"),
    ],
)
def test_an_answer_that_is_none_is_an_error(
    service: CorelliumService, api: ApiClient, answer: Answer, message: str
) -> None:
    service.instead = lambda _: answer
    with pytest.raises(CorelliumApiException, match=message):
        api.get_project()


def test_a_created_instance_without_an_id_is_an_error(service: CorelliumService, api: ApiClient) -> None:
    service.instead = lambda request: Answer("{}") if request.method == "POST" else None
    with pytest.raises(CorelliumApiException, match="does not tell its id"):
        made(api)


def test_a_service_that_is_not_there_is_an_error() -> None:
    with CorelliumService() as gone:
        api = ApiClient(gone.url, gone.token)
    with pytest.raises(CorelliumApiException, match=r"failed: .*Check CORELLIUM_API_HOST"):
        api.get_project()


def test_a_silent_service_is_an_error_within_the_time_out(
    service: CorelliumService, api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_TIMEOUT", 0.2)
    service.awake.clear()
    with pytest.raises(CorelliumApiException, match=r"no answer to GET .* in time"):
        api.get_project()


def test_certificates_are_checked(certificate: Certificate) -> None:
    with CorelliumService(certificate=certificate) as secure:
        api = ApiClient(secure.host, secure.token)
        with pytest.raises(CorelliumApiException, match="set `ca_file`"):
            api.get_project()
        api.verify = str(certificate.file)
        assert api.get_project() is not None


def test_authorities_of_the_environment_are_trusted(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.file))
    with CorelliumService(certificate=certificate) as secure:
        assert ApiClient(secure.host, secure.token).get_project() is not None
