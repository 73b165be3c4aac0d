"""Facts, plans and patches of whole videos: sizes, times, rotation, and what does not fit."""

from __future__ import annotations

import dataclasses
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from qvl_core.geometry import GeometryError, unpatchify
from qvl_core.specs.model_spec import VisionSpec
from qvl_data.media.error import MediaError
from qvl_data.media.pixels import ImageRules, normalised_levels
from qvl_data.media.video import VideoFacts, VideoRules, load_video, probe_video
from video_files import all_frames, save_video, turn_mp4, video_rules

VISION = VisionSpec(depth=1, hidden_size=16, num_heads=1, intermediate_size=16, out_hidden_size=16)
LEVELS = normalised_levels((0.5, 0.25, 0.0), (0.5, 0.25, 1.0), 1 / 255)
TIMEOUT_S = 300.0


def rules(**changes: object) -> VideoRules:
    return video_rules(VISION, LEVELS, **changes)


def facts(**changes: object) -> VideoFacts:
    settings = {
        "height": 360,
        "width": 640,
        "frames": 300,
        "fps": 25.0,
        "is_variable": False,
        "duration_s": 12.0,
        "digest": "",
    }
    return VideoFacts(**{**settings, **changes})


def frame_of(patches: np.ndarray, grid: tuple[int, int, int], number: int) -> np.ndarray:
    return unpatchify(patches, grid, VISION)[number]


# --- facts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "is_counted"),
    [
        ("x.mp4", {}, False),
        ("x.mkv", {}, True),
        ("x.webm", {"codec": "libvpx-vp9"}, True),
        ("x.avi", {"codec": "mpeg4"}, False),
        ("x.ts", {}, True),
    ],
)
def test_facts_of_a_constant_video(tmp_path: Path, name: str, options: dict[str, str], is_counted: bool) -> None:
    path = save_video(tmp_path / name, frames=50, height=96, width=128, **options)
    found = probe_video(path, timeout_s=TIMEOUT_S)
    assert (found.height, found.width, found.frames, found.fps) == (96, 128, 50, 25.0)
    assert not found.is_variable
    assert found.is_counted == is_counted
    assert found.duration_s == pytest.approx(2.0)
    assert len(found.digest) == 64


@pytest.mark.parametrize(
    "fps", [Fraction(30000, 1001), Fraction(24000, 1001), Fraction(15), Fraction(7), Fraction(240)]
)
@pytest.mark.parametrize("name", ["x.mp4", "x.mkv"])
def test_rounding_of_a_container_clock_is_no_variable_rate(tmp_path: Path, name: str, fps: Fraction) -> None:
    path = save_video(tmp_path / name, frames=200, height=32, width=32, fps=fps, options={"preset": "ultrafast"})
    found = probe_video(path, timeout_s=TIMEOUT_S)
    assert not found.is_variable
    assert found.fps == pytest.approx(float(fps), rel=1e-4)


def test_a_variable_rate_gives_exact_times_of_frames_and_slices(tmp_path: Path) -> None:
    times = [0, 9, 18, 50, 60, 61, 200, 210, 280, 360]
    path = save_video(tmp_path / "x.mp4", frames=10, times=times, clock=Fraction(1, 90))
    found = probe_video(path, timeout_s=TIMEOUT_S)
    assert found.is_variable
    patches = load_video(path, found, rules(fps=2.5), timeout_s=TIMEOUT_S)
    plan = rules(fps=2.5).plan(found)
    expected = np.array(times)[plan.indices] / 90
    np.testing.assert_allclose(patches.times_s, expected, atol=1e-9)
    assert patches.slice_seconds is not None
    np.testing.assert_allclose(patches.slice_seconds, expected[::2], atol=1e-9)
    assert len(patches.slice_seconds) == patches.grid[0]


def test_one_dropped_frame_makes_a_rate_variable(tmp_path: Path) -> None:
    times = [number for number in range(41) if number != 20]
    path = save_video(tmp_path / "x.mp4", times=[4 * number for number in times], clock=Fraction(1, 100))
    assert probe_video(path, timeout_s=TIMEOUT_S).is_variable


