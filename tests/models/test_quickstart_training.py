"""Training goes on from the shipped files, and what it writes can be served."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from training.quickstart import train
from training.quickstart.export import export, load_average
from training.quickstart.restore import restore

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "inference" / "sam_inference" / "models" / "quickstart"
STEPS = 2


@pytest.fixture(scope="module")
def network():
    return restore(MODEL)


def session(folder, part):
    return onnxruntime.InferenceSession(folder / f"{part}.onnx", providers=["CPUExecutionProvider"])


def test_the_restored_network_answers_as_the_files(network):
    image = np.random.default_rng(0).standard_normal((1, 3, 256, 256), np.float32)
    prompts = {
        "point_coords": np.array([[[80, 90], [0, 0]], [[20, 30], [200, 180]]], np.float32),
        "point_labels": np.array([[1, -1], [2, 3]], np.float32),
        "mask_input": np.zeros((2, 1, 256, 256), np.float32),
        "has_mask_input": np.zeros(2, np.float32),
    }
    (embedding,) = session(MODEL, "encoder").run(None, {"image": image})
    low_res_logits, _ = session(MODEL, "decoder").run(
        None, {"image_embedding": embedding, **prompts}
    )

    with torch.no_grad():
        restored = network.encoder(torch.from_numpy(image))
        logits, _ = network.decoder(restored, *map(torch.from_numpy, prompts.values()))

    np.testing.assert_allclose(restored.numpy(), embedding, atol=1e-4)
    np.testing.assert_allclose(logits.numpy(), low_res_logits, atol=2e-3)


def test_training_goes_on_and_its_checkpoint_becomes_files(network, tmp_path):
    optimizer = train.new_optimizer(network)
    train.save_checkpoint(tmp_path, network, network, optimizer, step=0)

    train.run(tmp_path, steps=STEPS, seed=5, processes=1)
    export(load_average(tmp_path / "checkpoint.pt"), tmp_path / "files")

    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == STEPS
    assert (tmp_path / "files" / "model.json").read_bytes() == (MODEL / "model.json").read_bytes()
    image = np.zeros((1, 3, 256, 256), np.float32)
    (before,) = session(MODEL, "encoder").run(None, {"image": image})
    (after,) = session(tmp_path / "files", "encoder").run(None, {"image": image})
    assert 0 < np.abs(after - before).max() < 1
