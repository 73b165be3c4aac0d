"""`qvl plan --format json`: the keys that programs go by, and numbers that add up."""

from __future__ import annotations

import pytest
from plan_calls import SIXTY_FOUR, Call, values_of
from qvl_core.planner.memory import GIB


def test_json_states_every_stage_and_parts_add_up(qvl: Call, large: str) -> None:
    found = values_of(qvl, large, *SIXTY_FOUR, "--top", "2")
    assert [found["schema"], found["devices"], found["memory_gib"], len(found["plans"])] == [1, 64, 64, 2]
    for plan in found["plans"]:
        layout = plan["layout"]
        assert layout["tp"] * layout["pp"] * layout["dp"] == 64
        assert plan["memory_gib"] <= found["usable_gib"] == 57.6
        assert len(plan["stages"]) == layout["pp"]
        for stage in plan["stages"]:
            parts = dict(stage["memory_gib"])
            assert parts.pop("total") == pytest.approx(sum(parts.values()), abs=0.001)
        assert plan["reasons"]


def test_json_has_the_keys_that_programs_go_by(qvl: Call, large: str, answers: str) -> None:
    for recipe, devices in ((large, "64"), (answers, "1")):
        values = values_of(qvl, recipe, "--devices", devices, "--memory-gib", "64")
        assert values["schema"] == 1
        assert set(values) == {
            *("recipe", "schema", "model", "task", "devices", "device", "memory_gib", "usable_gib", "global_batch"),
            *("data", "plans", "would_fit", "assumptions"),
        }
        for plan in values["plans"]:
            assert set(plan) == {
                *("layout", "micro_batch", "micro_batches", "memory_gib", "fullest_stage", "step_s", "clock_s"),
                *("samples_per_s", "tokens_per_s", "mfu", "bubble", "bottleneck", "shares", "stages", "reasons"),
            }
            assert set(plan["layout"]) == {"tp", "pp", "dp", "vision_stages", "text_stages", "zero1", "recompute"}
            for stage in plan["stages"]:
                assert set(stage) == {
                    *("stage", "vision_layers", "text_layers", "memory_gib", "forward_s", "backward_s", "compute_s"),
                    *("starting_s", "communication_s", "replicas_s", "update_s"),
                }
                assert set(stage["memory_gib"]) == {
                    *("weights", "gradients", "new_gradients", "master", "moments", "vision", "merger", "text"),
                    *("logits", "in_flight", "kv_cache", "communication", "base", "evaluation", "total"),
                }


def test_devices_and_memory_default_to_the_recipe(qvl: Call, tiny: str) -> None:
    found = values_of(qvl, tiny)
    assert (found["devices"], found["device"], found["memory_gib"]) == (1, "cpu", 16.0)


def test_more_memory_never_makes_the_best_plan_slower(qvl: Call, large: str) -> None:
    steps = [
        values_of(qvl, large, "--devices", "64", "--memory-gib", str(size))["plans"][0]["step_s"]
        for size in (40, 48, 64, 80, 128)
    ]
    assert steps == sorted(steps, reverse=True)
    assert GIB == 2**30
