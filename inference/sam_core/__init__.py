"""Arrays in, arrays out: pixels to the model's input, logits to masks, masks to encodings.

A mask is kept as run lengths (`counts`): the lengths of alternating runs of background and
object in row-major order, background first. Only the first may be 0, and their sum is
height * width. Masks have at most 2**32 - 1 pixels and sides of at most 2**20.

The C module `_native` does the work where it is compiled, and `_numpy`, which defines what is
computed, elsewhere; `implementation` says which. Both give the same bits and raise the same
errors. Every function may be called from several threads at once, and leaves its arguments as
they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sam_core._arguments import (
    MAX_SIDE,
    MAX_THRESHOLD,
    check_array,
    check_channels,
    check_counts,
    check_float,
    check_pixels,
    check_side,
    check_size,
)

implementation: Literal["native", "numpy"]
try:
    from sam_core import _native as _kernels

    implementation = "native"
except ImportError:
    from sam_core import _numpy as _kernels  # type: ignore[no-redef]  # the same functions

    implementation = "numpy"

__all__ = [
    "MAX_SIDE",
    "Mask",
    "Polygon",
    "brush_rle",
    "brush_rle_json",
    "coco_counts",
    "counts_from_mask",
    "implementation",
    "mask_from_counts",
    "mask_from_logits",
    "normalize_and_pad",
    "packed_bits",
    "polygons",
    "remove_small_regions",
]


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A mask of one object, at the size of the original image.

    Attributes:
        counts: row-major run lengths, uint32 (R,), read-only; sum is height * width.
        height, width: pixels.
        area: pixels of the object.
        box: (x_min, y_min, x_max, y_max) around the object in pixels, maxima exclusive;
            (0, 0, 0, 0) where there is no object.
        stability_score: IoU of the masks at threshold + offset and threshold - offset, 0 to 1;
            0 where both are empty.
    """

    counts: NDArray[np.uint32]
    height: int
    width: int
    area: int
    box: tuple[int, int, int, int]
    stability_score: float


@dataclass(frozen=True, slots=True, eq=False)
class Polygon:
    """The outline of one part of a mask, along the edges of its pixels.

    Rings are float32 (N, 2), N at least 4: the corners (x, y) in pixels, 0 to width and height,
    each once, without those on straight lines. The outline goes clockwise as seen on screen and
    holes the other way round. A ring never touches itself; two may meet in single points, as
    simple features allow it (a valid polygon of GEOS and others).

    Attributes:
        exterior: the ring around the part.
        holes: the rings around its holes.
        area: pixels of the part, its holes not counted.
    """

    exterior: NDArray[np.float32]
    holes: tuple[NDArray[np.float32], ...]
    area: int


def normalize_and_pad(
    image: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float], frame_size: int
) -> NDArray[np.float32]:
    """Normalise the channels of an image and pad it to the square frame of the model.

    Equals `(image - mean) / std` in float32, as `Sam.preprocess` of the reference does it.

    Args:
        image: uint8 (H, W, 3), RGB, resized to the frame: H and W at most `frame_size`.
        mean: of each channel, 0 to 255.
        std: standard deviation of each channel, 0 to 255 and not 0.
        frame_size: side of the frame in pixels, S.

    Returns:
        float32 (3, S, S), zeros to the right of the image and below it.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: an argument has another shape, is out of range or not finite.
    """
    pixels = check_array("image", image, np.uint8, ndim=3)
    means = check_channels("mean", mean)
    stds = check_channels("std", std)
    side = check_side("frame_size", frame_size)
    if pixels.shape[2] != 3:
        raise ValueError(f"image: expected 3 channels, got shape {pixels.shape}")
    if max(pixels.shape[:2]) > side:
        raise ValueError(f"image: expected at most {side} x {side} pixels, got {pixels.shape[:2]}")
    if not all(np.float32(deviation) > 0 for deviation in stds):
        raise ValueError(f"std: expected numbers above 0, got {stds}")
    frame = np.empty((3, side, side), np.float32)
    _kernels.normalize_and_pad_into(pixels, means, stds, frame)
    return frame


