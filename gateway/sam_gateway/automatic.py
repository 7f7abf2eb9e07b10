"""Masks of everything in an image, as SAM's automatic mask generator makes them. Pure.

A grid of points is decoded with three candidates each. Those are kept that the model itself finds
good and that are stable against its threshold, and of those that nearly coincide the best (Kirillov
et al. 2023, Segment Anything, section 5 and appendix B).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sam_gateway.shapes import Runs, ShapeOptions, bounds, cleaned

# Masks whose boxes overlap by more are taken for the same.
MAX_BOX_IOU = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class AutomaticOptions:
    """Which masks are looked for and kept; the numbers are those of SAM's generator.

    Attributes:
        points_per_side: of the grid.
        min_predicted_iou: what the model has to expect of a mask.
        min_stability_score: how little a mask may change with its threshold.
        max_masks: of an image, the best first.
    """

    points_per_side: int = 32
    min_predicted_iou: float = 0.88
    min_stability_score: float = 0.95
    max_masks: int = 100


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A mask that one point of the grid gave.

    Attributes:
        name: of the point and the candidate; the same whenever the same is decoded again.
        runs: the mask.
        box: (x_min, y_min, x_max, y_max) around it in pixels, the maxima exclusive.
        predicted_iou: the model's own estimate of its quality.
    """

    name: str
    runs: Runs
    box: tuple[int, int, int, int]
    predicted_iou: float


def point_grid(points_per_side: int) -> list[tuple[float, float]]:
    """Return evenly spread points (x, y) in percent of the image, row by row.

    They are the centres of the cells of a grid, as `build_point_grid` of the reference.
    """
    places = [(2 * i + 1) * 50 / points_per_side for i in range(points_per_side)]
    return [(x, y) for y in places for x in places]


def candidate(
    name: str,
    runs: Runs,
    *,
    predicted_iou: float,
    stability_score: float,
    options: AutomaticOptions,
    shape_options: ShapeOptions,
) -> Candidate | None:
    """Return a mask without its specks and pinholes; None if it is not good enough or too small."""
    if predicted_iou <= options.min_predicted_iou:
        return None
    if stability_score < options.min_stability_score:
        return None
    if len(runs.counts) < 2:
        return None
    runs = cleaned(runs, shape_options)
    if runs.counts[1::2].sum() < shape_options.min_region_pixels:
        return None
    return Candidate(name, runs, bounds(runs), predicted_iou)


def best(candidates: Sequence[Candidate], options: AutomaticOptions) -> list[Candidate]:
    """Choose the best of those that coincide, at most `max_masks`, the best first."""
    boxes = np.array([found.box for found in candidates], np.float64).reshape(-1, 4)
    scores = np.array([found.predicted_iou for found in candidates], np.float64)
    chosen = suppress_overlaps(boxes, scores, MAX_BOX_IOU, options.max_masks)
    return [candidates[i] for i in chosen]


def suppress_overlaps(
    boxes: npt.NDArray[np.float64],
    scores: npt.NDArray[np.float64],
    max_iou: float,
    max_kept: int,
) -> list[int]:
    """Go through boxes from the best on and drop those that overlap one that was kept.

    Takes time for each box that is kept, hence ends with the last that is wanted.

    Args:
        boxes: (N, 4), each (x_min, y_min, x_max, y_max) and not empty.
        scores: (N,); of equal ones the first wins.
        max_iou: boxes whose intersection over union is above it overlap.
        max_kept: how many are wanted.

    Returns:
        The places of those that are kept, the best first.
    """
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while left.size and len(kept) < max_kept:
        i, left = int(left[0]), left[1:]
        kept.append(i)
        low = np.maximum(boxes[i, :2], boxes[left, :2])
        high = np.minimum(boxes[i, 2:], boxes[left, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=1)
        left = left[shared <= max_iou * (areas[i] + areas[left] - shared)]
    return kept
