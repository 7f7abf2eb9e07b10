"""Models as a repository for a Triton Inference Server."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from sam_inference.models import ModelFileError, ModelSpec

BACKENDS = ("onnxruntime", "python")
"""Triton backends: that of the official server, and one for servers that have only Python."""

_MODEL_FILE = Path(__file__).parents[1] / "engines" / "triton_model.py"

Shapes = Mapping[str, tuple[int, ...]]


def export_triton(spec: ModelSpec, repository: Path, backend: str) -> None:
    """Write the two networks of a model as `NAME_encoder` and `NAME_decoder`.

    Raises:
        ModelFileError: one of them is there already.
        OSError: a file cannot be written.
    """
    size, mask_size = spec.input_size, spec.mask_size
    parts: dict[str, tuple[Path, Shapes, Shapes]] = {
        "encoder": (spec.encoder, {"image": (1, 3, size, size)}, spec.embedding_shapes),
        "decoder": (
            spec.decoder,
            {
                **spec.embedding_shapes,
                "point_coords": (-1, -1, 2),
                "point_labels": (-1, -1),
                "mask_input": (-1, 1, mask_size, mask_size),
                "has_mask_input": (-1,),
            },
            {"low_res_logits": (-1, 4, mask_size, mask_size), "predicted_iou": (-1, 4)},
        ),
    }
    for part in parts:
        folder = repository / f"{spec.name}_{part}"
        if folder.exists():
            raise ModelFileError(f"{folder} exists already; remove it first")
    for part, (graph, inputs, outputs) in parts.items():
        folder = repository / f"{spec.name}_{part}"
        version = folder / "1"
        version.mkdir(parents=True)
        shutil.copyfile(graph, version / "model.onnx")
        weights = graph.with_suffix(".weights")
        if weights.exists():
            shutil.copyfile(weights, version / weights.name)
        if backend == "python":
            shutil.copyfile(_MODEL_FILE, version / "model.py")
        config = _config(folder.name, backend, inputs, outputs)
        (folder / "config.pbtxt").write_text(config)


def _config(name: str, backend: str, inputs: Shapes, outputs: Shapes) -> str:
    """Return a config.pbtxt. Batches are the networks' own affair: no dimension is Triton's."""
    return "\n".join(
        [
            f'name: "{name}"',
            f'backend: "{backend}"',
            "max_batch_size: 0",
            *(_tensor("input", *item) for item in inputs.items()),
            *(_tensor("output", *item) for item in outputs.items()),
            "",
        ]
    )


def _tensor(kind: str, name: str, shape: tuple[int, ...]) -> str:
    return f'{kind} {{ name: "{name}" data_type: TYPE_FP32 dims: {list(shape)} }}'
