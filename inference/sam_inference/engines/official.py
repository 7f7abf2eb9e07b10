"""The networks as their authors' packages build them, with a model folder's weights.

SAM's are those of `segment-anything`; MobileSAM's image encoder is timm's TinyViT at the
sizes of MobileSAM, whose own package is on no registry.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import segment_anything
import torch
from segment_anything.modeling import Sam
from segment_anything.modeling.common import LayerNorm2d
from timm.models.tiny_vit import TinyVit
from torch import nn

from sam_inference.engines import EngineError
from sam_inference.models.architectures import read_weights

_SAM_REGISTRY = {"sam_vit_b": "vit_b", "sam_vit_l": "vit_l", "sam_vit_h": "vit_h"}
_MOBILE_SAM_CHANNELS = (64, 128, 160, 320)
_EMBEDDING_CHANNELS = 256

# How the names of mobile_sam.pt's TinyViT differ from timm's.
_TIMM_NAMES = (
    (r"\.patch_embed\.seq\.0\.", ".patch_embed.conv1."),
    (r"\.patch_embed\.seq\.2\.", ".patch_embed.conv2."),
    (r"\.layers\.0\.downsample\.", ".stages.1.downsample."),
    (r"\.layers\.1\.downsample\.", ".stages.2.downsample."),
    (r"\.layers\.2\.downsample\.", ".stages.3.downsample."),
    (r"\.layers\.", ".stages."),
    (r"\.c\.weight$", ".conv.weight"),
)


class TinyVitEncoder(nn.Module):
    """MobileSAM's image encoder: float32 (B, 3, 1024, 1024) to (B, 256, 64, 64)."""

    def __init__(self) -> None:
        """Build it with random weights."""
        super().__init__()
        self.img_size = 1024
        self.body = _tiny_vit()
        self.neck = nn.Sequential(
            nn.Conv2d(_MOBILE_SAM_CHANNELS[-1], _EMBEDDING_CHANNELS, 1, bias=False),
            LayerNorm2d(_EMBEDDING_CHANNELS),
            nn.Conv2d(_EMBEDDING_CHANNELS, _EMBEDDING_CHANNELS, 3, padding=1, bias=False),
            LayerNorm2d(_EMBEDDING_CHANNELS),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Encode normalised and padded images."""
        embedding: torch.Tensor = self.neck(self.body.forward_features(image))
        return embedding


def _tiny_vit() -> Any:
    build: Any = TinyVit  # whose types do not tell what stages have
    body = build(
        num_classes=0,
        embed_dims=_MOBILE_SAM_CHANNELS,
        depths=(2, 2, 6, 2),
        num_heads=(2, 4, 5, 10),
        window_sizes=(7, 7, 14, 7),
    )
    body.head = nn.Identity()
    # The classifier halves the image once more.
    body.stages[3].downsample.conv2.conv.stride = (1, 1)
    return body


def build_network(architecture: str) -> Sam:
    """Return the networks of an architecture with random weights, ready to be evaluated."""
    if architecture == "mobile_sam":
        network = segment_anything.sam_model_registry["vit_b"]()
        network.image_encoder = TinyVitEncoder()
    else:
        network = segment_anything.sam_model_registry[_SAM_REGISTRY[architecture]]()
    return network.eval()


def module_name(architecture: str, name: str) -> str:
    """Return where `build_network` has the checkpoint's parameter `name`."""
    encoder = "image_encoder."
    if architecture != "mobile_sam" or not name.startswith(encoder) or ".neck." in name:
        return name
    name = "." + name.removeprefix(encoder)
    for theirs, timms in _TIMM_NAMES:
        name = re.sub(theirs, timms, name)
    return f"{encoder}body{name}"


def load_network(architecture: str, folder: Path) -> Sam:
    """Return the networks with the weights of a model folder, mapped from its files.

    Raises:
        EngineError: the folder's weights are not those of the architecture.
    """
    # Random weights would cost seconds and memory; TinyViT's tables need a real device.
    with torch.device("cpu" if architecture == "mobile_sam" else "meta"):
        network = build_network(architecture)
    weights = {
        module_name(architecture, name): torch.from_numpy(values)
        for name, values in read_weights(folder).items()
    }
    missing, unexpected = network.load_state_dict(weights, strict=False, assign=True)
    wrong = unexpected + [name for name in missing if not name.endswith(".num_batches_tracked")]
    if wrong:
        raise EngineError(f"{folder}: {wrong[0]} does not fit {architecture}")
    return network.requires_grad_(False)
