"""The architectures whose graphs come with the package, without weights.

`graphs/NAME.zip` holds what a model folder holds, but the weights (tools/graphs writes it).
The parameters carry the names that they have in the official checkpoints.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sam_inference.models.checkpoint import CheckpointError, is_floating

ARCHITECTURES = ("mobile_sam", "sam_vit_b", "sam_vit_l", "sam_vit_h")

_GRAPHS = Path(__file__).parent / "graphs"

# What checkpoints have and the networks do not need: TinyViT's classifier, training counters,
# and tables that follow from the architecture.
_UNUSED = re.compile(
    r"image_encoder\.(norm_head|head)\."
    r"|\.num_batches_tracked$|\.attention_bias_idxs$|^pixel_(mean|std)$"
)

Tensors = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Parameter:
    """Where a weights file has a float32 tensor."""

    name: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Architecture:
    """A pair of networks.

    Attributes:
        name: one of `ARCHITECTURES`.
        files: the files of a model folder by name, but the weights.
        weights: the parameters in each weights file, by the file's name.
    """

    name: str
    files: dict[str, bytes]
    weights: dict[str, list[Parameter]]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter."""
        return {item.name: item.shape for items in self.weights.values() for item in items}


def read_architecture(name: str) -> Architecture:
    """Return the architecture `name`, one of `ARCHITECTURES`."""
    with zipfile.ZipFile(_GRAPHS / f"{name}.zip") as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    return Architecture(name, files, _parameters(files["parameters.json"]))


def read_weights(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Return the parameters of a model folder by name, mapped from its files.

    Changes to the arrays do not reach the files.
    """
    return {
        parameter.name: np.memmap(
            folder / file, "<f4", mode="c", offset=parameter.offset, shape=parameter.shape
        )
        for file, parameters in _parameters((folder / "parameters.json").read_bytes()).items()
        for parameter in parameters
    }


def _parameters(content: bytes) -> dict[str, list[Parameter]]:
    return {
        file: [
            Parameter(name, tuple(place["shape"]), place["offset"])
            for name, place in parameters.items()
        ]
        for file, parameters in json.loads(content).items()
    }


def recognise(tensors: Tensors) -> Architecture:
    """Return the architecture that `tensors` are the parameters of.

    Raises:
        CheckpointError: there is none, with how they differ from the nearest.
    """
    nearest = None
    for name in ARCHITECTURES:
        architecture = read_architecture(name)
        differences = _differences(architecture.shapes, tensors)
        if not differences:
            return architecture
        if nearest is None or len(differences) < len(nearest[1]):
            nearest = name, differences
    assert nearest is not None
    name, differences = nearest
    raise CheckpointError(
        f"these are not the tensors of {', '.join(ARCHITECTURES)}; nearest is {name}, "
        f"but {'; '.join(differences[:3])}"
        + (f"; and {len(differences) - 3} more" if len(differences) > 3 else "")
    )


def _differences(shapes: Mapping[str, tuple[int, ...]], tensors: Tensors) -> list[str]:
    differences = []
    for name, shape in shapes.items():
        if name not in tensors:
            differences.append(f"{name} is missing")
        elif tensors[name].shape != shape:
            differences.append(f"{name} has the shape {tensors[name].shape}, not {shape}")
        elif not is_floating(tensors[name]):
            differences.append(f"{name} holds {tensors[name].dtype}, not floating-point numbers")
    differences += [
        f"{name} is not part of it"
        for name in tensors
        if name not in shapes and not _UNUSED.search(name)
    ]
    return differences
