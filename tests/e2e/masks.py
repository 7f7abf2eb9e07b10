"""Masks as arrays: those that Label Studio holds, and those that the screen shows."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from label_studio_sdk.converter import brush
from numpy.typing import NDArray
from PIL import Image

Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]


def region_mask(region: Mapping[str, Any]) -> Mask:
    """Decode the mask of a brush region with Label Studio's own decoder; bool (H, W)."""
    assert region["type"] == "brushlabels", region["type"]
    pixels = brush.decode_rle(region["value"]["rle"])
    shape = (region["original_height"], region["original_width"], 4)
    alpha: Mask = np.asarray(pixels).reshape(shape)[:, :, 3] > 0
    return alpha


def iou(first: Mask, second: Mask) -> float:
    """Return intersection over union of two masks of one shape; 1.0 if both are empty."""
    assert first.shape == second.shape, (first.shape, second.shape)
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 1.0


def contains(mask: Mask, x: float, y: float) -> bool:
    """Tell whether the pixel at (x, y), in percent of width and height, is in a mask."""
    height, width = mask.shape
    return bool(mask[int(y * height / 100), int(x * width / 100)])


def resized(mask: Mask, like: Mask) -> Mask:
    """Scale a mask to the shape of another, nearest neighbour."""
    height, width = like.shape
    image = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(image)


def pixels(png: bytes) -> Pixels:
    """Decode a screenshot; uint8 (H, W, 3) RGB."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def tinted(before: Pixels, after: Pixels, colour: tuple[int, int, int]) -> Mask:
    """Find the pixels that moved at least a third of the way to a colour; bool (H, W)."""
    way = np.array(colour, np.float64) - before
    moved = after.astype(np.float64) - before
    # The part of `moved` along `way`, as a share of it; a pixel of that colour cannot move.
    share = (moved * way).sum(axis=2) / np.maximum((way * way).sum(axis=2), 1.0)
    tint: Mask = share > 1 / 3
    return tint
