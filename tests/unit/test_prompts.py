import numpy as np
import pytest

from sam_inference.errors import InvalidArgumentError
from sam_inference.prompts import Prompt, check_prompt, decoder_inputs


def prompt(points=(), labels=(), box=None, mask_input=None):
    return Prompt(
        np.array(points, np.float32).reshape(-1, 2),
        np.array(labels, np.float32),
        None if box is None else np.array(box, np.float32),
        mask_input,
    )


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (prompt(), "prompts[3]"),
        (prompt([(float("nan"), 1)], [1]), "prompts[3].points[0].x"),
        (prompt([(1, 1), (2, float("inf"))], [1, 0]), "prompts[3].points[1].y"),
        (prompt([(-0.5, 1)], [1]), "prompts[3].points[0].x"),
        (prompt([(1, 20.5)], [1]), "prompts[3].points[0].y"),
        (prompt(box=(0, 0, 31, 10)), "prompts[3].box.x_max"),
        (prompt(box=(0, float("nan"), 3, 10)), "prompts[3].box.y_min"),
        (prompt(box=(5, 5, 5, 10)), "prompts[3].box"),
        (prompt(box=(5, 8, 9, 7)), "prompts[3].box"),
        (prompt(mask_input=np.zeros((1, 8, 16), np.float32)), "prompts[3].mask_input.shape"),
        (prompt(mask_input=np.full((1, 16, 16), np.nan, np.float32)), "prompts[3].mask_input.data"),
    ],
)
def test_a_prompt_that_cannot_be_decoded_is_refused_by_field(bad, field):
    with pytest.raises(InvalidArgumentError) as refusal:
        check_prompt(bad, "prompts[3]", original_size=(20, 30), mask_size=16)

    assert refusal.value.field == field


def test_the_edges_of_the_image_belong_to_it():
    corners = prompt([(0, 0), (30, 20)], [1, 0], box=(0, 0, 30, 20))

    check_prompt(corners, "prompts[0]", original_size=(20, 30), mask_size=16)


def test_without_a_box_a_padding_point_is_appended():
    inputs = decoder_inputs(
        prompt([(15, 10), (30, 20)], [1, 0]),
        original_size=(20, 30),
        input_size=(40, 60),
        mask_size=16,
    )

    assert inputs.point_coords.tolist() == [[[30, 20], [60, 40], [0, 0]]]
    assert inputs.point_labels.tolist() == [[1, 0, -1]]
    assert inputs.mask_input.shape == (1, 1, 16, 16)
    assert inputs.has_mask_input.tolist() == [0]


def test_a_box_becomes_two_labelled_corners_after_the_points():
    inputs = decoder_inputs(
        prompt([(3, 4)], [1], box=(1, 2, 5, 6), mask_input=np.ones((1, 16, 16), np.float32)),
        original_size=(20, 30),
        input_size=(20, 30),
        mask_size=16,
    )

    assert inputs.point_coords.tolist() == [[[3, 4], [1, 2], [5, 6]]]
    assert inputs.point_labels.tolist() == [[1, 2, 3]]
    assert inputs.mask_input.min() == 1
    assert inputs.has_mask_input.tolist() == [1]
