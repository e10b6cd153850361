"""What a reference is, by its form alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freeroam.sources.references import DECODER_PROTOCOLS, MAX_REFERENCE_CHARS, classify
from freeroam.vocabulary.errors import InvalidInput
from freeroam.vocabulary.job import Policy


@pytest.mark.parametrize(
    ("stream_ref", "kind"),
    [
        ("https://example.org/live/stream.m3u8", "hls"),
        ("HTTPS://example.org/LIVE/STREAM.M3U8?token=a.b", "hls"),
        ("http://example.org/watch?list=x.m3u8", "http"),
        ("http://user:secret@example.org:8080/video.mjpg", "http"),
        ("https://example.org/clip.mp4", "http"),
        ("rtsp://user:p%40ss@camera.example.org:554/ch1?x=1", "rtsp"),
        ("RTSPS://camera.example.org/ch1", "rtsp"),
        ("redis://redis.example.org:6379/0/frames", "redis"),
        ("rediss://redis.example.org/0/frames:cam1", "redis"),
        ("frames", "redis"),
        ("frames:cam_1-a.b:2", "redis"),
        ("camera_1:frames", "redis"),
        ("1:2:3", "redis"),
        ("http", "redis"),
        ("file:clip.mp4", "file"),
        ("file:holiday in june.mp4", "file"),
        ("demo:", "demo"),
        ("demo:street", "demo"),
    ],
)
def test_the_form_tells_the_kind(stream_ref, kind):
    assert classify(stream_ref).kind == kind


@pytest.mark.parametrize("stream_ref", ["", " ", "\t\n"])
def test_an_empty_reference_is_named_as_such(stream_ref):
    with pytest.raises(InvalidInput, match="stream_ref cannot be empty"):
        classify(stream_ref)


@pytest.mark.parametrize(
    "stream_ref",
    [
        "rtmp://example.org/live/a",
        "srt://example.org:9000",
        "ftp://example.org/a.mp4",
        "gopher://example.org/1",
        "concat:a.ts",
        "concat:http://example.org/a.ts|file:/etc/passwd",
        "subfile,,start,0,end,9,,:/etc/passwd",
        "subfile:x",
        "pipe:0",
        "data:text",
        "data:text/plain;base64,AAAA",
        "tcp://127.0.0.1:80",
        "udp:x",
        "crypto:key",
        "crypto+http://example.org/a",
        "cache:frames",
        "async:frames",
        "tee:frames",
        "unix:frames",
        "ipfs:frames",
        "javascript:alert",
        "dict://127.0.0.1:6379/info",
        "anything://host/path",
        "http:frames",
        "https:/example.org/a",
        "http://",
        "http:///a.m3u8",
        "rtsp:frames",
        "redis:frames",
        "http://host:port/a",
        "http://[::1/a",
        "http://example.org\\@127.0.0.1/a.m3u8",
        "http://example.org/a b.m3u8",
        "http://example.org/a\r\nHost: x",
        "frames\x00",
        "frames/cam",
        "frames*",
        "frames{1}",
        "кадры",
        "/etc/passwd",
        "../clip.mp4",
        "freeroam:bus",
        "FreeRoam:bus",
        "x" * (MAX_REFERENCE_CHARS + 1),
    ],
)
def test_what_is_no_video_here_is_refused(stream_ref):
    with pytest.raises(InvalidInput):
        classify(stream_ref)


@pytest.mark.parametrize("protocol", sorted(DECODER_PROTOCOLS - {"file"}))
def test_a_decoders_protocol_before_a_colon_is_no_key(protocol):
    for word in (protocol, protocol.upper()):
        with pytest.raises(InvalidInput):
            classify(f"{word}:frames")


@pytest.mark.parametrize("scheme", ["camera", "webrtc", "push"])
def test_kinds_of_later_releases_are_named_unless_a_plugin_has_them(scheme):
    with pytest.raises(InvalidInput, match="does not have"):
        classify(f"{scheme}:front-door")

    assert classify(f"{scheme}:front-door", {scheme}).kind == scheme


def test_a_plugins_scheme_is_a_kind_of_its_own():
    assert classify("drone://fleet/7", {"drone"}).kind == "drone"
    with pytest.raises(InvalidInput):
        classify("drone://fleet/7")


@pytest.mark.parametrize(
    "stream_ref", ["gopher://me:hunter2@example.org/", "http://me:hunter2@[bad/", "rtmp://h/live?key=hunter2"]
)
def test_errors_never_repeat_a_credential(stream_ref):
    with pytest.raises(InvalidInput) as caught:
        classify(stream_ref)

    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in str(caught.value.detail)


@given(st.text(max_size=60))
def test_any_text_is_understood_or_refused(text):
    try:
        reference = classify(text)
    except InvalidInput:
        return
    assert reference.kind in {"hls", "http", "rtsp", "redis", "file", "demo"}


@pytest.mark.parametrize(
    ("stream_ref", "policy"),
    [
        ("file:clip.mp4", Policy.BLOCK),
        ("frames", Policy.BLOCK),
        ("redis://h/0/frames", Policy.BLOCK),
        ("https://h/a.m3u8", Policy.LATEST),
        ("rtsp://h/a", Policy.LATEST),
        ("demo:", Policy.LATEST),
    ],
)
def test_what_ends_waits_and_what_lives_drops(stream_ref, policy):
    assert classify(stream_ref).default_policy is policy


@pytest.mark.parametrize("stream_ref", ["http://example.org/\ud800", "file:\udfff.mp4", "rtsp://example.org/\udc41/1"])
def test_half_a_surrogate_pair_is_refused_before_anything_has_to_write_it(stream_ref):
    with pytest.raises(InvalidInput, match="surrogate"):
        classify(stream_ref)
