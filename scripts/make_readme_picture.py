"""Draw docs/images/demo.jpg: pictures of the demo stream with what the built-in detector saw in them.

    python scripts/make_readme_picture.py

Needs the extra ``test`` (Pillow).
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import av
from PIL import Image, ImageDraw, ImageFont

from freeroam.models.base import Question
from freeroam.models.detector import Detector
from freeroam.vocabulary.inference import InferenceParams

ROOT = Path(__file__).resolve().parents[1]
CLIP = ROOT / "src" / "freeroam" / "sources" / "data" / "demo.ts"
PICTURE = ROOT / "docs" / "images" / "demo.jpg"
TIMES_S = (2.0, 8.0, 12.0, 18.0)
COLOUR = (255, 96, 0)


def frames_at(times_s: tuple[float, ...]) -> list[Image.Image]:
    """Return the pictures of the demo clip at ``times_s``, 512 pixels wide."""
    shown = []
    with av.open(str(CLIP)) as container:
        wanted = list(times_s)
        for frame in container.decode(video=0):
            if wanted and (frame.time or 0.0) >= wanted[0]:
                wanted.pop(0)
                shown.append(frame.to_image().resize((512, 288)))
    return shown


async def drawn(picture: Image.Image, detector: Detector, prompt: str) -> Image.Image:
    """Return ``picture`` with boxes and the sentence."""
    import numpy as np

    question = Question((np.asarray(picture),), prompt, InferenceParams())
    answer = (await detector.predict_batch([question]))[0]
    assert isinstance(answer, dict)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=15)
    for seen in answer["predictions"]:
        left, top, right, bottom = seen["bbox"]
        draw.rectangle((left, top, right, bottom), outline=COLOUR, width=3)
        words = f" {seen['label']} {seen['confidence']:.2f} "
        draw.rectangle((left, top, left + draw.textlength(words, font=font), top + 20), fill=COLOUR)
        draw.text((left, top + 1), words, fill=(255, 255, 255), font=font)
    draw.rectangle((0, 264, 512, 288), fill=(20, 20, 20))
    draw.text((8, 267), answer["text"], fill=(255, 255, 255), font=font)
    return picture


async def main() -> None:
    """Draw and save."""
    detector = Detector()
    await detector.initialize("", "cpu")
    shown = [await drawn(picture, detector, "Detect everything") for picture in frames_at(TIMES_S)]
    sheet = Image.new("RGB", (512 * 2 + 8, 288 * 2 + 8), (255, 255, 255))
    for number, picture in enumerate(shown):
        sheet.paste(picture, ((number % 2) * 520, (number // 2) * 296))
    PICTURE.parent.mkdir(exist_ok=True)
    sheet.save(PICTURE, quality=82)


if __name__ == "__main__":
    asyncio.run(main())
