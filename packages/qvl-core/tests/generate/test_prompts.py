"""Prompts are joined, taken apart, and continued where their rule says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

pytest.importorskip("mindspore", reason="the model needs mindspore")

from qvl_core.generate.prompts import join_prompts, next_positions, split_prompts
from qvl_core.model import flatten_prompt
from small_models import TIED, TOKENS, image_prompt, pad_together, text_prompt

UNIT = TIED.vision.merge_unit
WIDTH = TIED.vision.patch_dim


def test_prompts_are_split_from_a_padded_batch_and_joined_again() -> None:
    arrays = pad_together([image_prompt(TIED), text_prompt(6), image_prompt(TIED, 2, 5, text=1, seed=3)])
    batch = flatten_prompt(TIED, **arrays).batch
    parts = split_prompts(batch, TIED)
    assert [len(part.grids) for part in parts] == [1, 0, 1]
    joined = join_prompts(parts)
    for name in ("input_ids", "position_ids", "labels", "patches", "grids"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(batch, name))
    assert joined.sequence_lengths == batch.sequence_lengths


def test_an_answer_continues_after_the_largest_position_of_its_prompt() -> None:
    # Text: 0, 1, 2. Image: 3 tokens of text, the image spans max(4, 3) positions, then vision end and 5 of text.
    for arrays, following in ((text_prompt(3), 3), (image_prompt(TIED, 4, 3, text=5), 3 + 4 + 6)):
        assert next_positions(flatten_prompt(TIED, **arrays).batch, "paper").tolist() == [following] * 3


def test_an_answer_continues_where_the_rule_of_the_checkpoint_puts_the_next_token() -> None:
    # One token of text, 2 slices of 1 x 1 units 2 * 5.0 = 10 positions apart (the last one at 11), two of text.
    arrays = {
        "input_ids": np.array([[5, TOKENS.video, TOKENS.video, 6, 7]]),
        "pixel_values_videos": np.zeros((2 * UNIT, WIDTH)),
        "video_grid_thw": np.array([[2, 2, 2]]),
        "second_per_grid_ts": np.array([5.0]),
    }
    for rule, text, following in (("paper", [12, 13], 14), ("transformers5", [2, 3], 4)):
        batch = flatten_prompt(dataclasses.replace(TIED, position_rule=rule), **arrays).batch
        assert batch.position_ids[:, 3:].tolist() == [text] * 3
        assert next_positions(batch, rule).tolist() == [following] * 3
