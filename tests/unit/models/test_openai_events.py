"""Event streams cut into events, however the bytes fall, and bounded."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freeroam.models.openai_events import EventReader, chunk_of
from freeroam.models.openai_failures import UpstreamError

STREAM = b': hello\r\ndata: {"a": 1}\r\n\r\nevent: x\ndata:{"b":\ndata: 2}\n\nid: 3\n\ndata: [DONE]\n\n'


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_are_the_same_however_the_bytes_are_cut(cuts: list[int]) -> None:
    reader = EventReader("http://there")
    edges = [0, *sorted(cuts), len(STREAM)]

    events = [data for begin, end in itertools.pairwise(edges) for data in reader.feed(STREAM[begin:end])]

    assert events == [b'{"a": 1}', b'{"b":\n2}', b"[DONE]"]


@pytest.mark.parametrize("rest", [b"data: last", b"data: last\n", b"data: last\r\n"])
def test_a_last_event_that_nothing_ends_is_given_at_the_end(rest: bytes) -> None:
    reader = EventReader("http://there")

    assert reader.feed(rest) == []
    assert reader.end() == [b"last"]
    assert reader.end() == []


@pytest.mark.parametrize("endless", [b"data: " + b"x" * 200, b"x" * 200, b"data: xxxxxxxxxx\n" * 20])
def test_an_endless_line_or_event_is_refused(endless: bytes) -> None:
    reader = EventReader("http://there", max_event_bytes=100)

    with pytest.raises(UpstreamError, match="more than 100 bytes"):
        reader.feed(endless)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"{", "no JSON"),
        (b"<html>secret</html>", "no JSON"),
        (b"[1]", "no JSON object but list"),
        (b'{"error": {"message": "out of memory, key secret"}}', 'it says "out of memory'),
        (b'{"error": "boom"}', 'it says "boom"'),
    ],
)
def test_an_event_that_is_no_chunk_is_an_error_without_the_key(data: bytes, said: str) -> None:
    with pytest.raises(UpstreamError, match=said) as caught:
        chunk_of(data, "http://there", "secret")

    assert "secret" not in caught.value.message


def test_the_last_event_says_that_it_is_the_last() -> None:
    assert chunk_of(b" [DONE] ", "http://there", "") is None
    assert chunk_of(b'{"choices": []}', "http://there", "") == {"choices": []}
