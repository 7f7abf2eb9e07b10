"""Measure the shipped model files on unseen scenes and on real photos, as a table.

    python -m training.quickstart.evaluate --model inference/sam_inference/models/quickstart

Only ONNX Runtime and the files are used, never the training network. Photos are judged at their
own size: logits are upscaled twice and thresholded, as SAM does.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from .objects import FOLDER, Image, read_mask, read_rgb
from .prompts import Prompt, correction, deepest_point, drawn_box, pack, tight_box
from .scenes import make_scene

UNSEEN_SEED = 1_000_003  # of scenes that no training run uses
ROUNDS = 5
GRABCUT_ITERATIONS = 5

Logits = NDArray[np.float32]
BoolMask = NDArray[np.bool_]
Scores = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Answer:
    """Four answers to one prompt: masks (4, H, W), logits (4, 256, 256), predicted_iou (4,)."""

    masks: BoolMask
    low_res_logits: Logits
    predicted_iou: NDArray[np.float32]

    def best(self) -> int:
        """Return which multimask output the model itself believes in most."""
        return 1 + int(self.predicted_iou[1:].argmax())


class Predictor:
    """The two ONNX files with SAM's arithmetic around them."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """Load the files of `folder`."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.spec = json.loads((folder / "model.json").read_text())
        self.encoder, self.decoder = (
            onnxruntime.InferenceSession(
                folder / f"{part}.onnx", options, providers=["CPUExecutionProvider"]
            )
            for part in ("encoder", "decoder")
        )

    def embed(self, image: Image) -> Embedded:
        """Embed uint8 (H, W, 3) RGB of any size."""
        size, (height, width) = self.spec["input_size"], image.shape[:2]
        scale = size / max(height, width)
        content = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
        if content != (height, width):
            image = np.asarray(
                cv2.resize(image, content[::-1], interpolation=cv2.INTER_AREA), np.uint8
            )
        frame = np.zeros((1, 3, size, size), np.float32)
        mean, std = (np.array(self.spec[name], np.float32) for name in ("pixel_mean", "pixel_std"))
        pixels = (image - mean) / std
        frame[0, :, : content[0], : content[1]] = pixels.transpose(2, 0, 1)
        return Embedded(self, self.encoder.run(None, {"image": frame})[0], content, (height, width))


@dataclass(frozen=True, slots=True)
class Embedded:
    """An embedded image that answers prompts in pixels of its original size."""

    predictor: Predictor
    image_embedding: NDArray[np.float32]
    input_size: tuple[int, int]
    original_size: tuple[int, int]

    def decode(self, prompt: Prompt, mask_input: Logits | None = None) -> Answer:
        """Answer one prompt, perhaps going on from logits (256, 256) of an earlier answer."""
        side = self.predictor.spec["mask_size"]
        coords, labels = pack([prompt])
        coords *= np.divide(self.input_size[::-1], self.original_size[::-1], dtype=np.float32)
        given = np.zeros((1, 1, side, side), np.float32)
        if mask_input is not None:
            given[0, 0] = mask_input
        logits, predicted_iou = self.predictor.decoder.run(
            None,
            {
                "image_embedding": self.image_embedding,
                "point_coords": coords,
                "point_labels": labels,
                "mask_input": given,
                "has_mask_input": np.array([mask_input is not None], np.float32),
            },
        )
        masks = np.stack([self._upscale(one) > 0 for one in logits[0]])
        return Answer(masks, logits[0], predicted_iou[0])

    def _upscale(self, logits: Logits) -> Logits:
        size = self.predictor.spec["input_size"]
        framed = cv2.resize(logits, (size, size), interpolation=cv2.INTER_LINEAR)
        content = framed[: self.input_size[0], : self.input_size[1]]
        resized = cv2.resize(content, self.original_size[::-1], interpolation=cv2.INTER_LINEAR)
        return np.asarray(resized, np.float32)


def iou(first: BoolMask, second: BoolMask) -> float:
    """Return intersection over union of two masks; two empty ones agree."""
    union = np.count_nonzero(first | second)
    return float(np.count_nonzero(first & second) / union) if union else 1.0


def answer_rounds(embedded: Embedded, target: BoolMask) -> Iterator[tuple[str, float]]:
    """Click the deepest point, then the deepest error of each answer; yield every IoU."""
    prompt = Prompt().with_click((*deepest_point(target), 1))
    answer = embedded.decode(prompt)
    found = [iou(mask, target) for mask in answer.masks]
    chosen = answer.best()
    yield "click, best of three", max(found[1:])
    yield "click, top predicted IoU", found[chosen]
    yield "click, single mask", found[0]
    for number in range(1, ROUNDS + 1):
        yield f"{number} click{'s' * (number > 1)}", iou(answer.masks[chosen], target)
        click = correction(target, answer.masks[chosen])
        if click is not None:
            prompt = prompt.with_click(click)
            answer, chosen = embedded.decode(prompt, answer.low_res_logits[chosen]), 0


