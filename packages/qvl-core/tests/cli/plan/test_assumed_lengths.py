"""Lengths that nobody has measured: media are cut into images and frames as the recipe's limits have it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from plan_calls import Call, values_of
from qvl_core import load_recipe
from qvl_core.planner.recipe_plan import recipe_plan
from qvl_core.planner.workload import prompts_of


def test_an_image_is_not_larger_than_the_recipe_allows(qvl: Call, tiny: str) -> None:
    """Of a sample of 32,768 tokens, 10,000 of them media were one image, in which every patch attended to all."""
    # 100,352 pixels are 128 tokens, a pair of frames of 131,072 pixels 167.
    short, long = (
        values_of(qvl, tiny, "--set", f"data.sequence_length={size}", "--memory-gib", "1e5")["data"]
        for size in (256, 2048)
    )
    assert (short["frames"], short["longest_frame"]) == (1.0, 167)
    assert long["frames"] == pytest.approx(2048 * 320 / 1024 / 167)
    assert "in images or frames of at most 167" in long["source"]
    assert "at most 167" not in short["source"]
    smaller = values_of(
        qvl, tiny, "--set", "data.sequence_length=2048", "--set", "data.video.max_pixels=50176", "--memory-gib", "1e5"
    )
    assert smaller["data"]["longest_frame"] == 128


def test_time_and_memory_follow_the_largest_image(tiny: str) -> None:
    sizes = [
        recipe_plan(load_recipe(tiny, ["data.sequence_length=4096", f"data.image.max_pixels={pixels}"]))
        for pixels in (100_352, 401_408, 3_211_264)
    ]
    steps, bytes_of = [plan.step_s for plan in sizes], [plan.memory for plan in sizes]
    assert steps == sorted(steps)
    assert steps[0] < steps[-1]
    assert bytes_of == sorted(bytes_of)
    # The plain kernels keep the scores of all pairs in a frame.
    assert bytes_of[-1] > 2 * bytes_of[0]


def test_a_pack_has_the_images_of_its_samples(qvl: Call, tiny: str) -> None:
    alone = values_of(qvl, tiny)["data"]
    packed = values_of(qvl, tiny, "--set", "data.packing=true")["data"]
    assert packed["frames"] == packed["sequences"] > alone["frames"] == 1.0


def test_measured_media_are_cut_as_well(qvl: Call, tiny: str, folder: Path) -> None:
    values: dict[str, Any] = {
        "schema": 1,
        "settings": {"sequence_length": 512},
        "lengths": {"mean": 400.0, "longest": 500},
        "tokens": {"text": 100, "all": 1000},
    }
    (folder / "report.json").write_text(json.dumps(values))
    data = values_of(qvl, tiny, "--data-report", "report.json")["data"]
    assert data["frames"] == pytest.approx(360 / 167)
    values["per_sample"] = {"looked_at": 2, "labels": 5.0, "frames": 4.0, "longest_media": 450, "longest_text": 80}
    (folder / "report.json").write_text(json.dumps(values))
    assert values_of(qvl, tiny, "--data-report", "report.json")["data"]["frames"] == 4.0


def test_frames_of_a_prompt_are_not_smaller_than_min_pixels(answers: str) -> None:
    # total_pixels alone would be 255 tokens; 32 pairs of at least 16 tokens are 512, and a little.
    load = prompts_of(load_recipe(answers, ["infer.videos=['a.mp4']", "data.video.total_pixels=200000"]))
    assert 512 <= load.longest_media <= 512 * 1.05
