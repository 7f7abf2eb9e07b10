"""The C module itself: it is there, is like its twin, and survives whatever it is given."""

import inspect
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from core_support import native_core, numpy_core, smooth_logits
from sam_core import _native, _numpy

ISOLATED = Path(__file__).parents[1] / "isolated"


def test_the_extension_is_compiled_and_used():
    assert native_core.implementation == "native"
    assert Path(_native.__file__).suffix in {".so", ".pyd"}


def test_without_the_extension_the_twin_is_used():
    assert numpy_core.implementation == "numpy"


def test_both_implementations_have_the_same_functions():
    def functions(module):
        return {
            name: len(inspect.signature(function).parameters)
            for name, function in vars(module).items()
            if not name.startswith("_") and inspect.isroutine(function)
        }

    assert functions(_native) == functions(_numpy)


IMAGE = np.zeros((4, 6, 3), np.uint8)
FRAME = np.zeros((3, 8, 8), np.float32)
LOGITS = np.zeros((4, 4), np.float32)
MASK = np.zeros((2, 3), np.bool_)
COUNTS = np.array([3, 2, 1], np.uint32)
ONES = (1.0, 1.0, 1.0)
READ_ONLY_FRAME = FRAME.copy()
READ_ONLY_FRAME.flags.writeable = False
MISALIGNED = np.frombuffer(b"x" + COUNTS.tobytes(), np.uint32, offset=1)

HOSTILE = [
    ("normalize_and_pad_into", (IMAGE, ONES, ONES)),
    ("normalize_and_pad_into", (None, ONES, ONES, FRAME)),
    ("normalize_and_pad_into", (IMAGE, ONES[:2], ONES, FRAME)),
    ("normalize_and_pad_into", (IMAGE, ONES, ONES, READ_ONLY_FRAME)),
    ("normalize_and_pad_into", (IMAGE, ONES, ONES, FRAME[:, ::2])),
    ("normalize_and_pad_into", (IMAGE, ONES, ONES, FRAME[:2])),
    ("normalize_and_pad_into", (IMAGE, ONES, ONES, FRAME[:, :7].copy())),
    ("normalize_and_pad_into", (IMAGE, ONES, ONES, FRAME.astype(np.float64))),
    ("normalize_and_pad_into", (IMAGE[:, ::2], ONES, ONES, FRAME)),
    ("normalize_and_pad_into", (IMAGE[:, :, :2].copy(), ONES, ONES, FRAME)),
    ("normalize_and_pad_into", (np.zeros((9, 2, 3), np.uint8), ONES, ONES, FRAME)),
    ("normalize_and_pad_into", (np.zeros((2, 9, 3), np.uint8), ONES, ONES, FRAME)),
    ("mask_from_logits", (LOGITS, 8, (8, 8), (5, 5), 0.0, 0.0)),
    ("mask_from_logits", (LOGITS.tobytes(), 8, (8, 8), (5, 5), 0.0, 0.0, 0.0)),
    ("mask_from_logits", (LOGITS[:, ::2], 8, (8, 8), (5, 5), 0.0, 0.0, 0.0)),
    ("mask_from_logits", (LOGITS[:0], 8, (8, 8), (5, 5), 0.0, 0.0, 0.0)),
    ("mask_from_logits", (np.zeros((1, 2**20 + 1), np.float32), 8, (8, 8), (5, 5), 0, 0, 0)),
    ("mask_from_logits", (LOGITS, 0, (8, 8), (5, 5), 0.0, 0.0, 0.0)),
    ("mask_from_logits", (LOGITS, 2**63 - 1, (8, 8), (5, 5), 0.0, 0.0, 0.0)),
    ("mask_from_logits", (LOGITS, 2**64, (8, 8), (5, 5), 0.0, 0.0, 0.0)),
    ("mask_from_logits", (LOGITS, 8, (9, 8), (5, 5), 0.0, 0.0, 0.0)),
    ("mask_from_logits", (LOGITS, 8, (8, 9), (5, 5), 0.0, 0.0, 0.0)),
    ("mask_from_logits", (LOGITS, 8, (8, 8), (-1, 5), 0.0, 0.0, 0.0)),
    ("mask_from_logits", (LOGITS, 8, (8, 8), (2**16, 2**16), 0.0, 0.0, 0.0)),
    ("mask_from_logits", (LOGITS, 8, (8, 8), (5, 5), 0.0, 1.0, 2.0)),
    ("mask_from_logits", (LOGITS, 8, (8, 8), (5, 5), 0.0, -1.0, -0.5)),
    ("mask_from_logits", (LOGITS, 8, (8, 8), (5, 5), float("nan"), 0.0, 0.0)),
    ("counts_from_mask", (None,)),
    ("counts_from_mask", (MASK.T,)),
    ("counts_from_mask", (MASK.ravel(),)),
    ("counts_from_mask", (MASK[:0],)),
    ("counts_from_mask", (MASK.astype(np.int16),)),
    ("counts_from_mask", (np.zeros((1, 2**20 + 1), np.bool_),)),
    ("mask_from_counts_into", (COUNTS,)),
    ("mask_from_counts_into", (COUNTS, np.zeros((2, 2), np.bool_))),
    ("mask_from_counts_into", (COUNTS, np.zeros((3, 3), np.bool_))),
    ("mask_from_counts_into", (np.array([2**32 - 1, 1, 6], np.uint32), MASK)),
    ("mask_from_counts_into", (COUNTS, b"000000")),
    ("remove_small_regions", (COUNTS, 2, 3, 0)),
    ("remove_small_regions", (COUNTS, 2, 3, -1, 0)),
    ("remove_small_regions", (COUNTS, 2, 3, 0, 2**32 - 1)),
    ("remove_small_regions", (COUNTS, 2, 3, 0, 2**64)),
    ("remove_small_regions", (COUNTS, 2, 2, 0, 0)),
    ("remove_small_regions", (COUNTS.astype(np.int32), 2, 3, 0, 0)),
    ("remove_small_regions", (np.array([3, 0, 3], np.uint32), 2, 3, 0, 0)),
    *(
        (function, arguments)
        for function in ("brush_rle", "brush_rle_json", "coco_counts", "packed_bits", "polygons")
        for arguments in [
            (COUNTS, 2),
            (COUNTS, 2, 2),
            (COUNTS, 2, 2**62),
            (COUNTS, -2, -3),
            (COUNTS[:0], 2, 3),
            (COUNTS[::2], 2, 2),
            (COUNTS.astype(np.int32), 2, 3),
            (COUNTS.astype(np.uint64), 2, 3),
            (MISALIGNED, 2, 3),
            (np.array([3, 0, 3], np.uint32), 2, 3),
        ]
    ),
]


