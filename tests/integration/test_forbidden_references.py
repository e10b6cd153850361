"""Canaries on loopback see no connection, whatever a reference, a redirect, a playlist or a name server says."""

import pytest

from freeroam.clock import SystemClock
from freeroam.vocabulary.errors import InvalidInput, SourceError
from tests.clips import hls_clip
from tests.origins import HOST, Canary, Origin, Reply, redirect
from tests.workshop import take, workshop

DISGUISES = {
    "plain": "http://127.0.0.1:{port}/x",
    "another loopback": "http://127.0.0.3:{port}/x",
    "name": "http://localhost:{port}/x",
    "name with a dot": "http://localhost.:{port}/x",
    "name in capitals": "http://LOCALHOST:{port}/x",
    "name below localhost": "http://a.localhost:{port}/x",
    "short": "http://127.1:{port}/x",
    "two parts": "http://127.0.1:{port}/x",
    "number": "http://2130706433:{port}/x",
    "hexadecimal": "http://0x7f000001:{port}/x",
    "hexadecimal parts": "http://0x7f.0x0.0x0.0x1:{port}/x",
    "octal": "http://0177.0.0.1:{port}/x",
    "octal number": "http://017700000001:{port}/x",
    "leading zeros": "http://127.000.000.001:{port}/x",
    "trailing dot": "http://127.0.0.1.:{port}/x",
    "overflow": "http://383.0.0.1:{port}/x",
    "unspecified": "http://0.0.0.0:{port}/x",
    "zero": "http://0:{port}/x",
    "full-width digits": "http://\uff11\uff12\uff17.0.0.1:{port}/x",
    "circled digits": "http://\u2460\u2461\u2466.0.0.\u2460:{port}/x",
    "ideographic dots": "http://127\u30020\u30020\u30021:{port}/x",
    "full-width name": "http://\uff4c\uff4f\uff43\uff41\uff4c\uff48\uff4f\uff53\uff54:{port}/x",
    "IPv6": "http://[::1]:{port}/x",
    "IPv6 in full": "http://[0000:0000:0000:0000:0000:0000:0000:0001]:{port}/x",
    "IPv6 unspecified": "http://[::]:{port}/x",
    "IPv6 zone": "http://[::1%25lo]:{port}/x",
    "mapped": "http://[::ffff:127.0.0.1]:{port}/x",
    "mapped in hex": "http://[::ffff:7f00:1]:{port}/x",
    "compatible": "http://[::127.0.0.1]:{port}/x",
    "translated": "http://[::ffff:0:127.0.0.1]:{port}/x",
    "NAT64": "http://[64:ff9b::7f00:1]:{port}/x",
    "local NAT64": "http://[64:ff9b:1::7f00:1]:{port}/x",
    "6to4": "http://[2002:7f00:1::]:{port}/x",
    "Teredo": "http://[2001:0:7f00:1::80ff:fffe]:{port}/x",
    "ISATAP": "http://[2606:4700::5efe:7f00:1]:{port}/x",
    "site-local": "http://[fec0::1]:{port}/x",
    "user": "http://example.org@127.0.0.1:{port}/x",
    "user and port": "http://example.org:80@127.0.0.1:{port}/x",
    "two users": "http://a@example.org@127.0.0.1:{port}/x",
    "encoded slash": "http://example.org%2f@127.0.0.1:{port}/x",
    "backslash": "http://127.0.0.1:{port}\\@example.org/x",
    "fragment": "http://127.0.0.1:{port}#@example.org/x",
    "question mark": "http://127.0.0.1:{port}?@example.org/x",
    "percent": "http://127.0.0.%31:{port}/x",
    "tab": "http://127.0.0.1\t:{port}/x",
    "line break": "http://127.0.0.1:{port}/x\r\nX: y",
    "scheme in capitals": "HTTP://127.0.0.1:{port}/x",
    "TLS": "https://127.0.0.1:{port}/x",
    "RTSP": "rtsp://127.0.0.1:{port}/x",
    "Redis": "redis://127.0.0.1:{port}/0/x",
    "RTMP": "rtmp://127.0.0.1:{port}/x",
    "gopher": "gopher://127.0.0.1:{port}/_x",
    "FTP": "ftp://127.0.0.1:{port}/x",
    "TCP": "tcp://127.0.0.1:{port}",
    "concat": "concat:http://127.0.0.1:{port}/x|http://127.0.0.1:{port}/y",
    "crypto": "crypto+http://127.0.0.1:{port}/x",
    "subfile": "subfile,,start,0,end,0,,:http://127.0.0.1:{port}/x",
    "data": "data:application/x-mpegurl,http://127.0.0.1:{port}/x",
    "private": "http://10.0.0.1:{port}/x",
    "private too": "http://192.168.0.1:{port}/x",
    "shared": "http://100.64.0.1:{port}/x",
    "link-local": "http://169.254.1.1:{port}/x",
    "metadata": "http://169.254.169.254/latest/meta-data/",
    "metadata of another cloud": "http://100.100.100.200/",
    "metadata by IPv6": "http://[fd00:ec2::254]/latest/",
    "multicast": "http://224.0.0.1:{port}/x",
    "broadcast": "http://255.255.255.255:{port}/x",
}


class HastyClock(SystemClock):
    """Does not wait between tries."""

    async def sleep(self, duration_s):
        await super().sleep(0)


REFUSED = {"forbidden", "bad_data", "not_found", "no_video"}
"""The last two where what looks like an address is a path on the server that said it."""


