"""Engines run the two networks of a model: arrays in, arrays out.

An engine sees no requests, files of the caller or clocks. Each is a module of its own,
imported only when it may be chosen, with two functions: `settings(precision, spec)` returns
the device and precision that it would use, and `open_model(spec, choice, threads=...)` loads
a model; both raise EngineError where they cannot.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sam_inference.interrupt import Interrupt
from sam_inference.models import ModelSpec
from sam_inference.prompts import DecoderInputs

Array = NDArray[np.float32]

ENGINES = ("openvino", "onnxruntime", "pytorch")
"""Names of the engines on this machine, the preferred one on a CPU first."""

TRITON = "triton:"
"""What precedes host:port to name a Triton Inference Server as the engine."""

PRECISIONS = ("float32", "bfloat16")
"""Arithmetic of the image encoder that a caller may ask for; each engine has its own default.

The mask decoder always computes in float32: in bfloat16 it takes a few milliseconds less, and
moves the edges of masks many times as far as such an encoder does.
"""

_PREFERRED_ON_GPU = ("pytorch", "onnxruntime")

# What an engine imports, and the extra of this package that brings it.
_NEEDS = {
    "openvino": (("openvino",), "worker"),
    "onnxruntime": (("onnxruntime",), "worker"),
    "pytorch": (("torch", "segment_anything", "timm"), "torch"),
    "triton": (("tritonclient",), "triton"),
}


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The engine that runs the models, and how.

    Attributes:
        name: one of `ENGINES`, or `triton`.
        device: where it runs: for example `CPU` or `CUDA`, or the server's host:port.
        precision: arithmetic of the image encoder, for example `float32`.
        reason: why it was chosen, for the log.
    """

    name: str
    device: str
    precision: str
    reason: str


class Engine(Protocol):
    """Runs an image encoder and a mask decoder. Calls may come from several threads."""

    def encode(self, image: Array, interrupt: Interrupt) -> dict[str, Array]:
        """Encode a normalised and padded image.

        Args:
            image: float32 (1, 3, input_size, input_size).
            interrupt: ends it; an engine that cannot be interrupted runs to the end.

        Returns:
            The embedding's tensors by name, as in `ModelSpec.embedding_shapes`.

        Raises:
            InterruptedWorkError: it was interrupted.
        """

    def decode(self, embedding: Mapping[str, Array], inputs: DecoderInputs) -> tuple[Array, Array]:
        """Decode a batch of prompts on one image.

        Args:
            embedding: what `encode` returned.
            inputs: B prompts.

        Returns:
            low_res_logits, float32 (B, 4, mask_size, mask_size), and predicted_iou,
            float32 (B, 4). Index 0 is the single mask, 1 to 3 are the multimask candidates.
        """


class EngineError(Exception):
    """An engine is not installed, or cannot run a model."""


def choose_engine(wanted: str, precision: str, spec: ModelSpec) -> EngineChoice:
    """Return how to run a model: by `wanted`, or by the best engine there is for `auto`.

    That is PyTorch or ONNX Runtime where they have a GPU, and else the first of `ENGINES`
    that is installed and can run the model.

    Args:
        wanted: one of `ENGINES`, `auto`, or `triton:` with the server's host:port.
        precision: one of `PRECISIONS`, or `auto` for the engine's default.
        spec: the model.

    Raises:
        EngineError: the engine is not installed, or cannot run the model or the precision.
    """
    if wanted.startswith(TRITON):
        choice = _choice("triton", precision, spec, reason="asked for")
        return replace(choice, device=wanted.removeprefix(TRITON))
    if wanted != "auto":
        return _choice(wanted, precision, spec, reason="asked for")
    has_gpu = has_nvidia_gpu()
    refusals = []
    if has_gpu:
        for name in _PREFERRED_ON_GPU:
            try:
                choice = _choice(name, precision, spec, reason="it has the GPU")
            except EngineError as error:
                refusals.append(str(error))
            else:
                if choice.device == "CUDA":
                    return choice
                refusals.append(f"{name} cannot use the GPU")
    for name in ENGINES:
        try:
            choice = _choice(name, precision, spec, reason="")
        except EngineError as error:
            refusals.append(str(error))
        else:
            place = "no engine has the GPU" if has_gpu else "no GPU"
            return replace(choice, reason="; ".join([*refusals, f"{place}, first installed"]))
    raise EngineError(f"no engine can run {spec.name}: {'; '.join(refusals)}")


def _choice(name: str, precision: str, spec: ModelSpec, *, reason: str) -> EngineChoice:
    packages, extra = _NEEDS[name]
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise EngineError(f"{name} needs {', '.join(missing)} (pip install 'samserve[{extra}]')")
    try:
        engine: Any = import_module(f"sam_inference.engines.{name}")
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineError(
            f"{name} is installed, but {' or '.join(packages)} cannot be imported: {error}"
        ) from error
    device, precision = engine.settings(precision, spec)
    return EngineChoice(name, device, precision, reason)


def has_nvidia_gpu() -> bool:
    """Whether there is one; PyTorch and ONNX Runtime take seconds to say so."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    usable = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return usable and count.value > 0


def open_engine(choice: EngineChoice, spec: ModelSpec, *, threads: int) -> Engine:
    """Load a model's networks.

    Args:
        choice: what `choose_engine` returned for the model.
        spec: the model.
        threads: CPU threads that one network may use.

    Raises:
        EngineError: the engine cannot load the model's files.
    """
    engine: Any = import_module(f"sam_inference.engines.{choice.name}")
    opened: Engine = engine.open_model(spec, choice, threads=threads)
    return opened
