"""bfloat16 where a CPU has the units for it, and what it leaves of the masks."""

import numpy as np
import pytest
import torch

from models_support import iou, random_network, save_checkpoint
from sam_core import mask_from_counts
from sam_inference.engines import EngineError, choose_engine, open_engine
from sam_inference.engines import openvino as openvino_engine
from sam_inference.interrupt import Interrupt
from sam_inference.models import BUNDLED, read_spec
from sam_inference.models.importing import import_checkpoint
from sam_inference.predictor import Predictor
from sam_inference.prompts import Prompt
from support import IMAGES

PHOTOS = ("dog.jpg", "truck.jpg")
CLICKS_PER_SIDE = 3
# A default has to leave masks as they are. Random weights are harder on it than trained ones:
# their logits rise and fall everywhere, so that masks have edges where real ones have none.
MIN_IOU = 0.98


@pytest.fixture(scope="module")
def mobile_sam(tmp_path_factory):
    folder = tmp_path_factory.mktemp("precision")
    save_checkpoint(random_network("mobile_sam"), "mobile_sam", folder / "checkpoint.pt")
    return import_checkpoint(folder / "checkpoint.pt", folder)


class CpuWithoutUnits:
    """OpenVINO's view of a CPU that has no bfloat16."""

    def get_property(self, device, name):
        assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
        return ["FP32", "INT8", "BIN", "EXPORT_IMPORT"]


def without_units(monkeypatch):
    monkeypatch.setattr(openvino_engine.ov, "Core", CpuWithoutUnits)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)


@pytest.mark.parametrize("engine", ["openvino", "pytorch"])
def test_bfloat16_is_refused_on_a_cpu_without_units(mobile_sam, engine, monkeypatch):
    without_units(monkeypatch)

    with pytest.raises(EngineError, match="lacks the units"):
        choose_engine(engine, "bfloat16", mobile_sam)

    assert choose_engine(engine, "auto", mobile_sam).precision == "float32"


def test_openvino_takes_bfloat16_by_itself_where_it_was_measured(mobile_sam, monkeypatch):
    class CpuWithUnits(CpuWithoutUnits):
        def get_property(self, device, name):
            return [*super().get_property(device, name), "BF16"]

    monkeypatch.setattr(openvino_engine.ov, "Core", CpuWithUnits)

    quickstart = read_spec(BUNDLED / "quickstart")
    assert choose_engine("openvino", "auto", mobile_sam).precision == "bfloat16"
    assert choose_engine("openvino", "auto", quickstart).precision == "float32"
    assert choose_engine("openvino", "float32", mobile_sam).precision == "float32"


@pytest.mark.parametrize("engine", ["openvino", "pytorch"])
def test_masks_of_bfloat16_are_those_of_float32(mobile_sam, engine):
    try:
        choice = choose_engine(engine, "bfloat16", mobile_sam)
    except EngineError as error:
        pytest.skip(str(error))
    ours = masks(mobile_sam, choice)
    theirs = masks(mobile_sam, choose_engine(engine, "float32", mobile_sam))

    agreement = [iou(a, b) for a, b in zip(ours, theirs, strict=True)]
    assert min(agreement) >= MIN_IOU
    assert min(agreement) < 1, "nothing was computed in bfloat16"


def masks(spec, choice):
    """The masks of a grid of clicks on each photo."""
    predictor = Predictor(spec, open_engine(choice, spec, threads=2))
    steps = (np.arange(CLICKS_PER_SIDE) + 0.5) / CLICKS_PER_SIDE
    found = []
    for photo in PHOTOS:
        image = (IMAGES / "originals" / photo).read_bytes()
        embedding, _ = predictor.embed(image, Interrupt(), max_pixels=10_000_000)
        for point in [(x, y) for y in steps for x in steps]:
            coords = np.array([point], np.float32) * np.array(embedding.original_size[::-1])
            click = Prompt(coords.astype(np.float32), np.ones(1, np.float32), None, None)
            (candidate,), _ = predictor.decode(embedding, click, multimask_output=False)
            mask = predictor.mask(embedding, candidate)
            found.append(mask_from_counts(mask.counts, mask.height, mask.width))
    return found
