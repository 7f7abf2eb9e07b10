"""Checks of arguments: each names the argument, what it is and what it should be."""

import math
import operator
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Sides that float32 coordinates still tell apart, half pixels included.
MAX_SIDE = 1 << 20

# Run lengths are uint32.
MAX_PIXELS = (1 << 32) - 1

_LARGEST_FLOAT = float(np.finfo(np.float32).max)

# Logits are bounded by 2**126: a threshold beyond would find none of them.
MAX_THRESHOLD = 2.0**126


def check_array(name: str, value: object, *dtypes: type[np.generic], ndim: int) -> NDArray[Any]:
    """Give `value`, C-contiguous, once it is an array of one of `dtypes` with `ndim` dimensions.

    Raises:
        TypeError: `value` is no array, or has another dtype.
        ValueError: it has other dimensions, an empty one or one that is too long.
    """
    expected = " or ".join(np.dtype(dtype).name for dtype in dtypes)
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name}: expected an array of {expected}, got {type(value).__name__}")
    if value.dtype not in [np.dtype(dtype) for dtype in dtypes]:
        raise TypeError(f"{name}: expected {expected}, got {value.dtype}")
    if value.ndim != ndim or value.size == 0:
        raise ValueError(
            f"{name}: expected {ndim} dimensions, none of them empty, got shape {value.shape}"
        )
    return np.require(value, requirements=["C", "A"])


def check_side(name: str, value: object) -> int:
    """Give `value` as an int once it is a whole number from 1 to MAX_SIDE.

    Raises:
        TypeError: `value` is no whole number.
        ValueError: it is out of range.
    """
    try:
        side = operator.index(value)  # type: ignore[arg-type]  # what it raises is the check
    except TypeError:
        raise TypeError(f"{name}: expected a whole number, got {value!r}") from None
    if not 1 <= side <= MAX_SIDE:
        raise ValueError(f"{name}: expected 1 to {MAX_SIDE}, got {side}")
    return side


def check_pixels(name: str, value: object) -> int:
    """Give `value` as an int, at most MAX_PIXELS - 1, once it is a whole number from 0.

    Raises:
        TypeError: `value` is no whole number.
        ValueError: it is below 0.
    """
    try:
        pixels = operator.index(value)  # type: ignore[arg-type]  # what it raises is the check
    except TypeError:
        raise TypeError(f"{name}: expected a whole number, got {value!r}") from None
    if pixels < 0:
        raise ValueError(f"{name}: expected 0 or more, got {pixels}")
    return min(pixels, MAX_PIXELS - 1)


def check_size(name: str, value: object) -> tuple[int, int]:
    """Give `value` as (height, width) once it is two sides with at most MAX_PIXELS pixels.

    Raises:
        TypeError: `value` is no pair of whole numbers.
        ValueError: it has another length, or a side or the number of pixels is out of range.
    """
    height, width = _items(name, value, 2)
    size = check_side(name, height), check_side(name, width)
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"{name}: expected at most {MAX_PIXELS} pixels, got {size}")
    return size


def check_float(name: str, value: object) -> float:
    """Give `value` as a float once it is a finite number.

    Raises:
        TypeError: `value` is no number.
        ValueError: it is not finite in float32.
    """
    if not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not abs(number) <= _LARGEST_FLOAT:
        raise ValueError(f"{name}: expected a finite float32, got {value!r}")
    return number


def check_channels(name: str, value: object) -> tuple[float, float, float]:
    """Give `value` as three floats once it is three finite numbers.

    Raises:
        TypeError: `value` is no sequence of numbers.
        ValueError: it has another length, or one is not finite in float32.
    """
    red, green, blue = _items(name, value, 3)
    return check_float(name, red), check_float(name, green), check_float(name, blue)


def check_counts(
    counts: object, height: object, width: object
) -> tuple[NDArray[np.uint32], int, int]:
    """Give the three once `counts` are the run lengths of height * width pixels.

    Raises:
        TypeError: `counts` is no array of uint32, or a side is no whole number.
        ValueError: a side or the number of pixels is out of range, a run other than the first is
            0, or they do not sum to height * width.
    """
    size = check_side("height", height), check_side("width", width)
    pixels = size[0] * size[1]
    if pixels > MAX_PIXELS:
        raise ValueError(f"height, width: expected at most {MAX_PIXELS} pixels, got {size}")
    runs = check_array("counts", counts, np.uint32, ndim=1)
    if not runs[1:].all():
        raise ValueError("counts: expected no run of length 0 but the first")
    total = int(runs.sum(dtype=np.uint64))
    if total != pixels:
        raise ValueError(f"counts: expected a sum of height * width = {pixels}, got {total}")
    return runs, *size


def _items(name: str, value: object, number: int) -> Sequence[object]:
    items = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(items, Sequence) or isinstance(items, str | bytes):
        raise TypeError(f"{name}: expected {number} numbers, got {value!r}")
    if len(items) != number:
        raise ValueError(f"{name}: expected {number} numbers, got {len(items)}")
    return items
