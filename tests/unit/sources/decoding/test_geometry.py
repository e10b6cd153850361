"""Sizes of pictures: announced and fitted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freeroam.sources.decoding.geometry import announced_size, fitted_size, picture_form
from tests.numbered_clips import picture_bytes


@pytest.mark.parametrize(
    ("size", "box", "aspect", "expected"),
    [
        ((1920, 1080), (512, 512), 1.0, (512, 288)),
        ((1080, 1920), (512, 512), 1.0, (288, 512)),
        ((320, 180), (512, 512), 1.0, (320, 180)),
        ((1920, 1080), (None, None), 1.0, (1920, 1080)),
        ((1920, 1080), (None, 540), 1.0, (960, 540)),
        ((720, 576), (None, None), 16 / 11, (720, 396)),
        ((720, 480), (None, None), 8 / 9, (640, 480)),
        ((10_000, 1), (100, 100), 1.0, (100, 1)),
        ((720, 576), (360, 360), 0.0, (360, 288)),
    ],
)
def test_a_picture_fits_its_box(size, box, aspect, expected) -> None:
    assert fitted_size(*size, box, aspect) == expected


@given(
    width=st.integers(1, 20_000),
    height=st.integers(1, 20_000),
    box=st.tuples(st.integers(16, 4096), st.integers(16, 4096)),
    aspect=st.floats(0.1, 10),
)
def test_a_picture_is_never_enlarged_and_never_over_its_box(width, height, box, aspect) -> None:
    fitted = fitted_size(width, height, box, aspect)

    assert 1 <= fitted[0] <= min(width, box[0])
    assert 1 <= fitted[1] <= min(height, box[1])


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_the_size_is_read_before_the_picture(form) -> None:
    data = picture_bytes(form, 333, 222)

    assert announced_size(data) == (333, 222)
    assert announced_size(memoryview(data)) == (333, 222)
    assert picture_form(data) == {"JPEG": "mjpeg", "PNG": "png", "WEBP": "webp"}[form]


@pytest.mark.parametrize("options", [{"progressive": True}, {"quality": 20}, {"exif": b"Exif\0\0" + b"x" * 900}])
def test_the_size_of_every_kind_of_jpeg_is_read(options) -> None:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (77, 55)).save(buffer, "JPEG", **options)

    assert announced_size(buffer.getvalue()) == (77, 55)


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 50}])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_size_of_every_kind_of_webp_is_read(options, mode) -> None:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new(mode, (77, 55), (1, 2, 3, 4)[: len(mode)]).save(buffer, "WEBP", **options)

    assert announced_size(buffer.getvalue()) == (77, 55)


@given(st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF1234WEBPVP8 "]), st.binary(max_size=80))
def test_any_bytes_may_be_looked_at(head, rest) -> None:
    announced_size(head + rest)
