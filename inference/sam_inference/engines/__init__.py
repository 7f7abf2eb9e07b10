"""Engines run the two networks of a model: arrays in, arrays out.

An engine sees no requests, files of the caller or clocks. Each is a module of its own,
imported only when it is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sam_inference.models import ModelSpec
from sam_inference.prompts import DecoderInputs

Array = NDArray[np.float32]

ENGINES = ("openvino", "onnxruntime")
"""Names of the engines, the preferred one first."""


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The engine that runs the models, and how.

    Attributes:
        name: one of `ENGINES`.
        device: where it runs, for example `CPU`.
        precision: arithmetic of the networks, for example `float32`.
        reason: why it was chosen, for the log.
    """

    name: str
    device: str
    precision: str
    reason: str


class Engine(Protocol):
    """Runs an image encoder and a mask decoder. Calls may come from several threads."""

    def encode(self, image: Array) -> dict[str, Array]:
        """Encode a normalised and padded image.

        Args:
            image: float32 (1, 3, input_size, input_size).

        Returns:
            The embedding's tensors by name, as in `ModelSpec.embedding_shapes`.
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


def choose_engine(wanted: str) -> EngineChoice:
    """Return the engine to use: `wanted`, or the first that is installed for `auto`.

    Raises:
        EngineError: it, or any, is not installed.
    """
    candidates = ENGINES if wanted == "auto" else (wanted,)
    for name in candidates:
        if name in ENGINES and find_spec(name) is not None:
            reason = "first installed" if wanted == "auto" else "asked for"
            return EngineChoice(name, device="CPU", precision="float32", reason=reason)
    raise EngineError(
        f"no engine for {wanted!r}: install one of {', '.join(ENGINES)} "
        "(pip install 'samserve[worker]')"
    )


def open_engine(choice: EngineChoice, spec: ModelSpec, *, threads: int) -> Engine:
    """Load a model's networks.

    Args:
        choice: what `choose_engine` returned.
        spec: the model.
        threads: CPU threads that one network may use.

    Raises:
        EngineError: the engine cannot load the model's graphs.
    """
    if choice.name == "openvino":
        from sam_inference.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(spec, threads=threads)
    from sam_inference.engines.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(spec, threads=threads)
