"""What goes into the service and what comes out of it, as plain values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

import sam_core

BACKGROUND, OBJECT = 0, 1


@dataclass(frozen=True, slots=True, eq=False, init=False)
class Prompt:
    """One object to cut out: any mixture of points, a box and a mask, at least one of them.

    Coordinates are in pixels of the upright image, origin top left, x from 0 to width and y from
    0 to height. The arrays are copies and read-only.
    """

    point_coords: NDArray[np.float32]
    """Shape (N, 2), (x, y)."""
    point_labels: NDArray[np.int32]
    """Shape (N,), 1 on the object, 0 on the background."""
    box: tuple[float, float, float, float] | None
    """(x_min, y_min, x_max, y_max), the maxima exclusive."""
    mask_input: NDArray[np.float32] | None
    """Shape (1, mask_size, mask_size): low-res logits of an earlier answer for this object."""

    def __init__(
        self,
        point_coords: ArrayLike = (),
        point_labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
    ) -> None:
        """Check the parts against each other and keep copies of them.

        Args:
            point_coords: (N, 2), finite (x, y) in pixels; () for none.
            point_labels: (N,), 1 on the object, 0 on the background; None says that all points
                are on the object.
            box: four finite numbers (x_min, y_min, x_max, y_max) with x_min < x_max and
                y_min < y_max.
            mask_input: finite float (1, M, M), `SegmentedMask.low_res_logits` of an earlier answer.

        Raises:
            ValueError: a part has another shape or other values than stated above, or there is
                nothing in the prompt. The message begins with the argument's name. Whether the
                coordinates lie in the image is for the worker to say.
        """
        coords = _checked_point_coords(point_coords)
        labels = _checked_point_labels(point_labels, count=len(coords))
        checked_box = None if box is None else _checked_box(box)
        mask = None if mask_input is None else _checked_mask_input(mask_input)
        if not len(coords) and checked_box is None and mask is None:
            raise ValueError("point_coords: a prompt needs points, a box or a mask_input")
        object.__setattr__(self, "point_coords", coords)
        object.__setattr__(self, "point_labels", labels)
        object.__setattr__(self, "box", checked_box)
        object.__setattr__(self, "mask_input", mask)


@dataclass(frozen=True, slots=True)
class EmbedTimings:
    """Where the time of an embed call went on the worker; all zero if the image was cached."""

    queue_ms: float
    image_decode_ms: float
    preprocess_ms: float
    encoder_ms: float


@dataclass(frozen=True, slots=True)
class EmbeddedImage:
    """An image whose embedding the worker holds."""

    image_id: str
    """Opaque; equal for equal images under one model."""
    width: int
    """Of the upright image, in pixels."""
    height: int
    model: str
    """Name of the model that made the embedding."""
    cached: bool
    """Whether the embedding was there already."""
    timings: EmbedTimings


@dataclass(frozen=True, slots=True)
class DecodeTimings:
    """Where the time of one prompt went on the worker."""

    queue_ms: float
    decoder_ms: float
    postprocess_ms: float


@dataclass(frozen=True, slots=True, eq=False)
class SegmentedMask:
    """One mask, at the size of the upright image."""

    prompt_index: int
    """Which of the prompts this mask answers."""
    mask_index: int
    """Which of the prompt's candidates it is, by the model's own numbering."""
    width: int
    height: int
    counts: NDArray[np.uint32]
    """Row-major run lengths, background first; the first may be 0."""
    predicted_iou: float
    """The model's own estimate of the mask's quality, about 0 to 1."""
    stability_score: float
    """IoU of the masks cut above and below the threshold, 0 to 1."""
    area: int
    """In pixels."""
    box: tuple[int, int, int, int] | None
    """(x_min, y_min, x_max, y_max) in pixels, the maxima exclusive; None if the mask is empty."""
    low_res_logits: NDArray[np.float32] | None
    """Shape (1, mask_size, mask_size), if asked for: the `mask_input` of a next prompt."""
    image_id: str
    timings: DecodeTimings

    def to_array(self) -> NDArray[np.bool_]:
        """Return the mask as bool (height, width), the caller's to keep and change."""
        return sam_core.mask_from_counts(self.counts, self.height, self.width)


@dataclass(frozen=True, slots=True)
class Model:
    """A model that can be asked for."""

    name: str
    title: str
    licence: str
    """SPDX identifier of the licence of its weights, NOASSERTION where it is not known."""
    engine: str
    device: str
    precision: str
    input_size: int
    """Side of the square model frame in pixels."""
    mask_size: int
    """Side of the low-res logits."""
    embedding_bytes: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of requests; what exceeds them is refused."""

    max_message_bytes: int
    max_image_pixels: int
    max_prompts: int
    max_points: int


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a worker offers."""

    models: tuple[Model, ...]
    default_model: str
    limits: Limits


def _checked_array(name: str, values: ArrayLike, expected: str) -> NDArray[np.float32]:
    """Return a float32 copy of numbers that are finite in float32, the type on the wire."""
    try:
        with np.errstate(over="ignore"):
            array = np.array(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected {expected}, got {values!r}") from error
    infinite = ~np.isfinite(array)
    if infinite.any():
        raise ValueError(f"{name}: expected finite numbers, got {array[infinite][0]} (in float32)")
    return array


def _checked_point_coords(values: ArrayLike) -> NDArray[np.float32]:
    array = _checked_array("point_coords", values, "numbers of shape (N, 2)")
    if array.size == 0:
        array = array.reshape(0, 2)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"point_coords: expected shape (N, 2), got {array.shape}")
    array.flags.writeable = False
    return array


def _checked_point_labels(values: ArrayLike | None, *, count: int) -> NDArray[np.int32]:
    expected = "1 (on the object) or 0 (on the background) for each point"
    array = (
        np.full(count, OBJECT, dtype=np.float32)
        if values is None
        else _checked_array("point_labels", values, expected)
    )
    if array.shape != (count,):
        raise ValueError(
            f"point_labels: expected shape ({count},) as point_coords has {count} points, "
            f"got {array.shape}"
        )
    if not np.isin(array, (BACKGROUND, OBJECT)).all():
        raise ValueError(f"point_labels: expected {expected}, got {values!r}")
    labels = array.astype(np.int32)
    labels.flags.writeable = False
    return labels


def _checked_box(values: ArrayLike) -> tuple[float, float, float, float]:
    expected = "four numbers (x_min, y_min, x_max, y_max)"
    array = _checked_array("box", values, expected)
    if array.shape != (4,):
        raise ValueError(f"box: expected {expected}, got {values!r}")
    x_min, y_min, x_max, y_max = (float(value) for value in array)
    if x_min >= x_max or y_min >= y_max:
        raise ValueError(f"box: expected x_min < x_max and y_min < y_max, got {values!r}")
    return x_min, y_min, x_max, y_max


def _checked_mask_input(values: ArrayLike) -> NDArray[np.float32]:
    expected = "low-res logits of shape (1, M, M)"
    array = _checked_array("mask_input", values, expected)
    if array.ndim != 3 or array.shape[0] != 1 or array.shape[1] != array.shape[2]:
        raise ValueError(f"mask_input: expected {expected}, got shape {array.shape}")
    array.flags.writeable = False
    return array
