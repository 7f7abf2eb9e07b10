"""The kernels in NumPy: what each computes is defined here, `_native` gives the same bits.

Arguments are checked by the package's public functions. Run lengths and encodings are given as
bytes, run lengths as native uint32; sizes are (height, width).
"""

import itertools
import json

import numpy as np
from numpy.typing import NDArray

# Values beyond are taken as this: differences of two of them do not overflow float32.
_LOGIT_LIMIT = 2.0**126

# Rows of the full size are made in bands of about so many pixels.
_BAND_PIXELS = 1 << 20


def normalize_and_pad_into(
    image: NDArray[np.uint8],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    frame: NDArray[np.float32],
) -> None:
    """Fill `frame` (3, S, S) from `image` (H, W, 3)."""
    height, width, _ = image.shape
    pixels = image.astype(np.float32)
    normalized = (pixels - np.array(mean, np.float32)) / np.array(std, np.float32)
    frame[:, :height, :width] = normalized.transpose(2, 0, 1)
    frame[:, :height, width:] = 0
    frame[:, height:] = 0


def mask_from_logits(
    logits: NDArray[np.float32],
    frame_size: int,
    input_size: tuple[int, int],
    original_size: tuple[int, int],
    threshold: float,
    low: float,
    high: float,
) -> tuple[bytes, int, tuple[int, int, int, int], float]:
    """Give (counts, area, box, stability score) of the mask above `threshold`.

    Passes along different axes commute: both vertical ones come first, while rows are narrow.
    """
    # Not a number counts as background.
    bounded = np.nan_to_num(logits, nan=-_LOGIT_LIMIT).clip(-_LOGIT_LIMIT, _LOGIT_LIMIT)
    rows = _upscale(bounded, 0, frame_size, input_size[0])
    rows = _upscale(rows, 0, original_size[0], original_size[0])

    height, width = original_size
    mask = np.empty((height, width), np.bool_)
    area_low = area_high = 0
    band = max(1, _BAND_PIXELS // width)
    for top in range(0, height, band):
        values = _upscale(rows[top : top + band], 1, frame_size, input_size[1])
        values = _upscale(values, 1, width, width)
        mask[top : top + band] = values > np.float32(threshold)
        area_low += np.count_nonzero(values > np.float32(low))
        area_high += np.count_nonzero(values > np.float32(high))

    box = (0, 0, 0, 0)
    if mask.any():
        ys = np.flatnonzero(mask.any(axis=1))
        xs = np.flatnonzero(mask.any(axis=0))
        box = (int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1)
    stability_score = area_high / area_low if area_low > 0 else 0.0
    return counts_from_mask(mask), int(np.count_nonzero(mask)), box, stability_score


def _upscale(values: NDArray[np.float32], axis: int, fine: int, size: int) -> NDArray[np.float32]:
    """Interpolate along `axis` to `fine` samples, of which the first `size` are given.

    The formula is that of torch.nn.functional.interpolate, align_corners=False, in float32, but
    for one thing: a value is kept between its two ends, which rounding alone would not do.
    """
    coarse = values.shape[axis]
    half = np.float32(0.5)
    scale = np.float32(coarse) / np.float32(fine)
    source = np.maximum(scale * (np.arange(size, dtype=np.float32) + half) - half, np.float32(0))
    base = np.minimum(source.astype(np.intp), coarse - 1)
    weight = np.minimum(source - base.astype(np.float32), np.float32(1))

    a = values.take(base, axis)
    b = values.take(np.minimum(base + 1, coarse - 1), axis)
    weight = weight.reshape((-1, 1) if axis == 0 else (1, -1))
    value: NDArray[np.float32] = a + (b - a) * weight
    return np.clip(value, np.minimum(a, b), np.maximum(a, b))


def counts_from_mask(mask: NDArray[np.bool_] | NDArray[np.uint8]) -> bytes:
    """Give the run lengths of `mask` (H, W), whose pixels are set where not 0."""
    flat = mask.ravel() != 0
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    begins = np.concatenate(([0, 0] if flat[0] else [0], changes, [flat.size]))
    return np.diff(begins).astype(np.uint32).tobytes()


def mask_from_counts_into(counts: NDArray[np.uint32], mask: NDArray[np.bool_]) -> None:
    """Fill `mask` (H, W) with the runs of `counts`."""
    mask.ravel()[:] = _flat_mask(counts)


def _flat_mask(counts: NDArray[np.uint32]) -> NDArray[np.bool_]:
    return np.repeat(np.arange(counts.size) % 2 == 1, counts)


def brush_rle(counts: NDArray[np.uint32], height: int, width: int) -> bytes:
    """Give Label Studio's brush RLE.

    A bit stream, most significant bit first, of an RGBA image whose four channels are all 255 in
    the object and 0 outside: 32 bits for its number of bytes, 5 for the width of a value less 1,
    four times 4 for the widths of the run length classes less 1. Each record is 1 (a run), 2 bits
    for the class, the length less 1 in as many bits as the class has, and 8 bits of value.
    """
    class_bits = np.array([3, 4, 8, 16])
    longest = 1 << 16
    lengths = counts.astype(np.int64) * 4
    classes = np.searchsorted(1 << class_bits[:3], lengths)
    # A run longer than the longest record is cut into such records and what is left.
    records = -(-lengths // longest)
    run = np.repeat(np.arange(lengths.size), records)
    last = np.cumsum(records)[records > 0] - 1
    record_lengths = np.full(run.size, longest)
    record_lengths[last] = (lengths - (records - 1) * longest)[records > 0]
    widths = class_bits[classes[run]]
    values = np.where(run % 2 == 1, 255, 0)
    fields = ((4 | classes[run]) << widths | (record_lengths - 1)) << 8 | values

    header = f"{height * width * 4:032b}{8 - 1:05b}" + "".join(f"{n - 1:04b}" for n in class_bits)
    bits = [np.frombuffer(header.encode(), np.uint8) - ord("0"), _bits(fields, widths + 11)]
    # The SDK's encoder pads a full byte where none is needed, and so does this one.
    return np.packbits(np.concatenate([*bits, np.zeros(1, np.uint8)])).tobytes()


def _bits(fields: NDArray[np.int64], widths: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Give the lowest `widths[i]` bits of each field, most significant first, as 0 and 1."""
    ends = np.cumsum(widths)
    shifts = np.repeat(ends, widths) - 1 - np.arange(widths.sum())
    return (np.repeat(fields, widths) >> shifts & 1).astype(np.uint8)


def brush_rle_json(counts: NDArray[np.uint32], height: int, width: int) -> bytes:
    """Give Label Studio's brush RLE as the text of a JSON list."""
    return json.dumps(list(brush_rle(counts, height, width)), separators=(",", ":")).encode()


def coco_counts(counts: NDArray[np.uint32], height: int, width: int) -> bytes:
    """Give COCO's compressed counts.

    Runs go down the columns. From the fourth on, a run is given as the difference to the last of
    its kind; five bits a character, lowest first, bit 5 says that more follow, bit 4 of the last
    one is the sign, and the character is 48 and these bits.
    """
    columns = _flat_mask(counts).reshape(height, width).T
    values = np.frombuffer(counts_from_mask(columns), np.uint32).astype(np.int64)
    values[3:] -= values[1:-2].copy()
    text = np.zeros((values.size, 7), np.uint8)  # 33 bits fit 7 characters
    more = np.ones(values.size, np.bool_)
    for place in range(text.shape[1]):
        bits = values & 31
        values >>= 5
        character = more.copy()
        more &= np.where(bits & 16, values != -1, values != 0)
        text[:, place] = np.where(character, 48 + (bits | more * 32), 0)
    return text[text > 0].tobytes()


def packed_bits(counts: NDArray[np.uint32], height: int, width: int) -> bytes:
    """Give the mask's bits in row-major order, most significant first, 0 at the end."""
    return np.packbits(_flat_mask(counts)).tobytes()


def remove_small_regions(
    counts: NDArray[np.uint32], height: int, width: int, max_speck_pixels: int, max_hole_pixels: int
) -> bytes:
    """Fill enclosed holes, then drop specks, of at most so many pixels; the largest part stays."""
    y, begin, end = holes = _segments(counts, height, width, of_object=False)
    roots = _roots(holes, width, corners=False)
    pixels = np.bincount(roots, end - begin, y.size).astype(np.float64)
    outside = (y == 0) | (y == height - 1) | (begin == 0) | (end == width)
    pixels[roots[outside]] = np.inf
    background = _fill(holes[:, pixels[roots] > max_hole_pixels], height, width)

    filled = np.frombuffer(counts_from_mask(~background), np.uint32)
    y, begin, end = specks = _segments(filled, height, width, of_object=True)
    roots = _roots(specks, width, corners=True)
    pixels = np.bincount(roots, end - begin, y.size).astype(np.float64)
    if y.size > 0:
        pixels[pixels.argmax()] = np.inf
    return counts_from_mask(_fill(specks[:, pixels[roots] > max_speck_pixels], height, width))


def polygons(counts: NDArray[np.uint32], height: int, width: int) -> tuple[bytes, bytes, bytes]:
    """Give x and y of each point, the points and the part of each ring, the pixels of each part.

    Outlines have the object on their right: they go up the left end of a segment, which is edge
    2 * i, down the right one, 2 * i + 1, and along the lines between rows. Where two pixels touch
    by their corners only, four edges meet: outlines part the background there if both pixels are
    of one part, else they part the pixels. So none visits a corner twice.
    """
    parts = _segments(counts, height, width, of_object=True)
    roots = _roots(parts, width, corners=False)
    y, begin, end = parts.tolist()
    following = _following_edges(y, begin, end, roots.tolist())

    points: list[tuple[int, int]] = []
    rings: list[tuple[int, int]] = []
    areas: list[int] = []
    number: dict[int, int] = {}  # of the part, by its root
    pixels = np.bincount(roots, parts[2] - parts[1], roots.size)
    x = np.stack([parts[1], parts[2]], axis=1).ravel().tolist()
    traced = [False] * len(x)
    for first in range(len(x)):
        if traced[first]:
            continue
        root = int(roots[first // 2])
        if first % 2 == 0:  # an outline; that of a hole begins with a right end
            number[root] = len(areas)
            areas.append(int(pixels[root]))
        before, edge = len(points), first
        while not traced[edge]:
            traced[edge] = True
            if x[edge] != x[following[edge]]:
                line = y[edge // 2] + edge % 2
                points += [(x[edge], line), (x[following[edge]], line)]
            edge = following[edge]
        rings.append((len(points) - before, number[root]))
    return (
        np.array(points, np.uint32).tobytes(),
        np.array(rings, np.uint32).tobytes(),
        np.array(areas, np.uint32).tobytes(),
    )


def _following_edges(y: list[int], begin: list[int], end: list[int], roots: list[int]) -> list[int]:
    """Give the edge that follows each along its outline."""
    # Both ends of each edge: line between rows, x, whether the edge lies below the line, and edge.
    ends = [
        (y[i] + 1 - below, (begin[i], end[i])[side], below, 2 * i + side)
        for i in range(len(y))
        for side in (0, 1)
        for below in (0, 1)
    ]
    following = [0] * (2 * len(y))
    along: tuple[int, int] | None = None  # where an outline came onto the line it goes along

    def join(a: tuple[int, int], b: tuple[int, int]) -> None:
        below, edge = a
        if below == (edge % 2 == 0):  # the edge leads here
            following[edge] = b[1]
        else:
            following[b[1]] = edge

    for _, corner in itertools.groupby(sorted(ends), lambda entry: entry[:2]):
        here = [entry[2:] for entry in corner]
        if len(here) == 1:
            if along is not None:
                join(along, here[0])
            along = None if along else here[0]
        elif along is None:
            join(here[0], here[1])
        else:
            upper, lower = here
            one_part = roots[upper[1] // 2] == roots[lower[1] // 2]
            if (upper[1] % 2 == 1) == one_part:
                upper, lower = lower, upper
            join(along, upper)
            along = lower
    return following


def _segments(
    counts: NDArray[np.uint32], height: int, width: int, *, of_object: bool
) -> NDArray[np.int64]:
    """Give the pieces of runs that lie within one row: y, first column, last one + 1; (3, N)."""
    run_ends = np.cumsum(counts, dtype=np.int64)
    ends = np.union1d(run_ends, np.arange(1, height + 1) * width)
    begins = np.concatenate([[0], ends[:-1]])
    run = np.searchsorted(run_ends, begins, side="right")
    chosen = (begins < ends) & (run % 2 == of_object)
    y = begins[chosen] // width
    return np.stack([y, begins[chosen] - y * width, ends[chosen] - y * width])


def _roots(segments: NDArray[np.int64], width: int, *, corners: bool) -> NDArray[np.intp]:
    """Give the first segment of the component of each.

    Components are 8-connected if `corners`, else 4-connected.
    """
    y, begin, end = segments
    stride = width + 2  # nothing reaches from one row into another
    first = np.searchsorted(y * stride + end, (y - 1) * stride + begin - corners, side="right")
    last = np.searchsorted(y * stride + begin, (y - 1) * stride + end + corners, side="left")
    parents = list(range(y.size))

    def root(i: int) -> int:
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    for i, (a, b) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        for j in range(a, b):
            ours, theirs = root(i), root(j)
            parents[max(ours, theirs)] = min(ours, theirs)
    return np.array([root(i) for i in range(y.size)], np.intp)


def _fill(segments: NDArray[np.int64], height: int, width: int) -> NDArray[np.bool_]:
    """Give the mask of segments."""
    mask = np.zeros((height, width), np.bool_)
    for y, begin, end in segments.T.tolist():
        mask[y, begin:end] = True
    return mask
