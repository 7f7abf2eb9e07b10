"""Write each architecture's graphs, without weights, into the package.

    python -m tools.graphs

An archive holds what a model folder holds but the weights: `encoder.onnx` and `decoder.onnx`,
whose parameters point into `encoder.weights` and `decoder.weights`; `parameters.json`, the
name, shape and offset of each; and `model.json`.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx

from .builder import Graph
from .layers import EMBEDDING_CHANNELS, GRID, INPUT_SIZE
from .mask_decoder import MASK_SIZE, mask_decoder
from .tiny_vit import tiny_vit
from .vit import VIT_B, VIT_H, VIT_L, vit

FOLDER = Path(__file__).parents[2] / "inference" / "sam_inference" / "models" / "graphs"

# name: title, and what writes the encoder's graph
ARCHITECTURES: dict[str, tuple[str, Callable[[str], Graph]]] = {
    "mobile_sam": ("MobileSAM", tiny_vit),
    "sam_vit_b": ("SAM ViT-B", lambda weights_file: vit(VIT_B, weights_file)),
    "sam_vit_l": ("SAM ViT-L", lambda weights_file: vit(VIT_L, weights_file)),
    "sam_vit_h": ("SAM ViT-H", lambda weights_file: vit(VIT_H, weights_file)),
}


def files_of(name: str) -> dict[str, bytes]:
    """Return the files of an architecture's archive by name."""
    title, encoder = ARCHITECTURES[name]
    files = {}
    parameters = {}
    for part, write in (("encoder", encoder), ("decoder", mask_decoder)):
        graph = write(f"{part}.weights")
        model, offsets = graph.model()
        files[f"{part}.onnx"] = model.SerializeToString(deterministic=True)
        parameters[f"{part}.weights"] = {
            parameter: {"shape": shape, "offset": offsets[parameter]}
            for parameter, shape in graph.parameters.items()
        }
    files["parameters.json"] = json.dumps(parameters, indent=1).encode()
    spec = {
        "name": name,
        "title": title,
        "architecture": name,
        "input_size": INPUT_SIZE,
        "mask_size": MASK_SIZE,
        "mask_threshold": 0.0,
        "pixel_mean": [123.675, 116.28, 103.53],
        "pixel_std": [58.395, 57.12, 57.375],
        "embedding": {"image_embedding": [1, EMBEDDING_CHANNELS, GRID, GRID]},
    }
    files["model.json"] = json.dumps(spec, indent=2).encode()
    return files


def main() -> None:
    """Write all archives, byte for byte the same each time."""
    FOLDER.mkdir(exist_ok=True)
    for name in ARCHITECTURES:
        files = files_of(name)
        for part in ("encoder", "decoder"):
            # Shapes are inferred from the sizes written down, so that a wrong one shows here.
            graph = onnx.load_from_string(files[f"{part}.onnx"])
            onnx.shape_inference.infer_shapes(graph, check_type=True, strict_mode=True)
        path = FOLDER / f"{name}.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for file, content in files.items():
                # Not the present, which would change the archive.
                archive.writestr(zipfile.ZipInfo(file), content, zipfile.ZIP_DEFLATED, 9)
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
