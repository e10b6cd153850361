"""A download reaches its reader in small pieces, and is cut when the reader drains nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from freeroam.api.download import PIECE_BYTES, Download
from freeroam.api.parts import Parts
from tests.unit.api.test_event_stream import Reader


async def pages(*sizes: int) -> AsyncIterator[bytes]:
    for size in sizes:
        yield b"x" * size


async def send_to(reader: Reader, download: Download) -> None:
    scope: dict[str, Any] = {"type": "http", "freeroam.transport": reader, "headers": []}
    await download(scope, reader.receive, reader.send)


async def test_great_pages_go_out_in_small_pieces(parts: Parts) -> None:
    reader = Reader()

    await send_to(reader, Download(pages(3 * PIECE_BYTES + 1, 5), parts, 60.0, media_type="text/csv", headers={}))

    bodies = [message["body"] for message in reader.sent if message["type"] == "http.response.body"]
    assert (max(map(len, bodies)), sum(map(len, bodies))) == (PIECE_BYTES, 3 * PIECE_BYTES + 6)
    assert reader.is_complete
    assert not reader.was_cut


async def test_a_reader_that_drains_nothing_is_cut(parts: Parts) -> None:
    reader = Reader()
    reader.drains.clear()

    async with asyncio.timeout(20):
        await send_to(reader, Download(pages(10), parts, 0.01, media_type="text/csv", headers={}))

    assert reader.was_cut
    assert parts.metrics.snapshot()["freeroam_slow_client_total"] == {"action=dropped,kind=export": 1.0}
