"""Boxes out of what a language model said, in pixels of the picture that it was given.

Models write boxes in the way they were trained to; these are read:

- JSON, also unfinished or within other text: ``{"bbox_2d": [x1, y1, x2, y2], "label": "cat"}`` (Qwen2.5-VL, Qwen3-VL),
  with ``bbox``, ``box`` or ``bounding_box`` for the first name; ``box_2d`` is ``[y1, x1, y2, x2]`` of 1000 (Gemma);
- ``<loc0102><loc0203><loc0512><loc0800> cat``: y1, x1, y2, x2 of 1024 (PaliGemma);
- ``<ref>cat</ref><box>[[x1, y1, x2, y2]]</box>`` (InternVL) and ``cat(x1,y1),(x2,y2)`` (Qwen2-VL), of 1000;
- ``the cat at [0.12, 0.30, 0.51, 0.92]``: parts of one (LLaVA), or any other four numbers in brackets.

What the numbers of the first and the last mean depends on the model; ``View.scale`` says it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

_ASKS = re.compile(
    r"\b(box(es)?|bbox(es)?|bbox_2d|box_2d|bounding|detect\w*|locat\w*|locali[sz]e\w*|coordinates?|grounding)\b",
    re.IGNORECASE,
)
_SURE = re.compile(r'"(bbox_2d|box_2d|bbox|bounding_box)"|<loc\d{4}>|<box>|<\|box_start\|>')
_NUMBER = r"-?\d+(?:\.\d+)?"
_FOUR = re.compile(rf"[\[(]\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*[\])]")
_CORNERS = re.compile(rf"\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)\s*,\s*\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)")
_LOC = re.compile(r"<loc(\d{4})>" * 4 + r"\s*([^<;\n]*)")
_REF_BOX = re.compile(r"(?:<ref>(.*?)</ref>\s*)?<box>(.*?)</box>", re.DOTALL)
_OPENING = re.compile(r"[\[{]")
_DECODER = json.JSONDecoder()
_NAMES = ("bbox_2d", "bbox", "box", "bounding_box", "box_2d")
_LABELS = ("label", "class", "name", "object", "category", "type", "text_content")
_SIDES = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"), ("left", "top", "right", "bottom"))
_LINKS = frozenset(
    re.findall(
        r"\w+",
        "a an and are at be bounding box boxes bbox by can coordinates found has i in is it its located location "
        "object of on see seen the there this which with",
    )
)
_FOUR_NUMBERS = 4
_MOST = 256
"""Boxes read from one answer; a model that repeats itself writes no end of them."""


@dataclass(frozen=True, slots=True)
class View:
    """Which part of a picture a model saw, and what the numbers it writes mean.

    Attributes:
        width_px: Of the picture.
        height_px: Of the picture.
        left_px: Where the part begins; below zero if the picture was padded.
        top_px: Where the part begins.
        across_px: Width of the part.
        down_px: Height of the part.
        seen_px: Width and height that the part had inside the model.
        scale: ``pixels`` of the part inside the model, ``thousand`` parts of it, or ``one`` where it is parts of one
            and the model may write anything else too.
    """

    width_px: int
    height_px: int
    left_px: float
    top_px: float
    across_px: float
    down_px: float
    seen_px: tuple[float, float]
    scale: str = "one"

    def box(self, numbers: Sequence[float], scale: str | None = None) -> list[float] | None:
        """Return ``[x1, y1, x2, y2]`` in pixels of the picture, clipped to it; None if nothing of it is inside."""
        across, down = self._whole(numbers, scale or self.scale)
        left, top, right, bottom = numbers
        x = sorted(self.left_px + edge / across * self.across_px for edge in (left, right))
        y = sorted(self.top_px + edge / down * self.down_px for edge in (top, bottom))
        x1, x2 = (round(min(max(edge, 0.0), self.width_px), 1) for edge in x)
        y1, y2 = (round(min(max(edge, 0.0), self.height_px), 1) for edge in y)
        return [x1, y1, x2, y2] if x2 > x1 and y2 > y1 else None

    def _whole(self, numbers: Sequence[float], scale: str) -> tuple[float, float]:
        """Return what the numbers would be at the far corner of what the model saw."""
        if scale == "loc":
            return 1024.0, 1024.0
        if max(numbers) <= 1.0:
            return 1.0, 1.0
        if scale == "pixels":
            return self.seen_px
        beyond = max(numbers[0::2]) > self.width_px or max(numbers[1::2]) > self.height_px
        if scale == "thousand" or (beyond and max(numbers) <= 1000.0):
            return 1000.0, 1000.0
        return self.across_px, self.down_px


def asks_for_boxes(prompt: str) -> bool:
    """Return whether a question wants to know where things are, as boxes."""
    return bool(_ASKS.search(prompt))


def read_boxes(text: str, prompt: str, view: View | None) -> list[dict[str, Any]]:
    """Return ``{label, confidence, bbox}`` of every box in a text; empty if it holds none.

    Args:
        text: What the model said.
        prompt: What it was asked. Unless that asks for boxes, only what cannot be anything else is taken for one.
        view: How it saw the newest picture; without one there are no boxes.
    """
    if view is None or not (asks_for_boxes(prompt) or _SURE.search(text)):
        return []
    for reader in (_from_locs, _from_references, _from_json, _from_brackets):
        found = list(reader(text, view))
        if found:
            return found[:_MOST]
    return []


def _prediction(label: Any, box: list[float] | None, confidence: Any = None) -> Iterator[dict[str, Any]]:
    if box is None:
        return
    known = isinstance(confidence, int | float) and not isinstance(confidence, bool) and 0.0 <= confidence <= 1.0
    name = str(label).strip() if label is not None else ""
    yield {"label": name or "object", "confidence": float(confidence) if known else 1.0, "bbox": box}


def _from_locs(text: str, view: View) -> Iterator[dict[str, Any]]:
    for match in _LOC.finditer(text):
        top, left, bottom, right = (int(number) for number in match.groups()[:4])
        yield from _prediction(match.group(5), view.box((left, top, right, bottom), "loc"))


def _from_references(text: str, view: View) -> Iterator[dict[str, Any]]:
    for match in _REF_BOX.finditer(text):
        for four in [*_FOUR.finditer(match.group(2)), *_CORNERS.finditer(match.group(2))]:
            yield from _prediction(match.group(1), view.box(_numbers(four.groups()), "thousand"))


def _from_json(text: str, view: View) -> Iterator[dict[str, Any]]:
    """Read every JSON value in a text, outermost first; of one that breaks off, those inside that are whole."""
    place = 0
    while (start := _OPENING.search(text, place)) is not None:
        try:
            value, place = _DECODER.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            place = start.end()
        else:
            yield from _from_value(value, view, None)


def _from_value(value: Any, view: View, name: str | None) -> Iterator[dict[str, Any]]:
    """Read the boxes of a value; ``name`` is what the thing around it calls it."""
    if isinstance(value, list):
        for item in value:
            yield from _from_value(item, view, name)
        return
    if not isinstance(value, dict):
        return
    label = next((value[key] for key in _LABELS if isinstance(value.get(key), str)), name)
    confidence = value.get("confidence", value.get("score"))
    key = next((key for key in _NAMES if key in value), None)
    if key is not None:
        for four in _fours(value[key]):
            if key == "box_2d":
                yield from _prediction(label, view.box([four[1], four[0], four[3], four[2]], "thousand"), confidence)
            else:
                yield from _prediction(label, view.box(four), confidence)
    elif four := _corners(value):
        yield from _prediction(label, view.box(four), confidence)
    else:
        for key, item in value.items():
            fours = list(_fours(item))
            for four in fours:
                yield from _prediction(key, view.box(four))
            if not fours:
                yield from _from_value(item, view, key)


def _corners(value: dict[str, Any]) -> list[float]:
    """Return the four numbers of a box that names its sides; empty if it names none."""
    for sides in _SIDES:
        if all(_is_number(value.get(side)) for side in sides):
            return [float(value[side]) for side in sides]
    return []


def _fours(value: Any) -> Iterator[list[float]]:
    """Yield the fours of numbers in a value: itself, or what it lists."""
    if isinstance(value, dict):
        if four := _corners(value):
            yield four
    elif isinstance(value, list) and len(value) == _FOUR_NUMBERS and all(_is_number(item) for item in value):
        yield [float(item) for item in value]
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, list):
                yield from _fours(item)


def _from_brackets(text: str, view: View) -> Iterator[dict[str, Any]]:
    end = 0
    for match in sorted([*_FOUR.finditer(text), *_CORNERS.finditer(text)], key=lambda match: match.start()):
        yield from _prediction(_label_before(text[end : match.start()]), view.box(_numbers(match.groups())))
        end = match.end()


def _label_before(text: str) -> str:
    """Return what a clause before a box calls the thing: its words without those that only link."""
    clause = re.split(r"[.;\n]|,\s", text.rstrip(" ,:;\n\"'[(-"))[-1]
    words = [word for word in re.findall(r"[\w'-]+", clause) if word.lower() not in _LINKS]
    return " ".join(words[-4:])


def _numbers(found: Sequence[str]) -> list[float]:
    return [float(number) for number in found]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
