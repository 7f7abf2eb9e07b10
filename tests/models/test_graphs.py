"""The graphs in the package are those that the script writes, and fit both engines."""

import numpy as np
import onnx
import pytest
from tools.graphs.__main__ import files_of

from models_support import random_network, save_checkpoint
from sam_inference.engines import choose_engine, open_engine
from sam_inference.models.architectures import ARCHITECTURES, read_architecture
from sam_inference.models.importing import import_checkpoint
from sam_inference.prompts import DecoderInputs


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_packaged_graphs_are_those_that_the_script_writes(architecture):
    packaged = read_architecture(architecture).files
    written = files_of(architecture)

    assert packaged.keys() == written.keys()
    for name, content in written.items():
        if name.endswith(".onnx"):
            assert onnx.load_from_string(packaged[name]) == onnx.load_from_string(content)
        else:
            assert packaged[name] == content


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_packaged_graphs_carry_no_weights(architecture):
    files = read_architecture(architecture).files

    assert sum(map(len, files.values())) < 1_000_000


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graphs")
    save_checkpoint(random_network("mobile_sam"), "mobile_sam", folder / "checkpoint.pt")
    return import_checkpoint(folder / "checkpoint.pt", folder)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime", "pytorch"])
def test_a_batch_of_prompts_gives_what_each_gives_alone(spec, engine):
    opened = open_engine(choose_engine(engine, "float32", spec), spec, threads=2)
    generator = np.random.default_rng(0)
    embedding = {"image_embedding": generator.standard_normal((1, 256, 64, 64), np.float32)}
    prompts = [
        DecoderInputs(
            point_coords=generator.uniform(0, 1024, (1, 4, 2)).astype(np.float32),
            point_labels=np.array([labels], np.float32),
            mask_input=generator.standard_normal((1, 1, 256, 256), np.float32),
            has_mask_input=np.array([has_mask_input], np.float32),
        )
        for labels, has_mask_input in [([1, 0, 1, -1], 0), ([0, 1, 2, 3], 1), ([1, 1, -1, -1], 1)]
    ]

    def stacked(name):
        return np.concatenate([getattr(prompt, name) for prompt in prompts])

    logits, predicted_iou = opened.decode(
        embedding, DecoderInputs(**{name: stacked(name) for name in DecoderInputs.__slots__})
    )

    assert logits.shape == (3, 4, 256, 256)
    assert predicted_iou.shape == (3, 4)
    for index, prompt in enumerate(prompts):
        alone = opened.decode(embedding, prompt)
        np.testing.assert_allclose(logits[index], alone[0][0], atol=1e-5)
        np.testing.assert_allclose(predicted_iou[index], alone[1][0], atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 70])
def test_any_number_of_points_is_taken(spec, count):
    answers = []
    for engine in ("openvino", "onnxruntime", "pytorch"):
        opened = open_engine(choose_engine(engine, "float32", spec), spec, threads=2)
        inputs = DecoderInputs(
            point_coords=np.linspace(0, 1000, 2 * count, dtype=np.float32).reshape(1, count, 2),
            point_labels=np.arange(count, dtype=np.float32)[None] % 2,
            mask_input=np.zeros((1, 1, 256, 256), np.float32),
            has_mask_input=np.zeros(1, np.float32),
        )
        image = {
            "image_embedding": np.sin(np.arange(1 << 20, dtype=np.float32)).reshape(1, 256, 64, 64)
        }
        answers.append(opened.decode(image, inputs)[0])
    np.testing.assert_allclose(answers[0], answers[2], atol=1e-5)
    np.testing.assert_allclose(answers[1], answers[2], atol=1e-5)
