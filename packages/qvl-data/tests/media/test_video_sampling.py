"""The three rules for choosing frames: worked cases, limits, and what any facts give. Parity is in tests/parity."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qvl_data.media.video_facts import VideoFacts
from qvl_data.media.video_sampling import Sampling, sample_frames


def facts(frames: int, fps: float = 25.0, *, duration_s: float | None = None, is_counted: bool = False) -> VideoFacts:
    if duration_s is None:
        duration_s = frames / fps if fps else 0.0
    return VideoFacts(
        height=100,
        width=100,
        frames=frames,
        fps=fps,
        is_variable=False,
        duration_s=duration_s,
        digest="",
        is_counted=is_counted,
    )


WANTED = Sampling(fps=2.0, min_frames=4, max_frames=64)


@pytest.mark.parametrize(
    ("sampling", "frames", "expected", "sample_fps"),
    [
        # 100 frames at 25 a second last 4 s: 8 frames.
        ("qwen", 100, [0, 14, 28, 42, 57, 71, 85, 99], 2.0),
        ("transformers", 100, [0, 12, 25, 37, 50, 62, 75, 87], 2.0),
        ("mindspeed", 100, [0, 14, 28, 42, 56, 70, 84, 99], 2.0),
        # 30 frames last 1.2 s: the fewest, 4; the reference stack takes floor(2.4).
        ("qwen", 30, [0, 10, 19, 29], 4 / 30 * 25),
        ("transformers", 30, [0, 7, 15, 22], 4 / 30 * 25),
        ("mindspeed", 30, [0, 29], 2 / 1.2),
        # Fewer than the fewest: as many as are there, even in number but for the reference stack.
        ("qwen", 3, [0, 2], 2 / 3 * 25),
        ("transformers", 3, [0, 1], 2 / 3 * 25),
        ("mindspeed", 3, [0], 1 / 0.12),
        ("qwen", 1, [0], 25.0),
        ("transformers", 1, [0], 25.0),
        ("mindspeed", 1, [0], 25.0),
    ],
)
def test_worked_cases(sampling: str, frames: int, expected: list[int], sample_fps: float) -> None:
    found = sample_frames(sampling, facts(frames), WANTED)
    assert found.indices.tolist() == expected
    assert found.sample_fps == pytest.approx(sample_fps, rel=1e-12)


def test_long_videos_give_the_most_frames() -> None:
    for sampling in ("qwen", "transformers", "mindspeed"):
        found = sample_frames(sampling, facts(100_000), WANTED)
        assert len(found.indices) == 64
        assert found.sample_fps == pytest.approx(64 / 4000)


def test_odd_limits_are_made_even_as_qwen_vl_utils_does() -> None:
    most = sample_frames("qwen", facts(1000), Sampling(fps=2.0, min_frames=4, max_frames=7))
    assert len(most.indices) == 6
    fewest = sample_frames("qwen", facts(20), Sampling(fps=2.0, min_frames=5, max_frames=64))
    assert len(fewest.indices) == 6


def test_the_reference_stack_takes_the_first_frames_where_the_container_counts_none() -> None:
    found = sample_frames("mindspeed", facts(100, is_counted=True), Sampling(fps=2.0, min_frames=4, max_frames=10))
    assert found.indices.tolist() == list(range(10))
    assert found.sample_fps == pytest.approx(2.5)


def test_the_reference_stack_says_two_a_second_where_the_duration_is_unknown() -> None:
    assert sample_frames("mindspeed", facts(100, duration_s=0.0), WANTED).sample_fps == 2.0


@pytest.mark.parametrize("sampling", ["qwen", "transformers"])
def test_without_a_rate_frames_are_taken_for_what_was_asked(sampling: str) -> None:
    found = sample_frames(sampling, facts(10, fps=0.0), Sampling(fps=4.0, min_frames=4, max_frames=64))
    assert found.indices.tolist() == list(range(10))
    assert found.sample_fps == 4.0


def test_no_frame_lies_behind_the_end_where_the_published_rule_goes_too_far() -> None:
    # transformers 5.24 gives 27 numbers here, the last of them 30.
    found = sample_frames("transformers", facts(30, fps=1.0), Sampling(fps=26 / 30, min_frames=2, max_frames=26))
    assert len(found.indices) == 26
    assert found.indices[-1] == 28


@given(
    st.sampled_from(["qwen", "transformers", "mindspeed"]),
    st.integers(1, 2_000_000),
    st.just(0.0) | st.floats(1e-6, 1000),
    st.floats(0.01, 240),
    st.integers(2, 800),
    st.integers(1, 800),
)
def test_any_facts_give_rising_numbers_inside_the_video(
    sampling: str, frames: int, fps: float, wanted: float, most: int, fewest: int
) -> None:
    rule = Sampling(fps=wanted, min_frames=min(fewest, most), max_frames=most)
    found = sample_frames(sampling, facts(frames, fps), rule)
    assert 1 <= len(found.indices) <= max(most, 2)
    assert found.indices.dtype == np.int64
    assert found.indices[0] == 0
    assert found.indices[-1] < frames
    assert (np.diff(found.indices) > 0).all()
    assert np.isfinite(found.sample_fps)
    assert found.sample_fps > 0
