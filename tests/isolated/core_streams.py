"""A mask of 900 million pixels is made in little memory: no array of that size exists."""

import resource
from pathlib import Path

import numpy as np

import sam_core

assert sam_core.implementation == "native"
ALLOWED = 64 << 20

y, x = np.mgrid[-1:1:256j, -1:1:256j]
logits = (10 * (0.4 - x**2 - y**2)).astype(np.float32)
in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + ALLOWED, in_use + ALLOWED))

mask = sam_core.mask_from_logits(
    logits, frame_size=1024, input_size=(1024, 1024), original_size=(30_000, 30_000)
)
circle = np.pi * 0.4 / 4
assert abs(mask.area / 30_000**2 - circle) < 1e-2, mask.area
assert len(sam_core.brush_rle_json(mask.counts, 30_000, 30_000)) > 100_000
assert len(sam_core.coco_counts(mask.counts, 30_000, 30_000)) > 10_000
try:
    sam_core.mask_from_counts(mask.counts, 30_000, 30_000)
except MemoryError:
    print("passed")