def answer_boxes(
    embedded: Embedded, target: BoolMask, rng: np.random.Generator
) -> Iterator[tuple[str, float]]:
    """Give a tight and a drawn box, and a correcting click after the tight one."""
    prompt = Prompt(box=tight_box(target))
    answer = embedded.decode(prompt)
    yield "box", iou(answer.masks[0], target)
    yield (
        "box as drawn by hand",
        iou(embedded.decode(Prompt(box=drawn_box(target, rng))).masks[0], target),
    )
    click = correction(target, answer.masks[0])
    if click is not None:
        answer = embedded.decode(prompt.with_click(click), answer.low_res_logits[0])
    yield "box and 1 click", iou(answer.masks[0], target)


def filled_box(target: BoolMask) -> BoolMask:
    """Return the tight box as a mask: what a box is worth without any model."""
    x_min, y_min, x_max, y_max = map(int, tight_box(target))
    mask = np.zeros_like(target)
    mask[y_min:y_max, x_min:x_max] = True
    return mask


def grabcut(image: Image, target: BoolMask) -> BoolMask:
    """Return what GrabCut makes of the tight box."""
    x_min, y_min, x_max, y_max = map(int, tight_box(target))
    labels = np.zeros(target.shape, np.uint8)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    box = (x_min, y_min, x_max - x_min, y_max - y_min)
    cv2.setRNGSeed(0)
    cv2.grabCut(image, labels, box, *models, GRABCUT_ITERATIONS, cv2.GC_INIT_WITH_RECT)
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))


def evaluate(
    predictor: Predictor, pairs: Iterable[tuple[Image, BoolMask]], with_grabcut: bool
) -> Scores:
    """Return every IoU by prompt for images with the mask of one object each."""
    rng = np.random.default_rng(0)
    scores: Scores = defaultdict(list)
    for image, target in pairs:
        embedded = predictor.embed(image)
        for name, value in answer_rounds(embedded, target):
            scores[name].append(value)
        for name, value in answer_boxes(embedded, target, rng):
            scores[name].append(value)
        scores["filled box (no model)"].append(iou(filled_box(target), target))
        if with_grabcut:
            scores["GrabCut, same box"].append(iou(grabcut(image, target), target))
    return scores


def scene_pairs(count: int) -> Iterator[tuple[Image, BoolMask]]:
    """Yield unseen scenes, cropped to their content, with a random object of each."""
    rng = np.random.default_rng(UNSEEN_SEED)
    for index in range(count):
        scene = make_scene(UNSEEN_SEED, index)
        height, width = scene.input_size
        target = scene.mask(int(rng.integers(len(scene.objects))))
        yield scene.image[:height, :width], target[:height, :width]


def photo_pairs(folder: Path) -> Iterator[tuple[Image, BoolMask]]:
    """Yield photos NAME.jpg with their masks NAME.png from a folder."""
    for path in sorted(folder.glob("*.jpg")):
        yield read_rgb(path), read_mask(path.with_suffix(".png")).astype(np.bool_)


def print_table(columns: dict[str, Scores], show: Callable[[str], None] = print) -> None:
    """Print mean IoU, one row a prompt and one column a set."""
    names = list(dict.fromkeys(name for scores in columns.values() for name in scores))
    show("| mean IoU | " + " | ".join(columns) + " |")
    show("| --- |" + " ---: |" * len(columns))
    for name in names:
        cells = [f"{np.mean(s[name]):.3f}" if s.get(name) else "-" for s in columns.values()]
        show(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    """Read the arguments, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, required=True, help="folder of the model files")
    parser.add_argument("--scenes", type=int, default=500, help="how many unseen scenes")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    predictor = Predictor(arguments.model)
    columns = {}
    if arguments.scenes:
        name = f"unseen scenes ({arguments.scenes})"
        columns[name] = evaluate(predictor, scene_pairs(arguments.scenes), with_grabcut=False)
    for title, folder in (("unseen sequences", "held_out"), ("training sequences", "davis")):
        scores = evaluate(predictor, photo_pairs(FOLDER / folder), with_grabcut=True)
        columns[f"{title} ({len(scores['box'])})"] = scores
    print_table(columns)


if __name__ == "__main__":
    main()
