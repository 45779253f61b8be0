"""The API for clients over HTTP does what it does over gRPC, in the form of grpc-gateway."""

from __future__ import annotations

import ast
from datetime import datetime, timedelta
from pathlib import Path

import anyio
import pytest

import jumpstarter_controller
from jumpstarter_controller.testing import Login
from jumpstarter_controller.web.conftest import Web
from jumpstarter_controller.web.connections import BODY_LIMIT
from jumpstarter_controller.web.errors import CODES

HOME = "/v1/namespaces/default"


async def test_exporters_are_told_in_camel_case_with_names_of_states(web: Web, alice: Login) -> None:
    await web.board("board", labels={"board": "demo"})
    answer = await web.ask("GET", f"{HOME}/exporters/board", alice)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.json == {
        "name": "namespaces/default/exporters/board",
        "labels": {"board": "demo"},
        "online": True,
        "status": "EXPORTER_STATUS_AVAILABLE",
        "statusMessage": "",
        "enabled": True,
        "deprecatedLabels": {},
    }


async def test_lists_take_filters_and_pages_by_either_name(web: Web, alice: Login) -> None:
    for name in ("a", "b", "c"):
        await web.running.exporter(name, labels={"kind": "x" if name == "c" else "y"})
    first = await web.ask("GET", f"{HOME}/exporters", alice, params={"pageSize": "2"})
    assert [item["name"][-1] for item in first.json["exporters"]] == ["a", "b"]
    rest = await web.ask(
        "GET", f"{HOME}/exporters", alice, params={"page_size": "2", "pageToken": first.json["nextPageToken"]}
    )
    assert [item["name"][-1] for item in rest.json["exporters"]] == ["c"]
    assert rest.json["nextPageToken"] == ""
    chosen = await web.ask("GET", f"{HOME}/exporters", alice, params={"filter": "kind=x"})
    assert [item["name"][-1] for item in chosen.json["exporters"]] == ["c"]


async def test_a_lease_is_created_shown_listed_changed_and_ended(web: Web, alice: Login) -> None:
    await web.board("board", labels={"board": "demo"})
    body = {"selector": "board=demo", "duration": "3600s", "tags": {"job": "7"}}
    created = await web.ask("POST", f"{HOME}/leases", alice, params={"leaseId": "mine"}, json=body)
    assert created.status == 200
    assert created.json["name"] == "namespaces/default/leases/mine"
    assert created.json["duration"] == "3600s"
    assert created.json["exporter"] == "namespaces/default/exporters/board"
    shown = await web.ask("GET", f"{HOME}/leases/mine", alice)
    assert datetime.fromisoformat(shown.json["effectiveBeginTime"]).utcoffset() == timedelta(0)
    listed = await web.ask("GET", f"{HOME}/leases", alice, params={"tagFilter": "job=7"})
    assert [lease["name"] for lease in listed.json["leases"]] == ["namespaces/default/leases/mine"]
    changed = await web.ask("PATCH", f"{HOME}/leases/mine", alice, json={"duration": "7200s"})
    assert changed.json["duration"] == "7200s"
    ended = await web.ask("DELETE", f"{HOME}/leases/mine", alice)
    assert (ended.status, ended.json) == (200, {})
    assert (await web.ask("GET", f"{HOME}/leases", alice)).json["leases"] == []
    all_of_them = await web.ask("GET", f"{HOME}/leases", alice, params={"onlyActive": "false"})
    assert len(all_of_them.json["leases"]) == 1


async def test_what_is_done_over_http_is_seen_over_grpc(web: Web, alice: Login) -> None:
    await web.board("board")
    body = {"exporterName": "board", "duration": "60s"}
    name = (await web.ask("POST", f"{HOME}/leases", alice, json=body)).json["name"]
    from jumpstarter_protocol import client_pb2

    async with alice.stubs() as stubs:
        lease = await stubs.client.GetLease(client_pb2.GetLeaseRequest(name=name))
    assert lease.exporter == "namespaces/default/exporters/board"


async def test_a_mask_keeps_the_rest_of_the_body_out(web: Web, alice: Login) -> None:
    await web.board()
    await web.lease(alice, exporter_name="board", duration=timedelta(hours=1), name="mine")
    body = {"duration": "7200s", "endTime": "2001-01-01T00:00:00Z"}
    changed = await web.ask("PATCH", f"{HOME}/leases/mine", alice, params={"updateMask": "duration"}, json=body)
    assert changed.status == 200
    assert changed.json["duration"] == "7200s"
    assert "endTime" not in changed.json
    refused = await web.ask("PATCH", f"{HOME}/leases/mine", alice, params={"updateMask": "colour"}, json=body)
    assert refused.status == 400
    assert "colour" in refused.json["message"]


