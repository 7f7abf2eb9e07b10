"""Every argument that is wrong is refused by name, by both implementations alike."""

import numpy as np
import pytest

from core_support import both_implementations

IMAGE = np.zeros((4, 6, 3), np.uint8)
LOGITS = np.zeros((4, 4), np.float32)
COUNTS = np.array([3, 2, 1], np.uint32)

NORMALIZE = {"image": IMAGE, "mean": (1.0, 2.0, 3.0), "std": (1.0, 2.0, 3.0), "frame_size": 8}
UPSCALE = {
    "low_res_logits": LOGITS,
    "frame_size": 8,
    "input_size": (8, 6),
    "original_size": (5, 7),
    "mask_threshold": 0.0,
    "stability_offset": 1.0,
}

WRONG = [
    (NORMALIZE, "image", IMAGE.tolist(), TypeError),
    (NORMALIZE, "image", None, TypeError),
    (NORMALIZE, "image", IMAGE.astype(np.int8), TypeError),
    (NORMALIZE, "image", IMAGE.astype(np.float32), TypeError),
    (NORMALIZE, "image", IMAGE[:, :, 0], ValueError),
    (NORMALIZE, "image", IMAGE[:, :, :2], ValueError),
    (NORMALIZE, "image", IMAGE[:0], ValueError),
    (NORMALIZE, "image", np.zeros((9, 8, 3), np.uint8), ValueError),
    (NORMALIZE, "image", np.zeros((8, 9, 3), np.uint8), ValueError),
    (NORMALIZE, "mean", 1.0, TypeError),
    (NORMALIZE, "mean", "123", TypeError),
    (NORMALIZE, "mean", (1.0, 2.0, "3"), TypeError),
    (NORMALIZE, "mean", np.array(1.0), TypeError),
    (NORMALIZE, "mean", np.ones((3, 3)), TypeError),
    (NORMALIZE, "mean", (1.0, 2.0), ValueError),
    (NORMALIZE, "mean", (1.0, 2.0, 10**400), ValueError),
    (NORMALIZE, "mean", (1.0, 2.0, float("nan")), ValueError),
    (NORMALIZE, "mean", (1.0, 2.0, 1e39), ValueError),
    (NORMALIZE, "std", None, TypeError),
    (NORMALIZE, "std", (1.0, 2.0, 3.0, 4.0), ValueError),
    (NORMALIZE, "std", (1.0, 0.0, 3.0), ValueError),
    (NORMALIZE, "std", (1.0, -1.0, 3.0), ValueError),
    (NORMALIZE, "std", (1.0, 1e-60, 3.0), ValueError),
    (NORMALIZE, "std", (1.0, float("inf"), 3.0), ValueError),
    (NORMALIZE, "frame_size", 8.0, TypeError),
    (NORMALIZE, "frame_size", "8", TypeError),
    (NORMALIZE, "frame_size", 0, ValueError),
    (NORMALIZE, "frame_size", 2**20 + 1, ValueError),
    (NORMALIZE, "frame_size", 2**100, ValueError),
    (UPSCALE, "low_res_logits", LOGITS.tolist(), TypeError),
    (UPSCALE, "low_res_logits", LOGITS.astype(np.float64), TypeError),
    (UPSCALE, "low_res_logits", LOGITS.astype(np.float16), TypeError),
    (UPSCALE, "low_res_logits", LOGITS.astype(">f4"), TypeError),
    (UPSCALE, "low_res_logits", LOGITS[None], ValueError),
    (UPSCALE, "low_res_logits", LOGITS[0], ValueError),
    (UPSCALE, "low_res_logits", LOGITS[:, :0], ValueError),
    (UPSCALE, "low_res_logits", np.broadcast_to(LOGITS[0, 0], (1, 2**20 + 1)), ValueError),
    (UPSCALE, "frame_size", None, TypeError),
    (UPSCALE, "frame_size", -1, ValueError),
    (UPSCALE, "input_size", 8, TypeError),
    (UPSCALE, "input_size", "88", TypeError),
    (UPSCALE, "input_size", (8, 6.5), TypeError),
    (UPSCALE, "input_size", (8,), ValueError),
    (UPSCALE, "input_size", (8, 0), ValueError),
    (UPSCALE, "input_size", (9, 8), ValueError),
    (UPSCALE, "input_size", (8, 9), ValueError),
    (UPSCALE, "original_size", None, TypeError),
    (UPSCALE, "original_size", (5, "7"), TypeError),
    (UPSCALE, "original_size", (5, 7, 3), ValueError),
    (UPSCALE, "original_size", (0, 7), ValueError),
    (UPSCALE, "original_size", (5, -7), ValueError),
    (UPSCALE, "original_size", (2**16, 2**16), ValueError),
    (UPSCALE, "mask_threshold", None, TypeError),
    (UPSCALE, "mask_threshold", "0", TypeError),
    (UPSCALE, "mask_threshold", np.zeros(2), TypeError),
    (UPSCALE, "mask_threshold", float("nan"), ValueError),
    (UPSCALE, "mask_threshold", float("-inf"), ValueError),
    (UPSCALE, "mask_threshold", 1e38, ValueError),
    (UPSCALE, "stability_offset", b"1", TypeError),
    (UPSCALE, "stability_offset", -0.5, ValueError),
    (UPSCALE, "stability_offset", float("inf"), ValueError),
    (UPSCALE, "stability_offset", 1e38, ValueError),
]


