"""Correct the estimates of IoU after training, on scenes that were not trained on.

The averaged weights estimate some outputs too high and others too low, so that the best of three
candidates was often not the one put first. A line through estimate and decidedness, fitted for each
output, puts that right.
"""

from __future__ import annotations

import numpy as np
import torch

from .network import MASK_SIZE, MASKS, QuickstartModel, decidedness
from .prompts import first_prompt, pack
from .scenes import make_scene
from .train import PROMPTS, mask_losses, normalise

CALIBRATION_SEED = 2_000_003  # of scenes that neither training nor evaluation uses
SCENES = 120


@torch.no_grad()
def calibrate(model: QuickstartModel) -> None:
    """Fit the calibration of a model in evaluation mode by least squares, in place."""
    rng = np.random.default_rng(CALIBRATION_SEED)
    estimates, decided, truth, ambiguous = [], [], [], []
    for index in range(SCENES):
        scene = make_scene(CALIBRATION_SEED, index)
        chosen = rng.integers(len(scene.objects), size=PROMPTS)
        targets = np.stack([scene.mask(int(number)) for number in chosen])
        prompts = [first_prompt(target, rng) for target in targets]
        coords, labels = pack(prompts)
        low_res_logits, predicted_iou = model.decoder(
            model.encoder(normalise(scene.image[None], [scene.input_size])),
            torch.from_numpy(coords),
            torch.from_numpy(labels),
            torch.zeros(PROMPTS, 1, MASK_SIZE, MASK_SIZE),
            torch.zeros(PROMPTS),
        )
        estimates.append(predicted_iou)
        decided.append(decidedness(low_res_logits))
        ambiguous += [prompt.ambiguous for prompt in prompts]
        truth.append(mask_losses(low_res_logits, torch.from_numpy(targets).float())[1])
    known = torch.stack([torch.cat(estimates), torch.cat(decided)], dim=2)  # (samples, 4, 2)
    wanted = torch.cat(truth)
    clicks = torch.tensor(ambiguous)
    for output in range(MASKS):
        # The multimask outputs are for ambiguous prompts, the single mask is for all.
        used = clicks if output else torch.ones_like(clicks)
        design = torch.cat([torch.ones(int(used.sum()), 1), known[used, output]], dim=1)
        fit = torch.linalg.lstsq(design, wanted[used, output, None]).solution
        model.decoder.calibration[output] = fit[:, 0]
