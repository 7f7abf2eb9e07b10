"""The quickstart network: an image encoder and a promptable mask decoder in miniature.

The contract is the one of Segment Anything (Kirillov et al., 2023): embed an image once, then
decode any number of prompts from the embedding. The inside differs where a small network trained
for hours gains from it: prompts are drawn as maps on the embedding's grid, and the decoder is
given, for every cell, how much it looks like the clicked, boxed and surrounding places.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

INPUT_SIZE = 256  # pixels; side of the square model frame
MASK_SIZE = 256  # pixels; side of low_res_logits and mask_input
EMBEDDING_CHANNELS = 64
GRID = 64  # cells; side of the embedding
STRIDE = INPUT_SIZE // GRID  # pixels to a cell of the embedding
MASKS = 4  # one single-mask output and three multimask outputs

HEADS = 4  # heads of every attention and of the comparison with references
KIN_HEADS = 2  # heads of the comparison between cells
REFERENCES = 6  # clicked, rejected, in the box, around the box, in the mask, off the mask
EVIDENCE = 5  # maps that are propagated between cells that look alike


class ConvBlock(nn.Sequential):
    """Convolve, normalise, activate: (B, in, h, w) to (B, out, h / stride, w / stride)."""

    def __init__(self, channels_in: int, channels_out: int, size: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, size, stride, size // 2, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.SiLU(),
        )


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut; (B, C, h, w) stays (B, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvBlock(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        # Starts as the identity, which lets a deep network learn at a high rate at once.
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Add what two convolutions find."""
        return functional.silu(x + self.norm(self.second(self.first(x))))


