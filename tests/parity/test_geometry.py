"""Sizes, patches, windows, positions and rotary waves are those of HF transformers.

Everything integer and every angle is compared bit for bit, except as stated at `test_text_angles`. Each test records
its count of cases and what it measured (properties of the suite in `--junitxml`).
"""

from __future__ import annotations

from collections.abc import Callable

import geometry_oracles as oracles
import numpy as np
import pytest
import torch
from qvl_core import geometry
from qvl_core.specs.model_spec import PositionRule, TextSpec
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig, Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VLRotaryEmbedding,
    Qwen2_5_VLVisionRotaryEmbedding,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as hf_smart_resize
from transformers.vision_utils import get_vision_position_ids

Record = Callable[[str, object], None]


def test_smart_resize_is_bit_equal(record_testsuite_property: Record) -> None:
    rng = np.random.default_rng(20)
    cases = 20000
    for _ in range(cases):
        height, width = oracles.random_sides(rng)
        factor = int(rng.choice([28, 28, 32, 16, 42, 56]))
        low, high = oracles.random_bounds(rng, factor)
        ours = geometry.smart_resize(height, width, factor=factor, min_pixels=low, max_pixels=high)
        assert ours == hf_smart_resize(height, width, factor, low, high), (height, width, factor, low, high)
    record_testsuite_property("geometry.smart_resize.cases", cases)


@pytest.mark.parametrize(("height", "width"), [(28, 5600), (5600, 28), (60, 12000), (12000, 60), (1, 200)])
def test_the_aspect_ratio_limit_is_the_same(height: int, width: int) -> None:
    limits = {"min_pixels": 3136, "max_pixels": 12845056}
    assert geometry.smart_resize(height, width, factor=28, **limits) == hf_smart_resize(height, width, 28, **limits)
    beyond = (height, width + 1) if width > height else (height + 1, width)
    with pytest.raises(ValueError, match="200"):
        hf_smart_resize(*beyond, 28, **limits)
    with pytest.raises(geometry.GeometryError, match="200"):
        geometry.smart_resize(*beyond, factor=28, **limits)


def test_windows_and_frames_are_bit_equal(record_testsuite_property: Record) -> None:
    rng = np.random.default_rng(21)
    cases = 2000
    for _ in range(cases):
        merge, patch = int(rng.integers(1, 5)), int(rng.choice([8, 14, 16]))
        # Window sizes need not be multiples of anything; below one merged patch there is no window.
        window = int(rng.integers(merge * patch, 12 * merge * patch))
        vision = oracles.vision_spec(spatial_merge_size=merge, patch_size=patch, window_size=window)
        grids = oracles.random_grids(rng, merge, largest=int(rng.choice([4, 24])))
        plan = geometry.vision_plan(grids, vision)
        index, window_lengths, frame_lengths = oracles.hf_windows(grids, vision)
        np.testing.assert_array_equal(plan.window_index, index)
        np.testing.assert_array_equal(plan.inverse_index, np.argsort(index))
        assert list(plan.window_lengths) == window_lengths
        assert list(plan.frame_lengths) == frame_lengths
    record_testsuite_property("geometry.windows.cases", cases)


def test_windows_of_a_12k_image_are_bit_equal() -> None:
    grids = np.array([[1, 858, 858], [2, 4, 856]], np.int64)
    plan = geometry.vision_plan(grids, oracles.vision_spec())
    index, window_lengths, frame_lengths = oracles.hf_windows(grids, oracles.vision_spec())
    np.testing.assert_array_equal(plan.window_index, index)
    assert list(plan.window_lengths) == window_lengths
    assert list(plan.frame_lengths) == frame_lengths


def test_vision_positions_and_waves_are_those_of_the_installed_model(record_testsuite_property: Record) -> None:
    rng = np.random.default_rng(22)
    worst, cases = 0, 60
    for _ in range(cases):
        merge, heads = int(rng.integers(1, 4)), int(rng.choice([4, 8, 16]))
        vision = oracles.vision_spec(spatial_merge_size=merge, num_heads=heads, window_size=112)
        grids = oracles.random_grids(rng, merge, largest=int(rng.choice([6, 16])))
        plan = geometry.vision_plan(grids, vision)
        positions = get_vision_position_ids(torch.from_numpy(grids), merge)[torch.from_numpy(plan.patch_index).long()]
        np.testing.assert_array_equal(plan.rotary_positions, positions.numpy())
        hf = Qwen2_5_VLVisionRotaryEmbedding(Qwen2_5_VLVisionConfig(hidden_size=1280, num_heads=heads))
        np.testing.assert_array_equal(plan.inverse_frequencies, hf.inv_freq.numpy())
        angles = (positions[..., None].float() * hf.inv_freq).flatten(1)
        np.testing.assert_array_equal(plan.rotary_angles, angles.numpy())
        for ours, theirs in zip(geometry.vision_rotary(plan), hf(torch.zeros(1), positions), strict=True):
            worst = max(worst, ulp_distance(ours, theirs.numpy()))
    record_testsuite_property("geometry.vision_rotary.cases", cases)
    record_testsuite_property("geometry.vision_rotary.worst_wave_ulp", worst)
    # torch's vectorised cosine is good to 1 ulp; ours is the correctly rounded one.
    assert worst <= 1


