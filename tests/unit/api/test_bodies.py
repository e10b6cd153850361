"""What a body may cost: its bytes are bounded at every door, and so is what is made of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from freeroam.api.bounds import MAX_HEAD_BYTES, WISH_BYTES
from freeroam.api.direct_route import MAX_MARKS, MAX_MISTAKES, PLAIN_BYTES, refuse_intricate
from freeroam.vocabulary.errors import TooLarge
from tests.unit.api.conftest import TalkingEngine

Connect = Callable[..., httpx.AsyncClient]
JSON = {"content-type": "application/json"}
DIRECT = ["/infer", "/infer_stream", "/v1/chat/completions", "/v1/completions"]
TENSORS = ["/v2/models/gpt2/infer", "/v2/models/gpt2/generate"]
WISHES = ["/api/v1/inference/start", "/api/v1/prompt/update", "/api/v1/models", "/v2/repository/index"]


async def pieces(size: int) -> AsyncIterator[bytes]:
    """Give a body whose length is not told beforehand."""
    for _ in range(size // 1024):
        yield b"a" * 1024


@pytest.mark.parametrize("path", [*DIRECT, *TENSORS, *WISHES])
@pytest.mark.parametrize("is_announced", [True, False])
async def test_a_body_that_is_too_long_is_a_413_at_every_door(
    connect: Connect, engine: TalkingEngine, path: str, is_announced: bool
) -> None:
    # Given a small limit, when more comes, announced or not
    content = b"a" * 8192 if is_announced else pieces(8192)
    async with connect(max_body_bytes=4096) as client:
        answer = await client.post(path, content=content, headers=JSON)

    # Then it is refused in that door's words, and the connection with what is left of the body goes
    assert answer.status_code == 413
    assert "MAX_BODY_BYTES" in answer.text
    assert answer.headers["connection"] == "close"
    assert engine.asked == []


@pytest.mark.parametrize(
    ("address", "headers"),
    [
        ("/health?" + "a" * 60_000, {"x": "a" * 6000}),
        ("/" + "a" * 60_000, {"x": "a" * 6000}),
        ("/health", {"x": "a" * MAX_HEAD_BYTES}),
    ],
)
async def test_a_head_that_is_too_long_is_a_431(connect: Connect, address: str, headers: dict[str, str]) -> None:
    # Given a request whose address or headers are longer than any need be, then it is refused
    async with connect() as client:
        answer = await client.get(address, headers=headers)
    assert answer.status_code == 431
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("path", WISHES)
async def test_a_wish_without_pictures_has_no_use_for_megabytes(connect: Connect, path: str) -> None:
    # Given the usual limits, when a wish is longer than any wish is, then nothing of it is read
    async with connect() as client:
        answer = await client.post(path, content=b" " * (WISH_BYTES + 1), headers=JSON)
    assert answer.status_code == 413
    assert "without pictures" in answer.text


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","prompt":"x","images":[' + b"1," * 500_000 + b"1]}",
        b'{"model":"m","prompt":"x",' + b'"a":1,' * 300_000 + b'"b":1}',
        b'{"model":"m","prompt":"x","tools":[' + b"[]," * 200_000 + b"[]]}",
        b'{"model":"m","messages":[{"role":"user","content":[' + b'{"type":"a"},' * 200_000 + b'{"type":"a"}]}]}',
    ],
    ids=["numbers", "fields", "lists", "parts"],
)
@pytest.mark.parametrize("path", DIRECT)
async def test_a_body_of_countless_values_is_refused_before_it_is_read(
    connect: Connect, engine: TalkingEngine, path: str, body: bytes
) -> None:
    # Given a body within its length, each of whose values would become many times its size, when it is sent
    async with connect() as client:
        answer = await client.post(path, content=body, headers=JSON)

    # Then it is counted, not read
    assert answer.status_code == 413
    assert "commas and brackets" in answer.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/infer", b'{"prompt":"x","images":[' + b"1," * 100_000 + b"1]}"),
        ("/infer", b'{"prompt":"x",' + b",".join(b'"%x":1' % number for number in range(MAX_MISTAKES + 1)) + b"}"),
        ("/v1/chat/completions", b'{"model":"m","messages":[{"role":"user","content":[' + b"1," * 90_000 + b"1]}]}"),
        ("/v1/chat/completions", b'{"model":"m","messages":[' + b"1," * 90_000 + b"1]}"),
    ],
    ids=["pictures", "fields", "parts", "messages"],
)
async def test_no_list_of_mistakes_grows_long(connect: Connect, engine: TalkingEngine, path: str, body: bytes) -> None:
    # Given a body with a great many mistakes, when it is sent
    async with connect() as client:
        answer = await client.post(path, content=body, headers=JSON)

    # Then few of them are told
    assert answer.status_code == 400
    assert len(answer.content) < 2000


async def test_pictures_count_for_nothing_however_long_they_are(connect: Connect, engine: TalkingEngine) -> None:
    # Given a long prompt full of commas and megabytes of base64, when they are sent, then what is judged is the picture
    body: dict[str, Any] = {"prompt": ",[{" * 10_000, "images": ["AAAA" * 500_000]}
    async with connect() as client:
        answer = await client.post("/infer", json=body)
    assert answer.status_code == 415


def test_what_is_short_is_read_whatever_it_holds() -> None:
    # Given bodies of nothing but commas, then only the long one is refused
    refuse_intricate(b"," * PLAIN_BYTES, 0)
    with pytest.raises(TooLarge):
        refuse_intricate(memoryview(b"," * (PLAIN_BYTES + 1)), MAX_MARKS)


@pytest.mark.parametrize("path", [*DIRECT, *TENSORS, *WISHES])
@pytest.mark.parametrize("body", [b'{"prompt": "\xff\xfe"}', b"[" * 100_000])
async def test_a_body_that_cannot_be_read_is_told_to_be_no_json(connect: Connect, path: str, body: bytes) -> None:
    # Given bytes that are no text, or that nest without an end, when they come as a body, then the caller is told what
    # is wrong with them
    async with connect() as client:
        answer = await client.post(path, content=body, headers=JSON)
    assert answer.status_code == 400
    assert "JSON" in answer.text
