"""The description of the API is valid, and true."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from jumpstarter_protocol import client_pb2
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from jumpstarter_controller.testing import Login
from jumpstarter_controller.web.conftest import Web
from jumpstarter_controller.web.openapi import describe
from jumpstarter_controller.web.transcoding import bindings

CLIENT_SERVICE = client_pb2.DESCRIPTOR.services_by_name["ClientService"]


@pytest.fixture
def description() -> dict[str, Any]:
    return describe(bindings(CLIENT_SERVICE), version="1.2.3", url="https://lab.example.com:8086")


def test_it_is_valid_openapi(description: dict[str, Any]) -> None:
    validate(description, cls=OpenAPIV31SpecValidator)


def test_it_has_every_annotated_rpc_and_no_other(description: dict[str, Any]) -> None:
    operations = {
        (verb, path): operation["operationId"]
        for path, verbs in description["paths"].items()
        for verb, operation in verbs.items()
    }
    home = "/v1/namespaces/{namespace}"
    assert operations == {
        ("get", f"{home}/exporters/{{exporter}}"): "GetExporter",
        ("get", f"{home}/exporters"): "ListExporters",
        ("get", f"{home}/leases/{{lease}}"): "GetLease",
        ("get", f"{home}/leases"): "ListLeases",
        ("post", f"{home}/leases"): "CreateLease",
        ("patch", f"{home}/leases/{{lease}}"): "UpdateLease",
        ("delete", f"{home}/leases/{{lease}}"): "DeleteLease",
        ("post", f"{home}/rotate-token"): "RotateToken",
    }


def test_it_says_what_is_in_the_path_in_the_query_and_in_the_body(description: dict[str, Any]) -> None:
    create = description["paths"]["/v1/namespaces/{namespace}/leases"]["post"]
    assert [(item["in"], item["name"]) for item in create["parameters"]] == [
        ("path", "namespace"),
        ("query", "leaseId"),
    ]
    assert create["requestBody"]["required"] is True
    schema = create["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/jumpstarter.client.v1.Lease"}
    lease = description["components"]["schemas"]["jumpstarter.client.v1.Lease"]["properties"]
    assert lease["beginTime"] == {"type": "string", "format": "date-time"}
    assert lease["effectiveEndTime"]["readOnly"] is True
    assert lease["tags"]["additionalProperties"] == {"type": "string"}


async def test_it_is_for_who_has_a_token(web: Web, alice: Login, root: Login) -> None:
    assert (await web.ask("GET", "/openapi.json")).status == 401
    for login in (alice, root):
        answer = await web.ask("GET", "/openapi.json", login)
        assert answer.json["info"]["title"] == "Jumpstarter"
        assert answer.json["servers"] == [{"url": web.url}]
    assert (await web.ask("GET", "/openapi.json", "nonsense")).status == 401


async def test_answers_are_as_described(web: Web, alice: Login, description: dict[str, Any]) -> None:
    from jsonschema import Draft202012Validator
    from referencing import Registry
    from referencing.jsonschema import DRAFT202012

    await web.board("board", labels={"board": "demo"})
    await web.lease(alice, selector="board=demo", duration=timedelta(hours=1), name="mine", tags={"a": "b"})
    resource = DRAFT202012.create_resource(description)
    registry: Registry[Any] = Registry().with_resource("urn:api", resource)
    answers = {
        "jumpstarter.client.v1.Lease": await web.ask("GET", "/v1/namespaces/default/leases/mine", alice),
        "jumpstarter.client.v1.ListLeasesResponse": await web.ask("GET", "/v1/namespaces/default/leases", alice),
        "jumpstarter.client.v1.Exporter": await web.ask("GET", "/v1/namespaces/default/exporters/board", alice),
        "Error": await web.ask("GET", "/v1/namespaces/default/leases/nothing", alice),
    }
    for name, answer in answers.items():
        schema = {"$ref": f"urn:api#/components/schemas/{name}"}
        Draft202012Validator(schema, registry=registry).validate(answer.json)
        known = description["components"]["schemas"][name]["properties"]
        assert set(answer.json) <= set(known)
