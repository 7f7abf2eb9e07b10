"""Write a checkpoint as the shipped model files: encoder.onnx, decoder.onnx and model.json.

python -m training.quickstart.export --checkpoint build/quickstart/checkpoint.pt --folder OUT
"""

from __future__ import annotations

import argparse
import json
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from .calibrate import calibrate
from .network import EMBEDDING_CHANNELS, GRID, INPUT_SIZE, MASK_SIZE, QuickstartModel
from .train import PIXEL_MEAN, PIXEL_STD

OPSET = 17
SMALL = 1024  # values; a smaller tensor stays float32: it costs nothing and is the sensitive one

MODEL = {
    "name": "quickstart",
    "title": "Quickstart",
    "licence": "Apache-2.0",
    "input_size": INPUT_SIZE,
    "mask_size": MASK_SIZE,
    "mask_threshold": 0.0,
    "pixel_mean": PIXEL_MEAN,
    "pixel_std": PIXEL_STD,
    "embedding": {"image_embedding": [1, EMBEDDING_CHANNELS, GRID, GRID]},
}


def load_average(checkpoint: Path) -> QuickstartModel:
    """Return the averaged model of a checkpoint, ready to be run."""
    model = QuickstartModel()
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["average"])
    return model.eval()


def store_as_float16(model: onnx.ModelProto) -> None:
    """Keep large weights as float16, each with a Cast to float32, which halves the file.

    Arithmetic stays float32; engines fold the casts when they load the graph.
    """
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < SMALL:
            continue
        name = tensor.name
        halves = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(halves, f"{name}_float16"))
        casts.append(helper.make_node("Cast", [f"{name}_float16"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def export_graph(
    module: torch.nn.Module,
    inputs: dict[str, torch.Tensor],
    outputs: list[str],
    dynamic: dict[str, dict[int, str]],
    path: Path,
) -> None:
    """Trace a module into an ONNX file with named tensors."""
    buffer = BytesIO()
    with warnings.catch_warnings():
        # The exporter warns of constants in the trace: the sizes of the embedding, which are fixed.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            buffer,  # type: ignore[arg-type]  # a file object is taken, the annotation says a path
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes=dynamic,
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load_from_string(buffer.getvalue())
    store_as_float16(model)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())


def export(model: QuickstartModel, folder: Path) -> None:
    """Write the three files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    export_graph(
        model.encoder,
        {"image": torch.zeros(1, 3, INPUT_SIZE, INPUT_SIZE)},
        ["image_embedding"],
        {},
        folder / "encoder.onnx",
    )
    prompts = {"point_coords": {0: "B", 1: "N"}, "point_labels": {0: "B", 1: "N"}}
    each = ("mask_input", "has_mask_input", "low_res_logits", "predicted_iou")
    export_graph(
        model.decoder,
        {
            "image_embedding": torch.zeros(1, EMBEDDING_CHANNELS, GRID, GRID),
            "point_coords": torch.zeros(2, 3, 2),
            "point_labels": torch.ones(2, 3),
            "mask_input": torch.zeros(2, 1, MASK_SIZE, MASK_SIZE),
            "has_mask_input": torch.zeros(2),
        },
        ["low_res_logits", "predicted_iou"],
        {**prompts, **{name: {0: "B"} for name in each}},
        folder / "decoder.onnx",
    )
    (folder / "model.json").write_text(json.dumps(MODEL, indent=2) + "\n")


def main() -> None:
    """Read the arguments and export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    model = load_average(arguments.checkpoint)
    calibrate(model)
    export(model, arguments.folder)


if __name__ == "__main__":
    main()
