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
COLOURS = 12  # channels of the embedding that are plain colours: RGB of 2x2 places in each cell
COLOUR_SPREAD = 0.2  # of normalised colours, about 11 of 255; nearer ones count as the same
COLOUR_MODELS = 4  # like the clicked, the rejected, the boxed, the masked


class ConvBlock(nn.Sequential):
    """Convolve, normalise, activate: (B, in, h, w) to (B, out, h / stride, w / stride)."""

    def __init__(self, channels_in: int, channels_out: int, size: int = 3, stride: int = 1) -> None:
        """`size` is the side of the kernel in cells."""
        super().__init__(
            nn.Conv2d(channels_in, channels_out, size, stride, size // 2, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.SiLU(),
        )


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut; (B, C, h, w) stays (B, C, h, w)."""

    def __init__(self, channels: int) -> None:
        """`channels` is C."""
        super().__init__()
        self.first = ConvBlock(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        # Starts as the identity, which lets a deep network learn at a high rate at once.
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Add what two convolutions find."""
        return functional.silu(x + self.norm(self.second(self.first(x))))


def residual_blocks(channels: int, count: int) -> list[ResidualBlock]:
    """Return so many blocks, to follow each other."""
    return [ResidualBlock(channels) for _ in range(count)]


class AttentionBlock(nn.Module):
    """Pre-norm self-attention and a two-layer perceptron over tokens (B, T, C)."""

    def __init__(self, channels: int) -> None:
        """`channels` is C, a multiple of the heads."""
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
        # Written out: the fused kernel is slower backwards on a processor.
        scores = torch.matmul(query * query.shape[3] ** -0.5, key.transpose(2, 3))
        attended = torch.matmul(scores.softmax(dim=3), value)
        tokens = tokens + self.project(attended.transpose(1, 2).flatten(2))
        change: Tensor = self.contract(functional.silu(self.expand(self.norm_mlp(tokens))))
        return tokens + change


class TokenMixer(nn.Module):
    """Attention blocks over a small square map: (B, C, s, s) to the same, with learned places."""

    def __init__(self, channels: int, side: int, depth: int) -> None:
        """`side` is s and `depth` the number of blocks."""
        super().__init__()
        self.side = side
        self.places = nn.Parameter(torch.randn(1, side * side, channels) * 0.02)
        self.blocks = nn.Sequential(*(AttentionBlock(channels) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """Take the map as tokens, one a cell, and lay them out again."""
        tokens: Tensor = self.blocks(x.flatten(2).transpose(1, 2) + self.places)
        return tokens.transpose(1, 2).reshape(-1, x.shape[1], self.side, self.side)


def smooth(logits: Tensor) -> Tensor:
    """Average logits (B, MASKS, h, w) over one cell, which takes out what repeats in each.

    The pixels of a cell come from different channels, and where these disagree a mask gets a
    pattern of dots. A window as wide as a cell sees every pixel of the pattern once.
    """
    taps = torch.tensor([0.5] + [1.0] * (STRIDE - 1) + [0.5]) / STRIDE
    kernel = torch.outer(taps, taps).expand(MASKS, 1, -1, -1).to(logits)
    reach = STRIDE // 2
    padded = functional.pad(logits, (reach, reach, reach, reach), mode="replicate")
    return functional.conv2d(padded, kernel, groups=MASKS)


def upsample(x: Tensor) -> Tensor:
    """Double height and width bilinearly."""
    return functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class ImageEncoder(nn.Module):
    """Image float32 (B, 3, 256, 256), normalised and padded, to an embedding (B, 64, 64, 64)."""

    def __init__(self) -> None:
        """Build the stages, named after their stride in pixels."""
        super().__init__()
        self.stem = ConvBlock(12, 24)
        self.stage4 = nn.Sequential(ConvBlock(24, 48, stride=2), *residual_blocks(48, 2))
        self.stage8 = nn.Sequential(ConvBlock(48, 96, stride=2), *residual_blocks(96, 3))
        self.stage16 = nn.Sequential(
            ConvBlock(96, 160, stride=2), *residual_blocks(160, 2), TokenMixer(160, 16, 3)
        )
        self.lateral16 = nn.Conv2d(160, 96, 1)
        self.merge8 = ConvBlock(96, 48)
        self.merge4 = ConvBlock(48, 48)
        self.neck = nn.Conv2d(48, EMBEDDING_CHANNELS - COLOURS, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Embed images; strides 2 to 16 downwards, then back to 4 with the details added."""
        at4 = self.stage4(self.stem(functional.pixel_unshuffle(image, 2)))
        at8 = self.stage8(at4)
        at16 = self.stage16(at8)
        merged = self.merge8(at8 + upsample(self.lateral16(at16)))
        learned = self.neck(self.merge4(at4 + upsample(merged)))
        colours = functional.pixel_unshuffle(functional.avg_pool2d(image, 2), 2)
        return torch.cat([learned.float(), colours], dim=1)


class PromptMaps(nn.Module):
    """Draw prompts as maps on the embedding's grid."""

    def __init__(self) -> None:
        """Lay out the centres of the cells."""
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
        """Build the levels, named after their stride in pixels."""
        super().__init__()
        fine, middle, coarse = 32, 64, 128
        self.prompt_maps = PromptMaps()
        self.compare = nn.Conv2d(EMBEDDING_CHANNELS, HEADS * 16, 1)
        self.image4 = nn.Conv2d(EMBEDDING_CHANNELS, fine, 1)
        self.image8 = ConvBlock(EMBEDDING_CHANNELS, middle, stride=2)
        self.affinity = nn.Conv2d(middle, 2 * KIN_HEADS * 16, 1)
        self.sharpness = nn.Parameter(torch.full((KIN_HEADS, 1, 1), math.log(8.0)))

        self.prompt4 = nn.Conv2d(PromptMaps.channels + REFERENCES * HEADS + COLOUR_MODELS, fine, 1)
        self.norm4 = nn.BatchNorm2d(fine)
        self.down8 = nn.Conv2d(fine, middle, 3, 2, 1)
        self.evidence8 = nn.Conv2d(EVIDENCE * KIN_HEADS, middle, 1)
        self.norm8 = nn.BatchNorm2d(middle)
        self.block8 = ConvBlock(middle, middle)
        self.down16 = ConvBlock(middle, coarse, stride=2)
        self.mix16 = TokenMixer(coarse, GRID // 4, 2)
        self.up16 = nn.Conv2d(coarse, middle, 1)
        self.merge8 = ConvBlock(middle, middle)
        self.up8 = nn.Conv2d(middle, fine, 1)
        self.merge4 = ConvBlock(fine, fine)
        self.masks = nn.Conv2d(fine, MASKS * STRIDE * STRIDE, 1)
        assert self.masks.bias is not None
        nn.init.constant_(self.masks.bias, -2.0)  # most of an image is not the object

        self.iou_mask = nn.Linear(fine + 2, 64)
        self.iou_image = nn.Linear(coarse, 64)
        self.iou_output = nn.Parameter(torch.zeros(MASKS, 64))
        self.iou = nn.Linear(64, 1)
        # Constant, estimate and decidedness to an IoU, for each output; set after training.
        self.calibration: Tensor
        self.register_buffer(
            "calibration", torch.tensor([[0.0, 1.0, 0.0]] * MASKS), persistent=False
        )

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
        colour = self._colour_models(image_embedding, weights)
        prompts = self.prompt4(torch.cat([maps, likeness, colour], dim=1))
        at4 = functional.silu(self.norm4(_add_image(prompts, self.image4(image_embedding), images)))

        image8 = self.image8(image_embedding)
        prompts = self.down8(at4) + self.evidence8(self._propagate(image8, evidence))
        at8 = self.block8(functional.silu(self.norm8(_add_image(prompts, image8, images))))
        at16 = self.mix16(self.down16(at8))
        at8 = self.merge8(at8 + upsample(self.up16(at16)))
        at4 = self.merge4(at4 + upsample(self.up8(at8)))
        sharp = functional.pixel_shuffle(self.masks(at4), STRIDE).float()
        return smooth(sharp), self._estimate_iou(sharp, at4, at16)

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

    def _colour_models(self, image_embedding: Tensor, weights: Tensor) -> Tensor:
        """Chance that each cell belongs to each reference by its colour, (B, 4, 64, 64).

        These are GrabCut's colour models as histograms over 256 colours of the image itself.
        Nothing here is learned, so it holds for photos that are unlike the training's.
        """
        images = image_embedding.shape[0]
        colours = image_embedding[:, -COLOURS:].detach().float()
        colours = colours.reshape(images, 3, -1, GRID, GRID).mean(dim=2)
        palette = functional.avg_pool2d(colours, 4).flatten(2)  # (images, 3, 256)
        cells = colours.flatten(2).transpose(1, 2)  # (images, 4096, 3)
        with torch.autocast("cpu", enabled=False):
            apart = (
                cells.square().sum(dim=2, keepdim=True)
                - 2 * torch.matmul(cells, palette)
                + palette.square().sum(dim=1, keepdim=True)
            )
            member = torch.softmax(-0.5 / COLOUR_SPREAD**2 * apart, dim=2)
            share = weights / (weights.sum(dim=2, keepdim=True) + 1e-3)
            histogram = torch.matmul(share.reshape(images, -1, GRID * GRID), member)
            histogram = histogram.reshape(images, -1, REFERENCES, palette.shape[2])
            usual = member.mean(dim=1)[:, None]  # (images, 1, 256)
            clicked, rejected, boxed, around, masked, unmasked = histogram.unbind(dim=2)
            chance = torch.stack(
                [
                    clicked / (clicked + usual + 1e-4),
                    rejected / (rejected + usual + 1e-4),
                    boxed / (boxed + around + 0.05 * usual + 1e-4),
                    masked / (masked + unmasked + 0.05 * usual + 1e-4),
                ],
                dim=2,
            ).flatten(1, 2)  # (images, P * 4, 256)
            chance = torch.matmul(chance, member.transpose(1, 2))
        return chance.reshape(-1, COLOUR_MODELS, GRID, GRID)

    def _propagate(self, image8: Tensor, evidence: Tensor) -> Tensor:
        """Pass evidence (B, 5, 32, 32) between cells that look alike: (B, 10, 32, 32)."""
        images, side = image8.shape[0], GRID // 2
        pairs = self.affinity(image8)
        query, key = pairs.chunk(2, dim=1)
        query = query.reshape(images, KIN_HEADS, 16, side * side)
        # Cells tell what they know in blocks of four, which costs a quarter and loses little.
        key = functional.avg_pool2d(key, 2).reshape(images, KIN_HEADS, 16, -1)  # 256 blocks
        values = functional.avg_pool2d(evidence, 2).reshape(images, -1, key.shape[3])
        query = functional.normalize(query.float(), dim=2) * self.sharpness.exp()
        scores = torch.matmul(query.transpose(2, 3), functional.normalize(key.float(), dim=2))
        passed = torch.matmul(scores.softmax(dim=3), values.transpose(1, 2)[:, None])
        # (images, KIN_HEADS, 1024, P * 5); a click is one cell of many, so spread small values.
        passed = torch.log1p(50 * passed.float())
        passed = passed.reshape(images, KIN_HEADS, side * side, -1, EVIDENCE)
        return passed.permute(0, 3, 4, 1, 2).reshape(-1, EVIDENCE * KIN_HEADS, side, side)

    def _estimate_iou(self, low_res_logits: Tensor, at4: Tensor, at16: Tensor) -> Tensor:
        """Estimate IoU (B, 4) from what lies under each mask and how decided the mask is."""
        masks = torch.sigmoid(_sample(low_res_logits.detach())).flatten(2)  # (B, 4, 4096)
        area = masks.sum(dim=2, keepdim=True)
        under = torch.matmul(masks, at4.flatten(2).transpose(1, 2).float()) / (area + 1)
        undecided = (masks * (1 - masks)).sum(dim=2, keepdim=True) / (area + 1)
        features = torch.cat([under, undecided, torch.log1p(area)], dim=2)
        hidden = self.iou_mask(features) + self.iou_image(at16.mean(dim=(2, 3)))[:, None]
        estimate: Tensor = self.iou(functional.silu(hidden + self.iou_output))
        estimate = torch.sigmoid(estimate.float())[:, :, 0]
        if self.training:
            return estimate
        constant, factor, decided = self.calibration.unbind(dim=1)
        trusted = constant + factor * estimate + decided * decidedness(low_res_logits)
        return trusted.clamp(0, 1)


def decidedness(low_res_logits: Tensor) -> Tensor:
    """Return the area above logit 1 to that above -1, (B, 4): SAM's stability on a coarse grid."""
    samples = _sample(low_res_logits)
    inner = (samples > 1).float().sum(dim=(2, 3))
    return inner / (samples > -1).float().sum(dim=(2, 3)).clamp(min=1)


def _sample(low_res_logits: Tensor) -> Tensor:
    """Take one logit from each cell of the embedding's grid: (B, 4, 64, 64)."""
    return low_res_logits[:, :, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]


def _add_image(prompts: Tensor, image: Tensor, images: int) -> Tensor:
    """Add features of each image (images, C, h, w) to those of its prompts (B, C, h, w)."""
    return (prompts.reshape(images, -1, *image.shape[1:]) + image[:, None]).flatten(0, 1)


class QuickstartModel(nn.Module):
    """Encoder and decoder together, for training."""

    def __init__(self) -> None:
        """Build both with random weights."""
        super().__init__()
        self.encoder = ImageEncoder()
        self.decoder = MaskDecoder()
