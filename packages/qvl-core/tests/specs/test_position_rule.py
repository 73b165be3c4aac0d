"""Which position rule a checkpoint was written under, told by the library version in its config."""

from __future__ import annotations

import numpy as np
import pytest
from qvl_core.geometry import sample_positions
from qvl_core.specs import load_spec
from qvl_core.specs.hf_config import spec_from_hf_config, to_hf_config


@pytest.mark.parametrize(
    ("version", "rule"),
    [
        (None, "paper"),
        ("4.41.2", "paper"),
        ("4.57.1", "paper"),
        ("5.0.0", "transformers5"),
        ("5.23.0.dev0", "transformers5"),
        ("unreadable", "paper"),
        (5, "paper"),
    ],
)
def test_the_rule_follows_the_version_that_wrote_the_checkpoint(version: object, rule: str) -> None:
    config = {**to_hf_config(load_spec("qwen2.5-vl-tiny")), "transformers_version": version}
    spec = spec_from_hf_config(config, where="config.json", name="x")
    assert spec.position_rule == rule
    assert spec_from_hf_config(to_hf_config(spec), where="config.json", name="x") == spec


def test_shipped_specs_follow_the_paper() -> None:
    assert load_spec("qwen2.5-vl-7b").position_rule == "paper"


def test_text_after_a_long_video_tells_the_rules_apart() -> None:
    config = to_hf_config(load_spec("qwen2.5-vl-tiny"))
    paper = spec_from_hf_config({**config, "transformers_version": "4.49.0"}, where="c", name="x")
    later = spec_from_hf_config({**config, "transformers_version": "5.23.0"}, where="c", name="x")
    ids = np.array([1, *[paper.tokens.video] * 4, 2], np.int32)
    # Four slices of 2 x 2 patches, one merged token each, 1 s and so 2 positions apart: times 1, 3, 5, 7.
    assert sample_positions(ids, [[4, 2, 2]], [1.0], paper)[0].tolist() == [0, 1, 3, 5, 7, 8]
    assert sample_positions(ids, [[4, 2, 2]], [1.0], later)[0].tolist() == [0, 1, 3, 5, 7, 2]