def test_positions_of_the_paper_rule_are_bit_equal(record_testsuite_property: Record) -> None:
    rng = np.random.default_rng(23)
    cases = 2500
    for _ in range(cases):
        case = oracles.random_rope_case(rng, wrapped=True)
        positions, deltas = _ours(case, "paper")
        expected_positions, expected_deltas = oracles.omni_positions(case)
        np.testing.assert_array_equal(positions, expected_positions)
        np.testing.assert_array_equal(deltas, expected_deltas)
    record_testsuite_property("geometry.positions_paper.cases", cases)


def test_positions_of_the_transformers5_rule_are_bit_equal(record_testsuite_property: Record) -> None:
    rng = np.random.default_rng(24)
    cases, rules_differ = 2500, 0
    for index in range(cases):
        case = oracles.random_rope_case(rng, wrapped=bool(index % 2))
        positions, deltas = _ours(case, "transformers5")
        expected_positions, expected_deltas = oracles.hf_positions(case, seconds_as_list=bool(index % 3))
        np.testing.assert_array_equal(positions, expected_positions)
        np.testing.assert_array_equal(deltas, expected_deltas)
        real = case.mask == 1
        paper, _ = _ours(case, "paper")
        rules_differ += not np.array_equal(paper[:, real], positions[:, real])
    record_testsuite_property("geometry.positions_transformers5.cases", cases)
    record_testsuite_property("geometry.positions_transformers5.cases_where_the_rules_differ", rules_differ)
    assert 0 < rules_differ < cases


def test_long_videos_and_large_images_are_bit_equal(record_testsuite_property: Record) -> None:
    rng = np.random.default_rng(25)
    cases = 20
    for _ in range(cases):
        case = oracles.random_rope_case(rng, wrapped=True, largest=100)
        np.testing.assert_array_equal(_ours(case, "paper")[0], oracles.omni_positions(case)[0])
        np.testing.assert_array_equal(_ours(case, "transformers5")[0], oracles.hf_positions(case)[0])
    record_testsuite_property("geometry.positions_long.cases", cases)


def test_slice_times_are_bit_equal_for_any_sampling_rate(record_testsuite_property: Record) -> None:
    # One float32 rounding decides an integer here: all rates 0.01 .. 60 frames per second, 384 slices each.
    spec = oracles.model_spec()
    rates = np.round(np.arange(1, 6001) / 100, 2)[::5]
    ids = np.full(384, oracles.TOKENS.video)
    for rate in rates:
        seconds = np.array([2 / rate])
        ours = geometry.sample_positions(ids, [[384, 2, 2]], seconds, spec)
        np.testing.assert_array_equal(ours[0], (torch.arange(384) * (2.0 * float(seconds[0]))).long().numpy())
    record_testsuite_property("geometry.slice_times.cases", len(rates))


