"""What is scaled looks as it did."""

from __future__ import annotations

import av
import numpy as np
import pytest

from freeroam.sources.decoding.worker_scaling import Scaler

COLOURS = ((200, 30, 40), (20, 180, 60), (30, 40, 220), (255, 255, 255), (128, 128, 128), (0, 0, 0))
BAR_PX = 120


def picture(form: str, colour_range: int) -> av.VideoFrame:
    """Bars of plain colour, 720x360."""
    pixels = np.repeat(np.array([COLOURS], np.uint8), BAR_PX, axis=1).repeat(360, axis=0)
    frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format=form)
    frame.color_range = colour_range
    return frame


@pytest.mark.parametrize("colour_range", [0, 1])
@pytest.mark.parametrize("box", [(512, 512), (100, 51), (720, 360)], ids=["smaller", "small and odd", "as it is"])
@pytest.mark.parametrize(
    "form", ["yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "nv12", "yuv420p10le", "rgb24", "rgba"]
)
def test_colours_stay_whatever_form_a_picture_has(form: str, box: tuple[int, int], colour_range: int) -> None:
    pixels, width, height = Scaler(box).rgb(picture(form, colour_range))

    seen = np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
    middles = [round((number + 0.5) * width / len(COLOURS)) for number in range(len(COLOURS))]
    assert width <= box[0]
    assert seen[height // 2, middles].tolist() == pytest.approx(np.array(COLOURS), abs=6)


def test_fine_lines_are_averaged_and_not_left_out() -> None:
    # Given black and white lines of one pixel, which a scaler that picks pixels would make black or white
    lines = np.zeros((360, 640, 3), np.uint8)
    lines[::2] = 255
    frame = av.VideoFrame.from_ndarray(lines, "rgb24").reformat(format="yuv420p")

    pixels, width, height = Scaler((160, 160)).rgb(frame)

    seen = np.frombuffer(pixels, np.uint8).reshape(height, width, 3)[2:-2]
    assert seen.min() > 100
    assert seen.max() < 155
