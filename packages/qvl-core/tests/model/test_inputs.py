"""HF-style arguments become the right flat batch, or are refused with the numbers."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mindspore", reason="the model needs mindspore")

from qvl_core.batch import IGNORE
from qvl_core.errors import DataError
from qvl_core.model import flatten_prompt
from small_models import TIED, TOKENS, Arrays, image_prompt, pad_together, text_prompt

UNIT = TIED.vision.merge_unit
WIDTH = TIED.vision.patch_dim


def mixed() -> Arrays:
    """Give one row: video, image, video, image, image; the patches of the n-th hold the number n, from 0."""
    video, image = [TOKENS.video] * 2, [TOKENS.image] * 1
    ids = [5, *video, 6, *image, *video, 7, *image, *image]
    return {
        "input_ids": np.array([ids]),
        "pixel_values": np.repeat([[1.0], [3.0], [4.0]], UNIT, axis=0) * np.ones((1, WIDTH)),
        "image_grid_thw": np.array([[1, 2, 2]] * 3),
        "pixel_values_videos": np.repeat([[0.0], [2.0]], 2 * UNIT, axis=0) * np.ones((1, WIDTH)),
        "video_grid_thw": np.array([[2, 2, 2], [1, 2, 4]]),
        "second_per_grid_ts": np.array([1.0, 1.0]),
    }


def flatten(arrays: Arrays):
    inputs = dict(arrays)
    return flatten_prompt(TIED, inputs.pop("input_ids"), **inputs)


def test_patches_come_in_the_order_of_their_tokens() -> None:
    batch = flatten(mixed()).batch
    assert batch.grids.tolist() == [[2, 2, 2], [1, 2, 2], [1, 2, 4], [1, 2, 2], [1, 2, 2]]
    counts = batch.grids.prod(axis=1)
    np.testing.assert_array_equal(batch.patches[:, 0], np.repeat([0, 1, 2, 3, 4], counts))
    assert batch.patches.dtype == np.float32


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_dropped_and_found_again(side: str) -> None:
    rows = [text_prompt(3), image_prompt(TIED), text_prompt(5)]
    prompt = flatten(pad_together(rows, side))
    lengths = tuple(row["input_ids"].shape[1] for row in rows)
    assert prompt.batch.sequence_lengths == lengths
    expected = np.concatenate([row["input_ids"][0] for row in rows])
    np.testing.assert_array_equal(prompt.batch.input_ids, expected)
    back = np.zeros(prompt.shape, np.int64).reshape(-1)
    back[prompt.kept_F] = prompt.batch.input_ids
    np.testing.assert_array_equal(back.reshape(prompt.shape), pad_together(rows, side)["input_ids"])
    assert (prompt.batch.labels == IGNORE).all()


def test_token_kinds_of_newer_processors_are_taken_and_have_to_agree() -> None:
    arrays = mixed()
    ids = arrays["input_ids"]
    kinds = (ids == TOKENS.image) + 2 * (ids == TOKENS.video)
    np.testing.assert_array_equal(
        flatten({**arrays, "mm_token_type_ids": kinds}).batch.position_ids, flatten(arrays).batch.position_ids
    )
    with pytest.raises(DataError, match="disagrees with the image and video ids in input_ids at 1 tokens"):
        flatten({**arrays, "mm_token_type_ids": np.where(np.arange(10) == 3, 1, kinds)})
    with pytest.raises(DataError, match=r"has shape \(1, 9\); input_ids has \(1, 10\)"):
        flatten({**arrays, "mm_token_type_ids": kinds[:, 1:]})


@pytest.mark.parametrize("wrong", [-1, TIED.text.vocab_size])
def test_refuses_an_id_outside_the_vocabulary_but_not_in_the_padding(wrong: int) -> None:
    ids = np.array([[wrong, TIED.text.vocab_size - 1, 0]])
    assert flatten({"input_ids": ids, "attention_mask": np.array([[0, 1, 1]])}).batch.tokens == 2
    with pytest.raises(DataError, match=f"holds {wrong}; the vocabulary of {TIED.text.vocab_size}"):
        flatten({"input_ids": ids})


def test_refuses_arrays_that_do_not_fit() -> None:
    good = mixed()
    assert flatten(good).batch.tokens == good["input_ids"].shape[1]
    cases = {
        "input_ids": ({"input_ids": np.ones(3, np.int64)}, "2 dims of integers"),
        "attention_mask": ({"attention_mask": np.ones((1, 4), np.int64)}, r"\(1, 4\); input_ids has \(1, 10\)"),
        "pixel_values": ({"pixel_values": good["pixel_values"][:-1]}, r"\(11, 96\); the 3 grids need \(12, 96\)"),
        "image_grid_thw": ({"image_grid_thw": np.ones((2, 2), np.int64)}, "time, height, width"),
        "position_ids": ({"position_ids": np.ones((3, 1, 2), np.int64)}, r"input_ids need \(3, 1, 10\)"),
    }
    for key, (change, message) in cases.items():
        with pytest.raises(DataError, match=message) as caught:
            flatten({**good, **change})
        assert caught.value.problems[0].key == key


def test_refuses_a_row_of_nothing_but_padding() -> None:
    batch = pad_together([text_prompt(3), text_prompt(3)])
    batch["attention_mask"][1] = 0
    with pytest.raises(DataError, match="a row without any token"):
        flatten(batch)


def test_refuses_an_image_cut_in_two() -> None:
    arrays = image_prompt(TIED)
    ids = arrays["input_ids"][0].tolist()
    ids.insert(5, 1)
    with pytest.raises(DataError, match="not next to each other"):
        flatten({**arrays, "input_ids": np.array([ids])})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("input_ids", [[1, 2], [3]], "rows of different lengths"),
        ("input_ids", [[1.0, 2.0]], "dims of integers"),
        ("input_ids", [1, 2], "2 dims of integers"),
        ("input_ids", np.zeros((0, 4), np.int64), "without any token"),
        ("input_ids", np.zeros((2, 0), np.int64), "without any token"),
        ("attention_mask", [[1.0, 1.0]], "dims of integers"),
        ("attention_mask", [[0, 0]], "without any token"),
        ("pixel_values", "cat.jpg", "not an array of numbers"),
        ("pixel_values", [[1.0, 2.0], [3.0]], "not an array of numbers"),
    ],
)
def test_refuses_what_is_not_an_array_of_the_right_kind(name: str, value: object, message: str) -> None:
    arrays: Arrays = {"input_ids": np.array([[1, 2]])}
    with pytest.raises(DataError, match=message) as caught:
        flatten({**arrays, name: value})
    expected = "attention_mask" if "without" in message else name
    assert [problem.key for problem in caught.value.problems] == [expected]


def test_takes_bools_and_any_integers_as_mask() -> None:
    ids = np.array([[0, 5, 6], [7, 8, 9]], np.int32)
    for mask in ([[False, True, True], [True] * 3], np.array([[0, 1, 1], [1, 1, 1]], np.int8)):
        batch = flatten({"input_ids": ids, "attention_mask": mask}).batch
        assert (batch.input_ids.tolist(), batch.sequence_lengths) == ([5, 6, 7, 8, 9], (2, 3))


def test_zeros_inside_a_row_are_left_out_as_at_its_ends() -> None:
    masked = flatten({"input_ids": np.array([[1, 99, 2, 3]]), "attention_mask": np.array([[1, 0, 1, 1]])}).batch
    plain = flatten({"input_ids": np.array([[1, 2, 3]])}).batch
    np.testing.assert_array_equal(masked.input_ids, plain.input_ids)
    np.testing.assert_array_equal(masked.position_ids, plain.position_ids)
