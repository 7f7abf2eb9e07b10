"""Train the quickstart model on generated scenes, with simulated users who correct its answers.

    python -m training.quickstart.train --folder build/quickstart --steps 6000 --seed 1

Each batch is drawn from a pool of images, and an image leaves the pool after a few turns. Until
then its prompts go on from its last answers: a click where the answer was wrong, often with the
answer's logits as mask input. So every correction round is trained without decoding twice.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from .network import MASK_SIZE, QuickstartModel
from .prompts import Prompt, correction, first_prompt, pack
from .scenes import Scene, make_scene

PIXEL_MEAN = (123.675, 116.28, 103.53)  # 0..255, RGB, as SAM
PIXEL_STD = (58.395, 57.12, 57.375)

IMAGES = 4  # in the batch of each process
POOL = 48  # images that each process draws its batches from
TURNS = 3  # batches that an image takes part in
PROMPTS = 4  # to each image
RESTART = 0.25  # chance that a prompt starts again on another object
MAX_CLICKS = 7
KEEP_MASK = 0.6  # chance that a correction comes with the answer's logits

PEAK_RATE = 1.5e-3
WARM_UP = 150  # steps
DECAY_FROM = 0.4  # share of all steps after which the rate falls to zero
EMA_DECAY = 0.998
FOCAL_WEIGHT = 20.0  # to one of dice, as SAM
# To one of dice, unlike SAM's 1: which candidate is put first is all that a user sees of the three.
ESTIMATE_WEIGHT = 4.0
CHECKPOINT_EVERY = 100  # steps


class Scenes(Dataset[Scene]):
    """The endless series of scenes of one seed."""

    def __init__(self, seed: int, numbers: range) -> None:
        """Cover the scenes of these numbers."""
        self.seed, self.numbers = seed, numbers

    def __len__(self) -> int:
        """Return how many scenes there are."""
        return len(self.numbers)

    def __getitem__(self, index: int) -> Scene:
        """Make one scene, in the process of the loader."""
        cv2.setNumThreads(1)
        return make_scene(self.seed, self.numbers[index])


@dataclass(slots=True)
class Task:
    """One prompt in training: what it shall find and what was said so far."""

    target: NDArray[np.bool_]
    prompt: Prompt
    logits: Tensor | None = None  # (256, 256) of the last answer, if it is the mask input


class Session:
    """One image in the batch with its tasks."""

    def __init__(self, scene: Scene, rng: np.random.Generator) -> None:
        """Begin a task with each of `PROMPTS` random objects of the scene."""
        self.scene = scene
        self.rng = rng
        self.turns = 0
        self.tasks = [self._new_task() for _ in range(PROMPTS)]

    def _new_task(self) -> Task:
        target = self.scene.mask(int(self.rng.integers(len(self.scene.objects))))
        return Task(target, first_prompt(target, self.rng))

    def answer(self, low_res_logits: Tensor, predicted_iou: Tensor) -> None:
        """Go on from answers (PROMPTS, 4, 256, 256) and their estimates (PROMPTS, 4)."""
        self.turns += 1
        for index, task in enumerate(self.tasks):
            chosen = 1 + int(predicted_iou[index, 1:].argmax()) if task.prompt.ambiguous else 0
            logits = low_res_logits[index, chosen]
            error = None
            if self.rng.random() >= RESTART and len(task.prompt.clicks) < MAX_CLICKS:
                middle = self.rng.random() < 0.5
                answer = (logits > 0).numpy()
                error = correction(task.target, answer, None if middle else self.rng)
            if error is None:
                self.tasks[index] = self._new_task()
            else:
                kept = logits if self.rng.random() < KEEP_MASK else None
                self.tasks[index] = Task(task.target, task.prompt.with_click(error), kept)


def normalise(images: NDArray[np.uint8], sizes: list[tuple[int, int]]) -> Tensor:
    """Return float32 (B, 3, 256, 256) from uint8 (B, 256, 256, 3), zero outside each content."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    mean, std = torch.tensor(PIXEL_MEAN), torch.tensor(PIXEL_STD)
    pixels = (pixels - mean[:, None, None]) / std[:, None, None]
    for image, (height, width) in zip(pixels, sizes, strict=True):
        image[:, height:] = 0
        image[:, :, width:] = 0
    return pixels.contiguous(memory_format=torch.channels_last)


