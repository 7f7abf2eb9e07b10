"""Imported checkpoints give what the official packages give: embeddings, logits and masks."""

import io

import numpy as np
import pytest
from PIL import Image

from models_support import SamPredictor, iou, random_network, save_checkpoint
from sam_core import mask_from_counts
from sam_inference.engines import choose_engine, open_engine
from sam_inference.interrupt import Interrupt
from sam_inference.models.importing import import_checkpoint
from sam_inference.predictor import Predictor
from sam_inference.prompts import Prompt
from support import IMAGES

MAX_PIXELS = 20_000_000
ENGINES = ("openvino", "onnxruntime", "pytorch")
SHAPES = ("square", "portrait", "16x9", "4000x3000", "200x4000")

MIN_COSINE = 0.9999
MIN_IOU = 0.999
# Of the largest logit: embeddings are stored in float16, whose step is 5e-4 of a value.
MAX_LOGITS_DIFFERENCE = 1e-3


class Model:
    """A checkpoint's two lives: the official predictor, and the imported folder."""

    def __init__(self, architecture, folder):
        checkpoint = folder / f"{architecture}.pth"
        network = random_network(architecture)
        save_checkpoint(network, architecture, checkpoint)
        self.spec = import_checkpoint(checkpoint, folder / "models")
        checkpoint.unlink()
        self._official = SamPredictor(network)
        self._answers = {}
        self._predictors = {}

    def predictor(self, engine):
        if engine not in self._predictors:
            opened = open_engine(choose_engine(engine, "float32", self.spec), self.spec, threads=2)
            self._predictors[engine] = Predictor(self.spec, opened)
        return self._predictors[engine]

    def official_answers(self, shape):
        """The official embedding, and (masks, scores, low-res logits) of each prompt."""
        if shape not in self._answers:
            with Image.open(io.BytesIO(image_file(shape))) as image:
                self._official.set_image(np.asarray(image.convert("RGB")))
            embedding = self._official.get_image_embedding().numpy()
            self._answers[shape] = (
                embedding,
                {
                    name: self._official.predict(
                        point_coords=coords if len(coords) else None,
                        point_labels=labels if len(labels) else None,
                        box=box,
                        mask_input=mask_input,
                        multimask_output=name == "multimask",
                    )
                    for name, (coords, labels, box, mask_input) in prompts(
                        *self._official.original_size
                    ).items()
                },
            )
        return self._answers[shape]


def image_file(shape: str) -> bytes:
    names = {
        "square": "originals/astronaut.png",
        "16x9": "awkward/tiny_16x9.png",
        "4000x3000": "awkward/large_12mp.jpg",
        "200x4000": "awkward/tall_200x4000.jpg",
    }
    if shape in names:
        return (IMAGES / names[shape]).read_bytes()
    file = io.BytesIO()
    with Image.open(IMAGES / "originals" / "coffee.png") as image:
        image.transpose(Image.Transpose.ROTATE_90).save(file, "PNG")
    return file.getvalue()


def prompts(height, width):
    """Prompts of every kind for an image of a size: coords, labels, box and mask input."""
    point = np.array([[0.4 * width, 0.5 * height]], np.float32)
    points = np.array([[0.4, 0.5], [0.7, 0.2], [0.1, 0.9]], np.float32)
    points *= np.array([width, height], np.float32)
    box = np.array([0.2 * width, 0.1 * height, 0.8 * width, 0.7 * height], np.float32)
    smooth = np.linspace(-3, 3, 256, dtype=np.float32)
    mask_input = smooth[None, :, None] * smooth[None, None, :]
    one, labels = np.ones(1, np.float32), np.array([1, 0, 1], np.float32)
    return {
        "point": (point, one, None, None),
        "negative point": (points, labels, None, None),
        "box": (point[:0], one[:0], box, None),
        "box and points": (points, labels, box, None),
        "mask input": (point, one, None, mask_input),
        "multimask": (point, one, None, None),
    }


def check_parity(model, engine, shape):
    their_embedding, answers = model.official_answers(shape)
    predictor = model.predictor(engine)

    embedding, _ = predictor.embed(image_file(shape), Interrupt(), max_pixels=MAX_PIXELS)

    ours = embedding.tensors["image_embedding"].astype(np.float64)
    product = np.linalg.norm(ours) * np.linalg.norm(their_embedding)
    assert (ours * their_embedding).sum() / product >= MIN_COSINE
    for name, prompt in prompts(*embedding.original_size).items():
        masks, scores, logits = answers[name]
        candidates, _ = predictor.decode(
            embedding, Prompt(*prompt), multimask_output=name == "multimask"
        )
        assert len(candidates) == len(masks), name
        for candidate in candidates:
            index = candidate.mask_index
            mask = predictor.mask(embedding, candidate)
            pixels = mask_from_counts(mask.counts, mask.height, mask.width)
            difference = np.abs(candidate.low_res_logits - logits[index]).max()
            assert difference <= MAX_LOGITS_DIFFERENCE * np.abs(logits).max(), name
            assert candidate.predicted_iou == pytest.approx(scores[index], abs=1e-3), name
            assert iou(pixels, masks[index]) >= MIN_IOU, name


@pytest.fixture(scope="module")
def mobile_sam(tmp_path_factory):
    return Model("mobile_sam", tmp_path_factory.mktemp("mobile_sam"))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_mobile_sam_equals_an_independent_construction(mobile_sam, engine, shape):
    check_parity(mobile_sam, engine, shape)


def test_mobile_sam_on_pytorch_equals_its_predictor(mobile_sam):
    check_parity(mobile_sam, "pytorch", "portrait")


def test_vit_b_on_pytorch_equals_the_official_predictor(large_models):
    check_parity(large_models("sam_vit_b"), "pytorch", "portrait")


@pytest.mark.large
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("architecture", ["sam_vit_b", "sam_vit_l", "sam_vit_h"])
def test_large_models_equal_the_official_predictor(large_models, architecture, engine, shape):
    check_parity(large_models(architecture), engine, shape)


@pytest.fixture(scope="module")
def large_models(tmp_path_factory):
    """One model at a time: together they would need more than 10 GB."""
    held = {}

    def model(architecture):
        if architecture not in held:
            held.clear()
            held[architecture] = Model(architecture, tmp_path_factory.mktemp(architecture))
        return held[architecture]

    return model
