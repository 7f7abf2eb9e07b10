"""MobileSAM's image encoder: TinyViT-5M at 1024 pixels, under SAM's neck.

Sources: the TinyViT paper (arXiv 2207.10666) and the parameters of mobile_sam.pt. Unlike the
classifier, the last downsampling keeps its stride at 1, so that the embedding is 64x64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .builder import Graph
from .layers import INPUT_SIZE, add_neck, from_windows, to_image, to_tokens, to_windows

_CHANNELS = (64, 128, 160, 320)
_MLP_RATIO = 4
_BATCH_NORM_EPSILON = 1e-5
_LAYER_NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class _Stage:
    """A stage of transformer blocks: how many, at which size, with what attention."""

    index: int
    depth: int
    heads: int
    window: int
    size: int

    @property
    def channels(self) -> int:
        return _CHANNELS[self.index]


_STAGES = (
    _Stage(index=1, depth=2, heads=4, window=7, size=128),
    _Stage(index=2, depth=6, heads=5, window=14, size=64),
    _Stage(index=3, depth=2, heads=10, window=7, size=64),
)


def tiny_vit(weights_file: str) -> Graph:
    """Return the graph of MobileSAM's image encoder."""
    graph = Graph("mobile_sam_encoder", weights_file)
    image = graph.input("image", (1, 3, INPUT_SIZE, INPUT_SIZE))
    stem = "image_encoder.patch_embed.seq"
    half = _CHANNELS[0] // 2
    image = _conv_norm(graph, image, f"{stem}.0", (3, half), kernel=3, stride=2)
    image = graph.op("Gelu", image)
    image = _conv_norm(graph, image, f"{stem}.2", (half, 2 * half), kernel=3, stride=2)
    for block in range(2):
        image = _mobile_block(graph, image, f"image_encoder.layers.0.blocks.{block}")
    for stage in _STAGES:
        tokens = to_tokens(graph, _downsample(graph, image, stage), stage.channels)
        for block in range(stage.depth):
            name = f"image_encoder.layers.{stage.index}.blocks.{block}"
            tokens = _transformer_block(graph, tokens, name, stage)
        if stage is not _STAGES[-1]:
            image = to_image(graph, tokens, stage.size, stage.channels)
    add_neck(graph, tokens, _CHANNELS[-1])
    return graph


