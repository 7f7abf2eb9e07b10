"""Simulated users: where they click first, how they draw a box, how they correct a mask."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

BoolMask = NDArray[np.bool_]  # (H, W)
Box = tuple[float, float, float, float]  # x_min, y_min, x_max, y_max in pixels, exclusive maximum

BOX_NOISE = 0.1  # of the side; standard deviation of a corner, as SAM was trained with
MAX_BOX_NOISE = 5.0  # pixels of the model frame; SAM's 20 pixels in its frame of 1024


@dataclass(frozen=True, slots=True)
class Prompt:
    """Clicks as (x, y, label) in pixels, label 1 object and 0 background, and maybe a box."""

    clicks: tuple[tuple[float, float, int], ...] = ()
    box: Box | None = None

    def with_click(self, click: tuple[float, float, int]) -> Prompt:
        """Return this prompt and one more click."""
        return replace(self, clicks=(*self.clicks, click))

    @property
    def ambiguous(self) -> bool:
        """Whether it is one click alone, which can mean a part, a thing or a group."""
        return self.box is None and len(self.clicks) == 1


def deepest_point(mask: BoolMask) -> tuple[float, float]:
    """Return the (x, y) centre of the pixel that is farthest from everything outside."""
    return _deepest(_depths(mask))


def random_point(mask: BoolMask, rng: np.random.Generator) -> tuple[float, float]:
    """Return the (x, y) centre of a random pixel inside."""
    inside = np.flatnonzero(mask)
    y, x = divmod(int(inside[rng.integers(len(inside))]), mask.shape[1])
    return x + 0.5, y + 0.5


def tight_box(mask: BoolMask) -> Box:
    """Return the smallest box around a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1]) + 1, float(rows[-1]) + 1


def drawn_box(mask: BoolMask, rng: np.random.Generator) -> Box:
    """Return a box as a person draws it: near the tight one, within the image."""
    x_min, y_min, x_max, y_max = tight_box(mask)
    sides = np.array([x_max - x_min, y_max - y_min] * 2)
    noise = np.clip(rng.normal(0, BOX_NOISE, 4) * sides, -MAX_BOX_NOISE, MAX_BOX_NOISE)
    height, width = mask.shape
    corners = np.array([x_min, y_min, x_max, y_max]) + noise
    x_min, y_min, x_max, y_max = np.clip(corners, 0, [width, height, width, height]).tolist()
    return x_min, y_min, max(x_max, x_min + 1), max(y_max, y_min + 1)


def correction(
    mask: BoolMask, answer: BoolMask, rng: np.random.Generator | None = None
) -> tuple[float, float, int] | None:
    """Click where an answer is wrong: (x, y, label), or None where it is right.

    Without `rng` it is the deepest point of all errors, with it a random one of them.
    """
    wrong = mask != answer
    if not wrong.any():
        return None
    if rng is not None:
        x, y = random_point(wrong, rng)
    else:
        depths = _depths(mask & ~answer), _depths(answer & ~mask)
        x, y = _deepest(max(depths, key=np.max))
    return x, y, int(mask[int(y), int(x)])


def _depths(mask: BoolMask) -> NDArray[np.float32]:
    """Return how far each pixel is from everything outside, the border of the image included."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1], np.float32)


def _deepest(depths: NDArray[np.float32]) -> tuple[float, float]:
    y, x = divmod(int(depths.argmax()), depths.shape[1])
    return x + 0.5, y + 0.5


def first_prompt(mask: BoolMask, rng: np.random.Generator) -> Prompt:
    """Start as a user may: a click in the middle, a click anywhere, a box, a box and a click."""
    kind = rng.random()
    if kind < 0.25:
        return Prompt().with_click((*deepest_point(mask), 1))
    if kind < 0.55:
        return Prompt().with_click((*random_point(mask, rng), 1))
    box = drawn_box(mask, rng) if rng.random() < 0.8 else tight_box(mask)
    if kind < 0.9:
        return Prompt(box=box)
    return Prompt(box=box).with_click((*random_point(mask, rng), 1))


def pack(prompts: list[Prompt]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return point_coords (B, N, 2) and point_labels (B, N) of the decoder, padded with -1."""
    count = max(len(prompt.clicks) + 2 * (prompt.box is not None) for prompt in prompts)
    coords = np.zeros((len(prompts), count, 2), np.float32)
    labels = np.full((len(prompts), count), -1, np.float32)
    for row, prompt in enumerate(prompts):
        points = list(prompt.clicks)
        if prompt.box is not None:
            points += [(*prompt.box[:2], 2), (*prompt.box[2:], 3)]
        for column, (x, y, label) in enumerate(points):
            coords[row, column] = x, y
            labels[row, column] = label
    return coords, labels
