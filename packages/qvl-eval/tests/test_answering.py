"""From prompts to model input, and from new tokens to answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from qvl_core.recipe.sections import GenerationSection
from qvl_data.samples import Sample
from qvl_eval.answering import Answer, Answerer, pad_left
from qvl_eval.answers.model import generation_options

STOP, PAD = 9, 8


def prompt(*ids: int, images: int = 0) -> Sample:
    return Sample(
        sample_id="prompt",
        input_ids=np.array(ids, np.int32),
        labels=np.full(len(ids), -100, np.int32),
        patches=np.full((4 * images, 3), ids[0], np.float32),
        grids=np.tile(np.array([[1, 2, 2]], np.int32), (images, 1)),
        seconds_per_grid=np.zeros(images),
    )


class FakeChat:
    """Decodes an id to its number."""

    def decode(self, ids: Any) -> str:
        return " ".join(str(index) for index in ids)


class FakeProcessor:
    chat = FakeChat()


class FakeModel:
    """Gives the new tokens that it was made with, and keeps the arguments of the call."""

    def __init__(self, *new_ids: list[int]) -> None:
        self.new_ids = new_ids
        self.arguments: dict[str, Any] = {}

    def generate(self, input_ids: Any, **options: Any) -> Any:
        self.arguments = options
        return np.concatenate([input_ids, np.array(self.new_ids)], axis=1)


def answerer(model: FakeModel) -> Answerer:
    options = {"max_new_tokens": 3}
    return Answerer(model=model, processor=FakeProcessor(), options=options, stop_ids=(STOP,), pad_id=PAD)  # type: ignore[arg-type]


def test_pads_on_the_left_and_masks_the_padding() -> None:
    inputs = pad_left([prompt(1, 2, 3), prompt(4)], pad_id=PAD)
    assert inputs["input_ids"].tolist() == [[1, 2, 3], [PAD, PAD, 4]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert set(inputs) == {"input_ids", "attention_mask"}


def test_joins_pictures_in_the_order_of_the_prompts() -> None:
    inputs = pad_left([prompt(1, images=2), prompt(2), prompt(3, images=1)], pad_id=PAD)
    assert inputs["image_grid_thw"].shape == (3, 3)
    assert inputs["pixel_values"][:, 0].tolist() == [1] * 8 + [3] * 4


def test_an_answer_ends_at_its_stop_token_and_padding_is_not_part_of_it() -> None:
    model = FakeModel([5, 6, STOP], [7, STOP, PAD], [STOP, PAD, PAD], [1, 2, 3])
    answers = answerer(model).answer([prompt(1)] * 4)
    assert answers == [
        Answer(text="5 6", new_tokens=3),
        Answer(text="7", new_tokens=2),
        Answer(text="", new_tokens=1),
        Answer(text="1 2 3", new_tokens=3),
    ]
    assert model.arguments["max_new_tokens"] == 3


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_temperature_zero_is_greedy_and_carries_no_sampling_settings(temperature: float) -> None:
    options = generation_options(GenerationSection(temperature=temperature, top_k=20, top_p=0.8))
    assert options["do_sample"] is (temperature > 0)
    assert ("top_k" in options) is (temperature > 0)
