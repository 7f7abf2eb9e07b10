"""SAM's image encoders: a plain ViT with windows and decomposed relative positions.

Sources: the ViTDet paper (arXiv 2203.16527), the SAM paper, appendix A, and the shapes of the
published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .builder import Graph
from .layers import GRID, INPUT_SIZE, add_neck, from_windows, to_tokens, to_windows

_PATCH = 16
_WINDOW = 14
_MLP_RATIO = 4
_EPSILON = 1e-6


@dataclass(frozen=True)
class Vit:
    """Sizes of a ViT; every `depth / 4`th block attends globally, the others in windows."""

    name: str
    channels: int
    depth: int
    heads: int

    def attends_globally(self, block: int) -> bool:
        """Whether block number `block` does."""
        return (block + 1) % (self.depth // 4) == 0


VIT_B = Vit("sam_vit_b", channels=768, depth=12, heads=12)
VIT_L = Vit("sam_vit_l", channels=1024, depth=24, heads=16)
VIT_H = Vit("sam_vit_h", channels=1280, depth=32, heads=16)


def vit(sizes: Vit, weights_file: str) -> Graph:
    """Return the graph of an image encoder."""
    graph = Graph(f"{sizes.name}_encoder", weights_file)
    channels = sizes.channels
    image = graph.input("image", (1, 3, INPUT_SIZE, INPUT_SIZE))
    name = "image_encoder.patch_embed.proj"
    image = graph.op(
        "Conv",
        image,
        graph.parameter(f"{name}.weight", (channels, 3, _PATCH, _PATCH)),
        graph.parameter(f"{name}.bias", (channels,)),
        kernel_shape=[_PATCH, _PATCH],
        strides=[_PATCH, _PATCH],
    )
    positions = graph.parameter("image_encoder.pos_embed", (1, GRID, GRID, channels))
    positions = graph.reshape(positions, (GRID * GRID, channels))
    tokens = graph.op("Add", to_tokens(graph, image, channels), positions)
    for block in range(sizes.depth):
        tokens = _block(graph, tokens, sizes, block)
    add_neck(graph, tokens, channels)
    return graph


def _block(graph: Graph, tokens: str, sizes: Vit, block: int) -> str:
    name, channels = f"image_encoder.blocks.{block}", sizes.channels
    value = graph.layer_norm(tokens, f"{name}.norm1", channels, _EPSILON)
    if sizes.attends_globally(block):
        value = _attention(graph, value, f"{name}.attn", sizes, GRID)
    else:
        # Padding comes after the norm, as in the reference: its tokens take part as zeros.
        value = to_windows(graph, value, GRID, _WINDOW, channels)
        value = _attention(graph, value, f"{name}.attn", sizes, _WINDOW)
        value = from_windows(graph, value, GRID, _WINDOW, channels)
    value = graph.gemm(value, f"{name}.attn.proj", (channels, channels))
    tokens = graph.op("Add", tokens, value)
    value = graph.layer_norm(tokens, f"{name}.norm2", channels, _EPSILON)
    value = graph.gemm(value, f"{name}.mlp.lin1", (channels, _MLP_RATIO * channels))
    value = graph.op("Gelu", value)
    value = graph.gemm(value, f"{name}.mlp.lin2", (_MLP_RATIO * channels, channels))
    return graph.op("Add", tokens, value)


def _attention(graph: Graph, tokens: str, name: str, sizes: Vit, side: int) -> str:
    """Attention within squares of `side` by `side` tokens, which lie one after the other.

    The output projection is left to the caller, who drops the padding of windows first.
    """
    channels, heads, area = sizes.channels, sizes.heads, side * side
    head = channels // heads
    value = graph.gemm(tokens, f"{name}.qkv", (channels, 3 * channels))
    value = graph.reshape(value, (-1, area, 3, heads, head))
    query, key, value = (
        graph.op("Squeeze", part, graph.constant((2,)))
        for part in graph.split(value, (1, 1, 1), axis=2)
    )
    query = graph.transpose(query, (0, 2, 1, 3))  # (squares, heads, area, head)
    key = graph.transpose(key, (0, 2, 3, 1))  # (squares, heads, head, area)
    value = graph.transpose(value, (0, 2, 1, 3))
    if side == GRID:
        # A head's logits have 64 MiB: one head after another, so that not all are held at once.
        parts = [graph.split(part, (1,) * heads, axis=1) for part in (query, key, value)]
        values = [
            _attend(graph, head_parts, name, 1, head, side)
            for head_parts in zip(*parts, strict=True)
        ]
        value = graph.op("Concat", *values, axis=1)
    else:
        value = _attend(graph, (query, key, value), name, heads, head, side)
    return graph.reshape(graph.transpose(value, (0, 2, 1, 3)), (-1, channels))


def _attend(
    graph: Graph, attending: Sequence[str], name: str, heads: int, head: int, side: int
) -> str:
    """Attention of queries, transposed keys and values: (squares, heads, area, head)."""
    query, key, value = attending
    area = side * side
    rows, columns = _relative_positions(graph, query, name, heads, head, side)
    scaled = graph.op("Mul", query, graph.scalar(head**-0.5))
    logits = graph.op("MatMul", scaled, key)
    logits = graph.reshape(logits, (-1, heads, area, side, side))
    logits = graph.op("Add", logits, rows)
    logits = graph.op("Add", logits, columns)
    logits = graph.reshape(logits, (-1, heads, area, area))
    return graph.op("MatMul", graph.op("Softmax", logits, axis=-1), value)


def _relative_positions(
    graph: Graph, query: str, name: str, heads: int, head: int, side: int
) -> tuple[str, str]:
    """What the rows, and the columns, between a query and a key add to their logit.

    Returns:
        (squares, heads, area, side, 1) and (squares, heads, area, 1, side)
    """
    apart = np.arange(side)[:, None] - np.arange(side)[None, :] + side - 1
    indices = graph.constant(apart.astype(np.int32))
    area = side * side
    tables = []
    for axis in "hw":
        table = graph.parameter(f"{name}.rel_pos_{axis}", (2 * side - 1, head))
        table = graph.op("Gather", table, indices, axis=0)  # (query, key, head)
        tables.append(graph.transpose(table, (0, 2, 1)))
    grid = graph.reshape(query, (-1, side, side, head))
    rows = graph.op("MatMul", grid, tables[0])  # (squares * heads, y, x, key y)
    rows = graph.reshape(rows, (-1, heads, area, side, 1))
    columns = graph.op("MatMul", graph.transpose(grid, (0, 2, 1, 3)), tables[1])
    columns = graph.transpose(columns, (0, 2, 1, 3))
    columns = graph.reshape(columns, (-1, heads, area, 1, side))
    return rows, columns
