"""Nothing is kept: not after good calls, nor after calls that fail at each step of a wrapper."""

import resource
import tracemalloc

import numpy as np

from sam_core import _native

IMAGE = np.zeros((250, 256, 3), np.uint8)
FRAME = np.zeros((3, 256, 256), np.float32)
LOGITS = np.random.default_rng(0).normal(0, 1, (64, 64)).astype(np.float32)
MASK = np.random.default_rng(0).random((256, 256)) < 0.5
COUNTS = np.frombuffer(_native.counts_from_mask(MASK), np.uint32)
ONES = (1.0, 1.0, 1.0)
SIZE = (256, 256)


def succeed() -> None:
    _native.normalize_and_pad_into(IMAGE, ONES, ONES, FRAME)
    _native.mask_from_logits(LOGITS, 256, SIZE, SIZE, 0.0, -1.0, 1.0)
    _native.counts_from_mask(MASK)
    _native.mask_from_counts_into(COUNTS, np.empty(SIZE, np.bool_))
    _native.remove_small_regions(COUNTS, *SIZE, 3, 3)
    for encode in ENCODERS:
        encode(COUNTS, *SIZE)


ENCODERS = (
    _native.brush_rle,
    _native.brush_rle_json,
    _native.coco_counts,
    _native.packed_bits,
    _native.polygons,
)

FAILING = [
    (_native.normalize_and_pad_into, (IMAGE, ONES, ONES, FRAME[:2])),
    (_native.normalize_and_pad_into, (IMAGE, ONES, ONES, FRAME[:, :128, :128].copy())),
    (_native.normalize_and_pad_into, (IMAGE, ONES, ONES, b"")),
    (_native.normalize_and_pad_into, (FRAME, ONES, ONES, FRAME)),
    (_native.mask_from_logits, (LOGITS, 128, SIZE, SIZE, 0.0, 0.0, 0.0)),
    (_native.mask_from_logits, (LOGITS, 256, SIZE, SIZE, 0.0, 1.0, 0.0)),
    (_native.mask_from_logits, (MASK, 256, SIZE, SIZE, 0.0, 0.0, 0.0)),
    (_native.counts_from_mask, (MASK[0],)),
    (_native.counts_from_mask, (LOGITS,)),
    (_native.mask_from_counts_into, (COUNTS, MASK[:9])),
    (_native.mask_from_counts_into, (LOGITS, MASK)),
    (_native.remove_small_regions, (COUNTS, *SIZE, 0, -1)),
    (_native.remove_small_regions, (COUNTS, 256, 255, 0, 0)),
    *((encode, (COUNTS, 256, 255)) for encode in ENCODERS),
    *((encode, (COUNTS, 2**15, 2**15)) for encode in ENCODERS),
    *((encode, (np.array([1, 0, 65535], np.uint32), *SIZE)) for encode in ENCODERS),
]


def fail() -> None:
    for function, arguments in FAILING:
        try:
            function(*arguments)
        except (TypeError, ValueError, BufferError):
            continue
        raise AssertionError(f"{function.__name__} should have failed")


def growth(call: object, times: int) -> tuple[int, int]:
    """Bytes that Python's allocator, and that the process, grew by."""
    for _ in range(20):
        call()
    tracemalloc.start()
    python_before = tracemalloc.get_traced_memory()[0]
    process_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(times):
        call()
    python = tracemalloc.get_traced_memory()[0] - python_before
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - process_before
    tracemalloc.stop()
    return python, process * 1024


for call, times in (succeed, 400), (fail, 2000):
    python, process = growth(call, times)
    # The smallest thing that could leak is an object of 24 bytes a call.
    assert python < 16 * times, f"{call.__name__}: {python} bytes more in Python"
    # The smallest kernel buffer that could leak has 256 bytes; most have tens of kilobytes.
    assert process < 4 << 20, f"{call.__name__}: {process} bytes more in the process"
print("passed")
