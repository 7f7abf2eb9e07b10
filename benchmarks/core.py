"""sam_core beside what it stands in for: PyTorch, Label Studio's SDK, pycocotools, OpenCV, NumPy.

Everything runs on one thread. In each round every contestant is run in turn, so that a busy
machine slows all of them; times are medians, with the fastest in brackets. Before anything is
timed the results are compared.

    python benchmarks/core.py [--rounds 7] [--sizes 1024x683 1800x1200 4000x3000]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import torch
from label_studio_sdk.converter.brush import mask2rle
from numpy.typing import NDArray
from pycocotools import mask as coco

import sam_core
from sam_core import _numpy

FRAME_SIZE = 1024
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)

# So many of ours for each of the others: they are short, and a median needs a few.
REPEATS = 10

Contestant = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sizes", nargs="+", default=["1024x683", "1800x1200", "4000x3000"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)

    print(
        f"sam_core: {sam_core.implementation}; PyTorch {torch.__version__}, "
        f"OpenCV {cv2.__version__}, one thread"
    )
    print()
    print("| what | size | runs | sam_core ms | beside it | ms | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for text in arguments.sizes:
        width, height = (int(side) for side in text.split("x"))
        for case in cases(height, width):
            print_case(text, *case, arguments.rounds)


def cases(height: int, width: int) -> Iterator[tuple[str, int, Contestant, dict[str, Contestant]]]:
    """Name, number of runs, ours and the others by name, for one size of image."""
    smooth = smooth_logits()
    # Runs by the ten thousand, as logits give that waver about the threshold.
    rough = smooth + np.random.default_rng(1).normal(0, 4, smooth.shape).astype(np.float32)
    for kind, logits in ("blob", smooth), ("specks", rough):
        yield from mask_cases(kind, logits, height, width)
    yield from image_cases(height, width)


def mask_cases(
    kind: str, logits: NDArray[np.float32], height: int, width: int
) -> Iterator[tuple[str, int, Contestant, dict[str, Contestant]]]:
    size = height, width
    input_size = input_size_of(size)
    mask = sam_core.mask_from_logits(
        logits, frame_size=FRAME_SIZE, input_size=input_size, original_size=size
    )
    counts = mask.counts
    pixels = sam_core.mask_from_counts(counts, *size).view(np.uint8)
    compare_pixels(f"{kind} {width}x{height}", pixels, reference_logits(logits, input_size, size))

    def ours() -> bytes:
        made = sam_core.mask_from_logits(
            logits, frame_size=FRAME_SIZE, input_size=input_size, original_size=size
        )
        return sam_core.brush_rle_json(made.counts, *size)

    def reference() -> bytes:
        above = reference_logits(logits, input_size, size) > 0.0
        return json.dumps(sdk_rle(above.numpy().astype(np.uint8) * 255)).encode()

    def twin() -> bytes:
        made, *_ = _numpy.mask_from_logits(logits, FRAME_SIZE, input_size, size, 0.0, -1.0, 1.0)
        return _numpy.brush_rle_json(np.frombuffer(made, np.uint32), *size)

    runs = counts.size
    yield (
        f"{kind}: logits to brush RLE as JSON",
        runs,
        ours,
        {"PyTorch, SDK, json": reference, "NumPy twin": twin},
    )

    object_255 = pixels * np.uint8(255)
    assert list(sam_core.brush_rle(counts, *size)) == sdk_rle(object_255)
    yield (
        f"{kind}: runs to brush RLE",
        runs,
        lambda: sam_core.brush_rle(counts, *size),
        {"SDK, from the mask": lambda: sdk_rle(object_255)},
    )

    def pycocotools() -> bytes:
        encoded: bytes = coco.encode(np.asfortranarray(pixels))["counts"]
        return encoded

    assert sam_core.coco_counts(counts, *size) == pycocotools()
    fortran = np.asfortranarray(pixels)
    yield (
        f"{kind}: runs to COCO counts",
        runs,
        lambda: sam_core.coco_counts(counts, *size),
        {
            "pycocotools, from the mask": pycocotools,
            "the same, mask given by columns": lambda: coco.encode(fortran),
        },
    )

    assert sam_core.packed_bits(counts, *size) == np.packbits(pixels).tobytes()
    yield (
        f"{kind}: runs to packed bits",
        runs,
        lambda: sam_core.packed_bits(counts, *size),
        {"numpy.packbits, from the mask": lambda: np.packbits(pixels).tobytes()},
    )

    assert np.array_equal(sam_core.counts_from_mask(pixels), counts)
    yield (
        f"{kind}: mask to runs",
        runs,
        lambda: sam_core.counts_from_mask(pixels),
        {"NumPy twin": lambda: _numpy.counts_from_mask(pixels)},
    )
    yield from region_cases(kind, counts, pixels)


def region_cases(
    kind: str, counts: NDArray[np.uint32], pixels: NDArray[np.uint8]
) -> Iterator[tuple[str, int, Contestant, dict[str, Contestant]]]:
    size = pixels.shape

    assert sum(polygon.area for polygon in sam_core.polygons(counts, *size)) == pixels.sum()
    # OpenCV's contours go through the centres of pixels, ours along their edges.
    yield (
        f"{kind}: runs to outlines",
        counts.size,
        lambda: sam_core.polygons(counts, *size),
        {
            "OpenCV findContours, from the mask": lambda: cv2.findContours(
                pixels, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
            ),
        },
    )

    limit = 16

    def opencv() -> NDArray[np.bool_]:
        cleaned = pixels.astype(np.bool_)
        for of_holes in True, False:
            _, labels, stats, _ = cv2.connectedComponentsWithStats(
                (cleaned ^ of_holes).astype(np.uint8), connectivity=8 - 4 * of_holes
            )
            small = stats[:, cv2.CC_STAT_AREA] <= limit
            small[0] = False
            if of_holes:
                small &= (stats[:, :2] > 0).all(axis=1)
                small &= (stats[:, :2] + stats[:, 2:4] < size[::-1]).all(axis=1)
            cleaned ^= small[labels]
        return cleaned

    def ours() -> NDArray[np.uint32]:
        return sam_core.remove_small_regions(
            counts, *size, max_speck_pixels=limit, max_hole_pixels=limit
        )

    assert np.array_equal(sam_core.mask_from_counts(ours(), *size), opencv())
    yield (
        f"{kind}: remove regions up to {limit} pixels",
        counts.size,
        ours,
        {"OpenCV, as the reference does it, from the mask": opencv},
    )


def image_cases(
    height: int, width: int
) -> Iterator[tuple[str, int, Contestant, dict[str, Contestant]]]:
    input_height, input_width = input_size_of((height, width))
    image = np.random.default_rng(0).integers(0, 256, (input_height, input_width, 3), np.uint8)
    padding = 0, FRAME_SIZE - input_width, 0, FRAME_SIZE - input_height
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))

    def ours() -> NDArray[np.float32]:
        return sam_core.normalize_and_pad(image, MEAN, STD, FRAME_SIZE)

    def with_torch() -> torch.Tensor:
        channels = torch.from_numpy(image).permute(2, 0, 1)
        return torch.nn.functional.pad((channels - mean) / std, padding)

    def twin() -> NDArray[np.float32]:
        frame = np.empty((3, FRAME_SIZE, FRAME_SIZE), np.float32)
        _numpy.normalize_and_pad_into(image, MEAN, STD, frame)
        return frame

    assert np.array_equal(ours(), with_torch().numpy())
    yield "normalise and pad", 0, ours, {"PyTorch": with_torch, "NumPy twin": twin}


def sdk_rle(mask: NDArray[np.uint8]) -> list[int]:
    return list(mask2rle(mask))  # type: ignore[no-untyped-call]  # it has no types


def smooth_logits() -> NDArray[np.float32]:
    """Low-res logits, float32 (256, 256), of a blob with a wavy edge and an eighth of the frame."""
    noise = torch.randn(1, 1, 9, 9, generator=torch.Generator().manual_seed(1))
    noise = torch.nn.functional.interpolate(noise, (256, 256), mode="bicubic")[0, 0]
    side = torch.linspace(0, 1, 256)
    # In the upper part of the frame, which images wider than high fill.
    logits = noise - 6 * ((side[:, None] - 0.33) ** 2 + (side - 0.5) ** 2)
    logits = 8 * (logits - logits[:171].flatten().quantile(0.87))
    return np.ascontiguousarray(logits.numpy(), np.float32)


def input_size_of(size: tuple[int, int]) -> tuple[int, int]:
    scale = FRAME_SIZE / max(size)
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def reference_logits(
    logits: NDArray[np.float32], input_size: tuple[int, int], size: tuple[int, int]
) -> torch.Tensor:
    """`Sam.postprocess_masks` of the reference."""
    upscaled = torch.nn.functional.interpolate(
        torch.from_numpy(logits)[None, None],
        (FRAME_SIZE, FRAME_SIZE),
        mode="bilinear",
        align_corners=False,
    )
    upscaled = upscaled[..., : input_size[0], : input_size[1]]
    upscaled = torch.nn.functional.interpolate(upscaled, size, mode="bilinear", align_corners=False)
    return upscaled[0, 0]


def compare_pixels(name: str, pixels: NDArray[np.uint8], logits: torch.Tensor) -> None:
    """Say how many pixels differ from PyTorch's: only such as are within 1e-4 of the threshold."""
    differing = logits.numpy()[(logits > 0.0).numpy() != pixels.astype(np.bool_)]
    furthest = float(np.abs(differing).max(initial=0.0))
    assert furthest < 1e-4, f"{name}: a pixel differs whose logit is {furthest}"
    area = pixels.mean() * 100
    print(f"<!-- {name}: {area:.1f} % object, {differing.size} pixels differ from PyTorch -->")


def print_case(
    size: str,
    what: str,
    runs: int,
    ours: Contestant,
    others: dict[str, Contestant],
    rounds: int,
) -> None:
    times: dict[str, list[float]] = {name: [] for name in ("", *others)}
    for _ in range(rounds):
        times[""] += [milliseconds(ours) for _ in range(REPEATS)]
        for name, other in others.items():
            times[name].append(milliseconds(other))
    median = {name: statistics.median(values) for name, values in times.items()}
    for name in others:
        print(
            f"| {what} | {size} | {runs or ''} | {median['']:.3f} ({min(times['']):.3f}) "
            f"| {name} | {median[name]:.2f} ({min(times[name]):.2f}) "
            f"| {median[name] / median['']:.1f} |"
        )


def milliseconds(contestant: Contestant) -> float:
    begin = time.perf_counter()
    contestant()
    return (time.perf_counter() - begin) * 1000


if __name__ == "__main__":
    main()
