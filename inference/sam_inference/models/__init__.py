"""Models as data: where their graphs are and what goes in and out of them.

A model is a folder with `encoder.onnx`, `decoder.onnx` and `model.json`. `quickstart`
is bundled; any further folder below the model directory is offered under its name. Those of
the catalogue are pulled there, and other checkpoints imported, by `sam-worker models`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUNDLED = Path(__file__).parent
"""Folder of the models that come with the package."""

DEFAULT_MODEL = "quickstart"


class ModelFileError(Exception):
    """A model's files cannot be had, or are not as they should be."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a model takes and gives.

    Attributes:
        name: the name to ask for.
        title: what it is, in a line.
        licence: SPDX identifier of its weights' licence.
        input_size: side of the square model frame in pixels.
        mask_size: side of the low-res mask logits.
        mask_threshold: logit above which a pixel belongs to the object.
        pixel_mean: mean of R, G and B, 0 to 255.
        pixel_std: standard deviation of R, G and B, 0 to 255.
        embedding_shapes: shape of each encoder output, by name.
        folder: where `encoder.onnx` and `decoder.onnx` are.
        architecture: one of `architectures.ARCHITECTURES` if it was imported from a
            checkpoint, whose parameters are then in the folder, too.
    """

    name: str
    title: str
    licence: str
    input_size: int
    mask_size: int
    mask_threshold: float
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]
    embedding_shapes: dict[str, tuple[int, ...]]
    folder: Path
    architecture: str | None = None

    @property
    def embedding_bytes(self) -> int:
        """Memory of one embedding as it is stored, in float16."""
        return sum(2 * math.prod(shape) for shape in self.embedding_shapes.values())

    @property
    def file_bytes(self) -> int:
        """Length of the model's files: what the weights take in memory, about."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    @property
    def encoder(self) -> Path:
        """The image encoder's graph."""
        return self.folder / "encoder.onnx"

    @property
    def decoder(self) -> Path:
        """The prompt encoder's and mask decoder's graph."""
        return self.folder / "decoder.onnx"


def read_spec(folder: Path) -> ModelSpec:
    """Read the `model.json` of a model folder.

    Raises:
        ModelFileError: a file is missing, or a field is missing or of the wrong type.
    """
    path = folder / "model.json"
    try:
        data: dict[str, Any] = json.loads(path.read_text())
        red, green, blue = (float(value) for value in data["pixel_mean"])
        std_red, std_green, std_blue = (float(value) for value in data["pixel_std"])
        spec = ModelSpec(
            name=str(data["name"]),
            title=str(data["title"]),
            licence=str(data["licence"]),
            input_size=int(data["input_size"]),
            mask_size=int(data["mask_size"]),
            mask_threshold=float(data["mask_threshold"]),
            pixel_mean=(red, green, blue),
            pixel_std=(std_red, std_green, std_blue),
            embedding_shapes={
                str(name): tuple(int(length) for length in shape)
                for name, shape in data["embedding"].items()
            },
            folder=folder,
            architecture=data.get("architecture"),
        )
    except OSError as error:
        raise ModelFileError(f"{path}: {error.strerror}") from error
    except KeyError as error:
        raise ModelFileError(f"{path}: the field {error} is missing") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: {error}") from error
    for graph in (spec.encoder, spec.decoder):
        if not graph.is_file():
            raise ModelFileError(f"{graph}: no such file")
    return spec


def find_models(model_dir: Path) -> dict[str, ModelSpec]:
    """Return the bundled models and those in folders below `model_dir`, by name.

    Raises:
        ModelFileError: a folder with a `model.json` is not a complete model, or two
            folders claim the same name.
    """
    specs: dict[str, ModelSpec] = {}
    for root in (BUNDLED, model_dir):
        for path in sorted(root.glob("[!.]*/model.json")):
            spec = read_spec(path.parent)
            if spec.name in specs:
                raise ModelFileError(
                    f"{path}: the name {spec.name!r} is taken by {specs[spec.name].folder}"
                )
            specs[spec.name] = spec
    return specs