def playlist(*lines):
    return "\n".join(["#EXTM3U", "#EXT-X-TARGETDURATION:1", *lines, "#EXT-X-ENDLIST", ""]).encode()


def by_redirect(origin, bad):
    return origin.on("/a.m3u8", redirect(bad))


def by_second_redirect(origin, bad):
    origin.on("/b.m3u8", redirect(bad, 307))
    return origin.on("/a.m3u8", redirect("/b.m3u8", 301))


def by_rendition(origin, bad):
    return origin.on("/a.m3u8", f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{bad}\n".encode())


def by_segment(origin, bad):
    return origin.on("/a.m3u8", playlist("#EXTINF:1,", bad))


def by_redirected_segment(origin, bad):
    origin.on("/s.ts", redirect(bad))
    return origin.on("/a.m3u8", playlist("#EXTINF:1,", "s.ts"))


def by_key(origin, bad):
    origin.on("/s.ts", hls_clip(seconds=2).segments[0])
    return origin.on("/a.m3u8", playlist(f'#EXT-X-KEY:METHOD=AES-128,URI="{bad}"', "#EXTINF:1,", "s.ts"))


def by_redirected_key(origin, bad):
    origin.on("/k", redirect(bad))
    return by_key(origin, "k")


def by_map(origin, bad):
    origin.on("/s.m4s", hls_clip(seconds=2, form="fmp4").segments[0])
    return origin.on("/a.m3u8", playlist(f'#EXT-X-MAP:URI="{bad}"', "#EXTINF:1,", "s.m4s"))


def by_redirected_range(origin, bad):
    origin.on("/s.ts", redirect(bad, 308))
    return origin.on("/a.m3u8", playlist("#EXTINF:1,", "#EXT-X-BYTERANGE:100@0", "s.ts"))


WAYS = [
    by_redirect,
    by_second_redirect,
    by_rendition,
    by_segment,
    by_redirected_segment,
    by_key,
    by_redirected_key,
    by_map,
    by_redirected_range,
]


@pytest.mark.parametrize("disguise", DISGUISES)
async def test_a_canary_is_never_reached(disguise):
    async with workshop(decodes=False, clock=HastyClock()) as shop, Origin() as origin, Canary() as canary:
        bad = DISGUISES[disguise].replace("{port}", str(canary.port))
        for make in (shop.hls, shop.http):
            with pytest.raises(InvalidInput):
                make(bad)
            for way in WAYS:
                with pytest.raises(SourceError) as caught:
                    await take(make(way(origin, bad)))
                assert caught.value.code in REFUSED, way.__name__

        assert canary.calls == 0


class ChangingResolver:
    """Answers differently each time, as a hostile name server with a lifetime of zero does."""

    def __init__(self, *answers):
        self.answers = list(answers)

    async def resolve(self, host):
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.mark.parametrize(
    "answers",
    [
        [["127.0.0.1"]],
        [["::1"]],
        [[HOST, "127.0.0.1"]],
        [["127.0.0.1", HOST]],
        [[HOST, "::1"]],
        [[HOST, "::ffff:127.0.0.1"]],
        [[HOST, "169.254.169.254"]],
        [[HOST], ["127.0.0.1"]],
        [[HOST], ["::1"]],
        [[HOST], [HOST, "127.0.0.1"]],
        [[HOST], ["64:ff9b::7f00:1"]],
    ],
    ids=str,
)
@pytest.mark.parametrize("way", [by_segment, by_key, by_map, by_rendition])
async def test_a_name_that_changes_its_answer_gains_nothing(answers, way):
    async with (
        Canary() as canary,
        Origin(port=canary.port) as origin,
        workshop(resolver=ChangingResolver(*answers), decodes=False) as shop,
    ):
        # Every answer closes its connection, so that each fetch asks the name server anew.
        base = f"http://rebind.example.org:{canary.port}"
        way(origin, f"{base}/secret")
        reply = origin._routes["/a.m3u8"]
        origin.on("/a.m3u8", Reply(reply.body, headers={"Connection": "close"}))
        with pytest.raises(SourceError) as caught:
            await take(shop.hls(f"{base}/a.m3u8"))

    assert caught.value.code == "forbidden"
    assert canary.calls == 0
    assert len(origin.requests) == (1 if answers[0] == [HOST] else 0)


async def test_the_name_of_a_users_own_camera_opens_and_still_not_everything():
    answers = ChangingResolver([HOST], [HOST], ["169.254.169.254"])
    async with (
        Canary() as canary,
        Origin(port=canary.port) as origin,
        workshop(allow=("cam1.local",), resolver=answers, decodes=False) as shop,
    ):
        origin.on("/a", Reply(b"ok", headers={"Connection": "close"}))
        session = shop.fetcher.session(f"http://cam1.local:{canary.port}/a")
        assert (await session.read(session.home.url, 100, 5)).data == b"ok"
        assert (await session.read(session.home.url, 100, 5)).data == b"ok"
        with pytest.raises(SourceError) as caught:
            await session.read(session.home.url, 100, 5)

    assert caught.value.code == "forbidden"
    assert origin.requests[0].headers["host"] == f"cam1.local:{canary.port}"


async def test_no_proxy_of_the_environment_is_used(monkeypatch):
    async with workshop(decodes=False) as shop, Origin() as origin, Canary() as canary:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{canary.port}")
        session = shop.fetcher.session(origin.on("/a", b"ok"))
        assert (await session.read(session.home.url, 100, 5)).data == b"ok"

    assert canary.calls == 0
