"""M-RoPE positions: golden vectors, the rule by hand, packing, padding, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qvl_core.geometry import (
    GeometryError,
    mrope_positions,
    next_positions,
    packed_positions,
    rope_delta,
    sample_positions,
)
from qvl_core.specs.model_spec import ModelSpec, TextSpec, TokenIds, VisionSpec

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text(encoding="utf-8"))
START, END, IMAGE, VIDEO, TEXT = 1, 2, 3, 4, 10


def make_spec(merge: int = 2, rate: float = 2.0) -> ModelSpec:
    text = {"num_layers": 1, "hidden_size": 32, "intermediate_size": 1, "num_heads": 2, "num_kv_heads": 1}
    vision = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 1, "out_hidden_size": 32}
    return ModelSpec(
        name="cases",
        vision=VisionSpec(**vision, spatial_merge_size=merge, tokens_per_second=rate),
        text=TextSpec(**text, vocab_size=100, tie_word_embeddings=True, head_dim=16),
        tokens=TokenIds(vision_start=START, vision_end=END, image=IMAGE, video=VIDEO),
    )


SPEC = make_spec()
Media = tuple[int, int, int, int, float]  # kind, t, h, w, seconds
MEDIA = st.tuples(
    st.sampled_from([IMAGE, VIDEO]), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.floats(0, 5)
)
ROW = st.lists(st.one_of(MEDIA, st.integers(0, 4)), max_size=6)


def build(row: list[Media | int]) -> tuple[np.ndarray, list[list[int]], list[float], list[int]]:
    """Give ids, grids, seconds and kinds of a row of media and text lengths."""
    ids, grids, seconds, kinds = [], [], [], []
    for part in row:
        if isinstance(part, int):
            ids += [TEXT] * part
            continue
        kind, slices, rows, columns, second = part
        slices = slices if kind == VIDEO else 1
        ids += [kind] * (slices * rows * columns)
        grids.append([slices, rows * 2, columns * 2])
        seconds.append(second)
        kinds.append(kind)
    return np.array(ids, np.int32), grids, seconds, kinds


@pytest.mark.parametrize("rule", ["paper", "transformers5"])
def test_positions_equal_the_golden_vectors(rule: str) -> None:
    for case in VECTORS["positions"]:
        positions, deltas = mrope_positions(
            np.array(case["input_ids"]),
            np.array(case["mask"]),
            case["images"],
            case["videos"],
            case["seconds"],
            make_spec(case["merge"], case["rate"]),
            rule=rule,
        )
        np.testing.assert_array_equal(positions, case[rule])
        assert rule != "paper" or deltas.tolist() == case["deltas"]


def test_an_image_stands_still_in_time_and_text_goes_on_after_its_longest_side() -> None:
    ids = [TEXT, START, *[IMAGE] * 6, END, TEXT]
    positions = sample_positions(np.array(ids), [[1, 4, 6]], None, SPEC)
    assert positions.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6],
    ]
    assert rope_delta(positions) == 7 - 10


@pytest.mark.parametrize(
    ("frames_per_second", "times"), [(1, [0, 4, 8]), (2, [0, 2, 4]), (4, [0, 1, 2]), (3, [0, 1, 2]), (8, [0, 0, 1])]
)
def test_video_times_stay_in_float_until_the_last_step(frames_per_second: float, times: list[int]) -> None:
    seconds = [2 / frames_per_second]
    positions = sample_positions(np.array([VIDEO] * 3 + [TEXT]), [[3, 2, 2]], seconds, SPEC)
    assert positions[0, :3].tolist() == times
    assert positions[:, 3].tolist() == [times[-1] + 1] * 3


def test_the_two_rules_part_only_after_a_video_longer_than_its_sides() -> None:
    ids = np.array([VIDEO] * 3 + [TEXT])
    both = [sample_positions(ids, [[3, 2, 2]], [1.0], SPEC, rule=rule) for rule in ("paper", "transformers5")]
    assert [positions[0].tolist() for positions in both] == [[0, 2, 4, 5], [0, 2, 4, 1]]


def test_adjacent_images_need_no_text_between_them() -> None:
    positions = sample_positions(np.array([IMAGE] * 5), [[1, 4, 4], [1, 2, 2]], None, SPEC)
    assert positions[1].tolist() == [0, 0, 1, 1, 2]


@settings(deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=4))
def test_packed_positions_equal_separate_ones(rows: list[list[Media | int]]) -> None:
    built = [build(row) for row in rows]
    separate = [sample_positions(ids, grids, seconds, SPEC) for ids, grids, seconds, _ in built]
    packed = packed_positions(
        np.concatenate([ids for ids, *_ in built]),
        [len(ids) for ids, *_ in built],
        [grid for _, grids, *_ in built for grid in grids],
        [second for _, _, seconds, _ in built for second in seconds],
        SPEC,
    )
    np.testing.assert_array_equal(packed, np.concatenate(separate, axis=1))


@settings(deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=4), left=st.booleans(), extra=st.integers(0, 3))
def test_padded_positions_equal_separate_ones(rows: list[list[Media | int]], left: bool, extra: int) -> None:
    built = [build(row) for row in rows]
    longest = max(len(ids) for ids, *_ in built) + extra
    input_ids = np.zeros((len(rows), longest), np.int32)
    mask = np.zeros((len(rows), longest), np.int32)
    for index, (ids, *_) in enumerate(built):
        place = slice(longest - len(ids), longest) if left else slice(0, len(ids))
        input_ids[index, place], mask[index, place] = ids, 1
    of_kind = {
        kind: [
            (g, s)
            for _, grids, seconds, kinds in built
            for g, s, k in zip(grids, seconds, kinds, strict=True)
            if k == kind
        ]
        for kind in (IMAGE, VIDEO)
    }
    images, videos = ([grid for grid, _ in of_kind[kind]] for kind in (IMAGE, VIDEO))
    positions, deltas = mrope_positions(input_ids, mask, images, videos, [s for _, s in of_kind[VIDEO]], SPEC)
    for index, (ids, grids, seconds, _) in enumerate(built):
        expected = sample_positions(ids, grids, seconds, SPEC)
        np.testing.assert_array_equal(positions[:, index, mask[index] == 1], expected)
        assert deltas[index] == rope_delta(expected)
    assert (positions[:, mask == 0] == 1).all()


def test_the_delta_gives_the_position_of_the_next_token() -> None:
    ids = np.array([[0, 0, TEXT, IMAGE, IMAGE], [TEXT] * 5])
    mask = np.array([[0, 0, 1, 1, 1], [1] * 5])
    positions, deltas = mrope_positions(ids, mask, [[1, 2, 4]], None, None, SPEC)
    assert positions[0, 0].tolist() == [1, 1, 0, 1, 1]
    assert next_positions(mask.sum(axis=1), deltas).tolist() == [[3, 5]] * 3


def test_without_a_mask_every_token_is_real_and_ids_may_be_any_integer() -> None:
    positions, deltas = mrope_positions(np.full((2, 3), TEXT, np.uint16), None, None, None, None, SPEC)
    assert positions.tolist() == [[[0, 1, 2]] * 2] * 3
    assert deltas.tolist() == [0, 0]
    assert positions.dtype == deltas.dtype == np.int32


def test_a_placeholder_in_the_padding_is_no_placeholder() -> None:
    ids, mask = np.array([[IMAGE, TEXT]]), np.array([[0, 1]])
    assert mrope_positions(ids, mask, None, None, None, SPEC)[0][0].tolist() == [[1, 0]]


def test_refuses_a_wrong_count_of_placeholders_and_names_the_sample() -> None:
    sample_positions(np.array([IMAGE] * 4), [[1, 4, 4]], None, SPEC, sample_id="dog-7")
    with pytest.raises(GeometryError, match=r"sample dog-7: 3 image and video placeholder tokens, .* 1 grids need 4"):
        sample_positions(np.array([IMAGE] * 3), [[1, 4, 4]], None, SPEC, sample_id="dog-7")
    with pytest.raises(GeometryError, match=r"sample dog-7: 1 image and video placeholder tokens, .* 0 grids need 0"):
        sample_positions(np.array([VIDEO]), [], None, SPEC, sample_id="dog-7")


def test_refuses_placeholders_that_are_right_in_sum_but_not_in_each_sample() -> None:
    ids = np.array([[IMAGE] * 4 + [TEXT], [IMAGE] * 2 + [TEXT] * 3])
    mrope_positions(ids, None, [[1, 4, 4], [1, 2, 4]], None, None, SPEC)
    with pytest.raises(GeometryError, match=r"sample a: 2 image placeholder tokens from token 2 .* needs 4"):
        mrope_positions(ids, None, [[1, 2, 4], [1, 4, 4]], None, None, SPEC, sample_ids=["a", "b"])


def test_refuses_a_grid_split_by_text() -> None:
    ids = np.array([IMAGE, IMAGE, TEXT, IMAGE, IMAGE])
    with pytest.raises(GeometryError, match=r"2 image placeholder tokens from token 0 on, .* needs 4"):
        sample_positions(ids, [[1, 4, 4]], None, SPEC)


def test_refuses_seconds_that_do_not_fit() -> None:
    ids = np.array([VIDEO] * 2)
    sample_positions(ids, [[2, 2, 2]], [0.0], SPEC)
    with pytest.raises(GeometryError, match="2 seconds per grid for 1 grids"):
        sample_positions(ids, [[2, 2, 2]], [1.0, 1.0], SPEC)
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(GeometryError, match="finite"):
            sample_positions(ids, [[2, 2, 2]], [wrong], SPEC)
    with pytest.raises(GeometryError, match="16777216"):
        sample_positions(ids, [[2, 2, 2]], [1e9], SPEC)


def test_refuses_lengths_that_do_not_add_up() -> None:
    with pytest.raises(GeometryError, match="add up to 4; there are 5 tokens"):
        packed_positions(np.full(5, TEXT), [2, 2], [], None, SPEC)
    with pytest.raises(GeometryError, match="1 sample ids for 2 samples"):
        packed_positions(np.full(5, TEXT), [2, 3], [], None, SPEC, sample_ids=["a"])


def test_slices_of_a_variable_video_lie_at_their_own_times() -> None:
    ids = np.array([VIDEO] * 4 + [TEXT])
    found = sample_positions(ids, [[4, 2, 2]], [1.0], SPEC, slice_seconds=[[0.0, 0.4, 0.6, 7.0]])
    assert found[0].tolist() == [0, 0, 1, 14, 15]
    assert found[1].tolist() == [0, 0, 0, 0, 15]


@given(st.integers(1, 40), st.floats(0, 50))
def test_even_slice_seconds_give_the_positions_of_seconds_per_grid(slices: int, seconds: float) -> None:
    ids = np.array([VIDEO] * slices + [TEXT])
    # The product in float32, as the even rule takes it: tokens_per_second is a power of two.
    times = np.arange(slices, dtype=np.float32) * np.float32(seconds)
    even = sample_positions(ids, [[slices, 2, 2]], [seconds], SPEC)
    own = sample_positions(ids, [[slices, 2, 2]], [99.0], SPEC, slice_seconds=[times])
    np.testing.assert_array_equal(even, own)


def test_slice_seconds_of_some_grids_of_a_pack() -> None:
    ids = np.array([IMAGE, VIDEO, VIDEO, TEXT, VIDEO, VIDEO])
    grids, seconds = [[1, 2, 2], [2, 2, 2], [2, 2, 2]], [0.0, 1.0, 1.0]
    found = packed_positions(ids, (4, 2), grids, seconds, SPEC, slice_seconds=[None, None, [0.0, 3.0]])
    assert found[0].tolist() == [0, 1, 3, 4, 0, 6]
    # An image has one slice and no time.
    moved = packed_positions(ids, (4, 2), grids, seconds, SPEC, slice_seconds=[[0.0], None, [0.0, 3.0]])
    np.testing.assert_array_equal(found, moved)


def test_refuses_slice_seconds_that_do_not_fit() -> None:
    ids = np.array([VIDEO] * 2)
    for times, message in (
        ([], "slice seconds of 0 grids for 1"),
        ([[0.0]], r"shape \(1,\) for 2 slices"),
        ([[0.0, float("nan")]], "must start at 0"),
        ([[1.0, 2.0]], "must start at 0"),
        ([[0.0, -1.0]], "not fall"),
        ([[0.0, 1e9]], "holds whole numbers up to"),
    ):
        with pytest.raises(GeometryError, match=message):
            sample_positions(ids, [[2, 2, 2]], [1.0], SPEC, slice_seconds=times)
