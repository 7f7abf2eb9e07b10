"""A folder that is not as it should be is told of, and stands in the way of no other."""

import json
import os
import shutil

import pytest

from sam_inference.models import BUNDLED, ModelFileError, find_models
from sam_inference.models.command import models_main

_DECODER_BYTES = (BUNDLED / "quickstart" / "decoder.onnx").stat().st_size
ANEW = "remove the folder, and pull or import the model again"


@pytest.fixture
def add_model(tmp_path):
    """Add a model folder, a copy of the bundled one under another name."""

    def add_model(folder, **changes):
        path = tmp_path / folder
        shutil.copytree(BUNDLED / "quickstart", path)
        spec = json.loads((path / "model.json").read_text()) | {"name": folder} | changes
        (path / "model.json").write_text(json.dumps(spec))
        return path

    return add_model


def without_graph(folder):
    (folder / "decoder.onnx").unlink()


def without_weights(folder):
    spec = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(spec | {"files": {"encoder.weights": "00"}}))


def with_a_file_cut_off(folder):
    path = folder / "decoder.onnx"
    sizes = {path.name: path.stat().st_size}
    path.write_bytes(path.read_bytes()[:-1])
    spec = json.loads((folder / "model.json").read_text()) | {"bytes": sizes}
    (folder / "model.json").write_text(json.dumps(spec))


def with_a_spec_of(content):
    return lambda folder: (folder / "model.json").write_bytes(content)


def with_a_folder_as_spec(folder):
    (folder / "model.json").unlink()
    (folder / "model.json").mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_graph, f"broken/decoder.onnx: no such file; {ANEW}"),
        (without_weights, f"broken/encoder.weights: no such file; {ANEW}"),
        (with_a_file_cut_off, f" bytes instead of {_DECODER_BYTES}; {ANEW}"),
        (with_a_spec_of(b"{"), ANEW),
        (with_a_spec_of(b"[]"), ANEW),
        (with_a_spec_of(b"\xff"), ANEW),
        (with_a_spec_of(b"{}"), f"broken/model.json: the field 'pixel_mean' is missing; {ANEW}"),
        (with_a_folder_as_spec, "broken/model.json: Is a directory"),
    ],
)
def test_a_broken_folder_is_told_of_and_the_others_are_found(
    add_model, tmp_path, damage, message, capsys
):
    add_model("sound")
    damage(add_model("broken"))

    found = find_models(tmp_path)

    assert list(found.specs) == ["quickstart", "sound"]
    assert list(found.problems) == [tmp_path / "broken"]
    with pytest.raises(ModelFileError) as error:
        found.spec("broken")
    assert str(error.value).startswith(str(tmp_path / "broken"))
    assert message in str(error.value)

    assert models_main(["path", "sound"], tmp_path) == 0
    assert models_main(["list"], tmp_path) == 0
    listed = capsys.readouterr()
    assert "sound " in listed.out
    assert message in listed.err


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to this user")
def test_a_folder_that_cannot_be_read_is_told_of(add_model, tmp_path):
    folder = add_model("private")
    folder.chmod(0)

    problem = find_models(tmp_path).problems[folder]

    folder.chmod(0o755)
    assert str(problem) == f"{folder}/model.json: Permission denied"


def test_what_is_no_model_is_passed_over(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "lost").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "model.json").write_text("{")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")

    found = find_models(tmp_path)

    assert list(found.specs) == ["quickstart"]
    assert not found.problems


def test_of_two_models_with_a_name_that_of_such_a_folder_is_found_and_the_bundled_before_all(
    add_model, tmp_path
):
    add_model("quickstart")
    add_model("cells")
    add_model("a copy", name="cells")
    add_model("copy", name="cells")

    found = find_models(tmp_path)

    assert found.spec("quickstart").folder == BUNDLED / "quickstart"
    assert found.spec("cells").folder == tmp_path / "cells"
    assert "the name 'quickstart' is taken by" in str(found.problems[tmp_path / "quickstart"])
    for copy in ("a copy", "copy"):
        assert str(found.problems[tmp_path / copy]).endswith(
            f"the name 'cells' is taken by {tmp_path / 'cells'}; write another into its model.json"
        )


def test_a_model_folder_that_is_not_there_yet_is_empty(tmp_path):
    found = find_models(tmp_path / "models")

    assert list(found.specs) == ["quickstart"]
    assert not found.problems


def test_a_file_as_model_dir_is_told_of(tmp_path):
    path = tmp_path / "file"
    path.touch()

    found = find_models(path)

    assert list(found.specs) == ["quickstart"]
    with pytest.raises(ModelFileError, match=f"MODEL_DIR: {path}: Not a directory"):
        found.spec("cells")


def test_a_name_that_is_not_there_is_answered_with_those_that_could_be_meant(add_model, tmp_path):
    add_model("mine")

    with pytest.raises(ModelFileError) as error:
        find_models(tmp_path).spec("mobilesam")

    assert str(error.value) == (
        "no model named 'mobilesam'; there are: quickstart, mine; can be pulled: "
        f"mobile_sam, sam_vit_b, sam_vit_l, sam_vit_h (MODEL_DIR is {tmp_path})"
    )
