"""Prompts are checked before anything is sent."""

from __future__ import annotations

import re

import numpy as np
import pytest

from sam_client import Prompt

LOGITS = np.zeros((1, 4, 4), np.float32)


def test_prompt_keeps_float32_copies_that_cannot_be_changed():
    coords = np.array([[1.5, 2.5], [3, 4]])
    logits = LOGITS.copy()

    prompt = Prompt(coords, [1, 0], box=(0, 1, 2.5, 3), mask_input=logits)
    coords[:] = -1
    logits[:] = -1

    assert prompt.point_coords.tolist() == [[1.5, 2.5], [3, 4]]
    assert prompt.point_coords.dtype == np.float32
    assert prompt.point_labels.tolist() == [1, 0]
    assert prompt.box == (0, 1, 2.5, 3)
    assert prompt.mask_input is not None
    assert not prompt.mask_input.any()
    for array in (prompt.point_coords, prompt.point_labels, prompt.mask_input):
        assert not array.flags.writeable


def test_points_without_labels_are_on_the_object():
    assert Prompt([(1, 2), (3, 4)]).point_labels.tolist() == [1, 1]
    assert Prompt(box=(0, 0, 1, 1)).point_coords.shape == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "point_coords: a prompt needs points, a box or a mask_input"),
        ({"point_coords": [1, 2]}, "point_coords: expected shape (N, 2), got (2,)"),
        ({"point_coords": [[1, 2, 3]]}, "point_coords: expected shape (N, 2), got (1, 3)"),
        ({"point_coords": [[1, 2], [3]]}, "point_coords: expected numbers of shape (N, 2)"),
        ({"point_coords": [["a", "b"]]}, "point_coords: expected numbers of shape (N, 2)"),
        ({"point_coords": [[np.nan, 1]]}, "point_coords: expected finite numbers"),
        ({"point_coords": [[1e39, 1]]}, "point_coords: expected finite numbers"),
        ({"point_coords": [[1, 2]], "point_labels": [1, 0]}, "point_labels: expected shape (1,)"),
        ({"point_coords": [[1, 2]], "point_labels": 1}, "point_labels: expected shape (1,)"),
        ({"point_labels": [1]}, "point_labels: expected shape (0,)"),
        ({"point_coords": [[1, 2]], "point_labels": [2]}, "point_labels: expected 1 (on the"),
        ({"box": (1, 2, 3)}, "box: expected four numbers"),
        ({"box": (0, 0, np.inf, 1)}, "box: expected finite numbers"),
        ({"box": (5, 0, 5, 9)}, "box: expected x_min < x_max and y_min < y_max"),
        ({"box": (0, 9, 5, 9)}, "box: expected x_min < x_max and y_min < y_max"),
        ({"mask_input": np.zeros((4, 4))}, "mask_input: expected low-res logits of shape"),
        ({"mask_input": np.zeros((1, 4, 5))}, "mask_input: expected low-res logits of shape"),
        ({"mask_input": LOGITS + np.nan}, "mask_input: expected finite numbers"),
    ],
)
def test_prompt_refuses_what_cannot_be_one(arguments, message):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        Prompt(**arguments)
