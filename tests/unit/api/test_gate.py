"""Who gets in: keys and rights, this machine without keys, foreign web pages, and how often."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from freeroam.api.gate import right_needed
from freeroam.api.parts import Parts
from freeroam.security.keys import Key, Right, digest_of
from freeroam.security.limits import RateConfig
from freeroam.testing import FakeClock
from freeroam.vocabulary.inference import Priority

TEXT = "correct-horse-battery-staple"
Connect = Callable[..., httpx.AsyncClient]


def key(name: str = "robot", text: str = TEXT, **more: Any) -> Key:
    return Key(name, digest_of(text), **more)


async def test_without_keys_this_machine_is_served(connect: Connect) -> None:
    # Given no keys, when this machine asks, then it is answered
    answer = await connect().get("/api/v1/capacity")
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("peer", "headers"),
    [
        ("192.168.1.7", {}),
        ("2001:db8::1", {}),
        ("127.0.0.1", {"x-forwarded-for": "127.0.0.1"}),
        ("127.0.0.1", {"forwarded": "for=127.0.0.1"}),
        ("127.0.0.1", {"host": "evil.example"}),
        ("127.0.0.1", {"host": "127.0.0.1.evil.example"}),
    ],
)
async def test_without_keys_nobody_else_is(connect: Connect, peer: str, headers: dict[str, str]) -> None:
    # Given no keys, when somebody else asks
    answer = await connect(peer=peer).get("/api/v1/capacity", headers=headers)

    # Then the refusal names the settings
    assert answer.status_code == 401
    assert "API_KEY" in answer.json()["error"]
    assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_the_refusal_says_how_to_send_a_key(connect: Connect) -> None:
    # Given keys, when none is sent, then what the answer says is not taken for a secret and blotted out
    answer = await connect(keys=(key(),)).get("/api/v1/capacity")
    assert "Bearer token" in answer.json()["error"]
    assert "***" not in answer.json()["error"]


async def test_a_trusted_proxy_counts_as_its_origin(connect: Connect) -> None:
    # Given a declared proxy
    client = connect(trusted_proxies=(ipaddress.ip_network("127.0.0.1/32"),))

    # When it forwards for this machine, then it is served; for another, not
    assert (await client.get("/api/v1/capacity", headers={"x-forwarded-for": "127.0.0.1"})).status_code == 200
    assert (await client.get("/api/v1/capacity", headers={"x-forwarded-for": "8.8.8.8"})).status_code == 401


async def test_anonymous_callers_may_be_allowed(connect: Connect) -> None:
    # Given ALLOW_ANONYMOUS, when somebody elsewhere asks, then the answer comes
    answer = await connect(peer="192.168.1.7", allow_anonymous=True).get("/api/v1/capacity", headers={"host": "box"})
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/health", "/health/ready", "/health/live", "/docs", "/redoc", "/openapi.json"])
async def test_health_and_docs_are_open_to_all(connect: Connect, path: str) -> None:
    # Given keys, when a stranger asks for what is open, then it comes
    answer = await connect(keys=(key(),), peer="192.168.1.7").get(path)
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{"authorization": f"Bearer {TEXT}"}, {"authorization": f"bearer {TEXT}"}, {"x-api-key": TEXT}],
)
async def test_a_key_opens_in_each_way_it_may_be_sent(connect: Connect, headers: dict[str, str]) -> None:
    # Given a key, when it is sent, then the door opens, also from elsewhere and under any name
    answer = await connect(keys=(key(),), peer="192.168.1.7").get("/api/v1/capacity", headers={**headers, "host": "x"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TEXT}"}, {"x-api-key": " "}]
)
async def test_with_keys_even_this_machine_needs_one(connect: Connect, headers: dict[str, str]) -> None:
    # Given keys, when none or a wrong one is sent, then the door stays shut, and the key is not repeated
    answer = await connect(keys=(key(),)).get("/api/v1/capacity", headers=headers)
    assert answer.status_code == 401
    assert TEXT not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "right"),
    [
        ("GET", "/api/v1/inference/jobs", Right.READ),
        ("GET", "/metrics", Right.READ),
        ("POST", "/api/v1/inference/start", Right.RUN),
        ("DELETE", "/api/v1/inference/cancel/a", Right.RUN),
        ("PATCH", "/api/v1/inference/jobs/a", Right.RUN),
        ("POST", "/api/v1/prompt/update", Right.RUN),
        ("DELETE", "/api/v1/inference/jobs/a", Right.ADMIN),
        ("POST", "/api/v1/anything/new", Right.ADMIN),
    ],
)
async def test_each_deed_needs_its_right(connect: Connect, method: str, path: str, right: Right) -> None:
    # Given what is needed
    assert right_needed(method, path) is right

    # When a key has every right but that one and admin
    others = frozenset(Right) - {right, Right.ADMIN}
    client = connect(keys=(key(rights=others),))
    answer = await client.request(method, path, headers={"x-api-key": TEXT})

    # Then it is refused, by name
    assert answer.status_code == 403
    assert right.value in answer.json()["error"]

    # And with the right it passes the door
    answer = await connect(keys=(key(rights=frozenset({right})),)).request(method, path, headers={"x-api-key": TEXT})
    assert answer.status_code not in {401, 403}


@pytest.mark.parametrize(
    "headers",
    [{"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://["}, {"sec-fetch-site": "cross-site"}],
)
async def test_a_foreign_page_cannot_act_through_a_browser_on_this_machine(
    connect: Connect, parts: Parts, headers: dict[str, str]
) -> None:
    # Given no keys, when a browser sends a job for a page of another origin
    wish = {"stream_ref": "demo:", "prompt": "q"}
    answer = await connect().post("/api/v1/inference/start", json=wish, headers=headers)

    # Then it is refused and nothing was started
    assert answer.status_code == 403
    assert parts.desk.started == []  # type: ignore[attr-defined]

    # And a page of an origin that is allowed, or of our own, may
    for origin in ("https://app.example", "http://localhost"):
        client = connect(cors_origins=("https://app.example",))
        answer = await client.post("/api/v1/inference/start", json=wish, headers={"origin": origin})
        assert answer.status_code == 202


async def test_a_key_lowers_priorities_and_owns_its_jobs_and_has_its_own_limit(connect: Connect, parts: Parts) -> None:
    # Given a key that may run one job at normal priority
    client = connect(keys=(key(highest_priority=Priority.NORMAL, max_streams=1),))
    wish = {"stream_ref": "demo:", "prompt": "q", "priority": "HIGH"}

    # When it starts a job of high priority
    answer = await client.post("/api/v1/inference/start", json=wish, headers={"x-api-key": TEXT})

    # Then the job is of normal priority, belongs to it and counts against its limit
    assert answer.status_code == 202
    ((started, owner, limit),) = parts.desk.started  # type: ignore[attr-defined]
    assert (started.priority, owner, limit) == ("NORMAL", "robot", 1)


async def test_who_asks_too_often_is_told_when_to_come_back(connect: Connect, clock: FakeClock) -> None:
    # Given 3 requests a minute
    client = connect(rates=RateConfig(per_minute=3))

    # When a fourth comes
    answers = [await client.get("/api/v1/capacity") for _ in range(4)]

    # Then it is refused with the time to wait, and answers before it counted down
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["2", "1", "0", "0"]
    assert answers[3].headers["retry-after"] == "20"
    assert answers[3].json()["detail"] == {"code": "rate_limited", "retry_after_seconds": 20.0}

    # And the door of OpenAI says it in OpenAI's words
    told = (await client.get("/v1/models")).json()["error"]
    assert (told["type"], told["code"]) == ("rate_limit_error", "rate_limit_exceeded")

    # And health is never limited
    assert (await client.get("/health/live")).status_code == 200

    # And after that time the next one passes
    clock.move(20.0)
    assert (await client.get("/api/v1/capacity")).status_code == 200


async def test_an_endpoint_may_have_a_limit_of_its_own(connect: Connect) -> None:
    # Given a limit for one route, by its template
    client = connect(rates=RateConfig(1000, {"GET /api/v1/inference/status/{job_id}": 1}))

    # When it is asked twice, under two names, then the second is refused, and other routes are not
    assert (await client.get("/api/v1/inference/status/a")).status_code == 404
    assert (await client.get("/api/v1/inference/status/b")).status_code == 429
    assert (await client.get("/api/v1/capacity")).status_code == 200


async def test_a_head_counts_as_the_get_that_it_is(connect: Connect) -> None:
    # Given a limit for a GET, when its head is asked for, then it takes from the same bucket
    client = connect(rates=RateConfig(1000, {"GET /api/v1/capacity": 1}))
    assert (await client.head("/api/v1/capacity")).status_code == 200
    assert (await client.head("/api/v1/capacity")).status_code == 429
    assert (await client.get("/api/v1/capacity")).status_code == 429


async def test_guessing_keys_is_limited_too(connect: Connect) -> None:
    # Given a limit, when wrong keys are tried one after the other, then guessing ends
    client = connect(keys=(key(),), rates=RateConfig(per_minute=5))
    statuses = [
        (await client.get("/api/v1/capacity", headers={"x-api-key": f"guess {number}"})).status_code
        for number in range(7)
    ]
    assert statuses == [401] * 5 + [429] * 2


async def test_metrics_need_a_key_unless_public(connect: Connect) -> None:
    # Given keys, when a stranger asks for metrics, then only public ones come
    assert (await connect(keys=(key(),)).get("/metrics")).status_code == 401
    assert (await connect(keys=(key(),), metrics_public=True).get("/metrics")).status_code == 200
    assert (await connect(enable_metrics=False).get("/metrics")).status_code == 404


async def test_a_preflight_of_an_allowed_page_needs_no_key(connect: Connect) -> None:
    # Given keys and an allowed origin, when a browser asks before it calls, then it is told yes
    client = connect(keys=(key(),), cors_origins=("https://app.example",))
    answer = await client.options(
        "/api/v1/inference/start",
        headers={"origin": "https://app.example", "access-control-request-method": "POST"},
    )
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://app.example"

    # And a refusal can be read by the page
    refusal = await client.get("/api/v1/capacity", headers={"origin": "https://app.example"})
    assert refusal.status_code == 401
    assert refusal.headers["access-control-allow-origin"] == "https://app.example"
