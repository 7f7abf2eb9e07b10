"""OpenVINO on the CPU: the fastest engine there, with the least memory."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from sam_inference.engines import Array, EngineChoice, EngineError
from sam_inference.interrupt import Interrupt
from sam_inference.models import ModelSpec
from sam_inference.prompts import DecoderInputs

# `import openvino` also imports its model converter, if it can, and that reports each import
# to its makers from a forked child process. The fork can hang in a process that serves gRPC,
# and nobody was asked. A module recorded as None cannot be imported, and is not missed.
sys.modules["openvino.tools.ovc"] = None  # type: ignore[assignment]  # makes its import fail

import openvino as ov  # noqa: E402 - after the line above

_HINTS = {"float32": "f32", "bfloat16": "bf16"}


def settings(precision: str, spec: ModelSpec) -> tuple[str, str]:
    """Return (device, precision) for a model. See `engines`.

    SAM's encoders run in bfloat16 by default where the CPU has the units: it leaves masks nearly
    as they are (docs/models.md). Models of another make run in float32, for nobody measured them.

    Raises:
        EngineError: bfloat16 is asked for, and this CPU has no units for it.
    """
    has_units = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if precision == "auto":
        precision = "bfloat16" if has_units and spec.architecture else "float32"
    if precision == "bfloat16" and not has_units:
        raise EngineError("OpenVINO has no bfloat16 here: this CPU lacks the units")
    return "CPU", precision


def open_model(spec: ModelSpec, choice: EngineChoice, *, threads: int) -> OpenVinoEngine:
    """Load a model. See `engines`."""
    return OpenVinoEngine(spec, precision=choice.precision, threads=threads)


class OpenVinoEngine:
    """A model's two networks compiled for the CPU."""

    def __init__(self, spec: ModelSpec, *, precision: str, threads: int) -> None:
        """Read and compile both graphs. See `open_engine`."""
        core = ov.Core()
        self._encoder = _compile(core, spec.encoder, precision, threads)
        self._decoder = _compile(core, spec.decoder, "float32", threads)
        # An inference request holds its own buffers and serves one thread at a time.
        self._local = threading.local()

    def encode(self, image: Array, interrupt: Interrupt) -> dict[str, Array]:
        """See `Engine.encode`."""
        # A request of its own, since its buffers are large and encodings are rare.
        request = self._encoder.create_infer_request()
        with interrupt.ends(request.cancel):
            request.start_async({"image": image})
            if interrupt.is_set:
                request.cancel()  # again: before the start it does nothing
            request.wait()
        return {output.any_name: value.copy() for output, value in request.results.items()}

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


def _compile(core: ov.Core, path: Path, precision: str, threads: int) -> ov.CompiledModel:
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "INFERENCE_NUM_THREADS": threads,
    }
    try:
        return core.compile_model(path, "CPU", config)
    except RuntimeError as error:
        raise EngineError(f"OpenVINO cannot load {path}: {error}") from error
