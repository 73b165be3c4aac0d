"""Devices, replicas and stage lists of a recipe: derived where they are left open, refused where they do not fit."""

from __future__ import annotations

import pytest

ASCEND = ("model.name=qwen2.5-vl-7b", "launch.device=ascend", "train.micro_batch=1")


def test_cpu_starts_as_many_processes_as_the_layout_needs(load) -> None:
    recipe = load("layout.pp=2", "layout.tp=2", "layout.dp=2")
    assert recipe.launch.devices_per_node == 8
    assert recipe.parallel.world_size == 8


def test_pipeline_of_two_needs_nothing_else_on_cpu(load) -> None:
    recipe = load("layout.pp=2")
    assert recipe.parallel.pp == 2
    assert recipe.layout.vision_stages == recipe.parallel.vision_stages == (4, 0)
    assert sum(recipe.layout.text_stages) == 4
    assert recipe.layout.dp == 1


def test_ascend_has_eight_devices_unless_stated(load) -> None:
    recipe = load(*ASCEND, "layout.pp=4", "layout.vision_stages=[32,0,0,0]", "layout.text_stages=[1,10,10,7]")
    assert recipe.launch.devices_per_node == 8
    assert recipe.parallel.dp == 2
    assert recipe.model.dtype == "bfloat16"


def test_degrees_that_are_not_the_world(refuse) -> None:
    (problem,) = refuse(*ASCEND, "layout.dp=3", "train.global_batch=9")
    assert problem.key == "layout.dp"
    assert "tp * pp * dp = 1 * 1 * 3 = 3" in problem.message
    assert "launch.nodes * launch.devices_per_node = 1 * 8 = 8" in problem.message
    assert problem.fix == "dp = 8\nor devices_per_node = 3 under [launch]"


def test_fixes_of_several_degrees_fit_each_other(load, refuse) -> None:
    seven = (*ASCEND, "layout.pp=4", "layout.dp=2", "train.global_batch=192")
    found = {problem.key: problem.fix for problem in refuse(*seven, "layout.tp=3")}
    assert found == {"layout.tp": "tp = 2", "layout.dp": "tp = 2\ndp = 1\nor devices_per_node = 16 under [launch]"}
    load(*seven, "layout.tp=2", "layout.dp=1")
    found = {problem.key: problem.fix for problem in refuse(*seven, "layout.tp=3", "layout.dp=1")}
    assert found == {"layout.tp": "tp = 2", "layout.dp": "tp = 2"}


def test_global_batch_is_judged_by_the_replicas_that_fit_the_devices(refuse) -> None:
    wrong = (*ASCEND, "layout.dp=3")
    assert [problem.key for problem in refuse(*wrong, "train.global_batch=256")] == ["layout.dp"]
    fixes = {problem.key: problem.fix for problem in refuse(*wrong, "train.global_batch=190")}
    assert fixes["train.global_batch"] == "global_batch = 192"


@pytest.mark.parametrize("value", ['"abc"', "[1.5, 2]", "[]", "[-1, 29]", "[[28]]", "true"])
def test_stage_list_of_a_wrong_type_gets_one_that_fits_the_model(load, refuse, value: str) -> None:
    ours = (*ASCEND, "layout.pp=2", "layout.dp=4", "train.global_batch=192")
    fixes = {problem.fix for problem in refuse(*ours, f"layout.text_stages={value}")}
    assert fixes == {"text_stages = [12, 16]"}
    load(*ours, "layout.text_stages=[12,16]")


def test_dp_that_cannot_be_derived(refuse) -> None:
    (problem,) = refuse(*ASCEND, "layout.pp=3")
    assert problem.key == "layout.dp"
    assert "8 devices" in problem.message


def test_global_batch_must_divide(load, refuse) -> None:
    load("layout.dp=4")
    (problem,) = refuse("layout.dp=3")
    assert problem.key == "train.global_batch"
    assert "is 8, not a multiple of micro_batch * dp = 2 * 3 = 6" in problem.message
    assert problem.fix == "global_batch = 6"


def test_zero1_without_replicas_is_a_warning(load) -> None:
    assert load("layout.zero1=true").warnings[0].key == "layout.zero1"
    assert load("layout.zero1=true", "layout.dp=2").warnings == ()


@pytest.mark.parametrize("task", ["eval", "infer"])
def test_inference_needs_the_vision_tower_on_the_first_stage(load, refuse, task: str) -> None:
    cut = ["layout.pp=3", "layout.vision_stages=[2,2,0]", "layout.text_stages=[0,2,2]"]
    load(*cut)
    needs = ["eval.benchmark=ai2d_test", "eval.data=x", "generation.top_p=1.0", f"task={task}"]
    (problem,) = refuse(*cut, *needs)
    assert problem.key == "layout.vision_stages"
    assert "first stage" in problem.message


def test_stated_text_list_derives_a_vision_list_that_fits(load) -> None:
    recipe = load("layout.pp=3", "layout.text_stages=[0,0,4]")
    assert recipe.parallel.vision_stages == (2, 2, 0)
    assert recipe.origins["layout.vision_stages"].kind == "derived"
    assert recipe.origins["layout.text_stages"].kind == "--set"


def test_stated_vision_list_that_leaves_no_text_list(refuse) -> None:
    (problem,) = refuse("layout.pp=6", "layout.vision_stages=[4,0,0,0,0,0]")
    assert problem.key == "layout.vision_stages"
    assert "leaves 5 stages to text, but qwen2.5-vl-tiny has 4 text layers" in problem.message


def test_more_stages_than_layers(refuse) -> None:
    (problem,) = refuse("layout.pp=9")
    assert problem.key == "layout.pp"
    assert "4 vision and 4 text layers: 8 stages at most" in problem.message


def test_all_broken_layout_rules_come_together(refuse) -> None:
    lists = ["layout.pp=3", "layout.vision_stages=[1,0,2]", "layout.text_stages=[3,0,0]"]
    found = refuse(*lists, "layout.tp=3", "launch.devices_per_node=1")
    assert sorted(problem.key for problem in found) == [
        "layout.dp",
        "layout.text_stages",
        "layout.text_stages",
        "layout.tp",
        "layout.vision_stages",
        "layout.vision_stages",
    ]