def mask_from_logits(
    low_res_logits: NDArray[np.float32],
    *,
    frame_size: int,
    input_size: tuple[int, int],
    original_size: tuple[int, int],
    mask_threshold: float = 0.0,
    stability_offset: float = 1.0,
) -> Mask:
    """Upscale mask logits to the original image and threshold them.

    The upscaling is that of `Sam.postprocess_masks` of the reference: bilinear (as
    torch.nn.functional.interpolate, align_corners=False) to the frame, crop to the input, bilinear
    to the original; pixels above the threshold are the object's. Rounding differs from PyTorch's,
    so a pixel may differ where its logit is within about 1e-5 of the largest logit nearby from
    the threshold. No array of the original size is made by the C module; memory and time follow
    the height and the number of runs.

    Args:
        low_res_logits: float32 (h, w), the padded frame seen by the mask decoder. NaN is read as
            background; infinities and values beyond 2**126 as plus or minus 2**126.
        frame_size: side of the model's padded square frame in pixels.
        input_size: (height, width) of the resized image in the frame, without the padding.
        original_size: (height, width) of the original image.
        mask_threshold: logit above which a pixel belongs to the object.
        stability_offset: distance of the two thresholds of the stability score, 0 or more, see
            `calculate_stability_score` of the reference.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: an argument has another shape, is out of range or not finite.
    """
    logits = check_array("low_res_logits", low_res_logits, np.float32, ndim=2)
    side = check_side("frame_size", frame_size)
    cropped = check_size("input_size", input_size)
    height, width = check_size("original_size", original_size)
    threshold = check_float("mask_threshold", mask_threshold)
    offset = check_float("stability_offset", stability_offset)
    for length in logits.shape:
        check_side("low_res_logits", length)
    if max(cropped) > side:
        raise ValueError(f"input_size: expected at most {side} x {side}, got {cropped}")
    if offset < 0:
        raise ValueError(f"stability_offset: expected 0 or more, got {offset}")
    if abs(threshold) + offset >= MAX_THRESHOLD:
        raise ValueError(
            "mask_threshold, stability_offset: expected a sum below 2**126, "
            f"got {threshold} and {offset}"
        )
    counts, area, box, stability_score = _kernels.mask_from_logits(
        logits, side, cropped, (height, width), threshold, threshold - offset, threshold + offset
    )
    runs = np.frombuffer(counts, np.uint32)
    return Mask(runs, height, width, area, box, stability_score)