def _conv_norm(
    graph: Graph,
    image: str,
    name: str,
    channels: tuple[int, int],
    *,
    kernel: int,
    stride: int = 1,
    depthwise: bool = False,
) -> str:
    """A convolution without bias and its batch norm, which engines fold into one."""
    inputs, outputs = channels
    shape = (outputs, 1 if depthwise else inputs, kernel, kernel)
    image = graph.op(
        "Conv",
        image,
        graph.parameter(f"{name}.c.weight", shape),
        kernel_shape=[kernel, kernel],
        pads=[kernel // 2] * 4,
        strides=[stride, stride],
        group=inputs if depthwise else 1,
    )
    norm = [
        graph.parameter(f"{name}.bn.{part}", (outputs,))
        for part in ("weight", "bias", "running_mean", "running_var")
    ]
    return graph.op("BatchNormalization", image, *norm, epsilon=_BATCH_NORM_EPSILON)


def _mobile_block(graph: Graph, image: str, name: str) -> str:
    """An inverted bottleneck: widen, depthwise convolution, narrow, add."""
    narrow, wide = _CHANNELS[0], 4 * _CHANNELS[0]
    value = _conv_norm(graph, image, f"{name}.conv1", (narrow, wide), kernel=1)
    value = graph.op("Gelu", value)
    value = _conv_norm(graph, value, f"{name}.conv2", (wide, wide), kernel=3, depthwise=True)
    value = graph.op("Gelu", value)
    value = _conv_norm(graph, value, f"{name}.conv3", (wide, narrow), kernel=1)
    return graph.op("Gelu", graph.op("Add", value, image))


def _downsample(graph: Graph, image: str, stage: _Stage) -> str:
    """Halve the size into `stage`; the last stage keeps it."""
    name = f"image_encoder.layers.{stage.index - 1}.downsample"
    inputs, outputs = _CHANNELS[stage.index - 1], stage.channels
    stride = 1 if stage is _STAGES[-1] else 2
    value = _conv_norm(graph, image, f"{name}.conv1", (inputs, outputs), kernel=1)
    value = graph.op("Gelu", value)
    value = _conv_norm(
        graph, value, f"{name}.conv2", (outputs, outputs), kernel=3, stride=stride, depthwise=True
    )
    value = graph.op("Gelu", value)
    return _conv_norm(graph, value, f"{name}.conv3", (outputs, outputs), kernel=1)


def _transformer_block(graph: Graph, tokens: str, name: str, stage: _Stage) -> str:
    """Window attention, a depthwise convolution in place, and an MLP."""
    channels = stage.channels
    tokens = graph.op("Add", tokens, _window_attention(graph, tokens, f"{name}.attn", stage))
    image = to_image(graph, tokens, stage.size, channels)
    image = _conv_norm(
        graph, image, f"{name}.local_conv", (channels, channels), kernel=3, depthwise=True
    )
    tokens = to_tokens(graph, image, channels)
    value = graph.layer_norm(tokens, f"{name}.mlp.norm", channels, _LAYER_NORM_EPSILON)
    value = graph.gemm(value, f"{name}.mlp.fc1", (channels, _MLP_RATIO * channels))
    value = graph.op("Gelu", value)
    value = graph.gemm(value, f"{name}.mlp.fc2", (_MLP_RATIO * channels, channels))
    return graph.op("Add", tokens, value)


def _window_attention(graph: Graph, tokens: str, name: str, stage: _Stage) -> str:
    """Attention among the tokens of each window, with a bias a head and distance.

    The grid is padded with zeros to whole windows *before* the norm, as in the reference, so
    that padding takes part in the attention.
    """
    channels, heads, window, size = stage.channels, stage.heads, stage.window, stage.size
    head, area = channels // heads, window * window
    value = to_windows(graph, tokens, size, window, channels)
    value = graph.layer_norm(value, f"{name}.norm", channels, _LAYER_NORM_EPSILON)
    query, key, value = (
        graph.reshape(projected, (-1, area, heads, head))
        for projected in _project(graph, value, f"{name}.qkv", stage)
    )
    query = graph.op("Mul", query, graph.scalar(head**-0.5))
    query = graph.transpose(query, (0, 2, 1, 3))
    key = graph.transpose(key, (0, 2, 3, 1))
    value = graph.transpose(value, (0, 2, 1, 3))
    biases = graph.parameter(f"{name}.attention_biases", (heads, area))
    bias = graph.op("Gather", biases, graph.constant(_bias_indices(window)), axis=1)
    logits = graph.op("Add", graph.op("MatMul", query, key), bias)
    value = graph.op("MatMul", graph.op("Softmax", logits, axis=-1), value)
    value = graph.reshape(graph.transpose(value, (0, 2, 1, 3)), (-1, channels))
    value = from_windows(graph, value, size, window, channels)
    return graph.gemm(value, f"{name}.proj", (channels, channels))


def _project(graph: Graph, tokens: str, name: str, stage: _Stage) -> list[str]:
    """Queries, keys and values of (N, channels) tokens, (N, channels) each.

    The checkpoint has one layer for them, whose outputs are sorted by head. Its parameters are
    taken apart, which engines do once, when they load the graph, and not its outputs.
    """
    channels, shape = stage.channels, (stage.heads, 3, stage.channels // stage.heads)
    weight = graph.parameter(f"{name}.weight", (3 * channels, channels))
    bias = graph.parameter(f"{name}.bias", (3 * channels,))
    weights = graph.split(graph.reshape(weight, (*shape, channels)), (1, 1, 1), axis=1)
    biases = graph.split(graph.reshape(bias, shape), (1, 1, 1), axis=1)
    return [
        graph.op(
            "Gemm",
            tokens,
            graph.reshape(weight, (channels, channels)),
            graph.reshape(bias, (channels,)),
            transB=1,
        )
        for weight, bias in zip(weights, biases, strict=True)
    ]


def _bias_indices(window: int) -> NDArray[np.int32]:
    """Return int32 (area, area): which bias two tokens of a window share.

    Biases are numbered by (rows apart, columns apart), row by row.
    """
    y, x = np.divmod(np.arange(window * window), window)
    rows = np.abs(y[:, None] - y[None, :])
    columns = np.abs(x[:, None] - x[None, :])
    indices: NDArray[np.int32] = (rows * window + columns).astype(np.int32)
    return indices
