"""The attention of SAM's ViT encoders as one fused operation of PyTorch."""

from __future__ import annotations

import torch
from segment_anything.modeling.image_encoder import Attention, ImageEncoderViT, get_rel_pos
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


class FusedAttention(nn.Module):
    """What an official `Attention` computes, without keeping its logits and their softmax.

    What the rows and columns between two tokens add to their logit (arXiv 2112.01526, section
    4.1) is the mask that the operation adds.
    """

    def __init__(self, official: Attention) -> None:
        """Take over the layers of `official`."""
        super().__init__()
        self.heads = official.num_heads
        self.qkv, self.proj = official.qkv, official.proj
        self.rel_pos_h, self.rel_pos_w = official.rel_pos_h, official.rel_pos_w

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Attend among (squares, height, width, channels) tokens; the shape stays."""
        squares, height, width, channels = tokens.shape
        area = height * width
        qkv = self.qkv(tokens).reshape(squares, area, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        grid = query.reshape(squares, self.heads, height, width, -1)
        rows = torch.einsum("snhwc,hkc->snhwk", grid, get_rel_pos(height, height, self.rel_pos_h))
        columns = torch.einsum("snhwc,wkc->snhwk", grid, get_rel_pos(width, width, self.rel_pos_w))
        positions = (rows[..., :, None] + columns[..., None, :]).reshape(
            squares, self.heads, area, area
        )
        attended = scaled_dot_product_attention(query, key, value, attn_mask=positions)
        attended = attended.transpose(1, 2).reshape(squares, height, width, channels)
        projected: torch.Tensor = self.proj(attended)
        return projected


def fuse_attention(encoder: nn.Module) -> None:
    """Fuse the attention of a ViT; timm's TinyViT, the other encoder, has it fused already."""
    if isinstance(encoder, ImageEncoderViT):
        for block in encoder.blocks:
            block.attn = FusedAttention(block.attn)
