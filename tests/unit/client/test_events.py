"""Server-sent events are read as the standard says, however the bytes are cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freeroam.client import events
from freeroam.client.events import EventReader, ServerEvent
from freeroam.vocabulary.errors import FreeroamError

STREAM = (
    b"retry: 2000\n\n: ping\n\nid: 17\nevent: result\ndata: {}\n\ndata: a\ndata:b\nid\n\nevent: lonely\n\n"
    b"data: t\xc3\xa4\n\nevent: done\ndata: end\n\nid: 3\ndata: unfinished"
)
EXPECTED = [
    ServerEvent("result", b"{}", "17"),
    ServerEvent("message", b"a\nb", ""),
    ServerEvent("message", "tä".encode()),
    ServerEvent("done", b"end"),
]


@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=12), line_end=st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_a_stream_cut_anywhere_gives_the_same_events(cuts: list[int], line_end: bytes) -> None:
    # Given a stream in any of the three line endings, cut into pieces anywhere
    stream = STREAM.replace(b"\n", line_end)
    places = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    reader, told = EventReader(), []

    # When the pieces are read
    for begin, end in itertools.pairwise(places):
        told += reader.feed(stream[begin:end])

    # Then the events are the same; the unfinished one is none, and the wish to wait was heard
    assert told == EXPECTED
    assert reader.retry_s == 2.0


def test_an_event_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a bound, when a server sends more without an end, then it is an error and no growing memory
    monkeypatch.setattr(events, "MAX_EVENT_BYTES", 1000)
    reader = EventReader()
    with pytest.raises(FreeroamError) as raised:
        reader.feed((b"data: " + b"x" * 20 + b"\n") * 100)
    assert raised.value.code == "bad_answer"