def test_a_rate_that_the_frames_do_not_have_makes_a_video_variable(tmp_path: Path) -> None:
    path = save_video(tmp_path / "x.mkv")
    # Matroska's DefaultDuration, 40 ms in nanoseconds, made 10 ms: the container says 100 frames per second.
    content = path.read_bytes()
    assert content.count(b"\x23\xe3\x83\x84" + (40_000_000).to_bytes(4, "big")) == 1
    path.write_bytes(content.replace((40_000_000).to_bytes(4, "big"), (10_000_000).to_bytes(4, "big"), 1))
    found = probe_video(path, timeout_s=TIMEOUT_S)
    assert found.fps == pytest.approx(100)
    assert found.is_variable
    patches = load_video(path, found, rules(), timeout_s=TIMEOUT_S)
    np.testing.assert_allclose(patches.times_s, rules().plan(found).indices / 25, atol=1e-9)


def test_times_count_from_the_first_frame_whatever_the_file_starts_with(tmp_path: Path) -> None:
    path = save_video(tmp_path / "x.ts", frames=50)
    found = probe_video(path, timeout_s=TIMEOUT_S)
    patches = load_video(path, found, rules(), timeout_s=TIMEOUT_S)
    np.testing.assert_allclose(patches.times_s, rules().plan(found).indices / 25, atol=1e-9)
    assert patches.slice_seconds is None


# --- plans ------------------------------------------------------------------------------------------------------------


def test_a_plan_counts_frames_size_and_seconds() -> None:
    plan = rules().plan(facts())
    assert len(plan.indices) == 24
    assert plan.sample_fps == 2.0
    assert plan.seconds_per_grid == 1.0
    assert plan.size == (168, 280)
    assert plan.grid == (12, 12, 20) == rules().grid(facts())
    np.testing.assert_allclose(plan.times_s, plan.indices / 25)


def test_an_odd_number_of_frames_is_rounded_up_to_whole_slices() -> None:
    plan = rules(sampling="mindspeed", fps=0.25).plan(facts())
    assert len(plan.indices) == 3
    assert plan.grid[0] == 2
    assert plan.seconds_per_grid == 2 / (3 / 12.0)


def test_the_budget_of_a_video_makes_frames_smaller_down_to_a_little_over_the_least() -> None:
    assert rules(total_pixels=24 * 20_000).plan(facts()).size == (140, 252)
    tight = rules(total_pixels=1, min_pixels=12_544).plan(facts())
    assert tight.size == (84, 140)
    assert rules(total_pixels=10**9).plan(facts()).size == rules().plan(facts()).size


def test_a_lower_limit_for_one_video() -> None:
    assert rules().grid(facts(), 10_000) == (12, 4, 8)
    with pytest.raises(GeometryError, match="min_pixels 3136, max_pixels 1000"):
        rules().grid(facts(), 1000)


def test_refuses_an_aspect_ratio_over_the_limit() -> None:
    with pytest.raises(GeometryError, match="aspect ratio"):
        rules().plan(facts(height=2, width=1000))


# --- patches ----------------------------------------------------------------------------------------------------------


def test_patches_are_those_of_the_frames_as_images(tmp_path: Path) -> None:
    path = save_video(tmp_path / "x.mp4", frames=60, height=96, width=128)
    found = probe_video(path, timeout_s=TIMEOUT_S)
    patches = load_video(path, found, rules(), timeout_s=TIMEOUT_S)
    plan = rules().plan(found)
    images = ImageRules(vision=VISION, min_pixels=3136, max_pixels=50176, levels=LEVELS)
    decoded = all_frames(path)
    assert patches.patches.dtype == np.float32
    assert patches.patches.shape == (np.prod(plan.grid), VISION.patch_dim)
    for place, number in enumerate(plan.indices.tolist()):
        alone, grid = images.patches(Image.fromarray(decoded[number]))
        np.testing.assert_array_equal(frame_of(patches.patches, plan.grid, place), frame_of(alone, grid, 0))


