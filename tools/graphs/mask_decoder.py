"""SAM's prompt encoder and mask decoder as one graph, from prompts to low-res logits.

Sources: the SAM paper (arXiv 2304.02643), appendix A, and the parameters of the published
checkpoints, which MobileSAM shares. The results are those of the reference to float32's
rounding, but the steps are ordered for speed. Image tokens keep their channels last from the
beginning to the masks, so that every step is a matrix product or a norm and nothing is put in
order twice. And the few prompt tokens are brought to the many image tokens, not the reverse:
where the reference projects the image to attend, here the tokens go through those weights.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from .builder import Graph
from .layers import EMBEDDING_CHANNELS as CHANNELS
from .layers import GRID, INPUT_SIZE, to_tokens

MASK_SIZE = 256
_MASKS = 4
_TOKENS = GRID * GRID
_HEADS = 8
_LAYERS = 2
_MLP_CHANNELS = 2048
_INNER = CHANNELS // 2  # of the attention between prompt and image
_HEAD = _INNER // _HEADS
_MASK_CHANNELS = 16  # of the mask input, on its way down
_UPSCALED = (CHANNELS // 4, CHANNELS // 8)
_NORM_EPSILON = 1e-5
_NORM_2D_EPSILON = 1e-6


def mask_decoder(weights_file: str) -> Graph:
    """Return the graph of the prompt encoder and mask decoder."""
    graph = Graph("mask_decoder", weights_file)
    embedding = graph.input("image_embedding", (1, CHANNELS, GRID, GRID))
    coords = graph.input("point_coords", ("prompts", "points", 2))
    labels = graph.input("point_labels", ("prompts", "points"))
    mask_input = graph.input("mask_input", ("prompts", 1, MASK_SIZE, MASK_SIZE))
    has_mask_input = graph.input("has_mask_input", ("prompts",))

    image = to_tokens(graph, embedding, CHANNELS)
    image = graph.op("Add", image, _dense_prompt(graph, mask_input, has_mask_input))
    points = _sparse_prompt(graph, coords, labels)
    output_tokens = [
        graph.parameter("mask_decoder.iou_token.weight", (1, CHANNELS)),
        graph.parameter("mask_decoder.mask_tokens.weight", (_MASKS, CHANNELS)),
    ]
    outputs = graph.op("Concat", *output_tokens, axis=0)
    prompts = graph.op("Shape", coords, start=0, end=1)
    shape = graph.op("Concat", prompts, graph.constant((1 + _MASKS, CHANNELS)), axis=0)
    tokens = graph.op("Concat", graph.op("Expand", outputs, shape), points, axis=1)
    tokens, image = _transformer(graph, tokens, image)

    iou_token, mask_tokens = _split_tokens(graph, tokens)
    upscaled = _upscale(graph, image)
    hypernetworks = [
        _mlp(graph, token, f"mask_decoder.output_hypernetworks_mlps.{index}", _UPSCALED[1])
        for index, token in enumerate(graph.split(mask_tokens, (1,) * _MASKS, axis=1))
    ]
    weights = graph.transpose(graph.op("Concat", *hypernetworks, axis=1), (0, 2, 1))
    masks = graph.op("MatMul", upscaled, weights)
    # The pixels of an upscaled token lie together: put them in order on the few masks only.
    masks = graph.reshape(masks, (-1, GRID, GRID, 2, 2, 2, 2, _MASKS))
    masks = graph.transpose(masks, (0, 7, 1, 3, 5, 2, 4, 6))
    masks = graph.reshape(masks, (-1, _MASKS, MASK_SIZE, MASK_SIZE))
    iou = _mlp(graph, iou_token, "mask_decoder.iou_prediction_head", _MASKS)
    iou = graph.op("Squeeze", iou, graph.constant((1,)))
    graph.output(masks, "low_res_logits", ("prompts", _MASKS, MASK_SIZE, MASK_SIZE))
    graph.output(iou, "predicted_iou", ("prompts", _MASKS))
    return graph


def _linear(graph: Graph, value: str, name: str, channels: tuple[int, int]) -> str:
    """The linear layer `name` on the last dimension."""
    weight = _transposed(graph, f"{name}.weight", channels)
    bias = graph.parameter(f"{name}.bias", channels[1:])
    return graph.op("Add", graph.op("MatMul", value, weight), bias)


def _transposed(graph: Graph, name: str, channels: tuple[int, int]) -> str:
    return graph.transpose(graph.parameter(name, channels[::-1]), (1, 0))


def _mlp(graph: Graph, value: str, name: str, outputs: int) -> str:
    """Three linear layers with ReLU between them."""
    for layer, width in enumerate((CHANNELS, CHANNELS, outputs)):
        if layer:
            value = graph.op("Relu", value)
        value = _linear(graph, value, f"{name}.layers.{layer}", (CHANNELS, width))
    return value


def _positions(graph: Graph, coords: str) -> str:
    """Encode (…, 2) positions of 0 to 1 within the frame by random frequencies."""
    name = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    frequencies = graph.parameter(name, (2, CHANNELS // 2))
    value = graph.op("Sub", graph.op("Mul", coords, graph.scalar(2.0)), graph.scalar(1.0))
    value = graph.op("MatMul", value, frequencies)
    value = graph.op("Mul", value, graph.scalar(2 * math.pi))
    return graph.op("Concat", graph.op("Sin", value), graph.op("Cos", value), axis=-1)


def _sparse_prompt(graph: Graph, coords: str, labels: str) -> str:
    """Points and box corners as (prompts, points, CHANNELS) tokens."""
    # Coordinates name pixels, whose centres lie half a pixel further.
    centres = graph.op("Add", coords, graph.scalar(0.5))
    positions = _positions(graph, graph.op("Div", centres, graph.scalar(INPUT_SIZE)))
    is_point = graph.op("GreaterOrEqual", labels, graph.scalar(0.0))
    is_point = graph.op("Unsqueeze", is_point, graph.constant((2,)))
    positions = graph.op("Where", is_point, positions, graph.scalar(0.0))
    kinds = [graph.parameter("prompt_encoder.not_a_point_embed.weight", (1, CHANNELS))]
    kinds += [
        graph.parameter(f"prompt_encoder.point_embeddings.{label}.weight", (1, CHANNELS))
        for label in range(4)
    ]
    table = graph.op("Concat", *kinds, axis=0)
    indices = graph.op("Add", labels, graph.scalar(1.0))
    indices = graph.op("Cast", indices, to=TensorProto.INT64)
    return graph.op("Add", positions, graph.op("Gather", table, indices, axis=0))


def _dense_prompt(graph: Graph, mask_input: str, has_mask_input: str) -> str:
    """The mask input, or that there is none, as (prompts, tokens, CHANNELS).

    Convolutions whose stride is their kernel are matrix products, once the pixels of a kernel lie
    together: here those of a token, by the four kernels of the first convolution in it.
    """
    name, quarter = "prompt_encoder.mask_downscaling", _MASK_CHANNELS // 4
    value = mask_input
    for _ in range(2):
        value = graph.op("SpaceToDepth", value, blocksize=2)
    value = graph.reshape(graph.transpose(value, (0, 2, 3, 1)), (-1, 4 * _TOKENS, 4))
    value = _convolve(graph, value, f"{name}.0", (1, quarter))
    value = graph.layer_norm(value, f"{name}.1", quarter, _NORM_2D_EPSILON)
    value = graph.reshape(graph.op("Gelu", value), (-1, _TOKENS, 4 * quarter))
    value = _convolve(graph, value, f"{name}.3", (quarter, _MASK_CHANNELS))
    value = graph.layer_norm(value, f"{name}.4", _MASK_CHANNELS, _NORM_2D_EPSILON)
    value = graph.op("Gelu", value)
    # Where there is no mask, all that is left of the last step is another bias.
    given = graph.reshape(has_mask_input, (-1, 1, 1))
    value = graph.op("Mul", value, given)
    weight = graph.parameter(f"{name}.6.weight", (CHANNELS, _MASK_CHANNELS, 1, 1))
    weight = graph.transpose(graph.reshape(weight, (CHANNELS, _MASK_CHANNELS)), (1, 0))
    value = graph.op("MatMul", value, weight)
    bias = graph.parameter(f"{name}.6.bias", (CHANNELS,))
    no_mask = graph.parameter("prompt_encoder.no_mask_embed.weight", (1, CHANNELS))
    given = graph.op("Greater", given, graph.scalar(0.0))
    return graph.op("Add", value, graph.op("Where", given, bias, no_mask))


def _convolve(graph: Graph, value: str, name: str, channels: tuple[int, int]) -> str:
    """A 2x2 convolution of stride 2 over (prompts, N, pixels of a kernel * channels[0])."""
    inputs, outputs = channels
    weight = graph.parameter(f"{name}.weight", (outputs, inputs, 2, 2))
    weight = graph.reshape(graph.transpose(weight, (2, 3, 1, 0)), (4 * inputs, outputs))
    bias = graph.parameter(f"{name}.bias", (outputs,))
    return graph.op("Add", graph.op("MatMul", value, weight), bias)


def _transformer(graph: Graph, tokens: str, image: str) -> tuple[str, str]:
    """Two layers of attention between the tokens and the image, both ways."""
    points = tokens
    positions = _image_positions(graph)
    name = "mask_decoder.transformer"
    for index in range(_LAYERS):
        layer = f"{name}.layers.{index}"
        # The first layer's self attention has nothing but positions to go by.
        query = tokens if index == 0 else graph.op("Add", tokens, points)
        value = _attend_to_tokens(graph, query, query, tokens, f"{layer}.self_attn")
        tokens = value if index == 0 else graph.op("Add", tokens, value)
        tokens = _norm(graph, tokens, f"{layer}.norm1")

        positioned = graph.op("Add", image, positions)
        query = graph.op("Add", tokens, points)
        value = _attend_to_image(
            graph, query, positioned, image, f"{layer}.cross_attn_token_to_image"
        )
        tokens = _norm(graph, graph.op("Add", tokens, value), f"{layer}.norm2")

        value = _linear(graph, tokens, f"{layer}.mlp.lin1", (CHANNELS, _MLP_CHANNELS))
        value = graph.op("Relu", value)
        value = _linear(graph, value, f"{layer}.mlp.lin2", (_MLP_CHANNELS, CHANNELS))
        tokens = _norm(graph, graph.op("Add", tokens, value), f"{layer}.norm3")

        key = graph.op("Add", tokens, points)
        value = _attend_from_image(
            graph, positioned, key, tokens, f"{layer}.cross_attn_image_to_token"
        )
        image = _norm(graph, graph.op("Add", image, value), f"{layer}.norm4")

    positioned = graph.op("Add", image, positions)
    query = graph.op("Add", tokens, points)
    value = _attend_to_image(graph, query, positioned, image, f"{name}.final_attn_token_to_image")
    tokens = _norm(graph, graph.op("Add", tokens, value), f"{name}.norm_final_attn")
    return tokens, image


def _norm(graph: Graph, value: str, name: str) -> str:
    return graph.layer_norm(value, name, CHANNELS, _NORM_EPSILON)


def _image_positions(graph: Graph) -> str:
    """The positions of the image tokens, a constant of the weights: (tokens, CHANNELS)."""
    centres = ((np.arange(GRID) + 0.5) / GRID).astype(np.float32)
    x, y = np.meshgrid(centres, centres)
    return _positions(graph, graph.constant(np.stack([x.ravel(), y.ravel()], axis=1)))


def _project(graph: Graph, value: str, name: str, inner: int) -> str:
    """A projection into attention heads: (prompts, heads, N, inner / heads)."""
    value = _linear(graph, value, name, (CHANNELS, inner))
    value = graph.reshape(value, (0, 0, _HEADS, inner // _HEADS))
    return graph.transpose(value, (0, 2, 1, 3))


def _attend_to_tokens(graph: Graph, query: str, key: str, value: str, name: str) -> str:
    """Attention of tokens to each other: (prompts, N, CHANNELS)."""
    query = _project(graph, query, f"{name}.q_proj", CHANNELS)
    key = _project(graph, key, f"{name}.k_proj", CHANNELS)
    value = _project(graph, value, f"{name}.v_proj", CHANNELS)
    logits = graph.op("MatMul", query, graph.transpose(key, (0, 1, 3, 2)))
    logits = graph.op("Mul", logits, graph.scalar((CHANNELS // _HEADS) ** -0.5))
    value = graph.op("MatMul", graph.op("Softmax", logits, axis=-1), value)
    value = graph.reshape(graph.transpose(value, (0, 2, 1, 3)), (0, 0, CHANNELS))
    return _linear(graph, value, f"{name}.out_proj", (CHANNELS, CHANNELS))


def _attend_to_image(graph: Graph, query: str, key: str, value: str, name: str) -> str:
    """Attention of N tokens to the image: (prompts, N, CHANNELS).

    A head's logits are (query Wq) (key Wk)' = ((query Wq) Wk') key', and its values
    weights (value Wv) = (weights value) Wv: the image meets heads * N vectors instead of being
    projected twice, which is less work for up to 16 tokens (10 points), and more for many. The
    bias of the keys adds the same to all logits of a query, which leaves the weights as they are.
    """
    graph.parameter(f"{name}.k_proj.bias", (_INNER,))  # needed by the reference's own network
    query = _project(graph, query, f"{name}.q_proj", _INNER)
    logits = graph.op("MatMul", key, _to_channels(graph, query, f"{name}.k_proj"))
    # Heads and tokens last: the softmax is along the image, whose rows need not be reordered.
    weights = graph.transpose(graph.op("Softmax", logits, axis=1), (0, 2, 1))
    value = graph.op("MatMul", weights, value)
    value = graph.reshape(value, (0, _HEADS, -1, CHANNELS))
    value = graph.op("MatMul", value, graph.transpose(_by_head(graph, f"{name}.v_proj"), (0, 2, 1)))
    value = graph.reshape(graph.transpose(value, (0, 2, 1, 3)), (0, 0, _INNER))
    value = graph.op("Add", value, graph.parameter(f"{name}.v_proj.bias", (_INNER,)))
    return _linear(graph, value, f"{name}.out_proj", (_INNER, CHANNELS))


def _attend_from_image(graph: Graph, query: str, key: str, value: str, name: str) -> str:
    """Attention of the image to N tokens: (prompts, image tokens, CHANNELS).

    As above: (query Wq + bq) (key Wk)' = query (Wq (key Wk)') + bq (key Wk)', and
    (weights (value Wv)) Wo = weights ((value Wv) Wo), added up over the heads.
    """
    key = _project(graph, key, f"{name}.k_proj", _INNER)
    logits = graph.op("MatMul", query, _to_channels(graph, key, f"{name}.q_proj"))
    bias = graph.parameter(f"{name}.q_proj.bias", (_INNER,))
    bias = graph.op("MatMul", key, graph.reshape(_scaled(graph, bias), (_HEADS, _HEAD, 1)))
    logits = graph.op("Add", logits, graph.reshape(bias, (0, 1, -1)))
    logits = graph.reshape(logits, (0, 0, _HEADS, -1))
    weights = graph.reshape(graph.op("Softmax", logits, axis=-1), (0, _TOKENS, -1))
    value = _project(graph, value, f"{name}.v_proj", _INNER)
    output = graph.parameter(f"{name}.out_proj.weight", (CHANNELS, _INNER))
    output = graph.transpose(graph.reshape(output, (CHANNELS, _HEADS, _HEAD)), (1, 2, 0))
    value = graph.reshape(graph.op("MatMul", value, output), (0, -1, CHANNELS))
    value = graph.op("MatMul", weights, value)
    return graph.op("Add", value, graph.parameter(f"{name}.out_proj.bias", (CHANNELS,)))


def _to_channels(graph: Graph, value: str, name: str) -> str:
    """Heads of tokens through the weights that the reference projects the image by.

    Returns:
        (prompts, CHANNELS, heads * N), with the scale of the attention in it.
    """
    value = graph.op("MatMul", value, _scaled(graph, _by_head(graph, name)))
    return graph.transpose(graph.reshape(value, (0, -1, CHANNELS)), (0, 2, 1))


def _by_head(graph: Graph, name: str) -> str:
    """The weights of a projection into heads: (heads, channels of a head, CHANNELS)."""
    weight = graph.parameter(f"{name}.weight", (_INNER, CHANNELS))
    return graph.reshape(weight, (_HEADS, _HEAD, CHANNELS))


def _scaled(graph: Graph, parameter: str) -> str:
    """A parameter times the scale of attention logits, which engines work out at load."""
    return graph.op("Mul", parameter, graph.scalar(_HEAD**-0.5))


def _split_tokens(graph: Graph, tokens: str) -> tuple[str, str]:
    """The IoU token and the mask tokens, which come before the prompt's."""
    start, middle, end, axis = (graph.constant((value,)) for value in (0, 1, 1 + _MASKS, 1))
    iou = graph.op("Slice", tokens, start, middle, axis)
    return iou, graph.op("Slice", tokens, middle, end, axis)


