"""The official PyTorch networks with random weights, and checkpoints of them."""

from __future__ import annotations

import ctypes
import importlib.metadata
from pathlib import Path

import numpy as np
import torch
from torch import nn


def _declare_torchvision_operators() -> None:
    """Let torchvision be imported where its compiled operators do not fit PyTorch's build.

    The registry's torchvision is built for CUDA, and beside a CPU-only PyTorch it cannot be
    imported, as two operators are missing that it describes. Only its resizing of images is
    used here, which Pillow does.
    """
    compiled = importlib.metadata.distribution("torchvision").locate_file("torchvision/_C.so")
    try:
        ctypes.CDLL(str(compiled))
    except OSError:
        for operator in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{operator}",
                "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            )


_declare_torchvision_operators()

from segment_anything import SamPredictor  # noqa: E402 - needs the lines above
from segment_anything.modeling import Sam  # noqa: E402 - needs the lines above

from sam_inference.engines.official import build_network, module_name  # noqa: E402 - needs the lines above
from sam_inference.models.architectures import read_architecture  # noqa: E402 - needs the lines above

__all__ = ["SamPredictor", "iou", "random_network", "save_checkpoint"]

# What the official file has besides: the classifier that TinyViT was trained with.
_CLASSIFIER = {
    "image_encoder.norm_head.weight": (320,),
    "image_encoder.norm_head.bias": (320,),
    "image_encoder.head.weight": (1000, 320),
    "image_encoder.head.bias": (1000,),
}


def random_network(architecture: str, seed: int = 0) -> Sam:
    """Return the official networks with random weights that use every parameter."""
    torch.manual_seed(seed)
    network = build_network(architecture)
    for name, parameter in network.named_parameters():
        # Zero, or of no effect, in a new network.
        if name.endswith(("pos_embed", "rel_pos_h", "rel_pos_w")):
            nn.init.normal_(parameter, std=0.05)
        elif name.endswith("attention_biases"):
            nn.init.normal_(parameter, std=0.5)
        elif ".norm" in name or ".bn." in name:
            nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network


def save_checkpoint(network: Sam, architecture: str, path: Path) -> None:
    """Save networks under the names and in the format of the official checkpoint."""
    state = network.state_dict()
    tensors = {
        name: state[module_name(architecture, name)]
        for name in read_architecture(architecture).shapes
    }
    if architecture == "mobile_sam":
        tensors |= {name: torch.randn(shape) for name, shape in _CLASSIFIER.items()}
        tensors |= {
            name.replace(".running_var", ".num_batches_tracked"): torch.tensor(1)
            for name in list(tensors)
            if name.endswith(".running_var")
        }
    torch.save(tensors, path)


def iou(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the overlap of two boolean masks, 1 if both are empty."""
    union = np.logical_or(ours, theirs).sum()
    return float(np.logical_and(ours, theirs).sum() / union) if union else 1.0
