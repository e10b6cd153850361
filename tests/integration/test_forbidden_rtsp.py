"""RTSP references and answers that lead where nobody may go: the canaries on loopback see no connection."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from freeroam.clock import SystemClock
from freeroam.security.dialing import Dialer
from freeroam.security.url_policy import UrlPolicy
from freeroam.sources.decoding.pool import DecoderPool
from freeroam.sources.decoding.values import DecoderConfig
from freeroam.sources.reading import Reading
from freeroam.sources.rtsp import RtspSources
from freeroam.sources.source import SourceRequest
from freeroam.vocabulary.errors import ForbiddenReference, InvalidInput, SourceError, SourceErrorCode
from freeroam.vocabulary.frame import FrameWish
from tests.origins import HOST, Canary
from tests.servers_rtsp import SDP, ScriptedRtsp, camera, response

CLOCK = SystemClock()


class Names:
    """A resolver whose answers change each time it is asked."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)

    async def resolve(self, host: str) -> list[str]:
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


@pytest.fixture
async def pool():
    pool = DecoderPool(DecoderConfig(processes=1), CLOCK)
    await pool.start()
    yield pool
    await pool.stop()


@pytest.fixture
async def canary():
    async with Canary() as canary:
        yield canary


def sources(pool, resolver=None):
    """Sources that may open the scripted server's address and no other."""
    return RtspSources(Dialer(UrlPolicy((HOST,)), resolver), pool, CLOCK, open_timeout_s=5.0)


async def outcome(make, url):
    """What the reference ends with."""
    try:
        source = make(SourceRequest(url, FrameWish(1.0, 64, 64)))
        async with asyncio.timeout(20.0), aclosing(source.frames()) as stream:
            await anext(stream)
    except SourceError as error:
        return error.source_code
    except ForbiddenReference:
        return SourceErrorCode.FORBIDDEN
    except InvalidInput:
        return "invalid"
    return "opened"


HOSTS = [
    "127.0.0.1",
    "localhost",
    "LOCALHOST.",
    "cam.localhost",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "0.0.0.0",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[fe80::1%25lo]",
    "169.254.169.254",
    "10.0.0.1",
    "224.0.0.1",
    "①②⑦.⓪.⓪.①",
]


@pytest.mark.parametrize("host", HOSTS)
async def test_a_forbidden_host_is_never_dialled(pool, canary, host):
    assert await outcome(sources(pool), f"rtsp://{host}:{canary.port}/cam") in (SourceErrorCode.FORBIDDEN, "invalid")

    assert canary.calls == 0


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("step", ["OPTIONS", "DESCRIBE"])
async def test_a_redirect_to_a_forbidden_host_is_never_followed(pool, canary, host, step):
    def answer(method, headers):
        if method == step:
            return response("302 Found", headers, Location=f"rtsp://{host}:{canary.port}/cam")
        return camera(method, headers)

    async with ScriptedRtsp(answer, HOST) as server:
        code = await outcome(sources(pool), server.url())

    assert code in (SourceErrorCode.FORBIDDEN, SourceErrorCode.SERVER)
    assert canary.calls == 0


@pytest.mark.parametrize("step", ["OPTIONS", "DESCRIBE", "SETUP", "PLAY"])
@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "305 Proxy", "399 Odd"])
async def test_whatever_redirects_at_whatever_step_is_checked(pool, canary, step, status):
    def answer(method, headers):
        if method == step:
            return response(status, headers, Location=f"rtsp://127.0.0.1:{canary.port}/cam")
        return camera(method, headers)

    async with ScriptedRtsp(answer, HOST) as server:
        assert await outcome(sources(pool), server.url()) is SourceErrorCode.FORBIDDEN

    assert canary.calls == 0


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{port}/",
        "file:///etc/passwd",
        "tcp://127.0.0.1:{port}",
        "gopher://127.0.0.1:{port}/_x",
        "",
        "/",
    ],
)
async def test_a_redirect_to_another_scheme_or_to_nowhere_goes_nowhere(pool, canary, location):
    def answer(method, headers):
        return response("302 Found", headers, Location=location.format(port=canary.port))

    async with ScriptedRtsp(answer, HOST) as server:
        code = await outcome(sources(pool), server.url())

    assert code in (SourceErrorCode.FORBIDDEN, SourceErrorCode.SERVER)
    assert canary.calls == 0