@pytest.mark.parametrize(("function", "arguments"), HOSTILE)
def test_what_could_touch_memory_outside_is_refused(function, arguments):
    with pytest.raises((TypeError, ValueError, OverflowError, BufferError)):
        getattr(_native, function)(*arguments)


def test_the_brush_format_is_bounded_without_the_public_check():
    counts = np.array([2**30], np.uint32)

    with pytest.raises(ValueError, match="too many pixels"):
        _native.brush_rle(counts, 2**15, 2**15)
    with pytest.raises(ValueError, match="too many pixels"):
        _native.brush_rle_json(counts, 2**15, 2**15)


def test_threads_do_not_disturb_each_other():
    def work(seed):
        mask = native_core.mask_from_logits(
            smooth_logits(seed),
            frame_size=1024,
            input_size=(768, 1024),
            original_size=(900, 1200),
        )
        pixels = native_core.mask_from_counts(mask.counts, 900, 1200)
        counts = native_core.remove_small_regions(
            native_core.counts_from_mask(pixels), 900, 1200, max_hole_pixels=9
        )
        corners = sum(len(part.exterior) for part in native_core.polygons(counts, 900, 1200))
        return native_core.brush_rle(counts, 900, 1200), corners

    alone = [work(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, [0, 1, 2, 3] * 5))

    assert together == alone * 5


@pytest.mark.parametrize("script", sorted(ISOLATED.glob("core_*.py")), ids=lambda path: path.stem)
def test_in_a_process_of_its_own(script):
    finished = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False
    )

    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines()[-1] == "passed"