async def test_the_path_says_which_lease_is_meant_whatever_the_body_says(web: Web, alice: Login) -> None:
    await web.board()
    for name in ("mine", "other"):
        await web.lease(alice, exporter_name="board", duration=timedelta(hours=1), name=name)
    body = {"name": "namespaces/default/leases/other", "duration": "7200s"}
    await web.ask("PATCH", f"{HOME}/leases/mine", alice, json=body)
    other = await web.ask("GET", f"{HOME}/leases/other", alice)
    assert other.json["duration"] == "3600s"


async def test_a_rotated_token_works_and_the_former_one_is_replaced(web: Web, alice: Login) -> None:
    answer = await web.ask("POST", f"{HOME}/rotate-token", alice, json={})
    assert set(answer.json) == {"token", "expiry"}
    assert answer.headers["Cache-Control"] == "no-store"
    assert (await web.ask("GET", f"{HOME}/exporters", answer.json["token"])).status == 200


# -- refusals --------------------------------------------------------------------------------------


async def test_a_refusal_has_a_code_a_message_and_a_reason_for_programs(web: Web, alice: Login) -> None:
    answer = await web.ask("GET", f"{HOME}/leases/nothing", alice)
    assert answer.status == 404
    assert answer.json["code"] == 5
    assert '"nothing" not found' in answer.json["message"]
    (info,) = answer.json["details"]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert (info["reason"], info["domain"]) == ("LEASE_NOT_FOUND", "jumpstarter.dev")


@pytest.mark.parametrize(
    ("token", "message"),
    [(None, "brings no token"), ("", "Bearer TOKEN"), ("nonsense", ""), ("a.b.c", "")],
)
async def test_strangers_are_refused(web: Web, token: str | None, message: str) -> None:
    answer = await web.ask("GET", f"{HOME}/exporters", token)
    assert (answer.status, answer.json["code"]) == (401, 16)
    assert message in answer.json["message"]
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_expired_tokens_are_refused(web: Web) -> None:
    late = await web.running.client("late", life=timedelta(seconds=-5))
    answer = await web.ask("GET", f"{HOME}/exporters", late)
    assert (answer.status, answer.json["details"][0]["reason"]) == (401, "TOKEN_EXPIRED")
    assert "token is expired" in answer.json["message"]


async def test_tokens_of_exporters_and_admins_are_not_those_of_clients(web: Web, root: Login) -> None:
    exporter = await web.running.exporter("board")
    for login in (exporter, root):
        answer = await web.ask("GET", f"{HOME}/exporters", login)
        assert (answer.status, answer.json["code"]) == (403, 7)


async def test_other_namespaces_are_closed(web: Web, alice: Login) -> None:
    answer = await web.ask("GET", "/v1/namespaces/other/exporters", alice)
    assert (answer.status, answer.json["details"][0]["reason"]) == (403, "NAMESPACE_MISMATCH")


async def test_leases_of_others_can_not_be_changed_or_ended(web: Web, alice: Login, bob: Login) -> None:
    await web.board()
    await web.lease(alice, exporter_name="board", duration=timedelta(hours=1), name="hers")
    for verb, options in (("DELETE", {}), ("PATCH", {"json": {"duration": "60s"}})):
        answer = await web.ask(verb, f"{HOME}/leases/hers", bob, **options)
        assert (answer.status, answer.json["code"]) == (403, 7), answer.text


async def test_a_name_can_not_be_taken_twice(web: Web, alice: Login) -> None:
    await web.board()
    body = {"exporterName": "board", "duration": "60s"}
    answers = [await web.ask("POST", f"{HOME}/leases", alice, params={"lease_id": "mine"}, json=body) for _ in "ab"]
    assert [answer.status for answer in answers] == [200, 409]


