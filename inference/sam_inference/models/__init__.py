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

from sam_inference.models.catalogue import CATALOGUE

BUNDLED = Path(__file__).parent
"""Folder of the models that come with the package."""

DEFAULT_MODEL = "quickstart"

MAKE_ANEW = "remove the folder, and pull or import the model again"
"""What to do about a model folder that is not as it should be."""


class ModelFileError(Exception):
    """A model's files cannot be had, or are not as they should be."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a model takes and gives.

    Attributes:
        name: the name to ask for.
        title: what it is, in a line.
        licence: SPDX identifier of its weights' licence, NOASSERTION where it is not known.
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


@dataclass(frozen=True, slots=True)
class FoundModels:
    """The models that there are.

    Attributes:
        model_dir: where those are that are not bundled.
        specs: the sound ones by name, the bundled ones first.
        problems: what is wrong with other folders, or with `model_dir` itself, by path.
    """

    model_dir: Path
    specs: dict[str, ModelSpec]
    problems: dict[Path, ModelFileError]

    def spec(self, name: str) -> ModelSpec:
        """Return the model `name`.

        Raises:
            ModelFileError: there is none, or its folder is not as it should be.
        """
        if name in self.specs:
            return self.specs[name]
        problem = self.problem(name)
        if problem is not None:
            raise problem
        to_pull = [entry for entry in CATALOGUE if entry not in self.specs]
        raise ModelFileError(
            f"no model named {name!r}; there are: {', '.join(self.specs)}; "
            f"can be pulled: {', '.join(to_pull) or 'none'} (MODEL_DIR is {self.model_dir})"
        )

    def problem(self, name: str) -> ModelFileError | None:
        """Return what is wrong with the folder `name`, or with all of them."""
        return self.problems.get(self.model_dir / name) or self.problems.get(self.model_dir)


def read_spec(folder: Path) -> ModelSpec:
    """Read the `model.json` of a model folder.

    Raises:
        ModelFileError: a file is missing or cannot be read, or a field is missing or of the
            wrong type.
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
        # An import notes its files there, weights included.
        sizes: dict[str, int] = data.get("bytes", {})
        for name in ("encoder.onnx", "decoder.onnx", *data.get("files", ())):
            size = (folder / name).stat().st_size
            if size != sizes.get(name, size):
                raise ModelFileError(
                    f"{folder / name}: has {size} bytes instead of {sizes[name]}; {MAKE_ANEW}"
                )
    except FileNotFoundError as error:
        raise ModelFileError(f"{error.filename}: no such file; {MAKE_ANEW}") from error
    except OSError as error:
        raise ModelFileError(f"{error.filename}: {error.strerror}") from error
    except KeyError as error:
        raise ModelFileError(f"{path}: the field {error} is missing; {MAKE_ANEW}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path}: {error}; {MAKE_ANEW}") from error
    return spec


def find_models(model_dir: Path) -> FoundModels:
    """Find the bundled models and those in folders below `model_dir`.

    A folder that is not as it should be stands in the way of no other.
    """
    found = FoundModels(model_dir, {}, {})
    try:
        folders = sorted(model_dir.iterdir())
    except FileNotFoundError:
        folders = []  # as it is before the first import
    except OSError as error:
        folders = []
        found.problems[model_dir] = ModelFileError(
            f"MODEL_DIR: {model_dir}: {error.strerror}; a folder that can be read was expected"
        )
    specs = []
    for folder in [*sorted(BUNDLED.iterdir()), *folders]:
        if folder.name.startswith(".") or not _has_spec(folder):
            continue
        try:
            specs.append(read_spec(folder))
        except ModelFileError as error:
            found.problems[folder] = error
    # A copy of a folder has its name inside; the folder that is called so comes first.
    for spec in sorted(specs, key=lambda spec: spec.name != spec.folder.name):
        folder = spec.folder
        if spec.name in found.specs:
            found.problems[folder] = ModelFileError(
                f"{folder}: the name {spec.name!r} is taken by {found.specs[spec.name].folder}; "
                "write another into its model.json"
            )
        else:
            found.specs[spec.name] = spec
    return found


def _has_spec(folder: Path) -> bool:
    """Whether this is a model's folder; one that cannot be looked into may be."""
    try:
        (folder / "model.json").stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass
    return True
