"""`qvl plan` for people: plans, reasons, stages and assumptions, on terminals of any width; and `qvl show`."""

from __future__ import annotations

import pytest
from plan_calls import SIXTY_FOUR, Call, values_of
from qvl_core import load_recipe
from qvl_core.planner.recipe_plan import recipe_plan


def test_text_has_plans_stages_reasons_and_a_layout(qvl: Call, large: str) -> None:
    result = qvl("plan", large, *SIXTY_FOUR, "--top", "3")
    assert result.code == 0, result.err
    assert "The best 3 plans" in result.out
    assert "GiB on each rank" in result.out
    assert "slower than the first" in result.out
    assert "not measured on a device" in result.out
    assert "[layout]" in result.out
    assert "Assumptions" not in result.out


def test_a_clock_is_said_beside_that_of_the_first(qvl: Call, large: str) -> None:
    plans = values_of(qvl, large, "--devices", "1024", "--memory-gib", "64")["plans"]
    first = plans[0]
    assert not [reason for reason in first["reasons"] if "by that clock" in reason]
    told = 0
    for plan in plans[1:]:
        said = [reason for reason in plan["reasons"] if "by that clock" in reason]
        assert bool(said) == any(abs(one["clock_s"] / one["step_s"] - 1) >= 0.02 for one in (first, plan))
        slower = plan["clock_s"] / first["clock_s"] - 1
        word = "as fast as" if abs(slower) < 0.01 else "slower than" if slower > 0 else "faster than"
        assert all(f"{word} the first, which takes {first['clock_s']:.3g} s" in reason for reason in said)
        told += len(said)
    assert told


def test_assumptions_have_sources_and_bands(qvl: Call, large: str) -> None:
    result = qvl("plan", large, *SIXTY_FOUR, "--top", "1", "--assumptions")
    assert "Assumptions" in result.out
    listed = values_of(qvl, large, *SIXTY_FOUR)["assumptions"]
    assert all(one["source"] and one["band"] and one["value"] for one in listed)
    assert {"activations", "peak_tflops", "memory_gib", "lengths of samples"} <= {one["name"] for one in listed}


def test_show_prints_the_plan_of_the_recipe_stage_by_stage(qvl: Call, large: str) -> None:
    result = qvl("show", large)
    assert result.code == 0
    assert "Plan (arithmetic, not measured): GiB on each rank" in result.out
    assert "the fullest rank takes" in result.out


def test_tables_of_times_say_their_unit_and_of_what(qvl: Call, large: str, answers: str) -> None:
    assert "\nmilliseconds for one micro batch; replicas and optimizer once a step\n" in qvl("show", large).out
    assert "\nmilliseconds for one batch of answers\n" in qvl("show", answers).out


def test_tables_fit_a_narrow_terminal(large: str) -> None:
    from io import StringIO

    from qvl_core.cli.plan_tables import print_stages
    from rich.console import Console

    target = Console(file=StringIO(), width=80)
    print_stages(target, recipe_plan(load_recipe(large)), "Plan")
    written = target.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, written.splitlines())) <= 80
    # No number is broken over lines: every row of numbers begins with its stage, or with several of them.
    rows = [line.split()[0] for line in written.splitlines() if line.strip()[:1].isdigit()]
    assert set(rows) <= {"0", "1", "2", "3", "1-2", "2-3", "1-3"}
    assert all(word in written for word in ("communication", "optimizer", "in flight", "all"))


def test_many_stages_that_hold_the_same_share_a_row(qvl: Call, large: str) -> None:
    result = qvl("plan", large, "--devices", "97", "--memory-gib", "64", "--top", "1")
    assert result.code == 0, result.err
    (stages,) = values_of(qvl, large, "--devices", "97", "--memory-gib", "64", "--top", "1")["plans"]
    table = result.out.split("GiB on each rank")[1].split("milliseconds")[0].splitlines()
    rows = [line.split() for line in table if line.strip()[:1].isdigit() and "v" in line]
    assert len(rows) < 20 < len(stages["stages"]) == 97
    assert "the first is the fullest" in result.out
    # Rows go through all stages, and a row's numbers are those of its first stage, which is the fullest of them.
    reached = 0
    for name, vision, text, *numbers in rows:
        first, last = (int(part) for part in (name.split("-") * 2)[:2])
        assert first == reached
        reached = last + 1
        members = stages["stages"][first:reached]
        assert {(f"{one['vision_layers']}v", f"{one['text_layers']}t") for one in members} == {(vision, text)}
        assert float(numbers[-1]) == pytest.approx(max(one["memory_gib"]["total"] for one in members), abs=0.006)
    assert reached == 97


def test_answers_of_all_replicas_are_counted_and_are_no_steps(qvl: Call, answers: str) -> None:
    words = ("--set", "layout.dp=2", "--set", "launch.devices_per_node=2")
    shown = qvl("show", answers, *words)
    assert "s for 8 answers of 64 tokens" in shown.out
    out = qvl("plan", answers, *words, "--top", "1").out
    assert "s/batch" in out
    assert "answers/s" in out
    assert "s/step" not in out
    plan = values_of(qvl, answers, *words, "--top", "1")["plans"][0]
    pasted = qvl("plan", answers, *words, "--format", "toml").out
    assert f"s for {4 * plan['layout']['dp']} answers of 64 tokens" in pasted
    assert "a step" not in pasted
