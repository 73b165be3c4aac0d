"""What a plan counts beside steps: an evaluation during training, features that are kept, prompts with media."""

from __future__ import annotations

import pytest
from plan_calls import SIXTY_FOUR, Call, values_of
from qvl_core import load_recipe
from qvl_core.planner.recipe_plan import recipe_plan
from qvl_core.planner.workload import PROMPT_TOKENS, prompts_of


def test_a_vision_cache_is_counted(qvl: Call, large: str) -> None:
    plain = values_of(qvl, large, *SIXTY_FOUR)
    cached = values_of(qvl, large, *SIXTY_FOUR, "--set", "data.vision_cache=true")
    assert cached["plans"][0]["step_s"] < plain["plans"][0]["step_s"]
    named = {one["name"] for one in cached["assumptions"]} - {one["name"] for one in plain["assumptions"]}
    assert named == {"vision features"}


EVALUATION = ("eval.benchmark=ai2d_test", "eval.data=data/AI2D_TEST.tsv", "eval.every=100")


def with_evaluation(*settings: str) -> list[str]:
    return [word for one in (*EVALUATION, *settings) for word in ("--set", one)]


def test_an_evaluation_during_training_is_counted(qvl: Call, large: str) -> None:
    plain = values_of(qvl, large, "--device", "ascend-910b2", *SIXTY_FOUR)["plans"][0]
    assert all(stage["memory_gib"]["evaluation"] == 0 for stage in plain["stages"])
    # A few rows take less than the activations of a step, which are gone by then.
    few = values_of(qvl, large, *SIXTY_FOUR, *with_evaluation("eval.batch=1", "eval.held_tokens=4096"))
    assert few["plans"][0]["memory_gib"] == plain["memory_gib"]
    assert any(one["name"] == "evaluation during training" for one in few["assumptions"])
    rows = ("eval.batch=256", "eval.held_tokens=400000", "generation.max_new_tokens=2000")
    many = values_of(qvl, large, *SIXTY_FOUR, *with_evaluation(*rows))
    assert any(stage["memory_gib"]["evaluation"] > 0 for stage in many["plans"][0]["stages"])
    for stage in many["plans"][0]["stages"]:
        *parts, total = stage["memory_gib"].values()
        assert sum(parts) == pytest.approx(total, abs=1e-3)
    assert "evaluation" in qvl("plan", large, *SIXTY_FOUR, *with_evaluation(*rows)).out
    # One that never runs takes nothing.
    never = values_of(qvl, large, *SIXTY_FOUR, *with_evaluation("eval.batch=256", "eval.every=0"))
    assert never["plans"] == values_of(qvl, large, *SIXTY_FOUR)["plans"]


def test_an_evaluation_takes_as_much_during_training_as_on_its_own(large: str) -> None:
    recipe = load_recipe(large, [*EVALUATION, "eval.batch=2000", "eval.held_tokens=9000000"])
    plan = recipe_plan(recipe)
    assert plan.job.evaluation is not None
    alone = recipe_plan(recipe, plan.job.evaluation)
    for stage, answering in zip(plan.stages, alone.stages, strict=True):
        held, own = stage.memory, answering.memory
        while_it_runs = held.state + held.communication + held.base
        while_it_runs += own.vision + own.merger + own.text + own.logits + own.kv_cache
        assert held.total == pytest.approx(max(held.without_evaluation, while_it_runs))
        assert held.total > held.without_evaluation


@pytest.mark.parametrize(("name", "tokens"), [("demo", 1280), ("vlmevalkit", 16_384), (None, 334)])
def test_prompts_are_as_large_as_eval_pixels_allows(large: str, name: str | None, tokens: int) -> None:
    load = prompts_of(load_recipe(large, [*EVALUATION, *([f"eval.pixels={name}"] if name else [])]))
    assert (load.longest_media, load.longest) == (tokens, tokens + PROMPT_TOKENS)


def test_a_prompt_with_media_is_as_large_as_these_may_be(answers: str) -> None:
    alone = prompts_of(load_recipe(answers))
    two = prompts_of(load_recipe(answers, ["infer.images=['a.png','b.png']"]))
    assert two.longest_media == 2 * alone.longest_media > 0
    video = prompts_of(load_recipe(answers, ["infer.videos=['a.mp4']", "data.video.max_frames=32"]))
    assert video.longest_media == 16 * 131_072 // 784
    bounded = prompts_of(load_recipe(answers, ["infer.videos=['a.mp4']", "data.video.total_pixels=784000"]))
    assert bounded.longest_media == 1000


def test_media_that_exceed_the_window_are_said_to_be_cut(answers: str) -> None:
    videos = "infer.videos=['a.mp4','b.mp4']"
    cut = prompts_of(load_recipe(answers, ["model.name='qwen2.5-vl-tiny'", videos, "data.video.max_frames=32"]))
    assert cut.longest == 4096
    # 16 pairs of frames of 131,072 pixels, 784 of them a token, twice.
    assert cut.source.endswith("of 2 videos of max_frames, 5,348 tokens, and 512 of text; cut to the model's 4,096")
    assert "cut" not in prompts_of(load_recipe(answers)).source