async def test_a_redirect_to_an_allowed_server_is_followed_without_the_login(pool):
    seen = []

    def final(method, headers):
        seen.append(headers)
        return response("404 Not Found", headers)

    async with ScriptedRtsp(final, HOST) as there:
        moved = lambda method, headers: response("302 Found", headers, Location=there.url("moved"))  # noqa: E731
        async with ScriptedRtsp(moved, HOST) as here:
            url = here.url().replace("rtsp://", "rtsp://me:hunter2@")
            assert await outcome(sources(pool), url) is SourceErrorCode.NOT_FOUND

    assert there.requests[0].endswith("/moved RTSP/1.0")
    assert all("authorization" not in headers for headers in seen)


async def test_redirects_in_a_circle_end(pool):
    holder = []
    moved = lambda method, headers: response("302 Found", headers, Location=holder[0].url())  # noqa: E731
    async with ScriptedRtsp(moved, HOST) as server:
        holder.append(server)
        assert await outcome(sources(pool), server.url()) is SourceErrorCode.SERVER
        assert server.connections <= 6


async def test_a_name_whose_answer_changes_is_checked_each_time_it_is_dialled(pool, canary):
    def answer(method, headers):
        return response("302 Found", headers, Location=f"rtsp://camera.example.org:{canary.port}/again")

    async with ScriptedRtsp(answer, HOST) as server:
        rebinding = Names([HOST], ["127.0.0.1"])
        policy = UrlPolicy((HOST,))
        make = RtspSources(Dialer(policy, rebinding), pool, CLOCK, open_timeout_s=5.0)
        code = await outcome(make, f"rtsp://camera.example.org:{server.port}/cam")

    assert code is SourceErrorCode.FORBIDDEN
    assert canary.calls == 0


@pytest.mark.parametrize("answers", [["127.0.0.1"], ["::1"], [HOST, "127.0.0.1"], ["::ffff:127.0.0.1"]])
async def test_a_name_that_leads_to_loopback_is_never_dialled(pool, canary, answers):
    make = sources(pool, Names(answers))

    assert await outcome(make, f"rtsp://camera.example.org:{canary.port}/cam") is SourceErrorCode.FORBIDDEN
    assert canary.calls == 0


@pytest.mark.parametrize("place", ["content-base", "control", "session-control", "connection", "rtp-info"])
async def test_addresses_inside_answers_are_never_dialled(pool, canary, place):
    evil = f"rtsp://127.0.0.1:{canary.port}/evil"

    def answer(method, headers):
        if method == "DESCRIBE":
            sdp = SDP.replace(b"a=control:track1", b"a=control:" + evil.encode()) if place == "control" else SDP
            if place == "session-control":
                sdp = sdp.replace(b"t=0 0\r\n", b"t=0 0\r\na=control:" + evil.encode() + b"\r\n")
            if place == "connection":
                sdp = sdp.replace(b"t=0 0\r\n", b"c=IN IP4 127.0.0.1\r\nt=0 0\r\n").replace(
                    b"video 0", f"video {canary.port}".encode()
                )
            more = {"Content_Base": evil} if place == "content-base" else {}
            return response("200 OK", headers, sdp, **more)
        if method == "PLAY" and place == "rtp-info":
            return response("200 OK", headers, RTP_Info=f"url={evil}")
        return camera(method, headers)

    async with ScriptedRtsp(answer, HOST) as server:
        source = sources(pool)(SourceRequest(server.url(), FrameWish(1.0, 64, 64)))
        reading = Reading(source, CLOCK)
        with pytest.raises(SourceError):
            await reading.next((1.5, SourceErrorCode.TIMEOUT))
        await reading.aclose()

    assert any(line.startswith("PLAY") for line in server.requests)
    assert server.connections == 1
    assert canary.calls == 0
