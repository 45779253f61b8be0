"""The dashboard: for who is logged in, about their namespace, kept up to date, and safe to look at."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import anyio
import pytest

from jumpstarter_controller.lab import Actor
from jumpstarter_controller.model.records import ExporterStatus, Key, Kind
from jumpstarter_controller.store.base import Unavailable
from jumpstarter_controller.testing import SERVER, Login
from jumpstarter_controller.web import dashboard
from jumpstarter_controller.web.board import ago, size, span
from jumpstarter_controller.web.conftest import Web, serving
from jumpstarter_controller.web.sessions import COOKIE

EVIL = "<img src=x onerror=alert(1)>\"'&{{7*7}}</script>"


def text_of(page: str) -> str:
    """Return what people read of a page."""
    body = re.sub(r"<(style|script)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


# -- who gets in -----------------------------------------------------------------------------------


async def test_strangers_are_sent_to_the_log_in_page(web: Web) -> None:
    answer = await web.ask("GET", "/dashboard")
    assert (answer.status, answer.headers["Location"]) == (303, "/login")
    assert "Log in" in (await web.ask("GET", "/login")).text
    assert (await web.ask("GET", "/dashboard/content")).status == 401


async def test_a_token_is_taken_for_a_cookie_that_scripts_and_other_sites_can_not_use(web: Web, alice: Login) -> None:
    answer, cookies = await web.log_in(alice.token)
    assert (answer.status, answer.headers["Location"]) == (303, "/dashboard")
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    for attribute in ("HttpOnly", "Secure", "SameSite=Strict", "Path=/"):
        assert attribute in cookie
    assert "Domain" not in cookie
    assert alice.token not in cookie
    page = await web.ask("GET", "/dashboard", headers=cookies)
    assert page.status == 200
    assert "alice client" in text_of(page.text)
    assert alice.token not in page.text


async def test_the_header_is_as_good_as_the_cookie(web: Web, alice: Login) -> None:
    assert (await web.ask("GET", "/dashboard", alice)).status == 200
    assert (await web.ask("GET", "/dashboard", "nonsense")).status == 401


@pytest.mark.parametrize("token", ["", "nonsense", "a.b.c", EVIL, "x" * 20_000, "\x00"])
async def test_what_is_no_token_is_refused_on_the_page(web: Web, token: str) -> None:
    answer, cookies = await web.log_in(token)
    assert answer.status in (401, 403)
    assert not cookies
    assert 'role="alert"' in answer.text
    assert EVIL not in answer.text


async def test_tokens_of_exporters_do_not_open_it(web: Web) -> None:
    answer, cookies = await web.log_in((await web.running.exporter("board")).token)
    assert (answer.status, cookies) == (403, {})
    assert "not one of a client or an admin" in answer.text


async def test_forms_of_other_sites_are_refused(web: Web, alice: Login) -> None:
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
        answer, cookies = await web.log_in(alice.token, headers=headers)
        assert (answer.status, cookies) == (403, {})
        assert (await web.ask("POST", "/logout", headers=headers)).status == 403
    answer, cookies = await web.log_in(alice.token, headers={"Origin": web.url})
    assert cookies


async def test_logging_out_ends_the_session(web: Web, alice: Login) -> None:
    _, cookies = await web.log_in(alice.token)
    answer = await web.ask("POST", "/logout", headers=cookies)
    assert (answer.status, answer.headers["Location"]) == (303, "/login")
    assert (await web.ask("GET", "/dashboard/content", headers=cookies)).status == 401


async def test_a_session_ends_with_the_right_of_its_account(web: Web, alice: Login) -> None:
    _, cookies = await web.log_in(alice.token)
    account = web.running.lab.account(alice.key)
    assert account is not None
    await web.running.lab.update_account(SERVER, replace(account, enabled=False))
    assert (await web.ask("GET", "/dashboard/content", headers=cookies)).status == 401


async def test_a_session_does_not_outlive_its_token(web: Web) -> None:
    brief = await web.running.client("brief", life=timedelta(seconds=3))
    _, cookies = await web.log_in(brief.token)
    assert (await web.ask("GET", "/dashboard/content", headers=cookies)).status == 200
    with anyio.fail_after(10):
        while (await web.ask("GET", "/dashboard/content", headers=cookies)).status == 200:
            pass


async def test_cookies_can_not_be_guessed_or_forged(web: Web, alice: Login) -> None:
    _, cookies = await web.log_in(alice.token)
    value = cookies["Cookie"]
    for forged in (value[:-1], value + "A", f"{COOKIE}=", f"{COOKIE}=alice", f"{COOKIE}=" + "A" * 43):
        assert (await web.ask("GET", "/dashboard/content", headers={"Cookie": forged})).status == 401


# -- what there is to see --------------------------------------------------------------------------


async def test_an_empty_lab_says_what_to_do(web: Web, root: Login) -> None:
    text = text_of((await web.ask("GET", "/dashboard", root)).text)
    assert "No exporters yet. Make one with jmp admin create exporter" in text
    assert "No leases." in text


async def test_exporters_tell_what_they_do_and_who_has_them_until_when(web: Web, alice: Login, bob: Login) -> None:
    await web.board("busy", labels={"board": "demo"})
    await web.board("idle")
    await web.running.exporter("never")
    lease = await web.lease(alice, exporter_name="busy", duration=timedelta(hours=2), name="hers")
    await web.lease(bob, exporter_name="busy", duration=timedelta(hours=1), name="his")
    page = (await web.ask("GET", "/dashboard/content", bob)).text
    rows = [text_of(row) for row in re.findall(r"<tr data-tone.*?</tr>", page, re.DOTALL)]
    assert len(rows) == 5
    assert rows[0].startswith("busy board =demo Leased alice hers")
    assert rows[0].endswith(" 1")
    assert "in 1 h 59 min" in rows[0] or "in 2 h" in rows[0]
    assert rows[1].startswith("idle Free")
    assert rows[2].startswith("never Never seen")
    assert "alice hers busy Active" in rows[3]
    assert "bob his busy Waiting, 1 of 1" in rows[4]
    assert lease.begun is not None
    assert (lease.begun + timedelta(hours=2)).astimezone(UTC).isoformat(timespec="milliseconds") in page
    assert re.search(r"3 exporters 1 free 1 leased 1 offline 1 waiting", text_of(page))


async def test_states_of_exporters_have_words_of_their_own(web: Web, alice: Login) -> None:
    board = await web.board("board")
    actor = Actor(kind="exporter", key=board.key)
    await web.lease(alice, exporter_name="board", duration=timedelta(hours=2))
    for status, words in {
        ExporterStatus.BEFORE_LEASE_HOOK: "Preparing",
        ExporterStatus.LEASE_READY: "Leased",
        ExporterStatus.AFTER_LEASE_HOOK: "Cleaning up",
        ExporterStatus.AFTER_LEASE_HOOK_FAILED: "Clean-up failed no image",
    }.items():
        await web.running.lab.report_status(actor, status, "no image" if "failed" in words else "")
        dashboard_text = ""
        with anyio.fail_after(10):
            while words not in dashboard_text:
                dashboard_text = text_of((await web.ask("GET", "/dashboard", alice)).text)


async def test_clients_see_their_namespace_and_nothing_that_is_for_admins(web: Web, alice: Login, root: Login) -> None:
    await web.running.exporter("near")
    await web.running.exporter("far", namespace="other")
    seen = text_of((await web.ask("GET", "/dashboard", alice)).text)
    assert "near" in seen
    assert "far" not in seen
    assert "Routers" not in seen
    assert "Recent events" not in seen
    all_of_it = text_of((await web.ask("GET", "/dashboard", root)).text)
    assert "default/ near" in all_of_it
    assert "other/ far" in all_of_it
    assert "built-in" in all_of_it
    with anyio.fail_after(10):
        while "account.create" not in all_of_it:
            all_of_it = text_of((await web.ask("GET", "/dashboard", root)).text)


async def test_a_store_that_is_away_takes_only_the_events_from_the_page(
    web: Web, root: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    await web.board("board")

    async def fail(**query: object) -> None:
        raise Unavailable("the disk is gone")

    monkeypatch.setattr(web.running.server.store, "audit", fail)
    answer = await web.ask("GET", "/dashboard", root)
    assert answer.status == 200
    assert "board Free" in text_of(answer.text)
    assert "The audit record can't be read at present." in text_of(answer.text)


async def test_what_others_wrote_is_shown_as_they_wrote_it_and_never_run(web: Web, alice: Login, root: Login) -> None:
    board = await web.board("board", labels={"a": "b"})
    await web.running.lab.report_status(Actor(kind="exporter", key=board.key), ExporterStatus.AVAILABLE, EVIL)
    await web.lease(alice, exporter_name="board", duration=timedelta(hours=1))
    web.running.lab.audit(Actor(kind=EVIL, key=Key(Kind.CLIENT, "default", EVIL), peer=EVIL), EVIL, note=EVIL)
    await web.running.lab.flush_audit()
    page = (await web.ask("GET", "/dashboard", root)).text
    assert EVIL in html.unescape(page)
    assert "<img" not in page
    assert page.count("</script>") == 1


async def test_pages_need_no_script_and_have_none_but_their_own(web: Web, alice: Login) -> None:
    await web.board("board")
    answer = await web.ask("GET", "/dashboard", alice)
    (nonce,) = set(re.findall(r"script-src 'nonce-([^']+)'", answer.headers["Content-Security-Policy"]))
    assert re.findall(r"<script[^>]*>", answer.text) == [f'<script nonce="{nonce}">']
    assert re.findall(r"<style[^>]*>", answer.text) == [f'<style nonce="{nonce}">']
    assert not re.search(r"\son\w+=|\sstyle=|javascript:", answer.text)
    assert not re.search(r"(src|href)=\"(https?:)?//", answer.text)
    assert '<noscript><meta http-equiv="refresh"' in answer.text
    assert "board" in text_of(answer.text)
    again = await web.ask("GET", "/dashboard", alice)
    assert nonce not in again.text


async def test_a_lab_with_200_boards_and_500_leases_is_shown_quickly(web: Web, alice: Login, root: Login) -> None:
    await web.board("board-0", labels={"kind": "x"})
    for number in range(1, 200):
        await web.running.exporter(f"board-{number}", labels={"kind": "x", "number": str(number)})
    for _ in range(500):
        await web.lease(alice, selector="kind=x", duration=timedelta(hours=1))
    await web.ask("GET", "/dashboard", root)
    begun = anyio.current_time()
    page = (await web.ask("GET", "/dashboard", root)).text
    assert anyio.current_time() - begun < 1.0
    text = text_of(page)
    assert text.index("board-9 ") < text.index("board-10 ")
    assert "200 more are not shown" in text
    assert "499 waiting" in text


# -- news ------------------------------------------------------------------------------------------


@asynccontextmanager
async def events(web: Web, headers: dict[str, str]) -> AsyncIterator[aiohttp.StreamReader]:
    """Follow what the page is told."""
    async with web.session.get(f"{web.url}/dashboard/events", headers=headers) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        yield response.content


async def until(content: aiohttp.StreamReader, line: bytes) -> None:
    """Read until a line comes."""
    with anyio.fail_after(15):
        while (await content.readline()).strip() != line:
            pass


async def test_pages_are_told_of_changes_soon(web: Web, alice: Login) -> None:
    await web.board("board")
    _, cookies = await web.log_in(alice.token)
    async with events(web, cookies) as content:
        await until(content, b"retry: 2000")
        # What was written just before is not what is shown after the change.
        assert "news" not in (await web.ask("GET", "/dashboard/content", headers=cookies)).text
        await web.lease(alice, exporter_name="board", duration=timedelta(hours=1), name="news")
        text = ""
        with anyio.fail_after(5):
            while "news" not in text:
                await until(content, b"event: changed")
                text = (await web.ask("GET", "/dashboard/content", headers=cookies)).text


async def test_changes_of_other_namespaces_are_not_told(web: Web, alice: Login, root: Login) -> None:
    async with (
        events(web, {"Authorization": f"Bearer {alice.token}"}) as of_alice,
        events(web, {"Authorization": f"Bearer {root.token}"}) as of_root,
    ):
        await until(of_alice, b"retry: 2000")
        await until(of_root, b"retry: 2000")
        await web.running.exporter("far", namespace="other")
        await until(of_root, b"event: changed")
        await web.running.exporter("near")
        await until(of_alice, b"event: changed")
        # The one before would have come first.
        number = (await of_alice.readline()).strip()
        await until(of_root, b"event: changed")
        assert number == (await of_root.readline()).strip()


async def test_who_loses_the_right_is_told_so(web: Web, alice: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "HEARTBEAT", 0.2)
    _, cookies = await web.log_in(alice.token)
    async with events(web, cookies) as content:
        await until(content, b"retry: 2000")
        await web.running.lab.delete_account(SERVER, alice.key)
        await until(content, b"event: ended")
        assert await content.read() == b"data: -\n\n"


async def test_so_many_pages_of_one_account_and_no_more(
    web: Web, alice: Login, bob: Login, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dashboard, "MOST_OF_ONE", 1)
    async with events(web, {"Authorization": f"Bearer {alice.token}"}):
        assert (await web.ask("GET", "/dashboard/events", alice)).status == 503
        async with events(web, {"Authorization": f"Bearer {bob.token}"}):
            pass


async def test_a_server_that_stops_does_not_wait_for_readers(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        async with serving(tmp_path) as web:
            alice = await web.running.client("alice")
            content = await stack.enter_async_context(events(web, {"Authorization": f"Bearer {alice.token}"}))
            await until(content, b"retry: 2000")
            begun = anyio.current_time()
        assert anyio.current_time() - begun < 5


# -- words -----------------------------------------------------------------------------------------


def test_times_are_told_in_their_two_largest_units() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert ago(now + timedelta(minutes=5), now) == "in 5 min"
    assert ago(now - timedelta(hours=2, minutes=3, seconds=9), now) == "2 h 3 min ago"
    assert ago(now + timedelta(days=3, hours=2), now) == "in 3 d 2 h"
    assert ago(now + timedelta(milliseconds=300), now) == "now"
    assert span(timedelta(minutes=1, seconds=30)) == "1 min"


def test_amounts_are_told_in_units_that_people_read() -> None:
    assert [size(number) for number in (0, 999, 1500, 123_456, 5e9, 7e15)] == [
        "0 B", "999 B", "1.5 kB", "123 kB", "5.0 GB", "7000.0 TB",
    ]  # fmt: skip