def _id(value):
    if isinstance(value, dict):
        return "normalize" if value is NORMALIZE else "upscale"
    return f"{value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else None


@both_implementations
@pytest.mark.parametrize(("good", "name", "value", "error"), WRONG, ids=_id)
def test_wrong_arguments_of_the_transforms_are_refused_by_name(core, good, name, value, error):
    function = core.normalize_and_pad if good is NORMALIZE else core.mask_from_logits
    function(**good)

    with pytest.raises(error, match=rf"\b{name}\b.*: expected"):
        function(**{**good, name: value})


WRONG_RUNS = [
    ([3, 2, 1], 2, 3, TypeError, "counts"),
    (None, 2, 3, TypeError, "counts"),
    (COUNTS.tobytes(), 2, 3, TypeError, "counts"),
    (COUNTS.astype(np.int32), 2, 3, TypeError, "counts"),
    (COUNTS.astype(np.uint64), 2, 3, TypeError, "counts"),
    (COUNTS.astype(">u4"), 2, 3, TypeError, "counts"),
    (COUNTS[None], 2, 3, ValueError, "counts"),
    (COUNTS[:0], 2, 3, ValueError, "counts"),
    (COUNTS, 3, 3, ValueError, "counts"),
    (COUNTS, 1, 5, ValueError, "counts"),
    (np.array([3, 0, 3], np.uint32), 2, 3, ValueError, "counts"),
    (np.array([6, 0], np.uint32), 2, 3, ValueError, "counts"),
    # The sum is 6 in 32 bits.
    (np.array([2**32 - 1, 1, 6], np.uint32), 2, 3, ValueError, "counts"),
    (COUNTS, 2.0, 3, TypeError, "height"),
    (COUNTS, 2, "3", TypeError, "width"),
    (COUNTS, 0, 3, ValueError, "height"),
    (COUNTS, 2, -3, ValueError, "width"),
    (COUNTS, 2**21, 3, ValueError, "height"),
    (COUNTS, 2**16, 2**16, ValueError, "height, width"),
]


@both_implementations
@pytest.mark.parametrize(
    "function",
    [
        "mask_from_counts",
        "brush_rle",
        "brush_rle_json",
        "coco_counts",
        "packed_bits",
        "polygons",
        "remove_small_regions",
    ],
)
@pytest.mark.parametrize(("counts", "height", "width", "error", "name"), WRONG_RUNS)
def test_wrong_runs_are_refused_by_name(core, function, counts, height, width, error, name):
    with pytest.raises(error, match=rf"^{name}: expected"):
        getattr(core, function)(counts, height, width)


@both_implementations
@pytest.mark.parametrize("function", ["brush_rle", "brush_rle_json"])
def test_masks_that_the_brush_format_cannot_count_are_refused(core, function):
    with pytest.raises(ValueError, match=r"^height, width: expected below 2\*\*30 pixels"):
        getattr(core, function)(np.array([2**30], np.uint32), 2**15, 2**15)

    largest = getattr(core, function)(np.array([2**30 - 2**15], np.uint32), 2**15 - 1, 2**15)
    assert len(largest) > 0


@both_implementations
@pytest.mark.parametrize("name", ["max_speck_pixels", "max_hole_pixels"])
@pytest.mark.parametrize(
    ("value", "error"), [(1.0, TypeError), ("1", TypeError), (None, TypeError), (-1, ValueError)]
)
def test_wrong_limits_of_small_regions_are_refused_by_name(core, name, value, error):
    with pytest.raises(error, match=rf"^{name}: expected"):
        core.remove_small_regions(COUNTS, 2, 3, **{name: value})


@both_implementations
@pytest.mark.parametrize(
    ("mask", "error"),
    [
        ([[0, 1]], TypeError),
        (np.zeros((2, 3), np.float32), TypeError),
        (np.zeros((2, 3), np.int64), TypeError),
        (np.zeros((2, 3, 1), np.bool_), ValueError),
        (np.zeros(6, np.bool_), ValueError),
        (np.zeros((0, 3), np.bool_), ValueError),
        (np.broadcast_to(np.True_, (1, 2**20 + 1)), ValueError),
    ],
)
def test_wrong_masks_are_refused_by_name(core, mask, error):
    with pytest.raises(error, match=r"^mask: expected"):
        core.counts_from_mask(mask)
