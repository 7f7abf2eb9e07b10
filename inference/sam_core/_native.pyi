import numpy as np
from numpy.typing import NDArray

def normalize_and_pad_into(
    image: NDArray[np.uint8],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    frame: NDArray[np.float32],
    /,
) -> None: ...
def mask_from_logits(
    logits: NDArray[np.float32],
    frame_size: int,
    input_size: tuple[int, int],
    original_size: tuple[int, int],
    threshold: float,
    low: float,
    high: float,
    /,
) -> tuple[bytes, int, tuple[int, int, int, int], float]: ...
def counts_from_mask(mask: NDArray[np.bool_] | NDArray[np.uint8], /) -> bytes: ...
def mask_from_counts_into(counts: NDArray[np.uint32], mask: NDArray[np.bool_], /) -> None: ...
def brush_rle(counts: NDArray[np.uint32], height: int, width: int, /) -> bytes: ...
def brush_rle_json(counts: NDArray[np.uint32], height: int, width: int, /) -> bytes: ...
def coco_counts(counts: NDArray[np.uint32], height: int, width: int, /) -> bytes: ...
def packed_bits(counts: NDArray[np.uint32], height: int, width: int, /) -> bytes: ...
def remove_small_regions(
    counts: NDArray[np.uint32],
    height: int,
    width: int,
    max_speck_pixels: int,
    max_hole_pixels: int,
    /,
) -> bytes: ...
def polygons(
    counts: NDArray[np.uint32], height: int, width: int, /
) -> tuple[bytes, bytes, bytes]: ...
