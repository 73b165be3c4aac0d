"""Rules between the keys of [data], each with its neighbour that passes."""

from __future__ import annotations

from pathlib import Path

import pytest
from qvl_core import load_recipe
from qvl_core.errors import RecipeError
from qvl_core.recipe import Recipe

ROOT = Path(__file__).parents[4]
OWN_FILE = 'data.validation={path="val.jsonl"}'


def load(*settings: str) -> Recipe:
    return load_recipe(str(ROOT / "recipes/tiny_sft.toml"), settings)


@pytest.mark.parametrize(
    ("settings", "key", "message"),
    [
        (("data.video.min_frames=9", "data.video.max_frames=8"), "data.video.min_frames", "is 9, more than max_frames"),
        (
            ("data.streaming=true", "data.too_long=drop", "data.validation={fraction=0.1}"),
            "data.validation.fraction",
            "nobody knows how many samples",
        ),
        (
            ("data.streaming=true", "data.too_long=drop", "data.packing=true", "train.steps=", "train.epochs=2"),
            "train.epochs",
            "how many packs streamed data make",
        ),
    ],
)
def test_refuses(settings: tuple[str, ...], key: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(*settings)
    (problem,) = caught.value.problems
    assert problem.key == key
    assert message in problem.message
    assert problem.fix


@pytest.mark.parametrize(
    "settings",
    [
        ("data.video.min_frames=8", "data.video.max_frames=8"),
        ("data.streaming=true", "data.too_long=drop", OWN_FILE),
        ("data.validation={fraction=0.1}",),
        ("data.streaming=true", "data.too_long=drop", "train.steps=", "train.epochs=2"),
        ("data.packing=true", "train.steps=", "train.epochs=2"),
        ("data.streaming=true", "data.too_long=drop", "data.packing=true"),
    ],
)
def test_accepts(settings: tuple[str, ...]) -> None:
    assert load(*settings).warnings == ()


def test_warns_of_a_video_that_may_take_longer_than_its_sample() -> None:
    (warning,) = load("data.video.timeout_s=60.0", "data.sample_timeout_s=60.0").warnings
    assert warning.key == "data.sample_timeout_s"
    assert warning.fix == "sample_timeout_s = 600"
    assert load("data.video.timeout_s=60.0", "data.sample_timeout_s=61.0").warnings == ()


def test_says_that_a_stream_is_not_checked_before_the_run() -> None:
    (warning,) = load("data.streaming=true", "data.too_long=error").warnings
    assert warning.key == "data.too_long"
    assert "stops at the first such sample" in warning.message