def _upscale(graph: Graph, image: str) -> str:
    """Image tokens to 4 x 4 pixels each: (prompts, tokens * 16, channels).

    A transposed convolution whose stride is its kernel makes of each token, by itself, a
    square of pixels: a matrix product.
    """
    name = "mask_decoder.output_upscaling"
    first, second = _UPSCALED
    value = _double(graph, image, f"{name}.0", _TOKENS, (CHANNELS, first))
    value = graph.layer_norm(value, f"{name}.1", first, _NORM_2D_EPSILON)
    value = graph.op("Gelu", value)
    value = _double(graph, value, f"{name}.3", 4 * _TOKENS, (first, second))
    return graph.op("Gelu", value)


def _double(graph: Graph, value: str, name: str, tokens: int, channels: tuple[int, int]) -> str:
    """A 2x2 transposed convolution of stride 2: each token to four, row by row."""
    inputs, outputs = channels
    weight = graph.parameter(f"{name}.weight", (inputs, outputs, 2, 2))
    weight = graph.reshape(graph.transpose(weight, (0, 2, 3, 1)), (inputs, 4 * outputs))
    value = graph.reshape(graph.op("MatMul", value, weight), (-1, 4 * tokens, outputs))
    return graph.op("Add", value, graph.parameter(f"{name}.bias", (outputs,)))
