"""Masks as arrays: those that Label Studio holds, and those that the screen shows."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from label_studio_sdk.converter import brush
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]


def region_mask(region: Mapping[str, Any]) -> Mask:
    """Return the mask of a brush or bitmask region, as suggested or as stored; bool (H, W).

    Bitmasks are pictures, and suggested brushes may be; the brushes that Label Studio stores are
    decoded by its own package. Where all tools share their labels, a brush has a second piece.
    """
    assert region["type"] in ("brushlabels", "bitmasklabels", "brush", "labels"), region["type"]
    value = region["value"]
    shape = (region["original_height"], region["original_width"], 4)
    if picture := value.get("maskDataURL") or value.get("imageDataURL"):
        png = base64.b64decode(picture.removeprefix("data:image/png;base64,"))
        rgba = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))
        assert rgba.shape == shape
    else:
        rgba = np.asarray(brush.decode_rle(value["rle"])).reshape(shape)
    mask: Mask = rgba[:, :, 3] > 0
    return mask


def iou(first: Mask, second: Mask) -> float:
    """Return intersection over union of two masks of one shape; 1.0 if both are empty."""
    assert first.shape == second.shape, (first.shape, second.shape)
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 1.0


def contains(mask: Mask, x: float, y: float) -> bool:
    """Tell whether the pixel at (x, y), in percent of width and height, is in a mask."""
    height, width = mask.shape
    return bool(mask[int(y * height / 100), int(x * width / 100)])


def pixels(png: bytes) -> Pixels:
    """Decode a screenshot; uint8 (H, W, 3) RGB."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def tinted(before: Pixels, after: Pixels, colour: tuple[int, int, int]) -> Mask:
    """Find the pixels into which a colour was mixed, about half or more of it; bool (H, W).

    Masks are; the inside of a prompt's rectangle, to a third, and the dark buttons on the
    canvas are not.
    """
    way = np.array(colour, np.float64) - before
    moved = after.astype(np.float64) - before
    # The part of `moved` along `way`, as a share of it; a pixel of that colour cannot move.
    share = (moved * way).sum(axis=2) / np.maximum((way * way).sum(axis=2), 1.0)
    astray = np.abs(moved - share[:, :, None] * way).max(axis=2)
    tint: Mask = (share > 0.45) & (astray < 30)
    return tint


def assert_shows(tint: Mask, mask: Mask) -> None:
    """Check that a tint on the screen is that of a mask of the image.

    Left aside is the rim, which Label Studio draws some pixels broader. A tenth of the inside may
    be covered by the buttons that go with a suggestion; outside there may be a rectangle's lines.
    """
    height, width = tint.shape
    shown = Image.fromarray(mask).convert("L").resize((width, height), Image.Resampling.NEAREST)
    inside = tint[np.asarray(shown.filter(ImageFilter.MinFilter(5))) > 0]
    outside = tint[np.asarray(shown.filter(ImageFilter.MaxFilter(9))) == 0]
    assert inside.size, "the mask has no inside"
    assert inside.mean() > 0.9, f"{inside.mean():.1%} of the inside of the mask is coloured"
    assert outside.mean() < 0.02, f"{outside.mean():.1%} of the outside of the mask is coloured"
