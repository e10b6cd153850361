"""Pictures of clients: every form they may have, what is refused and how, and a loop that never waits for one."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from types import TracebackType
from typing import Any, Self

import pytest
from PIL import Image as Pillow

from freeroam.api.parts import ApiConfig, Parts
from freeroam.api.pictures import read_pictures
from freeroam.sources.decoding.values import DecodedFrame
from freeroam.vocabulary.errors import (
    FreeroamError,
    InvalidInput,
    ModelError,
    QueueFull,
    SourceError,
    SourceErrorCode,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)
from freeroam.vocabulary.frame import FrameWish
from freeroam.vocabulary.model import ModelWishes
from tests.unit.api.conftest import TalkingEngine
from tests.waiting import until


def picture(form: str = "PNG", width_px: int = 6, height_px: int = 4) -> bytes:
    file = io.BytesIO()
    Pillow.new("RGB", (width_px, height_px), (200, 10, 10)).save(file, form)
    return file.getvalue()


class Decoders:
    """Stands for the decoder processes: keeps what it was given, and fails if told."""

    def __init__(self, failure: SourceError | None = None) -> None:
        self.wishes: list[FrameWish] = []
        self.given: list[bytes] = []
        self._failure = failure

    def __call__(self, wish: FrameWish) -> Decoders:
        self.wishes.append(wish)
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    async def decode(self, data: Any, raw: Any = None) -> DecodedFrame:
        if self._failure is not None:
            raise self._failure
        self.given.append(bytes(data))
        return DecodedFrame(
            pixels=b"\0" * 72, width_px=6, height_px=4, pts_s=0.0, time_s=0.0, due_s=0.0,
            source_width_px=12, source_height_px=8, decode_ms=1.5,
        )  # fmt: skip


@pytest.fixture
def decoders(parts: Parts) -> Decoders:
    decoders = Decoders()
    object.__setattr__(parts, "open_pictures", decoders)
    return decoders


def in_lines(text: str) -> str:
    return "\r\n".join(text[at : at + 76] for at in range(0, len(text), 76))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    "write",
    [
        lambda data: base64.b64encode(data).decode(),
        lambda data: base64.b64encode(data).decode().rstrip("="),
        lambda data: in_lines(base64.b64encode(data).decode()),
        lambda data: f"data:image/any;base64,{base64.b64encode(data).decode()}",
        lambda data: f"DATA:image/jpeg;charset=x;BASE64,{base64.b64encode(data).decode()}",
        lambda data: data,
    ],
    ids=["base64", "without padding", "in lines", "data URL", "data URL in capitals", "bytes"],
)
async def test_a_picture_is_taken_in_every_form(parts: Parts, decoders: Decoders, form: str, write: Any) -> None:
    # Given a picture as a client may send it, when it is read, then the decoder is given the very file
    data = picture(form)
    frames = await read_pictures(parts, ApiConfig(), [write(data)], ModelWishes(width_px=512, height_px=384))

    assert decoders.given == [data]
    assert [(wish.width_px, wish.height_px) for wish in decoders.wishes] == [(512, 384)]
    frame = frames[0]
    assert (frame.frame_id, frame.width_px, frame.height_px, frame.source_width_px) == ("0", 6, 4, 12)


async def test_a_long_text_is_read_in_turns(parts: Parts, decoders: Decoders) -> None:
    # Given a file whose text is longer than what is read in one turn, and not a whole number of turns
    data = picture() + bytes(range(256)) * 7001

    await read_pictures(parts, ApiConfig(), [base64.b64encode(data).decode()])

    # Then not a byte is lost at the seams
    assert decoders.given == [data]


@pytest.mark.parametrize(
    ("image", "kind", "message"),
    [
        ("https://example.com/cat.jpg", InvalidInput, "send base64 or a data URL"),
        ("file:///etc/passwd", InvalidInput, "is an address"),
        ("data:image/png,abc", InvalidInput, "without base64"),
        ("!!!!", InvalidInput, "is no base64"),
        ("", UnsupportedMedia, "JPEG, PNG or WebP"),
        (base64.b64encode(b"GIF89a").decode(), UnsupportedMedia, "images.0 is no JPEG"),
        (picture(width_px=300, height_px=10), TooLarge, "300x10; a picture may have 2000 pixels (MAX_PIXELS)"),
    ],
)
async def test_what_is_no_picture_is_refused_with_its_reason(
    parts: Parts, decoders: Decoders, image: Any, kind: type[FreeroamError], message: str
) -> None:
    with pytest.raises(kind, match=r".*") as refused:
        await read_pictures(parts, ApiConfig(max_pixels=2000), [image])

    assert message in refused.value.message
    assert decoders.given == []


@pytest.mark.parametrize(
    ("code", "kind"), [(SourceErrorCode.BAD_DATA, InvalidInput), (SourceErrorCode.DECODER, Unavailable)]
)
async def test_a_decoder_that_fails_is_told_by_whose_fault_it_was(
    parts: Parts, code: SourceErrorCode, kind: type[FreeroamError]
) -> None:
    object.__setattr__(parts, "open_pictures", Decoders(SourceError(code, "the picture is broken")))

    with pytest.raises(kind, match="the picture is broken"):
        await read_pictures(parts, ApiConfig(), [picture()])


async def test_only_so_many_pictures_are_taken(parts: Parts, decoders: Decoders) -> None:
    with pytest.raises(InvalidInput, match="MAX_IMAGES"):
        await read_pictures(parts, ApiConfig(max_images=2), [picture()] * 3)

    assert decoders.given == []


async def test_small_files_of_a_great_many_pixels_are_counted_before_one_is_decoded(
    parts: Parts, decoders: Decoders
) -> None:
    # Given sixteen pictures of a few kilobytes, each of which is within the limit
    large = picture(width_px=7000, height_px=7000)
    assert len(large) < 500_000

    # When a model wants them in their own size, then all together are too large
    with pytest.raises(TooLarge, match="2352000000 bytes"):
        await read_pictures(parts, ApiConfig(), [large] * 16)
    assert decoders.given == []

    # And where they are made small, they are not
    await read_pictures(parts, ApiConfig(), [large] * 16, ModelWishes(width_px=64, height_px=64))
    assert len(decoders.given) == 16


async def test_memory_that_is_refused_costs_no_decoding(parts: Parts, decoders: Decoders) -> None:
    # Given no memory for the frames, when pictures come, then what they would take is told, and none is decoded
    told: list[int] = []

    def refuse(size_bytes: int) -> None:
        told.append(size_bytes)
        raise QueueFull("full")

    with pytest.raises(QueueFull):
        await read_pictures(parts, ApiConfig(), [picture()] * 2, hold=refuse)
    assert told == [2 * 6 * 4 * 3]
    assert decoders.given == []


async def test_memory_is_given_back_when_the_question_is_over(
    connect: Any, engine: TalkingEngine, parts: Parts, decoders: Decoders
) -> None:
    # Given room for the pictures of one question, held by one whose answer takes its time
    engine.goes_on.clear()
    body = {"prompt": "what?", "images": [base64.b64encode(picture()).decode()]}
    async with connect(max_picture_bytes=100) as client:
        first = asyncio.create_task(client.post("/infer", json=body))
        await until(lambda: engine.asked)
        assert parts.picture_room.held_bytes == 72

        # When another comes meanwhile, then it is told to come back
        refused = await client.post("/infer", json=body)
        assert (refused.status_code, refused.json()["detail"]["code"]) == (503, "queue_full")

        # And when the first is over, or failed, nothing is held
        engine.goes_on.set()
        assert (await first).status_code == 200
        engine.failure = ModelError("it fell over")
        assert (await client.post("/infer", json=body)).status_code == 500
    assert parts.picture_room.held_bytes == 0


async def test_the_time_that_pictures_took_is_counted_of_the_model_that_saw_them(
    connect: Any, engine: TalkingEngine, parts: Parts, decoders: Decoders
) -> None:
    # Given a question with a picture and one without, when both are answered, then one was made ready
    async with connect() as client:
        for images in ([base64.b64encode(picture()).decode()], []):
            assert (await client.post("/infer", json={"prompt": "what?", "images": images})).status_code == 200

    counted = parts.metrics.snapshot()["freeroam_preprocess_seconds_count"]
    assert counted == {"model=gpt2,priority=NORMAL,version=7": 1.0}


async def test_a_caller_that_goes_away_while_its_pictures_are_read_is_counted_as_one_that_waited(
    connect: Any, engine: TalkingEngine, parts: Parts, decoders: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a question whose picture takes its time
    is_read = asyncio.Event()

    async def decode_slowly(self: Decoders, data: Any, raw: Any = None) -> DecodedFrame:
        is_read.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(Decoders, "decode", decode_slowly)
    body = {"prompt": "what?", "images": [base64.b64encode(picture()).decode()]}
    async with connect() as client:
        asking = asyncio.create_task(client.post("/infer", json=body))
        await is_read.wait()

        # When the caller goes away, then it is counted, though no model has heard of it
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert engine.asked == []
    key = "model=default,priority=NORMAL,stage=queued,version="
    assert parts.metrics.snapshot()["freeroam_cancelled_total"] == {key: 1.0}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/infer", {"prompt": "what?"}),
        ("/infer_stream", {"prompt": "what?"}),
        (
            "/v2/models/gpt2/infer",
            {"inputs": [{"name": "prompt", "shape": [1], "datatype": "BYTES", "data": ["what?"]}]},
        ),
    ],
)
async def test_boxes_are_told_in_pixels_of_the_picture_as_it_was_sent(
    connect: Any, engine: TalkingEngine, decoders: Decoders, path: str, body: dict[str, Any]
) -> None:
    # Given a picture that the model is given in half its size, when a box is found in it
    pixels = {"name": "image", "shape": [8, 12, 3], "datatype": "UINT8", "data": [0] * 288}
    sent = {"images": [base64.b64encode(picture()).decode()]}
    async with connect() as client:
        alone = await client.post(path, json=body)
        answer = await client.post(
            path, json={"inputs": [*body["inputs"], pixels]} if "inputs" in body else body | sent
        )

    # Then it fits the picture that the client has, and without a picture it is as the model said
    assert answer.status_code == 200, answer.text
    assert set(boxes_in(alone.text)) == {(0, 0, 4, 4)}
    assert set(boxes_in(answer.text)) == {(0, 0, 8, 8)}


def boxes_in(text: str) -> list[tuple[float, ...]]:
    found = re.findall(r'"bbox": ?(\[[^]]*\])|"name": ?"boxes"[^}]*"data": ?(\[[^]]*\])', text.replace("\\", ""))
    return [tuple(json.loads(one or other)) for one, other in found]
