"""Write an ONNX graph node by node; its parameters are names and shapes, not values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
"""The first with a Gelu operator, which engines run faster than its parts."""

IR_VERSION = 9

WEIGHTS_ALIGNMENT = 64
"""Each parameter starts at a multiple of this many bytes, a cache line, in the weights file."""

Shape = tuple[int, ...]


class Graph:
    """A graph under construction. Values are named by strings, as in ONNX."""

    def __init__(self, name: str, weights_file: str) -> None:
        """Start a graph whose parameters will lie in `weights_file` beside it."""
        self.parameters: dict[str, Shape] = {}
        self._name = name
        self._weights_file = weights_file
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._constants: dict[bytes, onnx.TensorProto] = {}

    def input(self, name: str, shape: Sequence[int | str]) -> str:
        """Declare a float32 input; a string in `shape` names a free dimension."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def output(self, value: str, name: str, shape: Sequence[int | str]) -> None:
        """Declare `value` to be the float32 output `name`."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def parameter(self, name: str, shape: Shape) -> str:
        """Return the float32 parameter that a checkpoint has under `name`.

        It is in the weights file also if no node takes it.
        """
        known = self.parameters.setdefault(name, shape)
        if known != shape:
            raise ValueError(f"{name} is used with the shapes {known} and {shape}")
        return name

    def constant(self, value: NDArray[Any] | Sequence[int]) -> str:
        """Return a constant whose value is part of the graph; a list is of int64."""
        array = value if isinstance(value, np.ndarray) else np.array(value, np.int64)
        tensor = numpy_helper.from_array(np.ascontiguousarray(array))
        known = self._constants.setdefault(tensor.SerializeToString(), tensor)
        if not known.name:
            known.name = f"constant_{len(self._constants)}"
        return known.name

    def scalar(self, value: float) -> str:
        """Return a float32 constant without dimensions."""
        return self.constant(np.array(value, np.float32))

    def op(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output and return that."""
        output = f"value_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def split(self, value: str, sizes: Sequence[int], axis: int) -> list[str]:
        """Cut `value` into pieces of `sizes` along `axis`."""
        outputs = [f"value_{len(self._nodes)}_{index}" for index in range(len(sizes))]
        inputs = [value, self.constant(sizes)]
        self._nodes.append(helper.make_node("Split", inputs, outputs, axis=axis))
        return outputs

    def reshape(self, value: str, shape: Sequence[int]) -> str:
        """Reshape; 0 keeps a dimension and -1 is worked out, as in ONNX."""
        return self.op("Reshape", value, self.constant(shape))

    def transpose(self, value: str, order: Sequence[int]) -> str:
        """Reorder the dimensions."""
        return self.op("Transpose", value, perm=list(order))

    def layer_norm(self, value: str, name: str, channels: int, epsilon: float) -> str:
        """Normalise over the last dimension, of `channels`."""
        weight = self.parameter(f"{name}.weight", (channels,))
        bias = self.parameter(f"{name}.bias", (channels,))
        return self.op("LayerNormalization", value, weight, bias, axis=-1, epsilon=epsilon)

    def gemm(self, value: str, name: str, channels: tuple[int, int]) -> str:
        """Apply the linear layer `name` from `channels[0]` to `channels[1]` to (N, C) rows."""
        weight = self.parameter(f"{name}.weight", channels[::-1])
        bias = self.parameter(f"{name}.bias", channels[1:])
        return self.op("Gemm", value, weight, bias, transB=1)

    def model(self) -> tuple[onnx.ModelProto, dict[str, int]]:
        """Return the graph and the offset of each parameter in the weights file."""
        initializers = list(self._constants.values())
        taken = {value for node in self._nodes for value in node.input}
        offsets = {}
        end = 0
        for name, shape in self.parameters.items():
            offsets[name] = -(-end // WEIGHTS_ALIGNMENT) * WEIGHTS_ALIGNMENT
            length = 4 * int(np.prod(shape))
            end = offsets[name] + length
            if name not in taken:
                continue
            tensor = TensorProto(
                name=name,
                dims=shape,
                data_type=TensorProto.FLOAT,
                data_location=TensorProto.EXTERNAL,
            )
            location = {"location": self._weights_file, "offset": offsets[name], "length": length}
            for key, value in location.items():
                tensor.external_data.add(key=key, value=str(value))
            initializers.append(tensor)
        graph = helper.make_graph(
            self._nodes, self._name, self._inputs, self._outputs, initializers
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="samserve",
        )
        return model, offsets
