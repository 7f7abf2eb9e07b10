"""What SAM's image encoders share: tokens, windows and the neck.

Sources: the SAM paper (arXiv 2304.02643) and the shapes of the published checkpoints.
"""

from __future__ import annotations

import math

from .builder import Graph

INPUT_SIZE = 1024
GRID = 64
EMBEDDING_CHANNELS = 256
_NECK_EPSILON = 1e-6


def to_tokens(graph: Graph, image: str, channels: int) -> str:
    """Turn a (1, channels, H, W) image into (H * W, channels) tokens.

    The transposition is of four dimensions, here and in `to_image`: engines whose convolutions
    keep channels last leave it out.
    """
    return graph.reshape(graph.transpose(image, (0, 2, 3, 1)), (-1, channels))


def to_image(graph: Graph, tokens: str, size: int, channels: int) -> str:
    """Turn (size * size, channels) tokens into a (1, channels, size, size) image."""
    return graph.transpose(graph.reshape(tokens, (1, size, size, channels)), (0, 3, 1, 2))


def to_windows(graph: Graph, tokens: str, size: int, window: int, channels: int) -> str:
    """Order (size * size, channels) tokens by window; zeros fill the last windows up.

    Returns:
        (windows * window * window, channels)
    """
    count = math.ceil(size / window)
    padding = count * window - size
    value = graph.reshape(tokens, (size, size, channels))
    value = graph.op("Pad", value, graph.constant((0, 0, 0, padding, padding, 0)))
    value = graph.reshape(value, (count, window, count, window, channels))
    return graph.reshape(graph.transpose(value, (0, 2, 1, 3, 4)), (-1, channels))


def from_windows(graph: Graph, windows: str, size: int, window: int, channels: int) -> str:
    """Undo `to_windows`."""
    count = math.ceil(size / window)
    value = graph.reshape(windows, (count, count, window, window, channels))
    value = graph.transpose(value, (0, 2, 1, 3, 4))
    value = graph.reshape(value, (count * window, count * window, channels))
    ends, axes = graph.constant((size, size)), graph.constant((0, 1))
    value = graph.op("Slice", value, graph.constant((0, 0)), ends, axes)
    return graph.reshape(value, (size * size, channels))


def add_neck(graph: Graph, tokens: str, channels: int) -> None:
    """Turn (GRID * GRID, channels) tokens into the graph's output `image_embedding`."""
    # A 1x1 convolution is a product with the tokens, whose channels stay last for the norm.
    name = "image_encoder.neck.0.weight"
    weight = graph.parameter(name, (EMBEDDING_CHANNELS, channels, 1, 1))
    weight = graph.reshape(weight, (EMBEDDING_CHANNELS, channels))
    value = graph.op("Gemm", tokens, weight, transB=1)
    value = graph.layer_norm(value, "image_encoder.neck.1", EMBEDDING_CHANNELS, _NECK_EPSILON)
    value = to_image(graph, value, GRID, EMBEDDING_CHANNELS)
    name = "image_encoder.neck.2.weight"
    weight = graph.parameter(name, (EMBEDDING_CHANNELS, EMBEDDING_CHANNELS, 3, 3))
    value = graph.op("Conv", value, weight, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    value = to_tokens(graph, value, EMBEDDING_CHANNELS)
    value = graph.layer_norm(value, "image_encoder.neck.3", EMBEDDING_CHANNELS, _NECK_EPSILON)
    value = to_image(graph, value, GRID, EMBEDDING_CHANNELS)
    graph.output(value, "image_embedding", (1, EMBEDDING_CHANNELS, GRID, GRID))