def mask_losses(low_res_logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return focal + dice loss and true IoU, both (B, 4), of logits (B, 4, h, w)."""
    target = target[:, None]
    crossed = functional.binary_cross_entropy_with_logits(
        low_res_logits, target.expand_as(low_res_logits), reduction="none"
    )
    probability = torch.sigmoid(low_res_logits)
    # The chance given to the wrong side, from the loss itself: exp(-crossed) is that of the right.
    missed = 1 - torch.exp(-crossed)
    # Object and background count alike, unlike SAM's 1:3: a small model is unsure of much, and an
    # unsure pixel would fall to the background.
    focal = 0.5 * (missed.square() * crossed).mean(dim=(2, 3))
    shared = (probability * target).sum(dim=(2, 3))
    total = probability.sum(dim=(2, 3)) + target.sum(dim=(2, 3))
    dice = 1 - (2 * shared + 1) / (total + 1)
    with torch.no_grad():
        inside = low_res_logits > 0
        wanted = target > 0.5
        union = (inside | wanted).sum(dim=(2, 3))
        iou = (inside & wanted).sum(dim=(2, 3)) / union.clamp(min=1)
    return FOCAL_WEIGHT * focal + dice, iou


def total_loss(
    losses: Tensor, iou: Tensor, predicted_iou: Tensor, ambiguous: Tensor
) -> tuple[Tensor, Tensor]:
    """Join losses (B, 4) into one number; also return the best IoU of three (B,).

    Output 0 learns every prompt. Of the multimask outputs the best one learns, fully from a
    prompt that is ambiguous; the others follow faintly, so that none is left behind.
    """
    multimask = losses[:, 1:].min(dim=1).values + 0.05 * losses[:, 1:].mean(dim=1)
    weight = torch.where(ambiguous, 1.0, 0.4)
    estimate = (predicted_iou - iou).square().mean()
    loss = (losses[:, 0] + weight * multimask).mean() + ESTIMATE_WEIGHT * estimate
    return loss, iou[:, 1:].max(dim=1).values


def learning_rate(step: int, steps: int) -> float:
    """Warm up, stay, and fall linearly to zero over the last part."""
    falling = (steps - step) / max(1.0, steps * (1 - DECAY_FROM))
    return PEAK_RATE * max(0.0, min(1.0, (step + 1) / WARM_UP, falling))


def new_optimizer(model: torch.nn.Module) -> torch.optim.Optimizer:
    """Return an optimizer that has not made a step."""
    return torch.optim.AdamW(model.parameters(), PEAK_RATE, (0.9, 0.98), weight_decay=0.02)


def scene_stream(seed: int, numbers: range) -> Iterator[Scene]:
    """Make scenes in a process beside the training."""
    loader = DataLoader(Scenes(seed, numbers), batch_size=None, num_workers=1, prefetch_factor=16)
    return iter(loader)


def share_gradients(model: torch.nn.Module) -> None:
    """Replace every gradient by its mean over the processes."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    joined = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(joined)
    joined /= dist.get_world_size()
    parts = torch.split(joined, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def save_checkpoint(
    folder: Path,
    model: torch.nn.Module,
    average: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
) -> None:
    """Write `folder`/checkpoint.pt at once or not at all."""
    state = {
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
    }
    torch.save(state, folder / "checkpoint.tmp")
    (folder / "checkpoint.tmp").replace(folder / "checkpoint.pt")


def train(rank: int, processes: int, folder: Path, steps: int, seed: int) -> None:
    """Train up to `steps`, going on from `folder`/checkpoint.pt where there is one.

    Each of `processes` runs this with its own scenes; they share the gradients of every step. That
    is quicker than threads, above all where other work takes a core away for a moment.
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    meeting = (folder / "processes").absolute().as_uri()
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
    torch.manual_seed(seed)
    model: QuickstartModel = QuickstartModel().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = new_optimizer(model)
    checkpoint, step = folder / "checkpoint.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    rng = np.random.default_rng([seed, rank, step])
    # Enough scenes for every step; where training goes on, it skips those that were used.
    used, stop = step * IMAGES // TURNS, steps * IMAGES // TURNS + 2 * POOL
    scenes = scene_stream(seed, range(used * processes + rank, stop * processes, processes))
    pool = [Session(next(scenes), rng) for _ in range(POOL)]
    started, sums = time.monotonic(), np.zeros(6)
    while step < steps:
        drawn = rng.choice(POOL, IMAGES, replace=False)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        sums += train_step(model, optimizer, [pool[index] for index in drawn], step)
        for index in drawn:
            if pool[index].turns == TURNS:
                pool[index] = Session(next(scenes), rng)
        step += 1
        follow(average, model, min(EMA_DECAY, step / (step + 10)))
        if step % 50 == 0 and rank == 0:
            loss, click_sum, clicks, box_sum, boxes, later = sums
            print(
                f"step {step} images {step * IMAGES * processes} loss {loss / 50:.4f} "
                f"click {click_sum / max(clicks, 1):.3f} box {box_sum / max(boxes, 1):.3f} "
                f"later {later / 50:.3f} seconds/step {(time.monotonic() - started) / 50:.2f}",
                flush=True,
            )
            started, sums = time.monotonic(), np.zeros(6)
        if rank == 0 and (step % CHECKPOINT_EVERY == 0 or step == steps):
            save_checkpoint(folder, model, average, optimizer, step)


def train_step(
    model: QuickstartModel, optimizer: torch.optim.Optimizer, sessions: list[Session], step: int
) -> NDArray[np.float64]:
    """Learn from one answer to every task; return sums for the log."""
    scenes = [session.scene for session in sessions]
    image = normalise(np.stack([s.image for s in scenes]), [s.input_size for s in scenes])
    tasks = [task for session in sessions for task in session.tasks]
    coords, labels = pack([task.prompt for task in tasks])
    mask_input = torch.zeros(len(tasks), 1, MASK_SIZE, MASK_SIZE)
    for index, task in enumerate(tasks):
        if task.logits is not None:
            mask_input[index, 0] = task.logits
    has_mask_input = torch.tensor([float(task.logits is not None) for task in tasks])
    target = torch.from_numpy(np.stack([task.target for task in tasks])).float()
    ambiguous = torch.tensor([task.prompt.ambiguous for task in tasks])
    boxed = torch.tensor([task.prompt.box is not None and not task.prompt.clicks for task in tasks])

    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low_res_logits, predicted_iou = model.decoder(
            model.encoder(image),
            torch.from_numpy(coords),
            torch.from_numpy(labels),
            mask_input,
            has_mask_input,
        )
    # A quarter of the pixels, another one each step, tells nearly as much in a quarter of the time.
    odd_row, odd_column = step % 2, step // 2 % 2
    losses, iou = mask_losses(
        low_res_logits[:, :, odd_row::2, odd_column::2], target[:, odd_row::2, odd_column::2]
    )
    loss, best = total_loss(losses, iou, predicted_iou, ambiguous)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    share_gradients(model)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()

    answers = low_res_logits.detach().unflatten(0, (len(sessions), PROMPTS))
    estimates = predicted_iou.detach().unflatten(0, (len(sessions), PROMPTS))
    for session, logits, estimate in zip(sessions, answers, estimates, strict=True):
        session.answer(logits, estimate)
    later = ~ambiguous & ~boxed
    return np.array(
        [
            float(loss.detach()),
            float(best[ambiguous].sum()),
            float(ambiguous.sum()),
            float(iou[boxed, 0].sum()),
            float(boxed.sum()),
            float(iou[later, 0].mean()) if later.any() else 0.0,
        ]
    )


@torch.no_grad()
def follow(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    """Move the averaged weights and statistics towards the trained ones."""
    pairs = zip(average.state_dict().values(), model.state_dict().values(), strict=True)
    for mean, value in pairs:
        if mean.dtype.is_floating_point:
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


def run(folder: Path, steps: int, seed: int, processes: int) -> None:
    """Train in processes of their own, with `folder` as `train` has it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "processes").unlink(missing_ok=True)
    # PyTorch gives its spawn no types.
    spawn(train, (processes, folder, steps, seed), processes)  # type: ignore[no-untyped-call]


def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints are kept")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2, help="one for each core")
    arguments = parser.parse_args()
    run(arguments.folder, arguments.steps, arguments.seed, arguments.processes)


if __name__ == "__main__":
    main()
