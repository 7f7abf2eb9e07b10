"""The `sam` command as a user runs it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from sam_client import SamClient, SamError
from sam_client.__main__ import main
from sam_client.private_worker import private_worker
from support import IMAGES

TURNED = str(IMAGES / "awkward/exif_orientation_6.jpg")  # stored 600x900, upright 900x600


def read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture(autouse=True)
def no_server_named(monkeypatch):
    monkeypatch.delenv("SAM_SERVER", raising=False)


def test_segment_writes_the_photo_upright_with_its_mask(worker_target, tmp_path, capsys):
    overlay, mask_file = tmp_path / "overlay.png", tmp_path / "mask.png"
    arguments = ["segment", TURNED, "--point", "450,320", "--server", worker_target]

    assert main([*arguments, "-o", str(overlay), "--mask", str(mask_file)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert main([*arguments, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)

    (mask,) = answer["masks"]
    pixels = read(mask_file)
    assert pixels.shape == (600, 900) == tuple(mask["segmentation"]["size"])
    assert (pixels == coco.decode(mask["segmentation"]).astype(bool)).all()
    assert pixels.sum() == mask["area"]
    assert (answer["width"], answer["height"]) == (900, 600)
    box = ",".join(map(str, mask["box"]))
    assert line == (
        f"mask {mask['mask_index']}: predicted IoU {mask['predicted_iou']:.3f}, "
        f"stability {mask['stability_score']:.3f}, area {mask['area']} pixels, box {box}"
    )
    assert read(overlay).shape == (600, 900, 3)


def test_segment_prints_each_candidate(worker_target, monkeypatch, capsys):
    monkeypatch.setenv("SAM_SERVER", worker_target)
    points = ["--point", "450,320", "--point", "300,300", "--negative-point", "10,10"]

    assert main(["segment", TURNED, *points, "--box", "100,100,800,500", "--multimask"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split(":")[0] for line in lines) == ["mask 0", "mask 1", "mask 2"]


def test_models_prints_a_table(worker_target, capsys):
    assert main(["models", "--server", worker_target]) == 0

    heading, default, *_ = capsys.readouterr().out.splitlines()
    assert heading.split() == ["MODEL", "TITLE", "ENGINE", "DEVICE", "PRECISION", "LICENCE"]
    assert default.startswith("*  quickstart")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "the following arguments are required"),
        (["segment", TURNED], "say what to cut out"),
        (["segment", TURNED, "--point", "5"], "expected numbers X,Y, got '5'"),
        (["segment", TURNED, "--box", "5,5,a,9"], "expected numbers X0,Y0,X1,Y1"),
        (["segment", TURNED, "--box", "5,5,1,9"], "box: expected x_min < x_max"),
        (["segment", TURNED, "--point", "nan,1"], "point_coords: expected finite numbers"),
        (["segment", TURNED, "-o", "x"], "-o/--overlay: expected the name of an image"),
        (["segment", TURNED, "--mask", "mask.nonesuch"], "--mask: expected the name of an image"),
        (["segment", TURNED, "--mask", "nowhere/x.png"], "--mask: there is no folder 'nowhere'"),
    ],
)
def test_wrong_usage_exits_with_2(arguments, reason, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)

    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.startswith(" ".join(["usage: sam", *arguments[:1]]))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nofile.jpg", "--point", "1,1"], "nofile.jpg: No such file or directory"),
        ([str(IMAGES / "awkward/login_page.jpg"), "--point", "1,1"], "image: "),
        ([TURNED, "--point", "901,1"], "prompts[0].points[0].x: "),
        ([TURNED, "--point", "1,1", "--model", "nonesuch"], "no model named 'nonesuch'"),
        ([TURNED, "--point", "1,1", "--server", "unix:/nobody"], "`sam-worker` starts a worker"),
    ],
)
def test_failure_exits_with_1_and_one_line(
    worker_target, arguments, reason, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAM_SERVER", worker_target)

    assert main(["segment", *arguments]) == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sam: ")
    assert reason in line


def test_photo_over_the_largest_message_is_refused_with_the_setting_to_raise(
    worker_target, tmp_path, capsys
):
    photo = tmp_path / "photo.tiff"
    with photo.open("wb") as file:
        file.truncate(65 * 1024 * 1024)

    assert main(["segment", str(photo), "--point", "1,1", "--server", worker_target]) == 1

    assert capsys.readouterr().err.endswith(": raise MAX_MESSAGE_MIB of the worker\n")


def test_command_runs_without_any_server_named(tmp_path):
    overlay = tmp_path / "overlay.png"
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "sam_client",
            "segment",
            TURNED,
            "--point",
            "450,320",
            "-o",
            overlay,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("mask 0: ")
    assert read(overlay).shape == (600, 900, 3)


def test_installation_without_a_worker_says_so(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "grpc_health", None)  # as if it were not installed
    with socket.socket() as port:  # nobody listens there
        port.bind(("127.0.0.1", 0))
        monkeypatch.setattr("sam_client.__main__._DEFAULT_PORT", port.getsockname()[1])

        assert main(["models"]) == 1

    reason = capsys.readouterr().err
    assert "no worker listens at 127.0.0.1:" in reason
    assert "pip install 'samserve[worker]'" in reason


def test_private_worker_serves_and_is_gone_afterwards():
    with private_worker() as target:
        socket = Path(target.removeprefix("unix:"))
        with SamClient(target) as client:
            assert client.list_models().default_model == "quickstart"
        assert socket.exists()

    assert not socket.parent.exists()


def test_private_worker_that_cannot_start_says_why(monkeypatch):
    monkeypatch.setitem(os.environ, "SAM_MODEL", "nonesuch")

    with (
        pytest.raises(SamError, match=r"did not start: .*no model named 'nonesuch'"),
        private_worker(),
    ):
        pass