async def test_a_lease_that_was_released_can_not_be_released_again(web: Web, alice: Login) -> None:
    await web.board()
    await web.lease(alice, exporter_name="board", duration=timedelta(hours=1), name="mine")
    answers = [await web.ask("DELETE", f"{HOME}/leases/mine", alice) for _ in "ab"]
    assert [answer.status for answer in answers] == [200, 400]
    assert answers[1].json["code"] == 9


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"{", "the body does not fit"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[]", "the body does not fit"),
        (b"17", "the body does not fit"),
        (b'{"selector": 5}', "selector"),
        (b'{"selectr": "a=b"}', "selectr"),
        (b'{"duration": "1 hour"}', "duration"),
        (b'{"selector": "a=b", "selector": "a=c"}', "selector"),
        (b"[" * 100_000, "does not fit"),
        (b'{"duration":' * 2000, "does not fit"),
        (b'{"selector": "a=b", "duration": "-5s"}', "duration must be positive"),
        (b'{"selector": "a in", "duration": "60s"}', "selector"),
        (b"", "required"),
    ],
)
async def test_bodies_that_do_not_fit_are_refused_with_what_is_wrong(
    web: Web, alice: Login, body: bytes, told: str
) -> None:
    answer = await web.ask("POST", f"{HOME}/leases", alice, data=body)
    assert (answer.status, answer.json["code"]) == (400, 3), answer.text
    assert told in answer.json["message"]
    assert len(answer.json["message"]) < 1000


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("pageSize=many", "pageSize"),
        ("pageSize=99999999999", "pageSize"),
        ("pageSize=1&page_size=2", "more than once"),
        ("showHiddenLabels=maybe", "true or false"),
        ("colour=red", "unknown query parameter 'colour'"),
        ("pageToken=nonsense", "page_token"),
        ("filter=%FF", "filter"),
    ],
)
async def test_query_parameters_that_do_not_fit_are_refused(web: Web, alice: Login, query: str, told: str) -> None:
    from yarl import URL

    url = URL(f"{HOME}/exporters?{query}", encoded=True)
    answer = await web.ask("GET", str(url), alice)
    assert (answer.status, answer.json["code"]) == (400, 3), answer.text
    assert told in answer.json["message"]


async def test_bodies_that_are_too_large_or_compressed_are_refused(web: Web, alice: Login) -> None:
    large = await web.ask("POST", f"{HOME}/leases", alice, data=b" " * (BODY_LIMIT + 1))
    assert large.status == 413
    packed = await web.ask("POST", f"{HOME}/leases", alice, data=b"x", headers={"Content-Encoding": "gzip"})
    assert packed.status == 415
    for answer in (large, packed):
        assert answer.json["code"] == 3


async def test_unknown_paths_and_verbs_are_told_in_the_form_of_the_api(web: Web, alice: Login) -> None:
    nowhere = await web.ask("GET", "/v1/nothing", alice)
    assert (nowhere.status, nowhere.json["code"]) == (404, 5)
    verb = await web.ask("PUT", f"{HOME}/leases/mine", alice)
    assert (verb.status, verb.json["code"]) == (405, 12)
    assert verb.headers["Allow"] == "DELETE, GET, PATCH"


@pytest.mark.parametrize("name", ["a%2Fb", "..%2F..", "%00", "%0d%0aX-Bad:%201", "%F0%9F%98%80", "x" * 3000])
async def test_odd_names_in_paths_are_refused(web: Web, alice: Login, name: str) -> None:
    from yarl import URL

    async with web.session.get(
        URL(f"{web.url}{HOME}/leases/{name}", encoded=True), headers={"Authorization": f"Bearer {alice.token}"}
    ) as response:
        assert response.status in (400, 404)
        assert "X-Bad" not in response.headers
        assert (await response.json())["code"] in (3, 5)


async def test_the_cookie_of_the_pages_is_worth_nothing_here(web: Web, alice: Login) -> None:
    _, cookies = await web.log_in(alice.token)
    assert cookies
    answer = await web.ask("GET", f"{HOME}/exporters", headers=cookies)
    assert answer.status == 401


async def test_disabled_accounts_are_refused_at_once(web: Web, alice: Login) -> None:
    from dataclasses import replace

    from jumpstarter_controller.testing import SERVER

    account = web.running.lab.account(alice.key)
    assert account is not None
    await web.running.lab.update_account(SERVER, replace(account, enabled=False))
    assert (await web.ask("GET", f"{HOME}/exporters", alice)).status == 403


async def test_requests_are_answered_side_by_side(web: Web, alice: Login) -> None:
    await web.board()
    statuses: list[int] = []

    async def ask(number: int) -> None:
        body = {"exporterName": "board", "duration": "60s"}
        answer = await web.ask("POST", f"{HOME}/leases", alice, params={"leaseId": f"lease-{number}"}, json=body)
        statuses.append(answer.status)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(ask, number)
    assert statuses == [200] * 50
    assert len(await web.running.lab.leases("default")) == 50


def test_every_reason_that_published_peers_get_as_unknown_has_a_meaning_here() -> None:
    """Refusals with the code UNKNOWN would be failures of the server over HTTP."""
    unknown: set[str] = set()
    raised = ("Refused", "Said", "_refused")
    for path in Path(jumpstarter_controller.__file__).parent.rglob("*.py"):
        if path.name.endswith("_test.py") or "web" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or ast.unparse(node.func) not in raised:
                continue
            code, *rest = (ast.unparse(argument) for argument in node.args)
            if code == "Code.UNKNOWN" and rest[0].startswith("'"):
                unknown.add(ast.literal_eval(rest[0]))
            elif code.startswith("'") and path.name == "leasing.py":
                unknown.add(ast.literal_eval(code))
    assert len(unknown) > 10
    assert unknown - set(CODES) == set()
