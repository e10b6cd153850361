"""The table from kind to source."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from freeroam.sources import opening
from freeroam.sources.opening import BUILT_IN_KINDS, Opener, load_plugins
from freeroam.sources.source import SourceRequest
from freeroam.testing import FakeClock
from freeroam.vocabulary.errors import ForbiddenReference, InvalidInput
from freeroam.vocabulary.frame import FrameWish
from freeroam.vocabulary.job import SourceOptions
from tests.unit.sources.scripted import Script


class Policy:
    def check_text(self, url):
        if "10.0.0.1" in url:
            raise ForbiddenReference("this address may not be opened")


def a_script():
    return Script(FakeClock(), [[]])


def test_each_kind_goes_to_its_factory():
    hls, redis = a_script(), a_script()
    opener = Opener({"hls": hls.open, "redis": redis.open})

    opener.open(SourceRequest("https://example.org/a.m3u8", FrameWish(2.0)))
    opener.open(SourceRequest("frames", FrameWish(2.0)))

    assert [request.stream_ref for request in hls.requests] == ["https://example.org/a.m3u8"]
    assert [request.stream_ref for request in redis.requests] == ["frames"]


def test_a_kind_without_factory_is_refused():
    with pytest.raises(InvalidInput, match="no source for rtsp"):
        Opener({}).classify("rtsp://example.org/a")


def test_the_policy_is_asked_before_the_factory():
    script = a_script()
    opener = Opener({"hls": script.open, "redis": script.open}, Policy())

    for stream_ref in ("http://10.0.0.1/a.m3u8", "redis://10.0.0.1/0/frames"):
        with pytest.raises(ForbiddenReference):
            opener.classify(stream_ref)

    assert script.requests == []


def test_a_factorys_refusal_is_seen_when_a_job_is_accepted():
    def refuse(request):
        raise InvalidInput("MEDIA_ROOT is not set")

    with pytest.raises(InvalidInput, match="MEDIA_ROOT"):
        Opener({"file": refuse}).classify("file:clip.mp4")


def test_a_plugin_serves_its_scheme_and_no_other():
    ours, theirs = a_script(), a_script()
    opener = Opener({"hls": ours.open}, Policy(), {"drone": theirs.open, "hls": theirs.open})

    opener.open(SourceRequest("drone://10.0.0.1/7", FrameWish(1.0)))
    opener.open(SourceRequest("https://example.org/a.m3u8", FrameWish(1.0)))

    assert len(theirs.requests) == len(ours.requests) == 1


def test_broken_and_greedy_plugins_are_left_out(monkeypatch):
    found = [
        EntryPoint("drone", "tests.unit.sources.scripted:frame", opening.PLUGIN_GROUP),
        EntryPoint("broken", "tests.unit.no_such_module:thing", opening.PLUGIN_GROUP),
        EntryPoint("https", "tests.unit.sources.scripted:frame", opening.PLUGIN_GROUP),
        EntryPoint("concat", "tests.unit.sources.scripted:frame", opening.PLUGIN_GROUP),
        EntryPoint("redis", "tests.unit.sources.scripted:frame", opening.PLUGIN_GROUP),
    ]
    monkeypatch.setattr(opening, "entry_points", lambda group: found)

    assert list(load_plugins()) == ["drone"]


@pytest.mark.parametrize(
    ("stream_ref", "options", "field"),
    [
        ("rtsp://example.org/1", {"headers": {"X": "y"}}, "source.headers"),
        ("frames", {"headers": {"X": "y"}}, "source.headers"),
        ("demo:", {"headers": {"X": "y"}}, "source.headers"),
        ("https://example.org/a.m3u8", {"start": "newest"}, "source.start"),
        ("file:a.mp4", {"start": "oldest"}, "source.start"),
    ],
)
def test_options_for_another_kind_of_source_are_refused_instead_of_passed_over(stream_ref, options, field):
    script = a_script()
    opener = Opener(dict.fromkeys(BUILT_IN_KINDS, script.open))

    with pytest.raises(InvalidInput, match=field):
        opener.classify(stream_ref, SourceOptions(**options))

    assert script.requests == []


@pytest.mark.parametrize(
    ("stream_ref", "options"),
    [
        ("https://example.org/a.m3u8", {"headers": {"X": "y"}, "stall_timeout_s": 3.0}),
        ("https://example.org/a", {"headers": {"X": "y"}, "verify_tls": False}),
        ("frames", {"start": "newest"}),
        ("rtsp://example.org/1", {"headers": {}, "rtsp_transport": "tcp"}),
        ("mine:1", {"headers": {"X": "y"}, "start": "3"}),
    ],
)
def test_options_that_fit_reach_the_source(stream_ref, options):
    script = a_script()
    opener = Opener(dict.fromkeys(BUILT_IN_KINDS, script.open), plugins={"mine": script.open})

    opener.classify(stream_ref, SourceOptions(**options))

    assert [request.options for request in script.requests] == [SourceOptions(**options)]
