"""Make a model folder from a checkpoint: the graphs of its architecture and its weights."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sam_inference.models import MAKE_ANEW, ModelFileError, ModelSpec, find_models, read_spec
from sam_inference.models.architectures import (
    ARCHITECTURES,
    Architecture,
    Parameter,
    Tensors,
    read_architecture,
    read_weights,
    recognise,
)
from sam_inference.models.catalogue import CATALOGUE, CatalogueEntry
from sam_inference.models.checkpoint import CheckpointError, as_float32, read_checkpoint
from sam_inference.models.digests import file_digest

# What SPDX says where a licence is not known.
_UNKNOWN_LICENCE = "NOASSERTION"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def import_checkpoint(
    path: Path,
    model_dir: Path,
    *,
    name: str | None = None,
    official: CatalogueEntry | None = None,
) -> ModelSpec:
    """Make a model folder below `model_dir` from a checkpoint.

    The folder appears complete or not at all.

    Args:
        path: the checkpoint, an untrusted file.
        model_dir: where models are; made if it is not there.
        name: what the model is to be called; its architecture's name if None.
        official: the entry of the catalogue whose checkpoint it has been found to be; it is
            looked for by the digest if None.

    Raises:
        CheckpointError: the file cannot be used.
        ModelFileError: the name cannot be used or is taken.
        OSError: a file cannot be read or written.
    """
    tensors = read_checkpoint(path)
    try:
        architecture = recognise(tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if official is None:
        digest = file_digest(path)
        official = next((entry for entry in CATALOGUE.values() if entry.sha256 == digest), None)
    else:
        digest = official.sha256
        if architecture.name != official.name:
            raise CheckpointError(
                f"{path}: is a checkpoint of {architecture.name}, not of {official.name}"
            )
    name = name or architecture.name
    if not _NAME.fullmatch(name):
        raise ModelFileError(
            f"the name {name!r} cannot be used: letters, digits, '.', '_' and '-' are expected"
        )
    folder = model_dir / name
    with sole_import(model_dir) as unfinished:
        if folder.exists():
            raise ModelFileError(f"{folder} exists already; remove it, or choose another name")
        taken = find_models(model_dir).specs.get(name)
        if taken is not None:
            raise ModelFileError(f"the name {name!r} is taken by {taken.folder}; choose another")
        model = json.loads(architecture.files["model.json"]) | {
            "licence": official.licence if official else _UNKNOWN_LICENCE,
            "checkpoint": path.name,
            "checkpoint_sha256": digest,
        }
        if name != architecture.name:
            model |= {"name": name, "title": f"{name} ({model['title']})"}
        _write(architecture, tensors, model, unfinished)
        unfinished.rename(folder)
    return read_spec(folder)


@contextmanager
def sole_import(model_dir: Path) -> Iterator[Path]:
    """Be the only import below `model_dir`, made if it is not there; others wait for its end.

    Yields:
        An empty folder to write into, on the same file system as the models, so that renaming it
        is one step. What is left of it in the end is removed, as is what an import that was
        killed left.

    Raises:
        ModelFileError: `model_dir` is no folder.
        OSError: the folders cannot be made.
    """
    try:
        model_dir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ModelFileError(f"MODEL_DIR: {model_dir}: a folder was expected") from None
    with (model_dir / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in model_dir.glob(".unfinished*"):
            shutil.rmtree(left)
        unfinished = model_dir / ".unfinished"
        try:
            unfinished.mkdir()
            yield unfinished
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def verify_model(spec: ModelSpec) -> None:
    """Compare a model's files with the digests noted when it was imported.

    Raises:
        ModelFileError: a file differs, or no digests were noted.
        OSError: a file cannot be read.
    """
    files = _digests(spec)
    if not files:
        raise ModelFileError(f"{spec.folder}: its model.json has no digests to compare with")
    for name, digest in files.items():
        if file_digest(spec.folder / name) != digest:
            raise ModelFileError(f"{spec.folder / name}: has changed since the import; {MAKE_ANEW}")


def checkpoint_digest(spec: ModelSpec) -> str | None:
    """Return the SHA-256 of the checkpoint that a model was imported from, if it is known.

    Raises:
        OSError: its model.json cannot be read.
    """
    digest = _model_json(spec).get("checkpoint_sha256")
    return digest if isinstance(digest, str) else None


def has_other_graphs(spec: ModelSpec) -> bool:
    """Whether a model was imported with graphs other than those of this package.

    Raises:
        OSError: its model.json cannot be read.
    """
    digests = _digests(spec)
    if not digests or spec.architecture not in ARCHITECTURES:
        return False
    files = read_architecture(spec.architecture).files
    return any(
        digests.get(graph.name) != hashlib.sha256(files[graph.name]).hexdigest()
        for graph in (spec.encoder, spec.decoder)
    )


def update_model(spec: ModelSpec) -> None:
    """Import a model anew from its own weights, for the graphs of this package.

    Workers that have loaded it are not disturbed.

    Raises:
        ModelFileError: it is damaged, or was not imported from a checkpoint.
        OSError: a file cannot be read or written.
    """
    verify_model(spec)
    tensors = read_weights(spec.folder)
    # Ended between the renames, this leaves the model under the hidden name, whole.
    previous = spec.folder.with_name(f".previous-{spec.folder.name}")
    with sole_import(spec.folder.parent) as unfinished:
        _write(recognise(tensors), tensors, _model_json(spec), unfinished)
        if previous.exists():
            shutil.rmtree(previous)
        spec.folder.rename(previous)
        unfinished.rename(spec.folder)
        shutil.rmtree(previous)


def _model_json(spec: ModelSpec) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((spec.folder / "model.json").read_text())
    return data


def _digests(spec: ModelSpec) -> dict[str, str]:
    """Return the digests noted when a model was imported; none if it was not."""
    files = _model_json(spec).get("files")
    return files if isinstance(files, dict) else {}


def _write(
    architecture: Architecture, tensors: Tensors, model: Mapping[str, Any], folder: Path
) -> None:
    digests = {}
    for file_name, parameters in architecture.weights.items():
        _write_weights(folder / file_name, parameters, tensors)
        digests[file_name] = file_digest(folder / file_name)
    for file_name, content in architecture.files.items():
        if file_name != "model.json":
            (folder / file_name).write_bytes(content)
            digests[file_name] = hashlib.sha256(content).hexdigest()
    sizes = {name: (folder / name).stat().st_size for name in digests}
    # Last: what has a model.json is a model.
    (folder / "model.json").write_text(
        json.dumps({**model, "files": digests, "bytes": sizes}, indent=2)
    )


def _write_weights(path: Path, parameters: list[Parameter], tensors: Tensors) -> None:
    with path.open("wb") as file:
        for parameter in parameters:
            file.seek(parameter.offset)
            _write_tensor(file, parameter.name, tensors)
        file.flush()
        os.fsync(file.fileno())


def _write_tensor(file: BinaryIO, name: str, tensors: Tensors) -> None:
    values = as_float32(tensors[name])
    if not np.isfinite(values).all():
        raise CheckpointError(f"{name} holds values that are not finite: the file is damaged")
    file.write(values.data)
