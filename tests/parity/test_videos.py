"""Videos: sampled frames, grids, seconds, positions and pixels against qwen-vl-utils, decord and HF's processor.

Runs on real files of constant frame rate, encoded here. Numbers and positions are equal to the bit. Pixels are equal
before resizing; the others resize with torchvision, qvl with pillow, and that difference is measured and bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import geometry_oracles
import numpy as np
import pytest
from qvl_core.geometry import patchify, sample_positions
from qvl_data.media.pixels import normalised_levels
from qvl_data.media.video import VideoFacts, VideoRules, load_video, probe_video
from qvl_data.media.video_frames import decode_frames
from qvl_data.media.video_sampling import Sampling, sample_frames
from video_files import all_frames, save_video, turn_mp4, video_rules

pytest.importorskip("torchvision", reason="torchvision is not installed: HF's video processor needs it")

import video_oracles as oracles

Record = Callable[[str, object], None]
MEAN = (0.48145466, 0.4578275, 0.40821073)
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
TIMEOUT_S = 120.0
# Name, frames, rate, height, width, codec.
FILES = (
    ("25fps.mp4", 250, Fraction(25), 120, 160, "libx264"),
    ("ntsc.mp4", 151, Fraction(30000, 1001), 90, 160, "libx264"),
    ("film.mp4", 100, Fraction(24000, 1001), 160, 90, "libx264"),
    ("30fps.mkv", 77, Fraction(30), 96, 128, "libx264"),
    ("10fps.mp4", 64, Fraction(10), 128, 96, "mpeg4"),
    ("1fps.mp4", 33, Fraction(1), 64, 64, "libx264"),
    ("60fps.mp4", 240, Fraction(60), 64, 112, "libx264"),
    ("odd.mp4", 50, Fraction(12), 118, 206, "libx264"),
    ("short.mp4", 5, Fraction(25), 96, 96, "libx264"),
    ("two.mp4", 2, Fraction(25), 96, 96, "libx264"),
    ("vp9.webm", 60, Fraction(15), 96, 128, "libvpx-vp9"),
)


def rules(**changes: object) -> VideoRules:
    return video_rules(geometry_oracles.vision_spec(), normalised_levels(MEAN, DEVIATION, 1 / 255), **changes)


RULES = (
    rules(),
    rules(fps=4.0, max_frames=16),
    rules(fps=0.5, min_frames=6),
    rules(total_pixels=40_000),
    rules(max_pixels=12_000, min_pixels=4000, total_pixels=1),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name, frames, fps, height, width, codec in FILES:
        save_video(folder / name, frames=frames, fps=fps, height=height, width=width, codec=codec)
    return folder


def positions(grid: list[int] | tuple[int, ...], seconds: float) -> np.ndarray:
    spec = geometry_oracles.model_spec()
    ids = np.array([10, 11] + [spec.tokens.video] * (int(np.prod(grid)) // 4) + [12, 13])
    return sample_positions(ids, [grid], [seconds], spec)


@pytest.mark.parametrize("name", [file[0] for file in FILES])
def test_what_the_model_sees_equals_qwen_vl_utils_and_hf(folder: Path, name: str) -> None:
    facts = probe_video(folder / name, timeout_s=TIMEOUT_S)
    assert not facts.is_variable
    for rule in RULES:
        plan = rule.plan(facts)
        theirs = oracles.by_qwen_vl_utils(folder / name, rule)
        assert plan.indices.tolist() == theirs.indices
        assert plan.sample_fps == theirs.sample_fps
        assert plan.seconds_per_grid == theirs.seconds_per_grid
        assert list(plan.grid) == theirs.grid
        np.testing.assert_array_equal(
            positions(plan.grid, plan.seconds_per_grid), positions(theirs.grid, theirs.seconds_per_grid)
        )


@pytest.mark.parametrize("name", [file[0] for file in FILES if file[0].endswith(".mp4")])
def test_the_rule_transformers_equals_its_reader_and_processor(folder: Path, name: str) -> None:
    facts = probe_video(folder / name, timeout_s=TIMEOUT_S)
    for rule in (rules(sampling="transformers"), rules(sampling="transformers", fps=4.0, max_frames=16)):
        plan = rule.plan(facts)
        theirs = oracles.by_transformers(folder / name, rule)
        assert plan.indices.tolist() == theirs.indices
        assert plan.sample_fps == theirs.sample_fps
        assert plan.seconds_per_grid == theirs.seconds_per_grid
        assert list(plan.grid) == theirs.grid


@pytest.mark.parametrize("name", [file[0] for file in FILES])
def test_frames_before_resizing_equal_pyav_and_decord(
    folder: Path, name: str, record_testsuite_property: Record
) -> None:
    facts = probe_video(folder / name, timeout_s=TIMEOUT_S)
    indices = rules().plan(facts).indices.tolist()
    found: list[np.ndarray] = []
    with (folder / name).open("rb") as file:
        decode_frames(file, indices, lambda _, frame: found.append(frame.to_ndarray(format="rgb24")))
    whole = all_frames(folder / name)
    for number, pixels in zip(indices, found, strict=True):
        np.testing.assert_array_equal(pixels, whole[number])
    difference = np.abs(np.stack(found).astype(int) - oracles.decord_frames(folder / name)[indices]).max()
    record_testsuite_property(f"videos.decord_levels.{name}", int(difference))
    assert difference == 0


def test_rotation_is_applied_as_decord_does(tmp_path: Path) -> None:
    path = save_video(tmp_path / "x.mp4", frames=20, height=84, width=140)
    for matrix in ((0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)):
        turn_mp4(path, matrix)
        facts = probe_video(path, timeout_s=TIMEOUT_S)
        theirs = oracles.decord_frames(path)
        assert (facts.height, facts.width) == theirs.shape[1:3]
        # At a size that resizing does not change, patches are the pixels.
        rule = video_rules(geometry_oracles.vision_spec(), np.tile(np.arange(256, dtype=np.float32), (3, 1)))
        found = load_video(path, facts, rule, timeout_s=TIMEOUT_S)
        expected = patchify(theirs[rule.plan(facts).indices].astype(np.float32), rule.vision)
        np.testing.assert_array_equal(found.patches, expected)
        assert list(found.grid) == oracles.by_qwen_vl_utils(path, rule).grid


def test_resized_patches_differ_from_hf_by_the_resizer_only(folder: Path, record_testsuite_property: Record) -> None:
    largest = {}
    for name in ("25fps.mp4", "odd.mp4", "ntsc.mp4", "10fps.mp4"):
        rule = rules(sampling="transformers")
        facts = probe_video(folder / name, timeout_s=TIMEOUT_S)
        ours = load_video(folder / name, facts, rule, timeout_s=TIMEOUT_S)
        theirs = oracles.by_transformers(folder / name, rule)
        assert ours.patches.shape == theirs.patches.shape
        off = np.abs(ours.patches - theirs.patches)
        largest[name] = float((off * np.repeat(DEVIATION, 2 * 14 * 14)).max()) * 255
        record_testsuite_property(f"videos.hf_levels.{name}", round(largest[name], 3))
        record_testsuite_property(f"videos.hf_normalised.{name}", round(float(off.max()), 4))
    # Where Pillow resizes along columns first the order is not torch's; test_preprocessing.py has the worst case.
    assert largest["odd.mp4"] <= 2.01
    assert max(largest.values()) <= 48


def test_frame_counts_and_numbers_equal_the_published_rules_for_many_lengths(record_testsuite_property: Record) -> None:
    rng = np.random.default_rng(31)
    cases, behind, off = 0, 0, 0
    for _ in range(3000):
        total = int(np.exp(rng.uniform(np.log(2), np.log(60_000))))
        fps = float(rng.choice([1, 10, 12, 15, 23.976023976, 24, 25, 29.97002997, 30, 50, 60, rng.uniform(0.5, 120)]))
        limits = sorted(rng.integers(2, 800, 2).tolist())
        rule = rules(fps=float(rng.choice([0.25, 1, 2, 4, 30])), min_frames=limits[0], max_frames=limits[1])
        wanted = Sampling(fps=rule.fps, min_frames=rule.min_frames, max_frames=rule.max_frames)
        facts = VideoFacts(
            height=1, width=1, frames=total, fps=fps, is_variable=False, duration_s=total / fps, digest=""
        )
        ours = sample_frames("qwen", facts, wanted)
        count = oracles.smart_frames(total, fps, rule)
        assert ours.indices.tolist() == oracles.linspace_indices(total, count)
        assert ours.sample_fps == count / max(total, 1e-6) * fps
        theirs = oracles.hf_indices(total, fps, rule)
        # HF's `arange` may give one number too many, which is none of a frame.
        kept = [number for number in theirs if number < total]
        behind += len(kept) < len(theirs)
        own = sample_frames("transformers", facts, wanted).indices
        assert len(own) == len(kept)
        if own.tolist() != kept:
            # torch's `arange` rounds by the width of the machine's vectors. That shows with many frames only, where a
            # float32 cannot tell a 768th from a whole frame.
            assert total > 2**14
            assert np.abs(own - kept).max() == 1
            off += 1
        cases += 1
    assert off <= cases / 100
    record_testsuite_property("videos.sampling.off_by_one", off)
    record_testsuite_property("videos.sampling.cases", cases)
    record_testsuite_property("videos.sampling.hf_behind_the_end", behind)
