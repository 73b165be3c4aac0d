"""Every shipped recipe: the best plans for any number of devices can be pasted, and are then planned the same."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import tomli
from qvl_core import load_recipe
from qvl_core.cli.app import main
from qvl_core.planner.plan import plan_values
from qvl_core.planner.recipe_plan import recipe_plan

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted(path.name for path in (ROOT / "recipes").glob("*.toml"))


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(["plan", *words])
    return code, capsys.readouterr().out


@pytest.mark.parametrize("name", RECIPES)
def test_the_best_plan_can_be_pasted_and_is_planned_the_same(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = random.Random(name).sample(range(1, 200), 3)
    found = 0
    for devices in (1, 3, 6, 12, 1024, *drawn):
        words = (f"recipes/{name}", "--devices", str(devices), "--memory-gib", "150", "--top", "1")
        code, text = planned(capsys, *words, "--format", "toml")
        if code:
            continue
        found += 1
        _, written = planned(capsys, *words, "--format", "json")
        (best,) = json.loads(written)["plans"]
        overrides = re.findall(r"--set (\S+)", text)
        overrides += [f"layout.{key}={json.dumps(value)}" for key, value in tomli.loads(text)["layout"].items()]
        pasted = load_recipe(f"recipes/{name}", overrides)
        assert pasted.parallel.world_size == devices
        if pasted.train is not None:
            assert pasted.train.global_batch % (pasted.train.micro_batch * pasted.parallel.dp) == 0
        again: dict[str, Any] = plan_values(recipe_plan(pasted))
        assert again == {key: value for key, value in best.items() if key != "reasons"}
        assert main(["check", f"recipes/{name}", *(word for one in overrides for word in ("--set", one))]) == 0
        capsys.readouterr()
    assert found >= 2


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.startswith("tiny")])
def test_one_device_that_is_too_small_is_told_what_would_do(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", f"recipes/{name}", "--devices", "1", "--memory-gib", "5"]) == 2
    said = capsys.readouterr().err
    assert "the least that any layout takes is" in said
    need = re.findall(r"--memory-gib (\S+)", said)[-1]
    assert main(["plan", f"recipes/{name}", "--devices", "1", "--memory-gib", need]) == 0


def test_pixels_of_an_evaluation_are_those_that_it_uses() -> None:
    from qvl_core.planner.workload import LARGEST_PIXELS
    from qvl_eval.benchmarks.catalogue import PIXEL_LIMITS

    assert {name: largest for name, (_, largest) in PIXEL_LIMITS.items()} == LARGEST_PIXELS


@pytest.mark.parametrize("sampling", ["qwen", "transformers", "mindspeed"])
def test_a_video_of_a_prompt_is_as_large_as_its_rules_make_it(sampling: str) -> None:
    import numpy as np
    from qvl_core.planner.workload import PROMPT_TOKENS, prompts_of
    from qvl_data.media.video import VideoRules
    from qvl_data.media.video_facts import VideoFacts

    # Long and square: nothing is lost by its proportions.
    facts = VideoFacts(
        height=4000,
        width=4000,
        frames=200_000,
        fps=25.0,
        is_variable=False,
        duration_s=8000.0,
        digest="",
        is_counted=False,
    )
    drawn = random.Random(sampling)
    for _ in range(60):
        least = drawn.choice([3136, 12_544, 50_176])
        stated = {
            "sampling": sampling,
            "fps": drawn.choice([0.5, 2.0]),
            "max_frames": drawn.choice([4, 7, 33, 64, 768]),
            "min_pixels": least,
            "max_pixels": least * drawn.choice([2, 5, 16]),
            "total_pixels": drawn.choice([None, 10_000, 200_000, 3_000_000, 20_000_000]),
        }
        settings = [f"data.video.{key}={json.dumps(value)}" for key, value in stated.items() if value is not None]
        recipe = load_recipe("recipes/7b_infer.toml", [*settings, "infer.images=[]", "infer.videos=['a.mp4']"])
        rules = VideoRules(**stated, min_frames=4, vision=recipe.spec.vision, levels=np.zeros((3, 256), np.float32))
        steps, height, width = rules.grid(facts)
        tokens = steps * height * width // recipe.spec.vision.merge_unit
        load = prompts_of(recipe)
        assert tokens <= load.longest_media or load.longest == recipe.spec.text.max_position_embeddings
        assert load.longest_frame is not None
        assert load.longest_frame >= height * width // recipe.spec.vision.merge_unit
        assert load.longest - load.longest_media in (0, PROMPT_TOKENS)