@pytest.mark.parametrize("frames", [1, 3])
def test_the_last_frame_of_an_odd_number_is_repeated(tmp_path: Path, frames: int) -> None:
    path = save_video(tmp_path / "x.mp4", frames=frames, fps=2)
    found = probe_video(path, timeout_s=TIMEOUT_S)
    patches = load_video(path, found, rules(sampling="mindspeed"), timeout_s=TIMEOUT_S)
    assert patches.grid[0] == (frames + 1) // 2
    assert len(patches.times_s) == frames
    last = [frame_of(patches.patches, patches.grid, number) for number in (-2, -1)]
    np.testing.assert_array_equal(last[0], last[1])


# Mirror-and-turn matrices (a, b, c, d) and what they do to an array [H, W, C].
ORIENTATIONS = {
    (1, 0, 0, 1): lambda pixels: pixels,
    (0, 1, -1, 0): lambda pixels: np.rot90(pixels, -1),
    (-1, 0, 0, -1): lambda pixels: np.rot90(pixels, 2),
    (0, -1, 1, 0): lambda pixels: np.rot90(pixels, 1),
    (-1, 0, 0, 1): lambda pixels: pixels[:, ::-1],
    (1, 0, 0, -1): lambda pixels: pixels[::-1],
    (0, 1, 1, 0): lambda pixels: pixels.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda pixels: np.rot90(pixels, 2).transpose(1, 0, 2),
}


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_rotation_and_mirroring_are_applied_to_size_and_pixels(
    tmp_path: Path, matrix: tuple[int, int, int, int]
) -> None:
    path = turn_mp4(save_video(tmp_path / "x.mp4", frames=4, height=84, width=140), matrix)
    decoded = all_frames(path)
    expected = ORIENTATIONS[matrix](decoded[0])
    found = probe_video(path, timeout_s=TIMEOUT_S)
    assert (found.height, found.width) == expected.shape[:2]
    patches = load_video(path, found, rules(), timeout_s=TIMEOUT_S)
    levels = np.stack([LEVELS[channel][expected[..., channel]] for channel in range(3)], axis=-1)
    np.testing.assert_array_equal(frame_of(patches.patches, patches.grid, 0), levels)


def test_refuses_another_turn_than_quarters(tmp_path: Path) -> None:
    path = turn_mp4(save_video(tmp_path / "x.mp4", frames=4), (1, 1, -1, 1))
    with pytest.raises(MediaError, match="other than quarter turns"):
        probe_video(path, timeout_s=TIMEOUT_S)


def test_a_file_changed_after_probing_is_named_not_used(tmp_path: Path) -> None:
    path = save_video(tmp_path / "x.mp4")
    found = probe_video(path, timeout_s=TIMEOUT_S)
    save_video(path, frames=41)
    with pytest.raises(MediaError, match="changed after it had been checked"):
        load_video(path, found, rules(), timeout_s=TIMEOUT_S)


def test_frames_of_another_size_than_the_first_are_named(tmp_path: Path) -> None:
    path = save_video(tmp_path / "x.mp4")
    found = dataclasses.replace(probe_video(path, timeout_s=TIMEOUT_S), height=90)
    with pytest.raises(MediaError, match="frame 0 has 128 x 96 pixels, the first one 128 x 90"):
        load_video(path, found, rules(), timeout_s=TIMEOUT_S)


@pytest.mark.parametrize("name", ["two words.mp4", "图.mp4", "\U0001f600.mp4", "line\nbreak.mp4"])
def test_any_file_name_works(tmp_path: Path, name: str) -> None:
    path = save_video(tmp_path / "x.mp4", frames=3)
    path = path.rename(tmp_path / name)
    assert probe_video(path, timeout_s=TIMEOUT_S).frames == 3


def test_a_name_that_is_no_text_works(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4"))
    save_video(tmp_path / "x.mp4", frames=3).rename(path)
    assert probe_video(path, timeout_s=TIMEOUT_S).frames == 3