def counts_from_mask(mask: NDArray[np.bool_] | NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Give the run lengths of a mask.

    Args:
        mask: bool or uint8 (H, W); pixels other than 0 are the object's.

    Returns:
        uint32 (R,), read-only, background first.

    Raises:
        TypeError: `mask` has another type or dtype.
        ValueError: `mask` has another shape or is too large.
    """
    pixels = check_array("mask", mask, np.bool_, np.uint8, ndim=2)
    check_size("mask", pixels.shape)
    return np.frombuffer(_kernels.counts_from_mask(pixels), np.uint32)


def mask_from_counts(counts: NDArray[np.uint32], height: int, width: int) -> NDArray[np.bool_]:
    """Give the mask, bool (height, width), of row-major run lengths, uint32 (R,).

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: `counts` are not the run lengths of height * width pixels.
    """
    runs, *size = check_counts(counts, height, width)
    mask = np.empty(size, np.bool_)
    _kernels.mask_from_counts_into(runs, mask)
    return mask


def brush_rle(counts: NDArray[np.uint32], height: int, width: int) -> bytes:
    """Give Label Studio's brush RLE of row-major run lengths, uint32 (R,).

    The bytes are those of `label_studio_sdk.converter.brush.mask2rle` for a mask of 0 and 255;
    the items of the list in `value.rle` are their values.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: `counts` are not the run lengths of height * width pixels, or these are 2**30
            or more, which the format has no room for.
    """
    return _kernels.brush_rle(*_check_brush_counts(counts, height, width))


def brush_rle_json(counts: NDArray[np.uint32], height: int, width: int) -> bytes:
    """Give `brush_rle` as the text of a JSON list without spaces: `[0,0,...]`.

    Raises:
        TypeError, ValueError: as `brush_rle`.
    """
    return _kernels.brush_rle_json(*_check_brush_counts(counts, height, width))


def coco_counts(counts: NDArray[np.uint32], height: int, width: int) -> bytes:
    """Give COCO's compressed counts of row-major run lengths, uint32 (R,).

    The bytes are those of `pycocotools.mask.encode(mask)["counts"]`; its runs are column-major.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: `counts` are not the run lengths of height * width pixels.
    """
    return _kernels.coco_counts(*check_counts(counts, height, width))


def packed_bits(counts: NDArray[np.uint32], height: int, width: int) -> bytes:
    """Give a mask of row-major run lengths, uint32 (R,), as bits.

    The bits are in row-major order, most significant first, with no padding between rows and
    zeros in the end: `numpy.packbits` of the flat mask.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: `counts` are not the run lengths of height * width pixels.
    """
    return _kernels.packed_bits(*check_counts(counts, height, width))


def remove_small_regions(
    counts: NDArray[np.uint32],
    height: int,
    width: int,
    *,
    max_speck_pixels: int = 0,
    max_hole_pixels: int = 0,
) -> NDArray[np.uint32]:
    """Fill the small holes of a mask, then drop its small parts.

    Parts are 8-connected, as in `remove_small_regions` of the reference, and holes, accordingly,
    4-connected. Unlike there, background that reaches the border is no hole. The largest part
    stays, the first one of equals. Time and memory follow the numbers of runs and of rows.

    Args:
        counts: row-major run lengths, uint32 (R,).
        height, width: of the mask.
        max_speck_pixels: parts of so many pixels or fewer are dropped; 0 drops none.
        max_hole_pixels: holes of so many pixels or fewer are filled; 0 fills none.

    Returns:
        Row-major run lengths, uint32, read-only.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: `counts` are not the run lengths of height * width pixels, or a limit is
            below 0.
    """
    runs, height, width = check_counts(counts, height, width)
    specks = check_pixels("max_speck_pixels", max_speck_pixels)
    holes = check_pixels("max_hole_pixels", max_hole_pixels)
    cleaned = _kernels.remove_small_regions(runs, height, width, specks, holes)
    return np.frombuffer(cleaned, np.uint32)


def polygons(counts: NDArray[np.uint32], height: int, width: int) -> list[Polygon]:
    """Give the exact outlines of a mask: filled, they are its pixels and no others.

    Parts are 4-connected: pixels that touch by a corner only are in different ones, unless
    others connect them. The largest part comes first, of equals the upper left one. Time and
    memory follow the numbers of runs and of rows.

    Args:
        counts: row-major run lengths, uint32 (R,).
        height, width: of the mask.

    Raises:
        TypeError: an argument has another type or dtype.
        ValueError: `counts` are not the run lengths of height * width pixels.
    """
    runs, *size = check_counts(counts, height, width)
    points, rings, areas = (
        np.frombuffer(array, np.uint32) for array in _kernels.polygons(runs, *size)
    )
    sizes, parts = rings.reshape(-1, 2).T
    corners = points.reshape(-1, 2).astype(np.float32)
    corners.flags.writeable = False
    ends = np.cumsum(sizes)
    outlines: list[list[NDArray[np.float32]]] = [[] for _ in areas]
    for part, begin, end in zip(
        parts.tolist(), (ends - sizes).tolist(), ends.tolist(), strict=True
    ):
        outlines[part].append(corners[begin:end])
    found = [
        Polygon(exterior, tuple(holes), area)
        for (exterior, *holes), area in zip(outlines, areas.tolist(), strict=True)
    ]
    return sorted(found, key=lambda polygon: -polygon.area)


def _check_brush_counts(
    counts: object, height: object, width: object
) -> tuple[NDArray[np.uint32], int, int]:
    """Check run lengths whose RGBA bytes must be countable in 32 bits."""
    checked = check_counts(counts, height, width)
    if checked[1] * checked[2] >= 1 << 30:
        raise ValueError(f"height, width: expected below 2**30 pixels, got {height} x {width}")
    return checked
