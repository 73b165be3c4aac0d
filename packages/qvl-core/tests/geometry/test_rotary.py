"""Text waves of M-RoPE and the shared frequencies."""

from __future__ import annotations

import numpy as np
import pytest
from qvl_core.geometry import GeometryError, inverse_frequencies, text_angles, text_rotary
from qvl_core.specs.model_spec import TextSpec

SIZES = {"num_layers": 1, "hidden_size": 32, "intermediate_size": 1, "num_heads": 2, "num_kv_heads": 1}
TEXT = TextSpec(**SIZES, vocab_size=10, tie_word_embeddings=True, head_dim=16, mrope_section=(2, 3, 3), rope_theta=1e4)


def test_frequencies_fall_from_one_to_almost_one_over_theta() -> None:
    frequencies = inverse_frequencies(1e4, 8)
    np.testing.assert_allclose(frequencies, [1, 0.1, 0.01, 0.001], rtol=1e-7)  # float32: half an ulp is 6e-8
    assert frequencies.dtype == np.float32


def test_each_section_turns_with_its_own_axis() -> None:
    positions = np.array([[100], [20], [3]], np.int32)
    turned = text_angles(positions, TEXT)[0] / inverse_frequencies(1e4, 16)
    np.testing.assert_allclose(turned, [100] * 2 + [20] * 3 + [3] * 3, rtol=3e-7)  # two float32 roundings


def test_text_tokens_get_the_plain_one_dimensional_waves() -> None:
    positions = np.tile(np.arange(50, dtype=np.int32), (3, 1))
    cosines, sines = text_rotary(positions, TEXT)
    angles = np.arange(50, dtype=np.float32)[:, None] * inverse_frequencies(1e4, 16)
    np.testing.assert_array_equal(cosines, np.tile(np.cos(angles.astype(np.float64)), 2).astype(np.float32))
    np.testing.assert_array_equal(sines, np.tile(np.sin(angles.astype(np.float64)), 2).astype(np.float32))
    assert cosines.shape == sines.shape == (50, 16)


def test_refuses_sections_that_do_not_fill_the_head() -> None:
    text = TextSpec(**SIZES, vocab_size=10, tie_word_embeddings=True, head_dim=16, mrope_section=(2, 3, 4))
    with pytest.raises(GeometryError, match=r"\[2, 3, 4\] adds up to 9; head size 16 needs 8"):
        text_rotary(np.zeros((3, 1), np.int32), text)


def test_refuses_positions_of_another_shape() -> None:
    with pytest.raises(GeometryError, match=r"\(2, 5\)"):
        text_rotary(np.zeros((2, 5), np.int32), TEXT)
