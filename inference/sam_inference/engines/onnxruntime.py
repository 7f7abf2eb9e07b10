"""ONNX Runtime: the portable engine, on a GPU where its GPU package is installed."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

import onnxruntime as ort

from sam_inference.engines import Array, EngineChoice, EngineError, has_nvidia_gpu
from sam_inference.interrupt import Interrupt
from sam_inference.models import ModelSpec
from sam_inference.prompts import DecoderInputs

_PROVIDERS = {"CPU": "CPUExecutionProvider", "CUDA": "CUDAExecutionProvider"}

# From malloc.h.
_M_MMAP_THRESHOLD = -3
_LARGE_BLOCK_BYTES = 4 << 20

# Beyond these a decoder's memory grows with them, and giving it back takes little of the time.
_FEW_POINTS = 16


def settings(precision: str, spec: ModelSpec) -> tuple[str, str]:
    """Return (device, precision) for a model. See `engines`.

    Raises:
        EngineError: anything but float32 is asked for.
    """
    if precision not in ("auto", "float32"):
        raise EngineError(f"ONNX Runtime runs these graphs in float32, not in {precision}")
    # The package lists the providers that it was built with, whatever this machine has.
    has_cuda = _PROVIDERS["CUDA"] in ort.get_available_providers() and has_nvidia_gpu()
    return "CUDA" if has_cuda else "CPU", "float32"


def open_model(spec: ModelSpec, choice: EngineChoice, *, threads: int) -> OnnxRuntimeEngine:
    """Load a model. See `engines`."""
    _return_large_blocks()
    if choice.device == "CUDA":
        ort.preload_dlls()  # the libraries of CUDA that were installed by pip
    return OnnxRuntimeEngine(spec, device=choice.device, threads=threads)


class OnnxRuntimeEngine:
    """A model's two networks as inference sessions. Sessions may be shared by threads."""

    def __init__(self, spec: ModelSpec, *, device: str, threads: int) -> None:
        """Load both graphs. See `open_engine`."""
        # An arena keeps its memory for the next call. An encoder's is hundreds of megabytes; a
        # decoder's is some tens for a click, and memory that is new each time slows it by a third.
        self._encoder = _session(spec.encoder, device, threads, arena=False)
        self._decoder = _session(spec.decoder, device, threads, arena=True)
        self._embedding_names = tuple(spec.embedding_shapes)

    def encode(self, image: Array, interrupt: Interrupt) -> dict[str, Array]:
        """See `Engine.encode`."""
        options = ort.RunOptions()
        with interrupt.ends(lambda: setattr(options, "terminate", True)):
            outputs = self._encoder.run(self._embedding_names, {"image": image}, options)
        return dict(zip(self._embedding_names, outputs, strict=True))

    def decode(self, embedding: Mapping[str, Array], inputs: DecoderInputs) -> tuple[Array, Array]:
        """See `Engine.decode`."""
        options = ort.RunOptions()
        if inputs.point_coords.shape[1] > _FEW_POINTS:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        low_res_logits, predicted_iou = self._decoder.run(
            ("low_res_logits", "predicted_iou"),
            {
                **embedding,
                "point_coords": inputs.point_coords,
                "point_labels": inputs.point_labels,
                "mask_input": inputs.mask_input,
                "has_mask_input": inputs.has_mask_input,
            },
            options,
        )
        return low_res_logits, predicted_iou


def _return_large_blocks() -> None:
    """Have blocks of 4 MiB and more go back to the system whenever they are freed.

    glibc would keep all but the largest after the first ones were freed (mallopt(3),
    M_MMAP_THRESHOLD), and the tensors of the next encoding do not fit the gaps.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)


def _session(path: Path, device: str, threads: int, *, arena: bool) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = arena
    # Spinning threads would take the cores from each other when two sessions run.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(str(path), options, providers=[_PROVIDERS[device]])
    except Exception as error:  # the binding's exception classes share no base but this
        raise EngineError(f"ONNX Runtime cannot load {path}: {error}") from error
    if session.get_providers()[0] != _PROVIDERS[device]:
        raise EngineError(f"ONNX Runtime cannot run {path} on {device}; its log says why")
    return session
