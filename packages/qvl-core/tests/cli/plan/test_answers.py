"""Recipes that answer: how many rows are answered at a time, and how long answers may be, as the scheduler has it."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from plan_calls import Call, values_of
from qvl_core import load_recipe
from qvl_core.answer_sizes import INFER_HELD_TOKENS, blocks
from qvl_core.planner.recipe_plan import recipe_plan
from qvl_core.planner.workload import PROMPT_TOKENS

# 16,384 tokens, and 512 of text beside them.
LARGE = "data.image.max_pixels=12845056"


@pytest.mark.parametrize(
    ("batch", "pixels"), [(1, 3136), (4, 262_144), (64, 262_144), (64, 1_605_632), (8, 12_845_056)]
)
def test_no_more_rows_are_answered_at_a_time_than_the_cache_has_room_for(answers: str, batch: int, pixels: int) -> None:
    """All of a batch were counted, where one had room."""
    from qvl_core.generate.scheduler import Scheduler

    plan = recipe_plan(load_recipe(answers, [f"infer.batch={batch}", f"data.image.max_pixels={pixels}"]))
    waiting = SimpleNamespace(most_cached=pixels // 784 + PROMPT_TOKENS + 64, tokens=0)
    scheduler = SimpleNamespace(
        _active=[], _waiting=[waiting] * 100, _slots=batch, _max_tokens=blocks(INFER_HELD_TOKENS), _prefill_tokens=1
    )
    rows = len(Scheduler._admitted(scheduler))  # type: ignore[arg-type]
    assert plan.at_once == plan.samples_per_step == rows


def test_the_table_and_the_json_say_what_is_answered_at_once(qvl: Call, answers: str) -> None:
    words = ("--set", LARGE, "--set", "infer.batch=8", "--devices", "2", "--top", "1")
    (plan,) = values_of(qvl, answers, *words)["plans"]
    assert plan["micro_batch"] == 1
    assert plan["samples_per_s"] * plan["step_s"] == pytest.approx(plan["layout"]["dp"], rel=1e-3)
    assert "s for 2 answers of 64 tokens" in qvl("plan", answers, *words).out
    told = qvl("plan", answers, *words, "--assumptions").out
    assert "no room for more" in " ".join(told.split())


def test_as_many_at_once_take_as_long_whatever_the_batch(answers: str) -> None:
    one, many = (recipe_plan(load_recipe(answers, [LARGE, f"infer.batch={batch}"])) for batch in (1, 8))
    assert one.step_s == many.step_s
    # Shorter prompts than these may fill the cache.
    assert one.memory < many.memory


@pytest.mark.parametrize(
    ("batch", "pixels", "passes"), [(4, 262_144, 1), (5, 262_144, 2), (64, 262_144, 9), (4, 3_211_264, 4)]
)
def test_prompts_run_in_passes_of_4096_tokens(answers: str, batch: int, pixels: int, passes: int) -> None:
    """Each pass starts all operations: of 35 prompts of 846 tokens at a time, four run in each."""
    one, many = (
        recipe_plan(load_recipe(answers, [f"infer.batch={rows}", f"data.image.max_pixels={pixels}"])).stages[0].forward
        for rows in (1, batch)
    )
    assert many.starting == pytest.approx(passes * one.starting)


def test_answers_end_where_the_cache_does_and_it_is_said(qvl: Call, answers: str) -> None:
    words = ("--set", LARGE, "--set", "generation.max_new_tokens=30000")
    data = values_of(qvl, answers, *words)["data"]
    assert data["note"].startswith("answers to prompts of 16,896 tokens end after 15,872 of 30,000")
    assert "note: answers to prompts" in qvl("plan", answers, *words).out
    shown = qvl("show", answers, *words)
    assert "1 answer of 15,872 tokens" in shown.out
    assert "note: answers to prompts" in shown.out
    assert values_of(qvl, answers)["data"]["note"] == ""


def test_prompts_that_the_cache_cannot_hold_are_said_to_be_refused(qvl: Call, answers: str) -> None:
    several = ("--set", LARGE, "--set", "infer.images=['a.png','b.png']")
    assert "prompts of 33,280 tokens are refused" in values_of(qvl, answers, *several)["data"]["note"]


@pytest.mark.parametrize(
    ("held", "new", "said"),
    [
        (None, 64, ""),
        (4096, 2000, ""),
        (2048, 2000, "prompts of 846 tokens are refused: with their answers they are to fit in 2,048"),
        (None, 127_000, ""),
        (None, 127_200, "answers to prompts of 846 tokens end after 127,154 of 127,200"),
    ],
)
def test_an_evaluation_refuses_what_its_cache_cannot_hold(
    qvl: Call, folder: Path, held: int | None, new: int, said: str
) -> None:
    (folder / "eval.toml").write_text(
        'schema = 1\ntask = "eval"\n[model]\nname = "qwen2.5-vl-7b"\n[weights]\nsource = "w"\n'
        '[eval]\nbenchmark = "ai2d_test"\ndata = "rows.tsv"\n[output]\ndir = "runs/a"\n'
        '[launch]\ndevice = "ascend"\ndevices_per_node = 1\n'
    )
    words = [f"generation.max_new_tokens={new}", *([f"eval.held_tokens={held}"] if held else [])]
    options = [word for one in words for word in ("--set", one)]
    note = values_of(qvl, "eval.toml", *options)["data"]["note"]
    assert note.startswith(said)
    assert bool(note) == bool(said)
    for command in ("plan", "show"):
        shown = " ".join(qvl(command, "eval.toml", *options).out.split())
        # Of answers that nobody gets no time is told.
        assert ("no time: prompts of 846 tokens are refused" in shown) is ("refused" in said), shown
        assert (re.search(r"about [\d.e+]+ s for", shown) is None) is ("refused" in said), shown
