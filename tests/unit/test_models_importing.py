"""A checkpoint becomes a model folder, complete or not at all."""

import fcntl
import hashlib
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from sam_inference.models import (
    BUNDLED,
    ModelFileError,
    architectures,
    find_models,
    importing,
    read_spec,
)
from sam_inference.models.architectures import (
    ARCHITECTURES,
    read_architecture,
    read_weights,
    recognise,
)
from sam_inference.models.catalogue import CATALOGUE
from sam_inference.models.checkpoint import CheckpointError
from sam_inference.models.command import models_main
from sam_inference.models.importing import (
    checkpoint_digest,
    has_other_graphs,
    import_checkpoint,
    sole_import,
    update_model,
    verify_model,
)


@pytest.fixture(scope="module")
def state():
    """A state dict with the names and shapes of mobile_sam.pt, and what that has besides."""
    generator = torch.Generator().manual_seed(0)
    shapes = read_architecture("mobile_sam").shapes
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return state | {
        "image_encoder.norm_head.weight": torch.ones(320),
        "image_encoder.head.weight": torch.ones(1000, 320),
        "image_encoder.patch_embed.seq.0.bn.num_batches_tracked": torch.tensor(1),
    }


@pytest.fixture
def save(tmp_path):
    def save(state, name="checkpoint.pt"):
        torch.save(state, tmp_path / name)
        return tmp_path / name

    return save


def test_a_checkpoint_becomes_a_model_that_is_found(state, save, tmp_path):
    spec = import_checkpoint(save(state), tmp_path / "models")

    assert spec == find_models(tmp_path / "models").spec("mobile_sam")
    assert spec.architecture == "mobile_sam"
    assert spec.embedding_shapes == {"image_embedding": (1, 256, 64, 64)}
    for name, values in read_weights(spec.folder).items():
        np.testing.assert_array_equal(values, state[name].numpy())
    verify_model(spec)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precisions_become_float32(state, save, tmp_path, dtype):
    converted = {name: tensor.to(dtype) for name, tensor in state.items()}

    spec = import_checkpoint(save(converted), tmp_path / "models")

    name = "mask_decoder.iou_token.weight"
    expected = converted[name].float().numpy()
    np.testing.assert_array_equal(read_weights(spec.folder)[name], expected)


def test_the_licence_of_a_checkpoint_is_told_if_it_is_an_official_one(
    state, save, tmp_path, monkeypatch
):
    path = save(state)
    unknown = import_checkpoint(path, tmp_path / "unknown")
    entry = CATALOGUE["mobile_sam"]
    monkeypatch.setitem(CATALOGUE, "mobile_sam", replace(entry, sha256=checkpoint_digest(unknown)))
    official = import_checkpoint(path, tmp_path / "official")

    assert checkpoint_digest(unknown) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (unknown.licence, official.licence) == ("NOASSERTION", "Apache-2.0")


def test_checkpoints_of_one_architecture_stand_side_by_side(state, save, tmp_path):
    path = save(state)

    import_checkpoint(path, tmp_path / "models")
    import_checkpoint(path, tmp_path / "models", name="cells-2")

    models = find_models(tmp_path / "models").specs
    assert {"mobile_sam", "cells-2"} <= set(models)
    assert models["cells-2"].title == "cells-2 (MobileSAM)"


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "x" * 65, "a b"])
def test_a_name_that_is_no_plain_folder_is_refused(state, save, tmp_path, name):
    path = save(state)
    if name:
        with pytest.raises(ModelFileError, match="cannot be used"):
            import_checkpoint(path, tmp_path / "models", name=name)


def test_a_name_that_is_taken_is_refused(state, save, tmp_path):
    path = save(state)
    import_checkpoint(path, tmp_path / "models")

    with pytest.raises(ModelFileError, match="exists already"):
        import_checkpoint(path, tmp_path / "models")


def test_the_name_of_a_bundled_model_is_refused(state, save, tmp_path):
    with pytest.raises(ModelFileError, match=r"the name 'quickstart' is taken by .*; choose"):
        import_checkpoint(save(state), tmp_path / "models", name="quickstart")

    assert list(find_models(tmp_path / "models").specs) == ["quickstart"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_architecture_is_known_by_its_tensors_whatever_the_file_is_called(architecture):
    shapes = read_architecture(architecture).shapes
    # Virtual arrays, since the largest would take 2.5 GB.
    tensors = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}

    assert recognise(tensors).name == architecture


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


