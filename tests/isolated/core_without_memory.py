"""Where memory runs out, calls raise MemoryError at whatever step it is, and later calls work."""

import ctypes
import resource
from pathlib import Path

import numpy as np

from sam_core import _native

# glibc: give blocks of 64 KiB and more back at once, so that the limits below are felt.
M_MMAP_THRESHOLD = -3
ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 16)

noise = np.random.default_rng(0).normal(0, 1, (512, 512)).astype(np.float32)
arguments = (noise, 1024, (1024, 1024), (2000, 2000), 0.0, -1.0, 1.0)
pixels = np.random.default_rng(0).random((2000, 2000)) < 0.5
wanted = _native.counts_from_mask(pixels)
counts = np.frombuffer(wanted, np.uint32)
calls = [
    (_native.mask_from_logits, arguments),
    (_native.counts_from_mask, (pixels,)),
    (_native.brush_rle, (counts, 2000, 2000)),
    (_native.brush_rle_json, (counts, 2000, 2000)),
    (_native.coco_counts, (counts, 2000, 2000)),
    (_native.packed_bits, (counts, 2000, 2000)),
    (_native.remove_small_regions, (counts, 2000, 2000, 3, 3)),
    (_native.polygons, (counts, 2000, 2000)),
]


def memory_in_use() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


unlimited = resource.getrlimit(resource.RLIMIT_AS)
for function, given in calls:
    failures = 0
    # The first few limits are too small for anything, the last ones are enough.
    for allowed in [1 << 16, *range(1 << 20, 100 << 20, 1 << 20)]:
        limit = memory_in_use() + allowed
        resource.setrlimit(resource.RLIMIT_AS, (limit, unlimited[1]))
        try:
            function(*given)
            break
        except MemoryError:
            failures += 1
        finally:
            resource.setrlimit(resource.RLIMIT_AS, unlimited)
    else:
        raise AssertionError(f"{function.__name__} never had enough memory")
    assert failures > 0, f"{function.__name__} never ran out of memory"
assert _native.counts_from_mask(pixels) == wanted
print("passed")
