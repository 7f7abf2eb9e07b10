"""The two implementations of sam_core, and what tests compare them with."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import sam_core


def _import_without_native() -> ModuleType:
    """Import sam_core a second time, as where the C module is not compiled."""
    kept = {
        name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("sam_core")
    }
    sys.modules["sam_core._native"] = None  # type: ignore[assignment]  # makes its import fail
    try:
        return importlib.import_module("sam_core")
    finally:
        for name in [name for name in sys.modules if name.startswith("sam_core")]:
            del sys.modules[name]
        sys.modules.update(kept)


native_core = sam_core
numpy_core = _import_without_native()

both_implementations = pytest.mark.parametrize(
    "core", [native_core, numpy_core], ids=["native", "numpy"]
)


def smooth_logits(seed: int, size: tuple[int, int] = (256, 256)) -> NDArray[np.float32]:
    """A blob with a wavy edge: an eighth of the frame is above 0."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, 1, 9, 9, generator=generator)
    noise = torch.nn.functional.interpolate(noise, size, mode="bicubic", align_corners=False)[0, 0]
    y, x = torch.meshgrid(*(torch.linspace(0, 1, n) for n in size), indexing="ij")
    logits = noise - 6 * ((y - 0.4) ** 2 + (x - 0.5) ** 2)
    logits = 8 * (logits - logits.flatten().quantile(0.875))
    return np.ascontiguousarray(logits.numpy(), np.float32)


def upscale_with_torch(
    low_res_logits: NDArray[np.float32],
    frame_size: int,
    input_size: tuple[int, int],
    original_size: tuple[int, int],
) -> NDArray[np.float32]:
    """The reference's postprocess_masks before the threshold, float32 of the original size."""
    logits = torch.from_numpy(low_res_logits)[None, None]
    for crop, size in (low_res_logits.shape, (frame_size, frame_size)), (input_size, original_size):
        logits = torch.nn.functional.interpolate(
            logits[..., : crop[0], : crop[1]], size, mode="bilinear", align_corners=False
        )
    return logits[0, 0].numpy()
