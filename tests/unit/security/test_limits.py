"""Token buckets let a minute's worth through, fill evenly, and never grow without bound."""

from __future__ import annotations

from freeroam.security.limits import RateLimiter
from freeroam.testing import FakeClock


def test_a_client_may_ask_so_often_and_then_waits_for_the_next_token() -> None:
    # Given 60 requests a minute
    clock = FakeClock()
    limiter = RateLimiter(clock)

    # When 60 come at once, then all pass and the next does not
    assert all(limiter.take("a", 60).is_allowed for _ in range(60))
    refused = limiter.take("a", 60)
    assert not refused.is_allowed
    assert refused.remaining == 0
    assert 0.99 <= refused.retry_after_s <= 1.0

    # And another client is not held back
    assert limiter.take("b", 60).is_allowed

    # When a second passes, then one more does
    clock.move(1.0)
    assert limiter.take("a", 60).is_allowed
    assert not limiter.take("a", 60).is_allowed


def test_a_bucket_is_never_fuller_than_a_minute() -> None:
    # Given a client that rested for an hour
    clock = FakeClock()
    limiter = RateLimiter(clock)
    limiter.take("a", 10)
    clock.move(3600)

    # When it asks, then it has one minute's worth
    assert sum(limiter.take("a", 10).is_allowed for _ in range(50)) == 10


def test_endpoints_have_buckets_of_their_own() -> None:
    # Given a client whose bucket of one endpoint is empty
    limiter = RateLimiter(FakeClock())
    limiter.take("a", 1, "POST /x")
    assert not limiter.take("a", 1, "POST /x").is_allowed

    # Then others are not
    assert limiter.take("a", 1, "POST /y").is_allowed
    assert limiter.take("a", 1).is_allowed


def test_the_table_stays_bounded() -> None:
    # Given many clients, then the table holds only so many
    limiter = RateLimiter(FakeClock(), max_clients=100)
    for number in range(1000):
        limiter.take(f"client {number}", 10)
    assert len(limiter) == 100


def test_headers_are_whole_numbers() -> None:
    # Given a refusal, then its headers can be read by every client
    limiter = RateLimiter(FakeClock())
    limiter.take("a", 1)
    headers = dict(limiter.take("a", 1).headers())
    assert headers[b"x-ratelimit-limit"] == b"1"
    assert headers[b"x-ratelimit-remaining"] == b"0"
    assert int(headers[b"retry-after"]) == 60
    assert int(headers[b"x-ratelimit-reset"]) == 60
