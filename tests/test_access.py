"""Who gets in over HTTP: keys, scopes, projects, rates; this machine alone without a key; pages, not other sites."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from redis.asyncio import Redis

from batchmill.config.errors import ConfigError
from batchmill.config.settings import Settings
from batchmill.service.access import origin
from batchmill.service.access.keyring import FRESH
from batchmill.service.access.queued import check_queue, queued_lines
from batchmill.service.identity import Identity, Scope
from batchmill.service.problems import ApiError
from batchmill.service.serving import serve
from batchmill.store import api_keys, sessions
from batchmill.store.api_keys import Made, Wanted

from .fleet_helpers import lines
from .service_helpers import in_process, service_of, serving
from .waiting import wait_until

ADMIN = ("submit", "read", "admin")


async def make(redis: Redis, settings: Settings, name: str = "ci", **more: Any) -> Made:
    wanted = {"name": name, "project": "web", "scopes": ADMIN} | more
    return await api_keys.create(redis, settings.upstream_name, Wanted(**wanted), "me")


def bearer(made: Made) -> dict[str, str]:
    return {"authorization": f"Bearer {made.text}"}


def problem(reply: httpx.Response) -> tuple[int, Any]:
    return reply.status_code, reply.json()["error"]["code"]


@asynccontextmanager
async def client_of(redis: Redis, settings: Settings, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    async with in_process(redis, settings, headers=headers, tasks=False) as client:
        yield client


# without any key


async def test_without_a_key_this_machine_gets_in_whatever_key_it_shows(redis: Redis, settings: Settings) -> None:
    async with client_of(redis, settings) as client:
        for headers in ({}, {"authorization": "Bearer none"}, {"x-api-key": "sk-anything"}):
            assert (await client.get("/v1/keys", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:8080"},
        {"host": "127.0.0.1.evil.example"},
        {"x-forwarded-for": "127.0.0.1"},
        {"forwarded": "for=127.0.0.1"},
        {"via": "1.1 proxy"},
    ],
)
async def test_without_a_key_other_names_and_proxies_stay_outside(
    redis: Redis, settings: Settings, headers: dict[str, str]
) -> None:
    async with client_of(redis, settings) as client:
        assert problem(await client.get("/v1/keys", headers=headers)) == (401, "missing_api_key")


async def test_without_a_key_a_proxy_that_adds_no_header_stays_outside(redis: Redis, settings: Settings) -> None:
    """As nginx speaks by default: HTTP/1.0, to the address that it was given."""
    async with serving(redis, settings) as client:
        host, port = client.base_url.host, client.base_url.port
        for version, status in ((b"1.0", b"401"), (b"1.1", b"200")):
            reader, writer = await asyncio.open_connection(host, port)
            head = b"GET /v1/keys HTTP/%b\r\nHost: %b:%d\r\nConnection: close\r\n\r\n"
            writer.write(head % (version, host.encode(), port))
            assert (await reader.read()).split()[1] == status
            writer.close()


@pytest.mark.parametrize("headers", [{"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}])
async def test_without_a_key_no_other_site_changes_anything(
    redis: Redis, settings: Settings, headers: dict[str, str]
) -> None:
    async with client_of(redis, settings, **headers) as client:
        assert problem(await client.post("/v1/keys", json={"name": "x"})) == (403, "insufficient_permissions")
        own = {"origin": "http://127.0.0.1:8080", "sec-fetch-site": "same-origin"}
        assert (await client.post("/v1/keys", json={"name": "x"}, headers=own)).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
async def test_without_a_key_nobody_listens_elsewhere(redis: Redis, settings: Settings, host: str) -> None:
    elsewhere = msgspec.structs.replace(settings.service, host=host, port=0)
    with pytest.raises(ConfigError, match="batchmill keys create"):
        await serve(redis, msgspec.structs.replace(settings, service=elsewhere), print, asyncio.Event())


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True), ("LOCALHOST.", True), ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True),
        ("::ffff:127.0.0.1", True), ("0.0.0.0", False), ("::", False), ("::ffff:192.0.2.1", False),
        ("localhost.evil.example", False), ("", False), ("10.0.0.1", False),
    ],
)  # fmt: skip
def test_what_is_loopback(host: str, *, local: bool) -> None:
    assert origin.is_loopback(host) is local


@pytest.mark.parametrize("header", ["", "a b", "a/b", "user@host", "host:port", "[::1", "a,b", "ho\tst", "x:123456"])
def test_what_is_no_host(header: str) -> None:
    assert origin.host_in(header) == ""


# with keys


async def test_from_the_first_key_on_nobody_gets_in_without_one(redis: Redis, settings: Settings) -> None:
    async with client_of(redis, settings) as client:
        assert (await client.get("/v1/keys")).status_code == 200
        made = await make(redis, settings)
        deadline = time.monotonic() + 2
        await wait_until(lambda: is_status(client, 401))
        assert time.monotonic() < deadline
        assert problem(await client.get("/v1/keys")) == (401, "missing_api_key")
        assert (await client.get("/v1/keys", headers=bearer(made))).status_code == 200
        assert (await client.get("/v1/keys", headers={"x-api-key": made.text})).status_code == 200
        await api_keys.revoke(redis, settings.upstream_name, made.key.id, "me")
        await wait_until(lambda: is_status(client, 401, **bearer(made)))
        assert problem(await client.get("/v1/keys")) == (401, "missing_api_key")  # a house without keys stays shut


async def is_status(client: httpx.AsyncClient, status: int, **headers: str) -> bool:
    return (await client.get("/v1/keys", headers=headers)).status_code == status


async def test_a_wrong_key_is_told_nothing(redis: Redis, settings: Settings) -> None:
    made = await make(redis, settings)
    other = await api_keys.create(redis, "another upstream", Wanted(name="ci", project="web"), "me")
    gone = await make(redis, settings, "gone", lasts=1)
    await redis.execute_command("SET", "bm:test:later", 1, "EX", 60)
    async with client_of(redis, settings) as client:
        texts = [made.text[:-2] + "AA", "bm-000000000000-" + made.text[-43:], other.text, "sk-x", "", "ü"]
        named = [{b"authorization": b"Bearer " + text.encode()} for text in texts]
        replies = [await client.get("/v1/keys", headers=headers) for headers in named]
        assert {problem(reply) for reply in replies} == {(401, "invalid_api_key")}
        assert len({reply.json()["error"]["message"] for reply in replies}) == 1
        assert replies[0].headers["www-authenticate"] == "Bearer"
        await wait_until(lambda: is_status(client, 401, **bearer(gone)), patience=5)


async def test_a_revoked_key_opens_nothing_two_seconds_later(redis: Redis, settings: Settings) -> None:
    made, other = await make(redis, settings), await make(redis, settings, "other")
    async with client_of(redis, settings, **bearer(made)) as client:
        assert (await client.get("/v1/keys")).status_code == 200
        assert (await client.delete(f"/v1/keys/{made.key.id}", headers=bearer(other))).json()["deleted"] is True
        began = time.monotonic()
        await wait_until(lambda: is_status(client, 401))
        assert time.monotonic() - began <= FRESH + 0.4


async def test_scopes_are_rights_each_by_itself(redis: Redis, settings: Settings) -> None:
    made = await make(redis, settings, scopes=("submit", "read"))
    async with client_of(redis, settings, **bearer(made)) as client:
        reply = await client.get("/v1/keys")
    assert problem(reply) == (403, "insufficient_permissions")
    assert "'admin'" in reply.json()["error"]["message"]
    assert reply.headers["x-should-retry"] == "false"


async def test_a_key_is_slowed_down_alone_and_told_when(redis: Redis, settings: Settings) -> None:
    slow, fast = await make(redis, settings, requests_per_minute=2), await make(redis, settings, "fast")
    async with client_of(redis, settings) as client:
        replies = [await client.get("/v1/keys", headers=bearer(slow)) for _ in range(3)]
        assert [reply.status_code for reply in replies] == [200, 200, 429]
        assert [reply.headers["x-ratelimit-remaining-requests"] for reply in replies] == ["1", "0", "0"]
        assert replies[-1].headers["x-ratelimit-limit-requests"] == "2"
        assert 1 <= int(replies[-1].headers["retry-after"]) <= 30
        assert replies[-1].json()["error"]["type"] == "rate_limit_error"
        assert (await client.get("/v1/keys", headers=bearer(fast))).status_code == 200


async def test_when_a_key_was_used_last_is_kept_to_the_minute(redis: Redis, settings: Settings) -> None:
    made = await make(redis, settings)
    async with client_of(redis, settings, **bearer(made)) as client:
        (told,) = (await client.get("/v1/keys")).json()["data"]
    assert told["last_used_at"] % 60 == 0
    assert abs(time.time() - told["last_used_at"]) < 90


# keys over HTTP


async def test_a_project_s_admin_makes_sees_and_revokes_keys_of_its_own_alone(redis: Redis, settings: Settings) -> None:
    boss = await make(redis, settings, "boss", project=None)
    web, evals = await make(redis, settings, "web"), await make(redis, settings, "evals", project="evals")
    async with client_of(redis, settings, **bearer(web)) as client:
        made = await client.post("/v1/keys", json={"name": "new", "budget_usd": 2.5, "window": "month"})
        assert made.status_code == 200
        told = made.json()
        assert (told["project"], told["budget"]) == ("web", {"limit_usd": 2.5, "window": "month"})
        assert api_keys.id_in(told["key"]) == told["id"]
        listed = (await client.get("/v1/keys")).json()["data"]
        assert sorted(key["name"] for key in listed) == ["new", "web"]
        assert all("key" not in key and "digest" not in key for key in listed)
        for body in ({"project": "evals"}, {"all_projects": True}):
            assert (await client.post("/v1/keys", json={"name": "x"} | body)).status_code == 403
        for key_id in (evals.key.id, boss.key.id, "000000000000"):
            reply = await client.delete(f"/v1/keys/{key_id}")
            assert reply.status_code == 404
            assert reply.json()["error"]["message"] == f"No API key found with id '{key_id}'."
        assert (await client.delete(f"/v1/keys/{told['id']}")).status_code == 200
        listed = (await client.get("/v1/keys", headers=bearer(boss))).json()["data"]
        assert {key["name"]: key["state"] for key in listed} == {
            "boss": "active",
            "evals": "active",
            "new": "revoked",
            "web": "active",
        }


async def test_no_key_gives_more_than_it_has(redis: Redis, settings: Settings) -> None:
    admin = await make(redis, settings, "admin", scopes=("admin",), lasts=3600, requests_per_minute=60)
    poor = await make(redis, settings, "poor", budget_usd=Decimal(1))
    async with client_of(redis, settings) as client:
        more = await client.post("/v1/keys", json={"name": "more"}, headers=bearer(admin))
        assert more.status_code == 403
        asked = {"name": "like", "scopes": ["admin"], "expires_in": 10**7, "requests_per_minute": 10**6}
        told = (await client.post("/v1/keys", json=asked, headers=bearer(admin))).json()
        assert told["expires_at"] <= admin.key.expires_at
        assert told["requests_per_minute"] == 60
        assert (await client.post("/v1/keys", json={"name": "rich"}, headers=bearer(poor))).status_code == 403
        usual = await make(redis, settings, "usual", scopes=("admin",))
        asked = {"name": "fast", "scopes": ["admin"], "requests_per_minute": 10**6}
        told = (await client.post("/v1/keys", json=asked, headers=bearer(usual))).json()
        assert told["requests_per_minute"] == settings.service.requests_per_minute


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": "a b"}, None),
        ({"name": "x", "scopes": ["root"]}, "scopes[0]"),
        ({"name": "x", "window": "hour"}, "window"),
        ({"name": "x", "budget_usd": -1}, None),
        ({"name": "x", "secret": "mine"}, "secret"),
        ({"name": "x", "scopes": []}, None),
        ({"name": "x", "project": "a:b"}, None),
        ({"name": "x", "project": "a", "all_projects": True}, "all_projects"),
    ],
)
async def test_what_no_key_can_be_is_a_bad_request(redis: Redis, settings: Settings, body: Any, param: Any) -> None:
    async with client_of(redis, settings) as client:
        reply = await client.post("/v1/keys", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param
    assert not await api_keys.any_made(redis, settings.upstream_name)


# sessions of the dashboard


async def test_a_session_reads_and_changes_only_with_its_page_s_token(redis: Redis, settings: Settings) -> None:
    made = await make(redis, settings)
    token = await sessions.create(redis, made.key.id)
    async with client_of(redis, settings, cookie=f"batchmill_session={token}") as client:
        assert (await client.get("/v1/keys")).status_code == 200
        body, right = {"name": "x"}, {"x-csrf-token": sessions.csrf_of(token)}
        for headers in (
            {},
            {"x-csrf-token": "guess"},
            {"x-csrf-token": sessions.csrf_of("another")},
            right | {"sec-fetch-site": "same-site"},
            right | {"origin": "https://evil.example"},
            right | {"origin": "null"},
        ):
            assert (await client.post("/v1/keys", json=body, headers=headers)).status_code == 403
        assert (await client.post("/v1/keys", json=body, headers=right)).status_code == 200
        await api_keys.revoke(redis, settings.upstream_name, made.key.id, "me")
        await wait_until(lambda: is_status(client, 401))  # a session ends with its key


async def test_an_ended_session_opens_nothing(redis: Redis, settings: Settings) -> None:
    made = await make(redis, settings)
    token = await sessions.create(redis, made.key.id)
    await sessions.delete(redis, token)
    async with client_of(redis, settings, cookie=f"batchmill_session={token}") as client:
        assert problem(await client.get("/v1/keys")) == (401, "invalid_api_key")


# what an answer says, and what nobody says


async def test_answers_tell_browsers_to_be_careful(redis: Redis, settings: Settings) -> None:
    async with client_of(redis, settings) as client:
        for path in ("/v1/keys", "/nowhere"):
            headers = (await client.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert "frame-ancestors 'none'" in headers["content-security-policy"]
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cache-control"] == "no-store"
            assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("host", ["", "a b", "user@127.0.0.1"])
async def test_a_host_that_is_none_is_refused(redis: Redis, settings: Settings, host: str) -> None:
    async with client_of(redis, settings) as client:
        assert (await client.get("/v1/keys", headers={"host": host})).status_code == 400


async def test_no_log_ever_holds_a_key(
    redis: Redis, settings: Settings, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """With everything logged that anybody logs."""
    caplog.set_level(logging.DEBUG)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "httpcore", "redis"):
        caplog.set_level(1, logger=name)
    made = await make(redis, settings)
    token = await sessions.create(redis, made.key.id)
    bad = made.text[:-4] + "AAAA"
    async with serving(redis, settings) as client:
        for headers in (bearer(made), {"x-api-key": bad}, {"cookie": f"batchmill_session={token}"}):
            await client.get("/v1/keys", headers=headers)
            await client.post("/v1/keys", headers=headers, json={"name": made.text})
    secret = made.text.split("-", 2)[2]
    out, err = capfd.readouterr()
    ours = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("httpcore"))
    for said in (out, err, ours):
        assert secret[:20] not in said
        assert token not in said


# lines that wait


async def test_a_key_has_only_so_many_lines_waiting(redis: Redis, settings: Settings, tmp_path: Path) -> None:
    rehearsal = msgspec.structs.replace(settings, simulate=True)
    service = service_of(redis, rehearsal)
    mine = Identity(project="web", scopes=frozenset(Scope), key_id="0123456789ab", max_queued_lines=5)
    await check_queue(service, mine, 5)
    await service.producer.submit(lines(3), key="0123456789ab")
    await service.producer.submit(lines(4), key="another", anew=True)
    assert await queued_lines(redis, service.upstream, "0123456789ab") == 3
    await check_queue(service, mine, 2)
    with pytest.raises(ApiError, match="3 are, and these are 3") as refused:
        await check_queue(service, mine, 3)
    assert (refused.value.status, refused.value.code) == (429, "too_many_queued_lines")
    await check_queue(service, Identity(project=None, scopes=frozenset()), 10**6)