def test_text_angles(record_testsuite_property: Record) -> None:
    # The power theta ** x is correctly rounded here and within 1 ulp in torch's vector library: at theta 1e6 and head
    # size 128 one of 64 frequencies differs by 1 ulp. An angle may therefore differ by 2 ulp (one more in rounding).
    rng = np.random.default_rng(26)
    worst = {"frequency_ulp": 0, "angle_ulp": 0, "wave_at_equal_angles_ulp": 0}
    worst_wave = 0.0
    for theta, head_dim, section in [(1e6, 128, (16, 24, 24)), (1e4, 16, (2, 3, 3)), (1e6, 64, (8, 12, 12))]:
        text = text_spec(theta, head_dim, section)
        config = Qwen2_5_VLTextConfig(
            hidden_size=head_dim * 2,
            num_attention_heads=2,
            num_key_value_heads=1,
            rope_parameters={"rope_type": "default", "rope_theta": theta, "mrope_section": list(section)},
        )
        hf = Qwen2_5_VLRotaryEmbedding(config)
        frequencies = geometry.inverse_frequencies(theta, head_dim)
        worst["frequency_ulp"] = max(worst["frequency_ulp"], ulp_distance(frequencies, hf.inv_freq.numpy()))
        positions = rng.integers(0, 32768, (3, 4000)).astype(np.int32)
        angles = geometry.text_angles(positions, text)
        axis = np.repeat(np.arange(3), section)
        hf_angles = (torch.from_numpy(positions)[axis].T.float() * hf.inv_freq).numpy()
        worst["angle_ulp"] = max(worst["angle_ulp"], ulp_distance(angles, hf_angles))
        same = np.concatenate([angles == hf_angles] * 2, axis=1)
        hf_waves = hf(torch.zeros(1), torch.from_numpy(positions)[:, None].long())
        for ours, theirs in zip(geometry.text_rotary(positions, text), hf_waves, strict=True):
            expected = theirs[0].numpy()
            worst_wave = max(worst_wave, float(np.abs(ours - expected).max()))
            key = "wave_at_equal_angles_ulp"
            worst[key] = max(worst[key], ulp_distance(ours[same], expected[same]))
    for key, value in worst.items():
        record_testsuite_property(f"geometry.text_rotary.{key}", value)
    record_testsuite_property("geometry.text_rotary.worst_wave_difference", worst_wave)
    assert worst["frequency_ulp"] <= 1
    assert worst["angle_ulp"] <= 2
    assert worst["wave_at_equal_angles_ulp"] <= 1


def test_image_patches_are_bit_equal(record_testsuite_property: Record) -> None:
    rng = np.random.default_rng(27)
    cases = 60
    processor = Qwen2VLImageProcessorPil()
    for _ in range(cases):
        merge, patch = int(rng.integers(1, 4)), int(rng.choice([4, 14]))
        depth, channels = int(rng.integers(1, 4)), int(rng.choice([1, 3]))
        vision = oracles.vision_spec(
            spatial_merge_size=merge, patch_size=patch, temporal_patch_size=depth, in_channels=channels
        )
        height, width = rng.integers(1, 5, 2) * merge * patch
        pixels = rng.standard_normal((height, width, channels)).astype(np.float32)
        expected, rows, columns = processor.patchify(pixels.transpose(2, 0, 1), patch, merge, depth)
        np.testing.assert_array_equal(geometry.patchify(pixels, vision), expected)
        assert geometry.patch_grid(pixels.shape, vision) == (1, rows, columns)
    record_testsuite_property("geometry.image_patches.cases", cases)


def test_video_patches_sit_where_the_installed_positions_say() -> None:
    # The video processor needs torchvision; the order is checked against torch's unfold and the model's position ids.
    rng = np.random.default_rng(28)
    vision = oracles.vision_spec()
    pixels = rng.standard_normal((6, 56, 84, 3)).astype(np.float32)
    unfolded = torch.from_numpy(pixels).permute(3, 0, 1, 2).unfold(1, 2, 2).unfold(2, 14, 14).unfold(3, 14, 14)
    places = get_vision_position_ids(torch.tensor([[3, 4, 6]]), 2, include_temporal=True)
    expected = unfolded.permute(1, 2, 3, 0, 4, 5, 6)[tuple(places.T)].reshape(len(places), -1)
    np.testing.assert_array_equal(geometry.patchify(pixels, vision), expected.numpy())


def _ours(case: oracles.RopeCase, rule: PositionRule) -> tuple[np.ndarray, np.ndarray]:
    spec = oracles.model_spec(case.merge, case.rate)
    return geometry.mrope_positions(case.input_ids, case.mask, case.images, case.videos, case.seconds, spec, rule=rule)


def text_spec(theta: float, head_dim: int, section: tuple[int, int, int]) -> TextSpec:
    return TextSpec(
        num_layers=1,
        hidden_size=head_dim * 2,
        intermediate_size=1,
        num_heads=2,
        num_kv_heads=1,
        vocab_size=100,
        tie_word_embeddings=True,
        head_dim=head_dim,
        mrope_section=section,
        rope_theta=theta,
    )


def ulp_distance(first: np.ndarray, second: np.ndarray) -> int:
    """Count the float32 numbers between the two, at worst; 0 is equal."""

    def ordered(values: np.ndarray) -> np.ndarray:
        bits = np.ascontiguousarray(values, np.float32).view(np.int32).astype(np.int64)
        return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)

    return int(np.abs(ordered(first) - ordered(second)).max(initial=0))
