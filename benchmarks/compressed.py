"""Copies of a model whose weights are kept in less than float32; the arithmetic stays float32."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from sam_inference.models import ModelSpec

LEAST_VALUES = 1024  # smaller tensors, such as biases, stay as they are

COMPRESSIONS = ("float16", "int8")

Parts = tuple[list[onnx.TensorProto], list[onnx.NodeProto]]


def compress(spec: ModelSpec, weights: str, folder: Path) -> ModelSpec:
    """Write the model below `folder` with its weights as one of `COMPRESSIONS`."""
    copy = folder / f"{spec.name}-{weights}"
    copy.mkdir()
    shutil.copyfile(spec.folder / "model.json", copy / "model.json")
    store = {"float16": as_float16, "int8": as_int8}[weights]
    for graph in (spec.encoder, spec.decoder):
        model = onnx.load(graph)
        tensors, nodes = [], []
        for tensor in model.graph.initializer:
            values = numpy_helper.to_array(tensor)
            if values.dtype.kind == "f" and values.ndim > 1 and values.size >= LEAST_VALUES:
                stored, before = store(tensor.name, values)
                tensors += stored
                nodes += before
            else:
                tensors.append(tensor)
        nodes += model.graph.node
        del model.graph.initializer[:]
        del model.graph.node[:]
        model.graph.initializer.extend(tensors)
        model.graph.node.extend(nodes)
        onnx.save_model(
            model,
            copy / graph.name,
            save_as_external_data=True,
            location=graph.with_suffix(".weights").name,
            size_threshold=LEAST_VALUES,
        )
    return replace(spec, folder=copy, architecture=None)


def as_float16(name: str, values: NDArray[np.floating]) -> Parts:
    stored = numpy_helper.from_array(values.astype(np.float16), f"{name}.float16")
    return [stored], [cast(stored.name, name, values)]


def as_int8(name: str, values: NDArray[np.floating]) -> Parts:
    """A scale for each index of the first dimension, which is that of a layer's outputs."""
    largest = np.abs(values.astype(np.float32)).max(axis=tuple(range(1, values.ndim)))
    scale = np.maximum(largest / 127, np.finfo(np.float32).tiny)
    steps = np.rint(values / scale.reshape(-1, *(1,) * (values.ndim - 1)))
    stored = numpy_helper.from_array(steps.astype(np.int8), f"{name}.int8")
    scales = numpy_helper.from_array(scale, f"{name}.scale")
    restored = f"{name}.float32"
    inputs = [stored.name, scales.name]
    restore = helper.make_node("DequantizeLinear", inputs, [restored], axis=0)
    return [stored, scales], [restore, cast(restored, name, values)]


def cast(value: str, name: str, values: NDArray[np.floating]) -> onnx.NodeProto:
    """Give `value` the type of `values`, which the graph expects under `name`."""
    return helper.make_node(
        "Cast", [value], [name], to=helper.np_dtype_to_tensor_dtype(values.dtype)
    )
