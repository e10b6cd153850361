"""What a model sees of a picture, read from its image processor's configuration: how large, and which part.

Image processors of transformers fall into few kinds. Each is told apart by the names in its configuration, so that a
model that is not known by name is understood too:

- tiles (Idefics3, SmolVLM): ``max_image_size`` is one tile, ``size.longest_edge`` the long side that is cut into tiles;
- any size (Qwen2-VL to Qwen3-VL): ``merge_size``; ``size.shortest_edge`` and ``longest_edge`` are areas in pixels;
- grids (LLaVA-NeXT, LLaVA-OneVision): ``image_grid_pinpoints``;
- a square (LLaVA 1.5, PaliGemma, Gemma 3): ``size`` or ``crop_size``, cut out, padded or stretched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from freeroam.models.vlm_boxes import View
from freeroam.vocabulary.errors import ConfigurationError

WIDEST = 16 / 9
"""Frames of video are hardly wider; a square that must be filled by the short side asks for this much on the long."""
ANY_SIZE_PIXELS = 1280 * 28 * 28
"""Most pixels of a picture for models that take any size: what Qwen advises for speed, 1280 tokens a picture."""
SEVERAL = 4
"""Frames a question where the model was trained on video."""
_ABSOLUTE = frozenset({"qwen2_5_vl"})
_THOUSAND = frozenset({"qwen2_vl", "qwen3_vl", "qwen3_vl_moe", "internvl", "glm4v", "glm4v_moe"})


@dataclass(frozen=True, slots=True)
class Eye:
    """How a model looks at pictures.

    Attributes:
        kind: ``tiles``, ``any_size``, ``grid``, ``square`` or ``unknown``.
        side_px: Longest side that frames should have; None leaves them as they are.
        window: Frames a question that pay.
        single: What the image processor is told for one picture.
        several: And for several in one question.
        cuts: Whether the middle square is cut out of a picture.
        pads: Whether a picture is padded to a square, itself in the middle.
        scale: What numbers of a box mean: ``pixels`` of the picture as the model saw it, ``thousand`` or ``one``.
    """

    kind: str
    side_px: int | None
    window: int
    single: dict[str, Any] = field(default_factory=dict)
    several: dict[str, Any] = field(default_factory=dict)
    cuts: bool = False
    pads: bool = False
    scale: str = "one"

    def view(self, height_px: int, width_px: int, seen_px: tuple[int, int] | None) -> View:
        """Return which part of a picture of this size the model sees, and what the numbers of its boxes mean.

        Args:
            height_px: Of the picture.
            width_px: Of the picture.
            seen_px: Height and width that it had inside the model, if that depends on the picture.
        """
        side = float(min(height_px, width_px) if self.cuts else max(height_px, width_px))
        across, down = (side, side) if self.cuts or self.pads else (float(width_px), float(height_px))
        seen = (across, down) if seen_px is None else (float(seen_px[1]), float(seen_px[0]))
        return View(
            width_px=width_px,
            height_px=height_px,
            left_px=(width_px - across) / 2,
            top_px=(height_px - down) / 2,
            across_px=across,
            down_px=down,
            seen_px=seen,
            scale=self.scale,
        )


def eye_of(config: Any, image_processor: Any, window: int | None, picture_px: int | None) -> Eye:
    """Return how a model looks at pictures.

    Args:
        config: The model's.
        image_processor: The model's.
        window: Frames a question that the operator wants; None leaves it to the model.
        picture_px: Longest side that the operator allows, pixels; None leaves it to the model.

    Raises:
        ConfigurationError: The model's pictures have one fixed size, and another was asked for.
    """
    size = _sizes(getattr(image_processor, "size", None))
    sees_video = any(getattr(config, name, None) is not None for name in ("video_token_id", "video_token_index"))
    frames = window or (SEVERAL if sees_video or config.model_type == "smolvlm" else 1)
    if getattr(image_processor, "do_image_splitting", None) is not None and hasattr(image_processor, "max_image_size"):
        return _tiles(image_processor, size, frames, picture_px)
    if hasattr(image_processor, "merge_size") and "longest_edge" in size and "shortest_edge" in size:
        return _any_size(config, image_processor, size, frames, picture_px)
    if picture_px is not None:
        raise ConfigurationError(
            f"picture_px={picture_px}: a {config.model_type} model sees pictures in a size of its own; leave it out"
        )
    if pinpoints := getattr(image_processor, "image_grid_pinpoints", None):
        side_px = max(max(pair) for pair in pinpoints)
        aspect = str(getattr(config, "vision_aspect_ratio", ""))
        if "anyres_max_" in aspect and "height" in size:
            # More tiles than these are averaged down to as many.
            side_px = min(side_px, round(size["height"] * math.sqrt(int(aspect.rpartition("_")[2]))))
        return Eye("grid", side_px, frames)
    return _square(config, image_processor, size, frames)


def _tiles(image_processor: Any, size: dict[str, int], frames: int, picture_px: int | None) -> Eye:
    tile_px = _sizes(image_processor.max_image_size)["longest_edge"]
    long_px = size.get("longest_edge", tile_px)
    if picture_px is not None:
        # What is no multiple of a tile is scaled up to one anyway.
        long_px = max(tile_px, min(long_px, picture_px) // tile_px * tile_px)
    splits = bool(image_processor.do_image_splitting) and long_px > tile_px
    single = {"do_image_splitting": splits, "size": {"longest_edge": long_px}}
    several = {"do_image_splitting": False, "size": {"longest_edge": tile_px}}
    return Eye("tiles", long_px if splits and frames == 1 else tile_px, frames, single, several)


def _any_size(config: Any, image_processor: Any, size: dict[str, int], frames: int, picture_px: int | None) -> Eye:
    most = min(size["longest_edge"], ANY_SIZE_PIXELS if picture_px is None else picture_px * picture_px)
    least = size["shortest_edge"]
    unit_px = int(image_processor.patch_size) * int(image_processor.merge_size)
    told = {"size": {"shortest_edge": min(least, most), "longest_edge": max(most, unit_px * unit_px)}}
    scale = "pixels" if config.model_type in _ABSOLUTE else "thousand" if config.model_type in _THOUSAND else "one"
    # A frame of 16:9 with this long side has just as many pixels as are looked at.
    side_px = max(unit_px, round(math.sqrt(most * WIDEST)))
    return Eye("any_size", side_px, frames, told, told, scale=scale)


def _square(config: Any, image_processor: Any, size: dict[str, int], frames: int) -> Eye:
    cuts = bool(getattr(image_processor, "do_center_crop", False))
    pads = bool(getattr(image_processor, "do_pad", False)) and not cuts
    edges = [size.get("shortest_edge"), size.get("height"), size.get("width")]
    short_px = max((edge for edge in edges if edge), default=0)
    scale = "thousand" if config.model_type in _THOUSAND else "one"
    if not short_px:
        return Eye("unknown", size.get("longest_edge"), frames, scale=scale)
    side_px = short_px if pads else math.ceil(short_px * WIDEST)
    return Eye("square", side_px, frames, cuts=cuts, pads=pads, scale=scale)


def _sizes(size: Any) -> dict[str, int]:
    if size is None:
        return {}
    if isinstance(size, int):
        return {"height": size, "width": size}
    return {name: int(value) for name, value in dict(size).items() if value is not None}
