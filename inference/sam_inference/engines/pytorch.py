"""PyTorch: the authors' own networks, on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from segment_anything.utils.onnx import SamOnnxModel

from sam_inference.engines import Array, EngineChoice, EngineError
from sam_inference.engines.attention import fuse_attention
from sam_inference.engines.official import load_network
from sam_inference.interrupt import Interrupt
from sam_inference.models import ModelSpec
from sam_inference.prompts import DecoderInputs


def settings(precision: str, spec: ModelSpec) -> tuple[str, str]:
    """Return (device, precision) for a model. See `engines`.

    Raises:
        EngineError: the model was not imported from a checkpoint, or bfloat16 is asked for on
            a CPU without units for it, where it is many times slower than float32.
    """
    if spec.architecture is None:
        raise EngineError(
            f"PyTorch cannot run {spec.name}, which is graphs alone and has no checkpoint"
        )
    device = "CPU"
    if torch.cuda.is_available():
        device = "CUDA"
    elif torch.backends.mps.is_available():
        device = "MPS"
    if precision == "auto":
        fast = device == "CUDA" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bfloat16" if fast else "float32"
    if precision == "bfloat16" and device == "CPU" and not torch.cpu._is_avx512_bf16_supported():
        raise EngineError("PyTorch has no bfloat16 here: this CPU lacks the units")
    return device, precision


def open_model(spec: ModelSpec, choice: EngineChoice, *, threads: int) -> PyTorchEngine:
    """Load a model. See `engines`."""
    return PyTorchEngine(spec, device=choice.device, precision=choice.precision, threads=threads)


class PyTorchEngine:
    """A model's two networks as PyTorch modules. Modules may be shared by threads."""

    def __init__(self, spec: ModelSpec, *, device: str, precision: str, threads: int) -> None:
        """Load the networks. See `open_engine`."""
        assert spec.architecture is not None  # as `settings` found
        torch.set_num_threads(threads)
        self._device = torch.device(device.lower())
        self._autocast = precision == "bfloat16"
        network = load_network(spec.architecture, spec.folder).to(self._device)
        fuse_attention(network.image_encoder)
        self._encoder = network.image_encoder
        self._decoder = network.mask_decoder
        self._positions = network.prompt_encoder.get_dense_pe()
        # The reference's own way to embed prompts of which points, boxes and masks are mixed.
        self._prompts = SamOnnxModel(network, return_single_mask=False)

    @torch.inference_mode()
    def encode(self, image: Array, interrupt: Interrupt) -> dict[str, Array]:
        """See `Engine.encode`. It runs to the end."""
        del interrupt
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
            embedding = self._encoder(self._tensor(image))
        return {"image_embedding": _array(embedding)}

    @torch.inference_mode()
    def decode(self, embedding: Mapping[str, Array], inputs: DecoderInputs) -> tuple[Array, Array]:
        """See `Engine.decode`."""
        has_mask_input = self._tensor(inputs.has_mask_input).reshape(-1, 1, 1, 1)
        sparse = self._prompts._embed_points(
            self._tensor(inputs.point_coords), self._tensor(inputs.point_labels)
        )
        dense = self._prompts._embed_masks(self._tensor(inputs.mask_input), has_mask_input)
        low_res_logits, predicted_iou = self._decoder.predict_masks(
            image_embeddings=self._tensor(embedding["image_embedding"]),
            image_pe=self._positions,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
        )
        return _array(low_res_logits), _array(predicted_iou)

    def _tensor(self, array: Array) -> torch.Tensor:
        # Copied on the CPU too: PyTorch warns of arrays that it may not write to.
        return torch.tensor(array, device=self._device)


def _array(tensor: torch.Tensor) -> Array:
    array: Array = tensor.to("cpu", torch.float32).numpy()
    return array
