"""OpenVINO on the CPU: the fastest engine there, with the least memory."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from sam_inference.engines import Array, EngineError
from sam_inference.models import ModelSpec
from sam_inference.prompts import DecoderInputs

# `import openvino` also imports its model converter, if it can, and that reports each import
# to its makers from a forked child process. The fork can hang in a process that serves gRPC,
# and nobody was asked. A module recorded as None cannot be imported, and is not missed.
sys.modules["openvino.tools.ovc"] = None  # type: ignore[assignment]

import openvino as ov  # noqa: E402 - after the line above


class OpenVinoEngine:
    """A model's two networks compiled for the CPU in float32."""

    def __init__(self, spec: ModelSpec, *, threads: int) -> None:
        """Read and compile both graphs. See `open_engine`."""
        core = ov.Core()
        self._encoder = _compile(core, spec.encoder, threads)
        self._decoder = _compile(core, spec.decoder, threads)
        # An inference request holds its own buffers and serves one thread at a time.
        self._local = threading.local()

    def encode(self, image: Array) -> dict[str, Array]:
        """See `Engine.encode`."""
        # A request of its own, since its buffers are large and encodings are rare.
        results = self._encoder.create_infer_request().infer({"image": image})
        return {output.any_name: value for output, value in results.items()}

    def decode(self, embedding: Mapping[str, Array], inputs: DecoderInputs) -> tuple[Array, Array]:
        """See `Engine.decode`."""
        if not hasattr(self._local, "request"):
            self._local.request = self._decoder.create_infer_request()
        results = self._local.request.infer(
            {
                **embedding,
                "point_coords": inputs.point_coords,
                "point_labels": inputs.point_labels,
                "mask_input": inputs.mask_input,
                "has_mask_input": inputs.has_mask_input,
            }
        )
        # Copied: the next inference of this request reuses the buffers.
        return results["low_res_logits"].copy(), results["predicted_iou"].copy()


def _compile(core: ov.Core, path: Path, threads: int) -> ov.CompiledModel:
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        # Its own default is bfloat16 on CPUs that have the units.
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
    }
    try:
        return core.compile_model(path, "CPU", config)
    except RuntimeError as error:
        raise EngineError(f"OpenVINO cannot load {path}: {error}") from error
