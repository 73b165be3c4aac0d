"""Names of what the vision tower reads: equal for equal patches only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from qvl_core.specs.model_spec import VisionSpec
from qvl_data.media.features import FeatureKeys

VISION = VisionSpec(
    depth=2, hidden_size=16, num_heads=2, intermediate_size=24, out_hidden_size=24, full_attention_blocks=(1,)
)  # fmt: skip
LEVELS = np.linspace(-1, 1, 768, dtype=np.float32).reshape(3, 256)
IMAGE = ("ab" * 32, (1, 8, 12))
VIDEO = ("ab" * 32, (2, 8, 12), [0, 5, 10, 15])


def test_names_are_sha256_sums_and_the_same_each_time() -> None:
    one, other = FeatureKeys(VISION, LEVELS), FeatureKeys(VISION, LEVELS.copy())
    assert one.image(*IMAGE) == other.image(*IMAGE)
    assert len(bytes.fromhex(one.image(*IMAGE))) == 32
    assert one.video(*VIDEO) == other.video(VIDEO[0], np.array(VIDEO[1]), np.array(VIDEO[2], np.int32))


def test_content_grid_frames_and_kind_count() -> None:
    keys = FeatureKeys(VISION, LEVELS)
    names = [
        keys.image(*IMAGE),
        keys.image("cd" * 32, IMAGE[1]),
        keys.image(IMAGE[0], (1, 12, 8)),
        keys.video(*VIDEO),
        keys.video(VIDEO[0], VIDEO[1], [0, 5, 10, 16]),
        keys.video(VIDEO[0], (2, 12, 8), VIDEO[2]),
        keys.video(IMAGE[0], IMAGE[1], []),
    ]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("size", ["patch_size", "temporal_patch_size", "spatial_merge_size"])
def test_the_rules_count(size: str) -> None:
    wanted = FeatureKeys(VISION, LEVELS).image(*IMAGE)
    assert FeatureKeys(replace(VISION, **{size: 3}), LEVELS).image(*IMAGE) != wanted
    assert FeatureKeys(VISION, np.nextafter(LEVELS, np.float32(2))).image(*IMAGE) != wanted


def test_another_release_of_the_decoder_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = FeatureKeys(VISION, LEVELS)
    monkeypatch.setattr("qvl_data.media.features.metadata.version", lambda name: "0.0" if name == "av" else "99")
    assert FeatureKeys(VISION, LEVELS).image(*IMAGE) != wanted.image(*IMAGE)
