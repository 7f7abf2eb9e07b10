"""Negative clicks of a page that was opened anew."""

import pytest

from gateway_support import click, key_point, region_mask
from sam_gateway.negative_clicks import NegativeClicks

UPLOAD = "/data/upload/1/18d1a805-a.jpg"
SIZE = (1024, 683)


def dot(name, x, **changes):
    return key_point(x, 50, size=SIZE, id=name, **changes)


def loaded(prompt):
    """A prompt as Label Studio sends it when it has saved and loaded it."""
    return {key: value for key, value in prompt.items() if key != "is_positive"}


async def test_a_click_stays_negative_when_the_page_is_opened_anew(gateway):
    prompts = [dot("a", 30), dot("b", 40, is_positive=False)]
    again = [loaded(prompt) for prompt in prompts]

    unknown = await answer(gateway, again)
    before = await answer(gateway, prompts)
    after = await answer(gateway, again)

    assert (region_mask(after) == region_mask(before)).all()
    assert (region_mask(after) != region_mask(unknown)).any()


async def answer(gateway, prompts):
    answered = await gateway.post("/predict", json=click(UPLOAD, *prompts))
    [region] = (await answered.json())["results"][0]["result"]
    return region


def test_what_is_said_counts():
    clicks = NegativeClicks()
    clicks.recall([dot("a", 30, is_positive=False)])

    assert clicks.recall([dot("a", 30)]) == [dot("a", 30)]


def test_the_last_ones_are_remembered(monkeypatch):
    monkeypatch.setattr("sam_gateway.negative_clicks._MAX_REMEMBERED", 2)
    clicks = NegativeClicks()
    clicks.recall([dot(name, 30, is_positive=False) for name in "abac"])

    again = [loaded(dot(name, 30)) for name in "abc"]

    assert [prompt.get("is_positive") for prompt in clicks.recall(again)] == [False, None, False]


@pytest.mark.parametrize("prompt", [None, "a", {}, {"id": None}, {"id": ["a"]}, {"id": "a" * 101}])
def test_what_cannot_be_known_is_left_as_it_is(prompt):
    clicks = NegativeClicks()
    if isinstance(prompt, dict):
        clicks.recall([{**prompt, "is_positive": False}])

    assert clicks.recall([prompt]) == [prompt]
