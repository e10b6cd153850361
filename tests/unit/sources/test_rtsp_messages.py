"""RTSP as text."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freeroam.sources.rtsp_messages import (
    MAX_JUNK_BYTES,
    BadMessage,
    Login,
    Message,
    Packet,
    Parser,
    channels_of,
    clean_uri,
    describe,
    says_bye,
    session_of,
)

OK = b"RTSP/1.0 200 OK\r\nCSeq: 3\r\nSession: 12\r\nWWW-Authenticate: a\r\nwww-authenticate: b\r\n\r\n"
WITH_BODY = b"RTSP/1.0 404 Not Found\r\nContent-Length: 5\r\nCSeq: 4\r\n\r\n$\x00\x00\x01x"
PACKET = b"$\x01\x00\x03abc"
REQUEST = b"ANNOUNCE rtsp://h/a RTSP/1.0\r\nCSeq: 1\r\n\r\n"


def parse(data: bytes, cuts=()) -> list[Message | Packet]:
    parser = Parser()
    edges = [0, *sorted(cuts), len(data)]
    return [item for start, end in itertools.pairwise(edges) for item in parser.feed(data[start:end])]


@given(st.lists(st.integers(0, 280), max_size=20))
def test_messages_and_packets_are_the_same_wherever_the_bytes_are_cut(cuts):
    data = OK + PACKET + PACKET + REQUEST + WITH_BODY + PACKET

    items = parse(data, [min(cut, len(data)) for cut in cuts])

    assert [item.status if isinstance(item, Message) else item.channel for item in items] == [200, 1, 1, 0, 404, 1]
    assert items[0].headers["www-authenticate"] == ["a", "b"]
    assert items[1] == Packet(1, b"\x00\x03abc")
    assert items[3].start.startswith("ANNOUNCE")
    assert items[4].body == b"$\x00\x00\x01x"


def test_junk_between_messages_is_skipped_up_to_a_limit():
    assert len(parse(OK + b"\r\n\x00\x17junk" + OK)) == 2
    with pytest.raises(BadMessage):
        parse(OK + b"\x00" * (MAX_JUNK_BYTES + 1))


@pytest.mark.parametrize(
    "data",
    [b"HTTP/1.1 200 OK\r\n\r\n", b"SSH-2.0-x\r\n", b"\x16\x03\x01", b"RTSP/1.0 xyz\r\n\r\n", b"RTSP/1.0\r\n\r\n"],
)
def test_what_is_not_rtsp_is_told_at_once(data):
    with pytest.raises(BadMessage):
        parse(data + b" " * 30)


@pytest.mark.parametrize("length", ["-1", "1e3", "99999999999", "٣"])
def test_a_body_without_bounds_is_refused(length):
    with pytest.raises(BadMessage):
        parse(f"RTSP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n".encode())


@given(st.binary(max_size=300))
def test_any_bytes_are_parsed_or_refused(data):
    try:
        parse(data)
        parse(OK + data)
    except BadMessage:
        pass


MUFASA = 'realm="http-auth@example.org", qop="auth, auth-int", nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"'


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_digest_answers_are_those_of_rfc_7616(algorithm, response):
    login = Login("Mufasa", "Circle of Life", lambda: "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ")

    assert login.take_challenge([f'Digest {MUFASA}, algorithm={algorithm}, opaque="FQhe"'])
    answer = login.authorization("GET", "/dir/index.html")

    assert f'response="{response}"' in answer
    assert "qop=auth, nc=00000001" in answer
    assert 'opaque="FQhe"' in answer
    assert "nc=00000002" in login.authorization("GET", "/dir/index.html")


def test_the_old_digest_of_most_cameras_has_no_qop():
    login = Login("Mufasa", "Circle Of Life")
    login.take_challenge(['Digest realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093"'])

    answer = login.authorization("GET", "/dir/index.html")

    assert 'response="670fd8c2df070c60b045671b8b24ff02"' in answer
    assert "qop" not in answer


@pytest.mark.parametrize(
    ("values", "way"),
    [
        (['Basic realm="a"'], "Basic"),
        (['Basic realm="a"', 'Digest realm="a", nonce="b"'], "Digest"),
        (['Digest realm="a, Basic b", nonce="b", Basic realm="a"'], "Digest"),
        (['Digest realm="a", nonce="b", algorithm=UNKNOWN', 'Basic realm="a"'], "Basic"),
        (['Digest realm="a", nonce="m"', 'Digest realm="a", nonce="s", algorithm=SHA-256'], "Digest"),
    ],
)
def test_the_strongest_known_way_is_taken(values, way):
    login = Login("me", "p")

    assert login.take_challenge(values)

    answer = login.authorization("OPTIONS", "rtsp://h/a")
    assert answer.startswith(way)
    if len(values) == 2 and "SHA-256" in values[1]:
        assert "algorithm=SHA-256" in answer


def test_nobody_is_told_a_password_before_asking_or_by_an_unknown_way():
    login = Login("me", "p")
    assert login.authorization("OPTIONS", "rtsp://h/a") is None

    assert not login.take_challenge(["Bearer x", "Negotiate"])

    assert login.authorization("OPTIONS", "rtsp://h/a") is None


SDP = """v=0
o=- 1 1 IN IP4 10.0.0.5
s=x
c=IN IP4 10.0.0.5
a=control:*
a=range:npt={range}
m=audio 4000 RTP/AVP 8
a=control:track1
m=video 5000 RTP/AVP 96
c=IN IP4 10.0.0.5
a=rtpmap:96 H265/90000
a=fmtp:96 sprop-vps=QAEM
a=control:{control}
a=x-evil:rtsp://127.0.0.1/
"""


@pytest.mark.parametrize(
    ("base", "control", "uri"),
    [
        ("rtsp://h/cam/", "track2", "rtsp://h/cam/track2"),
        ("rtsp://h/cam", "track2", "rtsp://h/cam/track2"),
        ("rtsp://h/cam?ch=1", "track2", "rtsp://h/cam?ch=1/track2"),
        ("rtsp://h/cam", "rtsp://other/cam/x", "rtsp://other/cam/x"),
        ("rtsp://h/cam", "*", "rtsp://h/cam"),
        ("rtsp://h/cam", "a b\tc", "rtsp://h/cam/a%20b%09c"),
    ],
)
def test_the_video_and_its_address_are_found(base, control, uri):
    description = describe(SDP.format(range="now-", control=control).encode(), base)

    assert description.setup_uri == uri
    assert description.play_uri == base
    assert description.duration_s is None
    assert not description.is_encrypted


def test_the_decoder_is_told_of_the_video_only_and_of_no_address():
    text = describe(SDP.format(range="0-12.5", control="x").encode(), "rtsp://h/a").text.decode()

    assert "m=video 0 RTP/AVP 96" in text
    assert "a=rtpmap:96 H265/90000" in text
    assert "sprop-vps" in text
    assert "10.0.0.5" not in text
    assert "127.0.0.1" not in text
    assert "audio" not in text


@pytest.mark.parametrize(("text", "duration_s"), [("0-12.5", 12.5), ("0.000-9", 9.0), ("now-", None), ("0-", None)])
def test_a_recording_says_how_long_it_is(text, duration_s):
    assert describe(SDP.format(range=text, control="x").encode(), "rtsp://h/a").duration_s == duration_s


@given(st.binary(max_size=400))
def test_any_description_is_read(body):
    describe(body, "rtsp://h/a")
    describe(b"m=video 0 RTP/AVP 96\r\n" + body, "rtsp://h/a")


def test_a_farewell_is_found_behind_a_report():
    report = b"\x80\xc8\x00\x06" + bytes(24)
    bye = b"\x81\xcb\x00\x01" + bytes(4)

    assert says_bye(report + bye)
    assert says_bye(bye)
    assert not says_bye(report)
    assert not says_bye(b"\x80\xc8\xff")


def test_headers_are_read():
    assert channels_of("RTP/AVP/TCP;unicast;interleaved=4-5;ssrc=1") == (4, 5)
    assert channels_of("RTP/AVP/TCP;interleaved=2") == (2, 3)
    assert channels_of("RTP/AVP;unicast;client_port=1-2") is None
    assert session_of("abc;timeout=30") == ("abc", 30.0)
    assert session_of("abc") == ("abc", 60.0)
    assert session_of("abc;timeout=0") == ("abc", 60.0)
    assert clean_uri("rtsp://h/ä b\r\nX: 1") == "rtsp://h/%C3%A4%20b%0D%0AX:%201"