class AttentionBlock(nn.Module):
    """Pre-norm self-attention and a two-layer perceptron over tokens (B, T, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)
        self.norm_mlp = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, 2 * channels)
        self.contract = nn.Linear(2 * channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Let every token attend to all, then change each by itself."""
        split = self.qkv(self.norm_attention(tokens))  # (B, T, 3 * C)
        split = split.reshape(*tokens.shape[:2], 3, HEADS, tokens.shape[2] // HEADS)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, HEADS, T, C / HEADS)
        attended = functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.project(attended.transpose(1, 2).flatten(2))
        change: Tensor = self.contract(functional.silu(self.expand(self.norm_mlp(tokens))))
        return tokens + change


class TokenMixer(nn.Module):
    """Attention blocks over a small square map: (B, C, s, s) to the same, with learned places."""

    def __init__(self, channels: int, side: int, depth: int) -> None:
        super().__init__()
        self.side = side
        self.places = nn.Parameter(torch.randn(1, side * side, channels) * 0.02)
        self.blocks = nn.Sequential(*(AttentionBlock(channels) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """Take the map as tokens, one a cell, and lay them out again."""
        tokens: Tensor = self.blocks(x.flatten(2).transpose(1, 2) + self.places)
        return tokens.transpose(1, 2).reshape(-1, x.shape[1], self.side, self.side)


def upsample(x: Tensor) -> Tensor:
    """Double height and width bilinearly."""
    return functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class ImageEncoder(nn.Module):
    """Image float32 (B, 3, 256, 256), normalised and padded, to an embedding (B, 64, 64, 64)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBlock(12, 32)
        self.stage4 = nn.Sequential(ConvBlock(32, 64, stride=2), ResidualBlock(64))
        self.stage8 = nn.Sequential(
            ConvBlock(64, 128, stride=2), ResidualBlock(128), ResidualBlock(128)
        )
        self.stage16 = nn.Sequential(ConvBlock(128, 192, stride=2), TokenMixer(192, 16, 4))
        self.lateral16 = nn.Conv2d(192, 128, 1)
        self.merge8 = ConvBlock(128, 64)
        self.merge4 = ConvBlock(64, 64)
        self.neck = nn.Conv2d(64, EMBEDDING_CHANNELS, 3, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Embed images; strides 2 to 16 downwards, then back to 4 with the details added."""
        at4 = self.stage4(self.stem(functional.pixel_unshuffle(image, 2)))
        at8 = self.stage8(at4)
        at16 = self.stage16(at8)
        merged = self.merge8(at8 + upsample(self.lateral16(at16)))
        image_embedding: Tensor = self.neck(self.merge4(at4 + upsample(merged)))
        return image_embedding


class PromptMaps(nn.Module):
    """Draw prompts as maps on the embedding's grid."""

    def __init__(self) -> None:
        super().__init__()
        centres = (torch.arange(GRID, dtype=torch.float32) + 0.5) * STRIDE
        self.register_buffer("centres", centres, persistent=False)
        self.mask_conv = nn.Conv2d(1, 8, STRIDE, STRIDE)

    # 11 drawn maps (below) and 8 learned ones of the mask input.
    channels = 11 + 8

    def forward(
        self, point_coords: Tensor, point_labels: Tensor, mask_input: Tensor, has_mask_input: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return maps (B, 19, 64, 64), weights (B, 6, 4096) and evidence (B, 5, 32, 32).

        Weights say where each reference is taken from, evidence is what cells that look alike
        tell each other. Inputs are those of the decoder.
        """
        centres = self.centres
        assert isinstance(centres, Tensor)
        apart_x = centres - point_coords[:, :, 0:1]  # (B, N, 64) pixels
        apart_y = centres - point_coords[:, :, 1:2]

        def clicks(label: int, sigma: float) -> Tensor:
            """Gaussians of `sigma` pixels at the points of a label, joined by maximum."""
            scale = -0.5 / (sigma * sigma)
            chosen = (point_labels == label).to(point_coords.dtype)[:, :, None]
            rows = torch.exp(scale * apart_y.square()) * chosen
            columns = torch.exp(scale * apart_x.square())
            return (rows[:, :, :, None] * columns[:, :, None, :]).amax(dim=1)  # (B, 64, 64)

        positive = [clicks(1, sigma) for sigma in (3.0, 10.0, 40.0)]
        negative = [clicks(0, sigma) for sigma in (3.0, 10.0, 40.0)]

        first = (point_labels == 2).to(point_coords.dtype)[:, :, None]
        second = (point_labels == 3).to(point_coords.dtype)[:, :, None]
        has_box = first.amax(dim=1)  # (B, 1)
        corner0 = (point_coords * first).sum(dim=1)  # (B, 2)
        corner1 = (point_coords * second).sum(dim=1)
        middle = (corner0 + corner1) / 2
        half = ((corner1 - corner0) / 2).clamp(min=1.0)
        from_middle_x = (centres - middle[:, 0:1]).abs()
        from_middle_y = (centres - middle[:, 1:2]).abs()

        def box(grow: float) -> Tensor:
            """The box grown by a factor, soft over one cell: (B, 64, 64)."""
            columns = torch.sigmoid((half[:, 0:1] * grow - from_middle_x) / 2)
            rows = torch.sigmoid((half[:, 1:2] * grow - from_middle_y) / 2) * has_box
            return rows[:, :, None] * columns[:, None, :]

        inside = box(1.0)
        around = box(1.4) - inside
        relative_x = ((centres - middle[:, 0:1]) / half[:, 0:1]).clamp(-2, 2) * has_box
        relative_y = ((centres - middle[:, 1:2]) / half[:, 1:2]).clamp(-2, 2) * has_box

        has_mask = has_mask_input[:, None, None, None]
        known = mask_input * has_mask
        probable = functional.avg_pool2d(torch.sigmoid(known), STRIDE)[:, 0] * has_mask[:, 0]
        improbable = has_mask[:, 0] - probable
        shape = torch.zeros_like(inside)
        maps = torch.stack(
            [
                *positive,
                *negative,
                inside,
                around,
                shape + relative_x[:, None, :],
                shape + relative_y[:, :, None],
                shape + has_mask[:, 0],
            ],
            dim=1,
        )
        maps = torch.cat([maps, self.mask_conv(torch.tanh(known / 4)) * has_mask], dim=1)
        weights = torch.stack(
            [positive[0], negative[0], inside, around, probable, improbable], dim=1
        )
        evidence = torch.stack([positive[1], negative[1], inside, around, probable], dim=1)
        return maps, weights.flatten(2), functional.avg_pool2d(evidence, 2)


class MaskDecoder(nn.Module):
    """Turn an embedding and prompts into four masks each and an estimate of their IoU."""

    def __init__(self) -> None:
        super().__init__()
        fine, middle, coarse = 32, 64, 128
        self.prompt_maps = PromptMaps()
        self.compare = nn.Conv2d(EMBEDDING_CHANNELS, HEADS * 16, 1)
        self.image4 = nn.Conv2d(EMBEDDING_CHANNELS, fine, 1)
        self.image8 = ConvBlock(EMBEDDING_CHANNELS, middle, stride=2)
        self.affinity = nn.Conv2d(middle, 2 * KIN_HEADS * 16, 1)
        self.sharpness = nn.Parameter(torch.full((KIN_HEADS, 1, 1), math.log(8.0)))

        self.prompt4 = nn.Conv2d(PromptMaps.channels + REFERENCES * HEADS, fine, 3, 1, 1)
        self.norm4 = nn.BatchNorm2d(fine)
        self.down8 = nn.Conv2d(fine, middle, 3, 2, 1)
        self.evidence8 = nn.Conv2d(EVIDENCE * KIN_HEADS, middle, 1)
        self.norm8 = nn.BatchNorm2d(middle)
        self.block8 = ResidualBlock(middle)
        self.down16 = ConvBlock(middle, coarse, stride=2)
        self.mix16 = TokenMixer(coarse, GRID // 4, 2)
        self.up16 = nn.Conv2d(coarse, middle, 1)
        self.merge8 = ResidualBlock(middle)
        self.up8 = nn.Conv2d(middle, fine, 1)
        self.merge4 = ConvBlock(fine, fine)
        self.masks = nn.Conv2d(fine, MASKS * STRIDE * STRIDE, 3, 1, 1)

        self.iou_mask = nn.Linear(fine + 2, 64)
        self.iou_image = nn.Linear(coarse, 64)
        self.iou_output = nn.Parameter(torch.zeros(MASKS, 64))
        self.iou = nn.Linear(64, 1)

    def forward(
        self,
        image_embedding: Tensor,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Decode B = images * P prompts, P to each image, in the order of the images.

        Args:
            image_embedding: float32 (images, 64, 64, 64).
            point_coords: float32 (B, N, 2), (x, y) in pixels of the model frame.
            point_labels: float32 (B, N): 1 object, 0 background, 2 and 3 box corners, -1 padding.
            mask_input: float32 (B, 1, 256, 256) logits of an earlier answer.
            has_mask_input: float32 (B,), 1 where mask_input counts, else 0.

        Returns:
            low_res_logits (B, 4, 256, 256) and predicted_iou (B, 4) in 0..1, both float32.
        """
        images = image_embedding.shape[0]
        maps, weights, evidence = self.prompt_maps(
            point_coords, point_labels, mask_input, has_mask_input
        )
        likeness = self._likeness(image_embedding, weights)
        prompts = self.prompt4(torch.cat([maps, likeness], dim=1))
        at4 = functional.silu(self.norm4(_add_image(prompts, self.image4(image_embedding), images)))

        image8 = self.image8(image_embedding)
        prompts = self.down8(at4) + self.evidence8(self._propagate(image8, evidence))
        at8 = self.block8(functional.silu(self.norm8(_add_image(prompts, image8, images))))
        at16 = self.mix16(self.down16(at8))
        at8 = self.merge8(at8 + upsample(self.up16(at16)))
        at4 = self.merge4(at4 + upsample(self.up8(at8)))
        low_res_logits = functional.pixel_shuffle(self.masks(at4), STRIDE).float()
        return low_res_logits, self._estimate_iou(low_res_logits, at4, at16)

    def _likeness(self, image_embedding: Tensor, weights: Tensor) -> Tensor:
        """Cosine of every cell with the mean of each reference, (B, 6 * HEADS, 64, 64)."""
        images = image_embedding.shape[0]
        cells = self.compare(image_embedding).reshape(images, HEADS, 16, GRID * GRID)
        cells = functional.normalize(cells.float(), dim=2)
        weights = weights.reshape(images, -1, GRID * GRID)  # (images, P * 6, 4096)
        mean = weights / (weights.sum(dim=2, keepdim=True) + 1e-3)
        reference = torch.matmul(mean[:, None], cells.transpose(2, 3))  # (images, HEADS, P * 6, 16)
        likeness = torch.matmul(reference.float(), cells)  # (images, HEADS, P * 6, 4096)
        likeness = likeness.reshape(images, HEADS, -1, REFERENCES, GRID * GRID)
        likeness = likeness.permute(0, 2, 3, 1, 4)
        return likeness.reshape(-1, REFERENCES * HEADS, GRID, GRID)

    def _propagate(self, image8: Tensor, evidence: Tensor) -> Tensor:
        """Pass evidence (B, 5, 32, 32) between cells that look alike: (B, 10, 32, 32)."""
        images, side = image8.shape[0], GRID // 2
        pairs = self.affinity(image8).reshape(images, 2 * KIN_HEADS, 16, side * side)
        query, key = functional.normalize(pairs.float(), dim=2).chunk(2, dim=1)
        scores = torch.matmul((query * self.sharpness.exp()).transpose(2, 3), key)
        values = evidence.reshape(images, -1, side * side)  # (images, P * 5, 1024)
        passed = torch.matmul(scores.softmax(dim=3), values.transpose(1, 2)[:, None])
        # (images, KIN_HEADS, 1024, P * 5); a click is one cell of many, so spread small values.
        passed = torch.log1p(50 * passed.float())
        passed = passed.reshape(images, KIN_HEADS, side * side, -1, EVIDENCE)
        return passed.permute(0, 3, 4, 1, 2).reshape(-1, EVIDENCE * KIN_HEADS, side, side)

    def _estimate_iou(self, low_res_logits: Tensor, at4: Tensor, at16: Tensor) -> Tensor:
        """Estimate IoU (B, 4) from what lies under each mask and how decided the mask is."""
        masks = functional.avg_pool2d(torch.sigmoid(low_res_logits.detach()), STRIDE).flatten(2)
        area = masks.sum(dim=2, keepdim=True)
        under = torch.matmul(masks, at4.flatten(2).transpose(1, 2).float()) / (area + 1)
        undecided = (masks * (1 - masks)).sum(dim=2, keepdim=True) / (area + 1)
        features = torch.cat([under, undecided, torch.log1p(area)], dim=2)
        hidden = self.iou_mask(features) + self.iou_image(at16.mean(dim=(2, 3)))[:, None]
        estimate: Tensor = self.iou(functional.silu(hidden + self.iou_output))
        return torch.sigmoid(estimate.float())[:, :, 0]


def _add_image(prompts: Tensor, image: Tensor, images: int) -> Tensor:
    """Add features of each image (images, C, h, w) to those of its prompts (B, C, h, w)."""
    return (prompts.reshape(images, -1, *image.shape[1:]) + image[:, None]).flatten(0, 1)


class QuickstartModel(nn.Module):
    """Encoder and decoder together, for training."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = ImageEncoder()
        self.decoder = MaskDecoder()
