"""A compressed body becomes the plain one, however it is cut, and never too much of it at once."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest

from freeroam.sources.http_encoding import PIECE_BYTES, Inflater

TEXT = b"#EXTM3U\n" * 1000


def bare(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize("size", [1, 3, 100_000])
@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        pytest.param("gzip", gzip.compress(TEXT), id="gzip"),
        pytest.param("x-gzip", gzip.compress(TEXT[:4000]) + gzip.compress(TEXT[4000:]), id="two members"),
        pytest.param("deflate", zlib.compress(TEXT), id="deflate"),
        pytest.param("deflate", bare(TEXT), id="deflate without a header"),
    ],
)
def test_a_body_comes_out_whole_however_it_arrives(encoding, data, size) -> None:
    inflater = Inflater(encoding)

    plain = b"".join(
        piece for start in range(0, len(data), size) for piece in inflater.feed(data[start : start + size])
    )

    assert plain == TEXT
    assert inflater.is_whole


def test_a_small_body_becomes_a_large_one_piece_by_piece_only() -> None:
    pieces = Inflater("gzip").feed(gzip.compress(bytes(50_000_000)))

    assert len(next(pieces)) <= PIECE_BYTES


@pytest.mark.parametrize(("encoding", "data"), [("gzip", b"plain text"), ("deflate", b"\xff\xff\xff\xff plain")])
def test_what_is_not_compressed_is_refused(encoding, data) -> None:
    with pytest.raises(zlib.error):
        list(Inflater(encoding).feed(data))


def test_a_body_that_broke_off_is_not_whole() -> None:
    inflater = Inflater("gzip")
    list(inflater.feed(gzip.compress(TEXT)[:-9]))

    assert not inflater.is_whole


def test_what_follows_the_end_of_a_deflated_body_is_not_kept() -> None:
    inflater = Inflater("deflate")
    assert b"".join(inflater.feed(zlib.compress(TEXT) + b"more")) == TEXT

    tracemalloc.start()
    for _ in range(64):
        assert not list(inflater.feed(bytes(64 * 1024)))
    kept_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert inflater.is_whole
    assert kept_bytes < 64 * 1024


def test_what_follows_a_gzip_member_and_is_none_is_refused() -> None:
    inflater = Inflater("gzip")
    list(inflater.feed(gzip.compress(TEXT)))

    with pytest.raises(zlib.error):
        list(inflater.feed(b"more"))
