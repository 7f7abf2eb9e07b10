"""Photos are read as the worker reads them, and drawn on where the mask and the prompt are."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from sam_client import Prompt
from sam_client.overlay import draw_overlay, upright_rgb
from support import IMAGES

EXPECTED = json.loads((IMAGES / "expected.json").read_text())


@pytest.mark.parametrize("name", [name for name, image in EXPECTED.items() if image["accept"]])
def test_photo_is_read_upright_with_its_colours(name):
    image = upright_rgb((IMAGES / name).read_bytes())

    assert (image.mode, image.width, image.height) == (
        "RGB",
        EXPECTED[name]["width"],
        EXPECTED[name]["height"],
    )
    if EXPECTED[name]["mean_rgb"] is not None:
        means = np.asarray(image).mean(axis=(0, 1))
        assert means == pytest.approx(EXPECTED[name]["mean_rgb"], abs=3)


def test_overlay_changes_the_mask_and_the_prompt_alone():
    grey = Image.new("RGB", (80, 60), (128, 128, 128))
    mask = np.zeros((60, 80), bool)
    mask[10:20, 30:60] = True

    drawn = np.asarray(draw_overlay(grey, [mask], Prompt([(8, 50)], [0])))

    changed = (drawn != 128).any(axis=2)
    disc = changed & ~mask
    assert changed[mask].all()
    rows, columns = disc.nonzero()
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (46, 54, 4, 12)
    red, green, blue = drawn[50, 8].astype(int)
    assert red > green
    assert red > blue
    assert (drawn[10, 30] != drawn[15, 45]).any(), "the outline is stronger than the fill"
    assert np.asarray(grey).min() == 128


def test_overlay_draws_each_candidate_in_its_own_colour_and_the_best_on_top():
    grey = Image.new("RGB", (40, 20), (128, 128, 128))
    left, right = np.zeros((2, 20, 40), bool)
    left[:, :25] = True
    right[:, 15:] = True
    prompt = Prompt(box=(0, 0, 39, 19))

    both = np.asarray(draw_overlay(grey, [left, right], prompt))

    assert (both[10, 8] != both[10, 32]).any()
    towards_left = np.abs(both[10, 20].astype(int) - both[10, 8]).sum()
    towards_right = np.abs(both[10, 20].astype(int) - both[10, 32]).sum()
    assert towards_left < towards_right