NECK = "image_encoder.neck.0.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: without(state, NECK), f"{NECK} is missing"),
        (
            lambda state: state | {NECK: torch.ones(256, 768, 1, 1)},
            rf"{NECK} has the shape \(256, 768, 1, 1\), not \(256, 320, 1, 1\)",
        ),
        (
            lambda state: state | {NECK: torch.ones(256, 320, 1, 1).int()},
            f"{NECK} holds int32",
        ),
        (
            lambda state: state | {"mask_decoder.hf_token.weight": torch.ones(1, 256)},
            "mask_decoder.hf_token.weight is not part of it",
        ),
        (
            lambda state: state | {NECK: torch.full((256, 320, 1, 1), float("nan"))},
            "not finite",
        ),
        (lambda state: {}, "is missing; .* and .* more"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_and_leaves_nothing(
    state, save, tmp_path, change, message
):
    path = save(change(state))

    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(path, tmp_path / "models")

    assert [path.name for path in tmp_path.glob("models/*")] in ([], [".lock"])


def test_what_a_killed_import_left_is_removed_by_the_next(state, save, tmp_path):
    for name in (".unfinished", ".unfinished-of-an-earlier-version"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "encoder.weights").write_bytes(b"half")

    import_checkpoint(save(state), tmp_path / "models")

    assert {path.name for path in tmp_path.glob("models/*")} == {".lock", "mobile_sam"}


def test_an_import_waits_for_another_and_leaves_it_alone(state, save, tmp_path):
    path = save(state)
    with ThreadPoolExecutor(1) as threads:
        with sole_import(tmp_path / "models") as unfinished:
            (unfinished / "encoder.weights").write_bytes(b"half")
            other = threads.submit(import_checkpoint, path, tmp_path / "models")
            # What the other one waits for.
            with (tmp_path / "models" / ".lock").open() as lock, pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (unfinished / "encoder.weights").rename(tmp_path / "kept")

        verify_model(other.result())


@pytest.mark.parametrize("end", [SystemExit, KeyboardInterrupt])
def test_an_import_that_is_ended_leaves_nothing(state, save, tmp_path, monkeypatch, end):
    def ended(*_):
        raise end

    monkeypatch.setattr(importing, "_write_weights", ended)

    with pytest.raises(end):
        import_checkpoint(save(state), tmp_path / "models")

    assert [path.name for path in tmp_path.glob("models/*")] == [".lock"]


def test_a_swapped_checkpoint_is_refused(state, save, tmp_path):
    with pytest.raises(CheckpointError, match="is a checkpoint of mobile_sam, not of sam_vit_b"):
        import_checkpoint(save(state), tmp_path / "models", official=CATALOGUE["sam_vit_b"])

    assert not (tmp_path / "models").exists()


def test_a_changed_file_is_found_by_verify(state, save, tmp_path):
    spec = import_checkpoint(save(state), tmp_path / "models")
    with (spec.folder / "decoder.weights").open("r+b") as file:
        file.seek(1000)
        file.write(b"\x01")

    with pytest.raises(ModelFileError, match=r"decoder\.weights: has changed since the import"):
        verify_model(spec)


def test_a_model_folder_says_where_it_comes_from(state, save, tmp_path):
    spec = import_checkpoint(save(state, "fine-tuned.pt"), tmp_path / "models")

    data = json.loads((spec.folder / "model.json").read_text())

    assert data["checkpoint"] == "fine-tuned.pt"
    assert data["bytes"] == {name: (spec.folder / name).stat().st_size for name in data["files"]}
    assert set(data["files"]) == {path.name for path in spec.folder.iterdir()} - {"model.json"}
    assert read_spec(spec.folder) == spec


@pytest.fixture
def earlier(state, save, tmp_path, monkeypatch):
    """A model imported by an earlier version: other graphs, and weights in another order."""

    def read_earlier(name):
        architecture = read_architecture(name)
        weights = {}
        for file, parameters in architecture.weights.items():
            weights[file], offset = [], 0
            for parameter in reversed(parameters):
                weights[file].append(replace(parameter, offset=offset))
                offset += 4 * math.prod(parameter.shape)
        places = {
            file: {item.name: {"shape": item.shape, "offset": item.offset} for item in items}
            for file, items in weights.items()
        }
        files = architecture.files | {
            "decoder.onnx": b"slow",
            "parameters.json": json.dumps(places).encode(),
        }
        return replace(architecture, files=files, weights=weights)

    with monkeypatch.context() as patch:
        patch.setattr(architectures, "read_architecture", read_earlier)
        return import_checkpoint(save(state, "mine.pt"), tmp_path / "models", name="cells")


def test_a_model_of_an_earlier_version_gets_the_graphs_of_this_one(earlier, state, save, tmp_path):
    (tmp_path / "models" / ".previous-cells").mkdir()
    assert has_other_graphs(earlier)

    update_model(earlier)

    assert not has_other_graphs(earlier)
    verify_model(earlier)
    assert read_spec(earlier.folder) == earlier
    for name, values in read_weights(earlier.folder).items():
        np.testing.assert_array_equal(values, state[name].numpy())
    anew = import_checkpoint(save(state, "mine.pt"), tmp_path / "anew", name="cells")
    for path in anew.folder.iterdir():
        assert (earlier.folder / path.name).read_bytes() == path.read_bytes()
    assert {path.name for path in tmp_path.glob("models/*")} == {".lock", "cells"}


def test_a_damaged_model_is_not_updated(earlier):
    with (earlier.folder / "decoder.weights").open("r+b") as file:
        file.write(b"\x01")

    with pytest.raises(ModelFileError, match=r"decoder\.weights: has changed since the import"):
        update_model(earlier)

    assert has_other_graphs(earlier)


def test_the_command_tells_of_other_graphs_and_updates_them(earlier, capsys):
    def run(*words):
        status = models_main(words, earlier.folder.parent)
        return status, capsys.readouterr().out

    assert run("verify") == (
        0,
        "cells: as imported, with graphs of another version; `update` brings those of this one\n",
    )
    assert run("update") == (0, "cells: updated; workers use it after their next start\n")
    assert run("update", "cells") == (0, "cells: has the graphs of this version\n")
    assert run("verify", "cells") == (0, "cells: as imported\n")


def test_a_model_that_was_not_imported_is_not_updated():
    spec = read_spec(BUNDLED / "quickstart")

    assert not has_other_graphs(spec)
    with pytest.raises(ModelFileError, match="has no digests"):
        update_model(spec)
